"""Data drawn from a known law, so that the answer is known too."""

from dataclasses import dataclass

import numpy as np

from mpidp.data.schema import Data, Request, Schema
from mpidp.data.streams import generator
from mpidp.data.tables import Arrays
from mpidp.errors import UserError
from mpidp.options import option

_REGRESSION, _CLASSES = 2**62 + 32, 2**62 + 33  # places of the draws (see streams.py)


@dataclass
class SyntheticOptions:
    """How much to draw."""

    samples: int = option(1000, "training samples to draw; validation samples are drawn besides", minimum=1)
    features: int = option(10, "features of a sample", minimum=1)


@dataclass
class RegressionOptions(SyntheticOptions):
    """How well the law holds."""

    noise: float = option(0.1, "standard deviation of the noise in the targets", minimum=0.0)


@dataclass
class ClassesOptions(SyntheticOptions):
    """How hard the classes are to tell apart."""

    classes: int = option(2, "number of classes", minimum=2)
    separation: float = option(
        2.0, "standard deviation of the classes' centres; that of a class is 1", minimum=0.0
    )


def regression(options: RegressionOptions, request: Request) -> Data:
    """y = x·w + b + ε: x ~ N(0, 1)^F, ε ~ N(0, noise²), w and b ~ N(0, 1) drawn once.

    `truth` is the least-squares solution of the training part as given (rounded to the run's dtype), in
    float64: argmin over (w, b) of Σ_i (x_i·w + b - y_i)².
    """
    draw = generator(request.seed, _REGRESSION)
    w, b = draw.normal(size=(options.features, 1)), draw.normal(size=1)
    parts = []
    for n in _sizes(options, request):
        x = draw.normal(size=(n, options.features))
        y = x @ w + b + options.noise * draw.normal(size=(n, 1))
        parts.append(Arrays(x, y, request.dtype))
    train = parts[0]
    ones = np.ones((len(train), 1))
    solution = np.linalg.lstsq(np.hstack([train.x.astype(np.float64), ones]), train.y.astype(np.float64))[0]
    truth = {"weight": solution[:-1], "bias": solution[-1]}
    return Data(
        "synthetic-regression", Schema("values", (options.features,), 1), train, parts[1], truth=truth
    )


def classes(options: ClassesOptions, request: Request) -> Data:
    """Class i mod K for sample i, x ~ N(centre of its class, 1)^F, the centres ~ N(0, separation²)^F."""
    if options.classes > options.samples:
        raise UserError(
            f"--classes {options.classes} are more than --samples {options.samples}: draw more samples"
        )
    draw = generator(request.seed, _CLASSES)
    centres = options.separation * draw.normal(size=(options.classes, options.features))
    parts = []
    for n in _sizes(options, request):
        y = np.arange(n) % options.classes
        parts.append(
            Arrays(centres[y] + draw.normal(size=(n, options.features)), y, request.dtype, classes=True)
        )
    return Data(
        "synthetic-classes", Schema("classes", (options.features,), options.classes), parts[0], parts[1]
    )


def _sizes(options: SyntheticOptions, request: Request) -> tuple[int, int]:
    """(training, validation) samples."""
    return options.samples, max(1, round(options.samples * request.validation_fraction))

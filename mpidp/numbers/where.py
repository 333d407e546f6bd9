"""Where numbers went bad: a step is a function of the parameters, the seed and t, and so can be made again, watched."""

import contextlib
import math
import os.path
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from mpidp.arrays import Array
from mpidp.nn import Layer, Model, NotFinite
from mpidp.numbers.finite import finite

FEW = 3  # samples that are named


@dataclass
class Batch:
    """A rank's part of a step's batch, and how its gradient is made: what `Model.gradients` is called with."""

    x: Array
    y: Array
    slots: np.ndarray
    indices: np.ndarray  # of its samples in the training set
    scale: float
    key: tuple[int, int]
    cuts: Sequence[int]

    def part(self, which: Any) -> "Batch":
        arrays = (each[which] for each in (self.x, self.y, self.slots, self.indices))
        return Batch(*arrays, self.scale, self.key, ())

    def parts(self) -> list["Batch"]:
        """Those that are worked on one after another."""
        return [self.part(slice(lo, hi)) for lo, hi in pairwise([0, *self.cuts, len(self.x)]) if lo < hi]

    def gradients(self, model: Model) -> bool:
        """Whether the loss and the gradient of this batch, made as one part, are finite."""
        try:
            model.gradients(self.x, self.y, self.scale, key=self.key, slots=self.slots)
        except NotFinite:
            return False
        return finite(model.grads)


def first_bad(model: Model, batch: Batch) -> str:
    """What is the first in the batch's forward and backward pass that is not finite, and which samples do it."""
    if bad := bad_parameters(model):
        return bad
    for part in batch.parts():
        if part.x.dtype.kind == "f" and not finite(part.x.reshape(-1)):
            rows = np.isfinite(part.x.reshape(len(part.x), -1)).all(1)
            return f"the input, of {some(part.indices[~rows].tolist())}"
        model.predict(part.x)  # plans for this shape, so that the layers' attributes stay from here on
        found: list[str] = []
        with watched(model, found.append):
            good = part.gradients(model)
        if not good or found:
            what = found[0] if found else "the loss"
            culprits = list(culprits_of(model, part))
            return f"{what}, by {some(culprits)}" if culprits else what
    if batch.cuts and not finite(model.grads):
        return "the sum of the gradients of its parts"
    return "nothing when the step was made again: a fault of memory, or of the processor"


def first_bad_score(model: Model, x: Array, y: Array) -> str:
    """What is the first that is not finite when these samples are scored; nothing where all is."""
    model.predict(x)  # plans for this shape, so that the layers' attributes stay from here on
    found: list[str] = []
    with watched(model, found.append):
        loss, _ = model.evaluate(x, y)
    return found[0] if found else "" if math.isfinite(loss) else "the loss"


def bad_parameters(model: Model, params: Array | None = None) -> str:
    """The first tensor that is not finite, of the model's own parameters or of these; nothing where all are."""
    params = model.params if params is None else params
    names = [p.name for p in model.parameters if not finite(params[p.lo : p.hi])]
    more = f" (and {len(names) - 1} more)" * (len(names) > 1)
    return f"the parameter {names[0]}{more}" if names else ""


def of_tensors(arrays: Mapping[str, Array], model: Model) -> str:
    """The same of what a strategy saves: the flat vector `params`, and state."""
    for name, array in arrays.items():
        if array.dtype.kind == "f" and not finite(array.reshape(-1)):
            return bad_parameters(model, array) if name == "params" else name
    return ""


@contextlib.contextmanager
def watched(model: Model, tell: Callable[[str], Any]) -> Iterator[None]:
    """Have `tell` called for whatever the layers take or give that is not finite, in the order in which it appears."""

    def look(array: Array | None, what: str) -> None:
        if array is not None and array.dtype.kind == "f" and not finite(array.reshape(-1)):
            tell(what)

    def watch(layer: Layer, name: str) -> None:
        forward, backward = layer.forward, layer.backward

        def watched_forward(x: Array) -> Array:
            look(x, f"the input of {name}")
            y = forward(x)
            look(y, f"the output of {name}")
            return y

        def watched_backward(dy: Array, *onto: Array) -> Array:
            look(dy, f"the gradient of the output of {name}")
            dx = backward(dy, *onto)
            for parameter in layer.parameters():
                look(parameter.grad, f"the gradient of {parameter.name}")
            look(dx, f"the gradient of the input of {name}")
            return dx

        vars(layer).update(forward=watched_forward, backward=watched_backward)

    for layer, name in layer_names(model).items():
        watch(layer, name)
    try:
        yield
    finally:
        for layer in model.layers:
            del layer.forward, layer.backward


def layer_names(model: Model) -> dict[Layer, str]:
    """What a reader knows each layer by: what its tensors' names begin with, or behind which of these it lies."""
    names, before = {}, "the input"
    for layer in model.layers:
        kind = type(layer).__name__
        owners = [p.name.rpartition(".")[0] or p.name for p in layer.parameters()]
        if owners:
            common = os.path.commonpath([owner.replace(".", "/") for owner in owners]).replace("/", ".")
            before = common or " and ".join(dict.fromkeys(owners))
            names[layer] = f"{before} ({kind})"
        else:
            names[layer] = f"{kind} behind {before}"
    return names


def culprits_of(model: Model, batch: Batch) -> Iterator[int]:
    """The first samples that alone give something not finite, by halving; none where only several together do."""
    left = FEW + 1
    halves = [batch]
    while halves and left:
        half = halves.pop()
        if half.gradients(model):
            continue
        if len(half.x) == 1:
            yield int(half.indices[0])
            left -= 1
            continue
        middle = len(half.x) // 2
        halves += [half.part(slice(middle, None)), half.part(slice(middle))]


def some(samples: Sequence[int]) -> str:
    """Samples for people: sample 3; samples 3, 17, 44, ..."""
    text = ", ".join(map(str, samples[:FEW])) + ", ..." * (len(samples) > FEW)
    return f"sample{'s' * (len(samples) > 1)} {text}"


def range_of(indices: np.ndarray) -> str:
    """A rank's part of a batch for people."""
    if len(indices) == 0:
        return "no samples"
    few = ", ".join(map(str, indices[:FEW])) + ", ..." * (len(indices) > FEW)
    return f"{few} ({len(indices)} from {indices.min()} to {indices.max()})"

"""One tree of options: the command line, a TOML file, a preset, and what a run or checkpoint records.

    [run]       Options below: what to train, for how long, where to write
    [model] ... the options of the chosen model, data source, split, strategy, optimizer and schedule,
                each a dataclass in the file of the component itself

Flattened, every option has one name, the same on the command line (`--batch-size`), in TOML (`batch-size = 32`)
and in messages. Later wins: component defaults, the chosen model's DEFAULTS, --preset, --config, command line.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import tomli_w

from mpidp import arithmetic, combinations
from mpidp.checkpoint.options import CheckpointOptions
from mpidp.collectives import AUTO, COLLECTIVES
from mpidp.compression import COMPRESSORS, PLAIN
from mpidp.data import PATHS, SOURCES, find
from mpidp.data.split import SPLITS
from mpidp.device import DeviceOptions
from mpidp.diagnostics import DiagnosticOptions
from mpidp.errors import UserError
from mpidp.failure_options import FailureOptions
from mpidp.models import MODELS
from mpidp.numbers import NumberOptions, check
from mpidp.optim import OPTIMIZERS, SCHEDULES
from mpidp.options import NoOptions, build, dashed, option, unknown
from mpidp.strategies import STRATEGIES


@dataclass
class RunOptions(DiagnosticOptions, CheckpointOptions, NumberOptions, FailureOptions, DeviceOptions):
    """What is chosen, how long and how it is trained, and what is written where."""

    model: str = option("gpt", "what to train", choices=MODELS)
    data: str = option(
        "python-docs", f"what to train on: {', '.join(SOURCES)}, or the path of a file or folder"
    )
    split: str = option("contiguous", "which rank works on which samples", choices=SPLITS)
    sync: str = option("allreduce", "the strategy that keeps the ranks' models one", choices=STRATEGIES)
    collective: str | None = option(
        None, "the route of sums over ranks; auto takes the fastest here", choices=(AUTO, *COLLECTIVES)
    )
    calibration: str | None = option(
        None,
        "where --collective auto keeps how fast the routes are, and finds it the next time",
        metavar="FILE",
    )
    reproducible: int | None = option(
        None,
        "cut each batch into so many micro-shards (a power of two) and add their gradients in one fixed tree: the same "
        "bits for every number of ranks that divides it",
        minimum=1,
        metavar="M",
    )
    compress: str = option(PLAIN, "in how few bytes gradients or changes travel", choices=COMPRESSORS)
    optimizer: str = option("adamw", "what turns gradients into steps", choices=OPTIMIZERS)
    schedule: str = option("constant", "how the learning rate goes over time", choices=SCHEDULES)
    steps: int | None = option(None, "length of the run in steps (or say --epochs)", minimum=1)
    epochs: int | None = option(None, "length of the run in passes over the training set", minimum=1)
    batch_size: int = option(32, "samples a step, over all ranks", minimum=1)
    micro_batch: int | None = option(
        None, "samples that a rank works on at a time, gradients added up", minimum=1
    )
    lr: float = option(1e-3, "learning rate", above=0)
    clip: float | None = option(None, "limit on the norm of the gradient", above=0)
    dtype: str = option(
        "float32",
        "type of parameters and arithmetic; those of 16 bits, and a GPU's tf32: of the operands of dense products "
        "alone, all else is float32",
        choices=("float32", "float64", *arithmetic.OF_OPERANDS),
    )
    seed: int = option(0, "of initial values, sample order, dropout and splits", minimum=0)
    validation_fraction: float = option(
        0.1, "share of the data held out, where the source has no test set of its own", above=0, below=1
    )
    eval_every: int | None = option(
        None, "steps between two evaluations (always at start and end)", minimum=1
    )
    log_every: int = option(10, "steps between two lines of metrics.jsonl", minimum=1)
    run_dir: str | None = option(None, "where to write (default: a new folder in runs/)", metavar="DIR")
    threads: int | None = option(
        None,
        "BLAS threads a rank (default: OMP_NUM_THREADS, else 1, or all cores for one rank alone)",
        minimum=1,
    )
    blas: str = option(
        arithmetic.AUTO,
        "who computes dense products; mkl needs the extra of that name, and auto takes it where it is the faster one",
        choices=(arithmetic.AUTO, arithmetic.NUMPY, arithmetic.MKL),
    )
    timeout: float = option(600.0, "seconds that a rank waits for another before it gives up", above=0)
    check_collectives: bool = option(
        False,
        "end at once, with both call sites, where ranks make different calls where all must make the same",
    )
    json: bool = option(False, "print the summary as JSON, the last line of standard output")

    def __post_init__(self) -> None:
        DiagnosticOptions.__post_init__(self)
        CheckpointOptions.__post_init__(self)
        check(self)
        FailureOptions.__post_init__(self)
        combinations.check_skip_damaged(self)
        DeviceOptions.__post_init__(self)
        if self.reproducible is not None:
            combinations.check_reproducible(self)


GROUPS = {
    "what to train": ("model", "data", "split", "dtype", "seed", "validation_fraction"),
    "keeping ranks in step": ("sync", "collective", "calibration", "compress", "reproducible"),
    "steps": (
        "steps", "epochs", "batch_size", "micro_batch", "optimizer", "lr", "schedule", "clip",
    ),
    "output": ("run_dir", *(f.name for f in fields(CheckpointOptions)), "eval_every", "log_every", "json"),
    "numbers gone bad": tuple(f.name for f in fields(NumberOptions)),
    "when a rank is lost": tuple(f.name for f in fields(FailureOptions)),
    "diagnostics": tuple(f.name for f in fields(DiagnosticOptions)),
    "machine": ("device", "device_mpi", "cuda_graph", "threads", "blas", "timeout", "check_collectives"),
}  # fmt: skip

MAY_CHANGE = {
    "steps", "epochs", "run-dir", "eval-every", "log-every", "threads", "timeout", "check-collectives", "json",
    "on-nonfinite", "max-skips", "max-rewinds",
    *(dashed(f.name) for group in (CheckpointOptions, FailureOptions, DiagnosticOptions) for f in fields(group)),
}  # fmt: skip
"""Options that a resumed run may give anew: they say how long and how, not what is trained."""


@dataclass
class Config:
    """The tree: the run's options and those of its chosen components."""

    run: RunOptions
    model: Any
    data: Any
    split: Any
    sync: Any
    compress: Any
    optimizer: Any
    schedule: Any

    def flat(self) -> dict[str, Any]:
        """Every option that is set, by its one name."""
        everything = {}
        for part in fields(self):
            options = getattr(self, part.name)
            everything |= {dashed(f.name): getattr(options, f.name) for f in fields(options)}
        return {name: value for name, value in everything.items() if value is not None}

    def to_toml(self) -> str:
        """The options that are set, as a file that `--config` takes."""
        return tomli_w.dumps(self.flat())


def components(kind: str) -> dict[str, type]:
    """name -> Options dataclass, for every component of this kind (`model`, `data`, `split`, ...)."""
    registry: dict[str, Any] = {
        "model": MODELS,
        "data": SOURCES | {f"PATH ({name})": source for name, source in PATHS.items()},
        "split": SPLITS,
        "sync": STRATEGIES,
        "compress": COMPRESSORS,
        "optimizer": OPTIMIZERS,
        "schedule": SCHEDULES,
    }[kind]
    return {name: getattr(component, "Options", NoOptions) for name, component in registry.items()}


KINDS = ("model", "data", "split", "sync", "compress", "optimizer", "schedule")


def chosen_options(kind: str, name: str) -> type:
    """The Options dataclass of the component of this name (for data: or path). Raises UserError for an unknown one."""
    known = components(kind)
    if kind == "data":
        return find(name).Options
    if name not in known:
        raise unknown(f"--{kind}", name, known)
    return known[name]


def resolve(given: dict[str, Any], defaults: dict[str, Any]) -> Config:
    """The whole tree from what the user gave, over defaults (which may hold options of components not chosen).

    Raises UserError for an unknown name, a value out of its range, or an option that these choices do not use.
    """
    run_names = {dashed(f.name) for f in fields(RunOptions)}
    model = str(given.get("model", defaults.get("model", "gpt")))
    chosen_options("model", model)
    for one, other in (("steps", "epochs"), ("epochs", "steps")):
        if one in given:
            defaults = {k: v for k, v in defaults.items() if k != other}
    model_defaults = MODELS[model].DEFAULTS
    if not {"steps", "epochs"}.isdisjoint(given.keys() | defaults.keys()):
        model_defaults = {k: v for k, v in model_defaults.items() if k not in ("steps", "epochs")}
    defaults = model_defaults | defaults
    values = defaults | given
    run = build(RunOptions, {k: v for k, v in values.items() if k in run_names})
    tree = {kind: chosen_options(kind, getattr(run, kind)) for kind in KINDS}
    usable = run_names | {dashed(f.name) for options in tree.values() for f in fields(options)}
    for name in given:
        if name not in usable:
            raise unused(name, run)
    if run.steps and run.epochs:
        raise UserError(f"--steps {run.steps} and --epochs {run.epochs} both say how long to train: give one")
    if not run.steps and not run.epochs:
        run.epochs = 1
    parts = {}
    for kind, options in tree.items():
        own = {dashed(f.name) for f in fields(options)}
        parts[kind] = build(options, {k: v for k, v in values.items() if k in own})
    strategy = STRATEGIES[run.sync]
    strategy.check(parts["sync"], run)
    by_route = strategy.by_route(parts["sync"])
    if not by_route and run.collective is not None:
        users = ", ".join(name for name, s in STRATEGIES.items() if s.uses_collective)
        raise UserError(f"--collective is used by --sync {users}; --sync {run.sync} has messages of its own")
    if by_route and run.collective is None:
        run.collective = AUTO
    if run.calibration is not None and run.collective != AUTO:
        raise UserError(
            f"--calibration {run.calibration} is used by --collective {AUTO} alone: leave one of them out"
        )
    route = COLLECTIVES.get(run.collective)
    if route is not None and strategy.scatters and route.reduce_scatter is None:
        able = [name for name, other in COLLECTIVES.items() if other.reduce_scatter is not None]
        raise UserError(
            f"--collective {run.collective}: it sums the vector for all ranks at once, and --sync {run.sync} needs "
            f"each rank's part at that rank alone: choose {', '.join(able)}, or {AUTO}"
        )
    if "bucket-mib" in given and route is not None and not route.lanes:
        raise UserError(
            f"--bucket-mib: --collective {run.collective} sends no messages that could travel while backward computes: "
            "leave it out, or choose a route that does"
        )
    if run.compress != PLAIN:
        combinations.check_encoding(run, parts["optimizer"], given)
    return Config(run=run, **parts)


def unused(name: str, run: RunOptions) -> UserError:
    """Why an option is refused: which components use it, and which were chosen instead; or that nobody knows it."""
    users = {
        kind: [
            c for c, options in components(kind).items() if name in {dashed(f.name) for f in fields(options)}
        ]
        for kind in KINDS
    }
    users = {kind: names for kind, names in users.items() if names}
    if users:
        by = " or ".join(f"--{kind} {'|'.join(names)}" for kind, names in users.items())
        now = ", ".join(f"--{kind} {getattr(run, kind)}" for kind in users)
        return UserError(f"--{name} is used by {by}; this run has {now}")
    return unknown("option", name, sorted(all_names()))


def all_names() -> set[str]:
    """The dashed name of every option there is."""
    return {dashed(f.name) for options in every_options() for f in fields(options)}


def every_options() -> Iterator[type]:
    """Every Options dataclass: the run's own and those of all components."""
    yield RunOptions
    for kind in KINDS:
        yield from components(kind).values()

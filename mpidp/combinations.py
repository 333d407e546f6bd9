"""Which choices of a run go together: `run` is its `config.RunOptions`."""

from typing import Any

from mpidp import arithmetic
from mpidp.collectives import AUTO, COLLECTIVES
from mpidp.compression import COMPRESSORS, PLAIN
from mpidp.errors import UserError
from mpidp.failure_options import ABORT, RESTART, SHRINK
from mpidp.strategies import STRATEGIES


def check_skip_damaged(run: Any) -> None:
    """Raise UserError where the run never goes on from a checkpoint."""
    if run.skip_damaged and not run.resume and run.on_failure == ABORT:
        raise UserError(
            "--skip-damaged says from which checkpoint a run goes on: add --resume, or an --on-failure that goes on "
            f"from one ({RESTART}, {SHRINK})"
        )


def check_reproducible(run: Any) -> None:
    """Raise UserError where an option would have bits depend on the number of ranks; choose route and BLAS.

    Where `--blas auto` measured, two runs of a pair that is to have the same bits could come to two answers.
    """
    shards, route = run.reproducible, "halving-doubling"
    what = f"--reproducible {shards}"
    if shards & (shards - 1):
        raise UserError(f"{what}: must be a power of two, such as {1 << shards.bit_length() - 1}")
    if run.batch_size % shards:
        low = run.batch_size // shards * shards
        near = f"{low} or {low + shards}" if low else f"{shards}"
        raise UserError(
            f"--batch-size {run.batch_size} cannot be cut into {shards} equal micro-shards ({what}): take {near}"
        )
    if reason := STRATEGIES[run.sync].depends_on_ranks:
        able = ", ".join(name for name, s in STRATEGIES.items() if s.depends_on_ranks is None)
        raise UserError(f"{what} goes with --sync {able} alone: --sync {run.sync} {reason}")
    if run.collective not in (None, route):
        raise UserError(
            f"--collective {run.collective}: {what} adds in the tree of {route}, whose order alone goes on "
            "that of the micro-shards, whatever the number of ranks: leave it out"
        )
    if run.compress != PLAIN:
        raise UserError(
            f"--compress {run.compress}: {what} sends every gradient as it is: leave one of them out"
        )
    if run.threads not in (None, 1):
        raise UserError(
            f"--threads {run.threads}: {what} takes 1, since products are summed in another order with more: "
            "leave it out"
        )
    if run.micro_batch is not None:
        raise UserError(
            f"--micro-batch {run.micro_batch}: {what} works on {run.batch_size // shards} sample(s) at a time "
            "already: leave it out, or choose more micro-shards"
        )
    run.collective = route
    run.blas = arithmetic.NUMPY if run.blas == arithmetic.AUTO else run.blas


def check_encoding(run: Any, optimizer: Any, given: dict[str, Any]) -> None:
    """Raise UserError where the encoding does not go with the run's other choices.

    A limit on the norm that is but a default goes where the encoding leaves no norm to limit.
    """
    what, encoding, strategy = f"--compress {run.compress}", COMPRESSORS[run.compress], STRATEGIES[run.sync]
    if strategy.encodes is None:
        raise UserError(f"{what}: --sync {run.sync} {strategy.why_plain}: leave one of them out")
    if reason := encoding.unfit.get(strategy.encodes):
        raise UserError(f"{what} does not go with --sync {run.sync}: {reason}")
    if reason := encoding.misfit(run.optimizer, optimizer):
        raise UserError(f"{what}: {reason}")
    route = COLLECTIVES.get(run.collective)
    if route is not None and (reason := encoding.unable(route)):
        able = [
            name
            for name, other in COLLECTIVES.items()
            if encoding.unable(other) is None and (other.reduce_scatter is not None or not strategy.scatters)
        ]
        raise UserError(f"{what}: --collective {reason}; choose {', '.join(able)} or {AUTO}")
    if encoding.at_once and "bucket-mib" in given:
        raise UserError(f"--bucket-mib: {what} looks at the whole gradient, after backward: leave it out")
    if not encoding.clips:
        if "clip" in given:
            raise UserError(f"--clip: what {what} delivers has not the gradient's norm: leave it out")
        run.clip = None

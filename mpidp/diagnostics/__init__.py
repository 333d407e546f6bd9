"""What a user may wish to know of a run: are replicas equal, how far apart are they, how noisy is the gradient?

One class a question. `Diagnostics` asks those that were chosen, of any strategy, from outside and between its steps,
through communicators of their own: what they send and wait for is no part of training's traffic and time.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mpidp.comm import Communicator
from mpidp.compression import PLAIN
from mpidp.diagnostics.base import Diagnostic
from mpidp.diagnostics.noise import NoiseScale
from mpidp.diagnostics.replicas import Consensus, Replicas
from mpidp.errors import UserError
from mpidp.options import option
from mpidp.stragglers import slowed
from mpidp.strategies import Step, Strategy

if TYPE_CHECKING:
    from mpidp.config import RunOptions


@dataclass
class DiagnosticOptions:
    check_replicas: int | None = option(
        None, "steps between two checks that the workers' parameters are equal in every bit", minimum=1
    )
    consensus_every: int | None = option(
        None, "steps between two measurements of how far the workers' parameters are apart", minimum=1
    )
    noise_scale: bool = option(False, "measure the gradient noise scale and the batch size that it suggests")
    slow: str | None = option(
        None, "have a rank take so many times as long to compute: 3:2.5, or 1:3,3:2.5", metavar="RANK:FACTOR"
    )

    def __post_init__(self) -> None:
        if self.slow is not None:
            slowed(self.slow)


class Diagnostics(Diagnostic):
    """All that were asked for. Raises UserError for one that means nothing to this strategy.

    goes_on: whether the run was begun before, perhaps by more workers: where one is left there is nothing to compare.
    """

    def __init__(
        self, run: "RunOptions", steps: int, strategy: Strategy, comm: Communicator, goes_on: bool = False
    ):
        self.asked: list[Diagnostic] = []
        if goes_on and strategy.workers == 1:
            return
        refuse(run, strategy)
        if run.check_replicas is not None:
            self.asked.append(Replicas(run.check_replicas, steps, strategy, comm.Dup()))
        if run.consensus_every is not None:
            self.asked.append(Consensus(run.consensus_every, steps, strategy, comm))
        if run.noise_scale:
            self.asked.append(NoiseScale(strategy, comm.Dup()))

    def ready(self, lo: int, hi: int) -> None:
        for one in self.asked:
            one.ready(lo, hi)

    def after(self, step: Step, logged: bool) -> dict[str, Any]:
        return merged([one.after(step, logged) for one in self.asked])

    def summary(self) -> dict[str, Any]:
        return merged([one.summary() for one in self.asked])

    def facts(self) -> dict[str, Any]:
        return merged([one.facts() for one in self.asked])

    def load(self, facts: dict[str, Any]) -> None:
        for one in self.asked:
            one.load(facts)


def refuse(run: "RunOptions", strategy: Strategy) -> None:
    """Raise UserError for a question that has no meaning here."""
    if run.check_replicas is not None and not strategy.replicated:
        raise UserError(
            f"--check-replicas {run.check_replicas}: as --sync {run.sync} is set here, the workers' parameters are "
            "meant to differ between steps: take --consensus-every N, which tells how far they are apart"
        )
    if run.consensus_every is not None and strategy.replicated:
        raise UserError(
            f"--consensus-every {run.consensus_every}: as --sync {run.sync} is set here, the workers' parameters are "
            "equal after every step: take --check-replicas N, which makes sure of it"
        )
    if run.noise_scale and not strategy.leaves_mean_gradient:
        raise UserError(
            f"--noise-scale compares the ranks' own gradients with their mean, which --sync {run.sync} with these "
            "options never has on every rank: take --sync allreduce"
        )
    if run.noise_scale and run.compress != PLAIN:
        raise UserError(
            f"--noise-scale needs the mean gradient as it is, not as --compress {run.compress} delivers it: leave one "
            "of them out"
        )
    if run.noise_scale and strategy.comm.size == 1:
        raise UserError(
            "--noise-scale compares ranks' gradients, but there is 1 rank: start mpirun -n 2 or more"
        )


def merged(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {name: value for part in parts for name, value in part.items()}


def rows(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """Of a summary, a line of the table at the end for every question that was asked."""
    found = []
    if "replica_checks" in facts:
        found.append(("replicas", f"equal in every bit at each of {facts['replica_checks']} checks"))
    if "consensus_distance" in facts:
        found.append(("consensus distance", f"{facts['consensus_distance']:.3e} before the merge"))
    if "gradient_variance" in facts:
        size = facts.get("noise_scale")
        suggested = (
            "no more than noise so far" if size is None else f"suggests about {size:.3g} samples a batch"
        )
        found.append(("noise scale", f"{suggested}; this run has {facts['batch_size']}"))
    return found

"""The watch over a run's numbers, on this rank, and what all ranks do when one of them finds some that are bad."""

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from mpidp.arrays import Array, array_module, to_host
from mpidp.errors import RunError
from mpidp.nn import NotFinite
from mpidp.numbers import where
from mpidp.numbers.finite import finite
from mpidp.numbers.flags import Flags
from mpidp.numbers.loss_scale import LossScale
from mpidp.numbers.options import ABORT, REWINDS, SKIP, SKIPS, refuse
from mpidp.strategies import Step

if TYPE_CHECKING:
    from mpidp.building import Job

GOOD, GRADIENT, LOSS, PARAMETERS = KINDS = range(4)
"""What a rank finds in a step that is not finite, the worst last."""
NAMES = {GRADIENT: "gradient", LOSS: "loss", PARAMETERS: "model"}


class Numbers:
    """Asked by the training loop for each step's gradient, its `loss`, and whether it is to be applied (`agreed`).

    Raises UserError where the options want a step to be left out and the strategy cannot. Cost: where gradients are
    held back, a sum of P numbers over the ranks by the MPI library in every step.
    On a device everything is looked at there, and this rank waits once, after backward and before the update. So
    slices of a bad gradient may have been sent by then (where gradients are held back none is); nobody makes a whole
    step of them, for the rank that has found them takes no part in it any more.
    """

    def __init__(self, job: "Job"):
        run = job.config.run
        refuse(run, job.strategy)
        self.job, self.run = job, run
        self.scale = LossScale.of(run.loss_scale)
        self.holds = self.scale.dynamic or run.on_nonfinite != ABORT  # gradients, until all ranks have agreed
        self.comm = job.comm.Dup() if self.holds else job.comm
        xp = job.strategy.setup.xp
        self.flags = None if xp is np else Flags(xp, len(KINDS))
        self.found = GOOD  # by this rank in this step
        self.value: float | Array = 0.0  # its loss, wherever that is
        self.left_out: set[int] = set()  # steps that a run which goes back is not to make again
        self.skipped: list[int] = []  # steps that were left out
        self.in_a_row = 0  # of these, the last ones
        self.rewinds = 0
        self.goes_back = False
        self.say: Callable[[str], None] = print  # to the user

    def gradients(self, step: Step, x: Array, y: Array, slots: np.ndarray) -> None:
        """Have the model make this rank's gradient, which goes to the strategy on the way. No device is waited for."""
        job, self.found, self.value = self.job, GOOD, 0.0
        if step.t in self.left_out:
            return
        try:
            if self.flags:
                self.flags.begin()
            self.look(job.strategy.params, PARAMETERS)
            if self.found:
                raise NotFinite
            self.value = job.model.gradients(
                x, y, job.strategy.scale(step) * self.scale.value, self.ready,
                between=job.strategy.advance, key=(self.run.seed, step.t), slots=slots, cuts=step.cuts, adder=job.adder,
            )  # fmt: skip
        except NotFinite:
            self.found = self.found or LOSS

    def loss(self, step: Step) -> float:
        """The loss of this rank's samples, when it is computed and all is looked at.

        Where something is not finite: raises RunError, or, where gradients are held back, leaves it to `agreed`.
        """
        loss = self.value
        if self.flags and step.t not in self.left_out:
            loss, found = self.flags.read(loss, self.job.strategy.advance, self.job.comm.spin)
            self.found = max([*found, GOOD if math.isfinite(loss) else LOSS])
        if self.found and not self.holds:
            raise RunError(self.told(step))
        return loss

    def look(self, vector: Array, kind: int) -> None:
        """Is all of it finite? The host knows at once; a device says so when it is asked (`Flags.read`)."""
        if self.flags:
            self.flags.look(vector, kind)
        elif not self.found and not finite(vector):
            self.found = kind

    def ready(self, lo: int, hi: int) -> None:
        """grads[lo:hi] is final: on to the strategy, if it is good and not held back."""
        if self.flags:
            part = self.flags.piece(lo, hi)
            if part is None:
                return
            lo, hi = part.start, part.stop
        self.look(self.job.model.grads[lo:hi], GRADIENT)
        if self.holds:
            return
        if self.found:
            raise NotFinite
        self.hand_on(lo, hi)

    def hand_on(self, lo: int, hi: int) -> None:
        if self.scale.value != 1:
            self.job.model.grads[lo:hi] *= 1 / self.scale.value
        self.job.ready(lo, hi)

    def agreed(self, step: Step) -> Step:
        """The step, or, where all ranks leave it out, what there is left of it. All ranks call it together.

        Raises RunError, on all ranks, where the step is not to be left out.
        """
        if step.t in self.left_out:
            self.skipped.append(step.t)
            return step.left_out()
        if not self.holds:
            return step
        everyone = self.everyone()
        worst = int(everyone.max())
        if worst == GOOD:
            self.hand_on(0, self.job.model.size)
            self.scale.went_well()
            self.in_a_row = 0
            return step
        if worst == GRADIENT and self.scale.can_be_less():
            self.scale.overflowed()
            return step.left_out()
        texts = self.comm.allgather(self.told(step) if self.found else None)
        text = next(text for text in texts if text is not None)
        if self.run.on_nonfinite == ABORT:
            raise RunError(text)
        (self.skip if self.run.on_nonfinite == SKIP else self.rewind)(step.t, worst, text)
        return step.left_out()

    def everyone(self) -> np.ndarray:
        """What each rank has found."""
        found = np.zeros(self.comm.size)
        found[self.comm.rank] = self.found
        if self.comm.size > 1:
            with self.job.strategy.communicating():
                self.comm.Wait(self.comm.Iallreduce(found))
            waited = self.comm.traffic
            self.job.strategy.comm.traffic.seconds_waiting += waited.seconds_waiting
            waited.seconds_waiting = 0.0
        return found

    def skip(self, t: int, worst: int, text: str) -> None:
        limit = self.run.max_skips or SKIPS
        if worst == PARAMETERS:
            raise RunError(f"{text}; leaving steps out does not mend that")
        if self.in_a_row == limit:
            raise RunError(f"{text}; {limit} steps before it were left out, one after another (--max-skips)")
        self.in_a_row += 1
        self.skipped.append(t)
        self.say(f"warning: step {t} is left out: {text}")

    def rewind(self, t: int, worst: int, text: str) -> None:
        limit = self.run.max_rewinds or REWINDS
        if self.rewinds == limit:
            raise RunError(f"{text}; the run has gone back {limit} times before (--max-rewinds)")
        self.rewinds += 1
        guilty = t
        if worst == PARAMETERS:  # of which an update before made what they are
            guilty = next((s for s in range(t - 1, 0, -1) if s not in self.left_out), t)
        self.left_out.add(guilty)
        self.goes_back = True
        self.say(f"warning: the run goes back to its last checkpoint, to leave step {guilty} out: {text}")

    def told(self, step: Step) -> str:
        """What this rank has found, where it began, and what to do."""
        job, t = self.job, step.t
        _, x, y, slots = job.batch(t)
        x, y = to_host(x), to_host(y)
        indices = np.concatenate([indices for indices, _ in job.parts(t)])
        scale = job.strategy.scale(step) * self.scale.value
        batch = where.Batch(x, y, slots, indices, scale, (self.run.seed, t), step.cuts)
        what = f"the {NAMES[self.found]} on rank {self.comm.rank} is not finite at step {t}"
        try:
            if not self.holds:  # messages are under way that take their bytes from the gradient
                grads = array_module(job.model.grads).empty_like(job.model.grads)
                job.model.bind(job.model.params, grads, job.products)
            first = where.first_bad(job.model, batch)
        except MemoryError:
            first = "not looked for: there is no memory to make the step again"
        if self.found == PARAMETERS:
            return f"{what}: {first}, since the update before: lower --lr, or set --clip"
        return (
            f"{what}: first {first}; samples of this rank: {where.range_of(indices)}: lower --lr, set --clip, or mend "
            "such samples"
        )

    def unfit(self, arrays: Mapping[str, np.ndarray]) -> str | None:
        """Why these arrays of this rank's are nothing to go on from, if so."""
        with np.errstate(all="ignore"):  # asked in a thread, which the program's own setting does not reach
            bad = where.of_tensors(arrays, self.job.model)
        return f"{bad} is not finite" if bad else None

    def report(self) -> dict[str, Any]:
        """For a logged step."""
        figures: dict[str, Any] = {"loss_scale": self.scale.value} if self.scale.dynamic else {}
        return figures | ({"skipped_steps": self.left()} if self.holds else {})

    def left(self) -> int:
        """How many steps were left out, for whatever reason."""
        return len(self.skipped) + self.scale.overflows

    def summary(self) -> dict[str, Any]:
        if not self.holds:
            return {}
        figures: dict[str, Any] = {"skipped_steps": self.left()}
        if self.run.on_nonfinite != ABORT:
            figures |= {"skipped": self.skipped, "rewinds": self.rewinds}
        if self.scale.dynamic:
            figures |= {"loss_scale": self.scale.value, "loss_scale_overflows": self.scale.overflows}
        return figures

    def facts(self) -> dict[str, Any]:
        """What a resumed run is to go on with."""
        return {
            "loss_scale": self.scale.facts(),
            "skipped": list(self.skipped),
            "in_a_row": self.in_a_row,
            "left_out": sorted(self.left_out),
            "rewinds": self.rewinds,
        }

    def load(self, facts: dict[str, Any]) -> None:
        """Take them up, at the start of a run or when it goes back: then what it has learned since stays known."""
        self.scale.load(facts.get("loss_scale", {}))
        self.skipped = [int(t) for t in facts.get("skipped", ())]
        self.in_a_row = int(facts.get("in_a_row", 0))
        self.left_out |= {int(t) for t in facts.get("left_out", ())}
        self.rewinds = max(self.rewinds, int(facts.get("rewinds", 0)))
        self.goes_back = False


def rows(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """Of a summary, the lines of the table at its end."""
    found = []
    if facts.get("skipped_steps"):
        text = f"{facts['skipped_steps']}"
        if facts.get("skipped"):
            few = ", ".join(map(str, facts["skipped"][:5])) + ", ..." * (len(facts["skipped"]) > 5)
            text += f"; not finite: {few}"
        found.append(("steps left out", text))
    if facts.get("rewinds"):
        found.append(("went back", f"{facts['rewinds']} time{'s' * (facts['rewinds'] > 1)}"))
    if "loss_scale" in facts:
        found.append(
            (
                "loss scale",
                f"{facts['loss_scale']:g} at the end, too large {facts['loss_scale_overflows']} times",
            )
        )
    return found

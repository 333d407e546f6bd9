"""One case measured: losses compared first, then the sides in turn, round after round."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.cases import Case
from benchmarks.groups import BenchmarkError, Group, others_busy, running
from benchmarks.sides import MPIDP, TORCH, Setting, alone, sides, together

CHECKED = 10  # steps whose losses are compared
TOLERANCE = {"float32": (2e-6, 2e-6), "bfloat16": (1e-3, 3e-2)}
"""On |loss - mpidp's loss| / max(1, mpidp's loss), of the first step and of the later ones.

float32: sums in another order differ by less than 1e-6 of it, twice the weight decay by 3e-6, a learning rate of 2 %
more by 2e-5, other initial values or batches by 1e-3. bfloat16 has 8 significant bits, and autocast rounds results
too, not operands alone: 1e-4 in the first step. Adam's first steps are as long for small gradients as for large ones,
so where rounding turns the sign of a small one the paths part: by 2e-5 for the GPT, 4e-4 for the MLP, 2e-2 for the CNN,
whose convolutions mpidp leaves in float32. That both compute the same is what the comparison in float32 shows."""

SHORTEST = 0.2  # seconds from which on a time of some steps says how many fill a turn
IDLE_LIMIT = 0.02  # cores that all waiting processes together may take


@dataclass(frozen=True)
class Plan:
    """How long to measure: rounds, seconds of a side's turn, launches that start-up time is the median of."""

    rounds: int
    seconds: float
    startups: int
    compile: bool


def contest(case: Case, setting: Setting, plan: Plan, say: Callable[[str], None]) -> dict[str, Any]:
    """Everything measured of this case, as JSON-able values. Raises BenchmarkError where losses differ."""
    found: dict[str, Any] = {
        "about": case.about,
        "batch_per_rank": case.batch,
        "flops_per_sample": case.flops,
    }
    names = sides(case, plan.compile)
    found |= {"tokens_per_sample": case.tokens, "sides": {name: {} for name in names}}
    startups = first_steps(case, setting, plan, [MPIDP, TORCH])
    with contextlib.ExitStack() as stack:
        groups: dict[str, Group] = {}
        for name in names:
            for kind in (together, alone):
                if kind is alone and plan.compile and name != MPIDP:
                    continue  # ten processes of the medium GPT would not fit into 24 GB
                group = kind(case, name, setting)
                say(f"{case.name}: starting {group.name}")
                try:
                    stack.enter_context(running([group]))
                except BenchmarkError as error:
                    if "compile" not in name:
                        raise
                    found["sides"][name]["failed"] = str(error)
                    say(f"{case.name}: {name} does not work here")
                    continue
                groups[group.name] = group
        for name in names:
            if name in groups:
                found["sides"][name]["startup_s"] = [*startups.get(name, []), groups[name].startup]
        found["sides"][MPIDP]["products"] = groups[MPIDP].first[0]["about"]
        found["loss_difference"] = compare_losses(groups, names, found["sides"], TOLERANCE[setting.dtype])
        idle, others = others_busy(list(groups.values()))
        found |= {"cores_taken_while_waiting": round(idle, 3), "cores_taken_by_others": round(others, 3)}
        if idle > IDLE_LIMIT:
            say(
                f"{case.name}: warning: waiting processes take {idle:.2f} of a core from those that are measured"
            )
        if others > 0.1:
            say(
                f"{case.name}: warning: other programs take {others:.2f} cores: figures of a busy machine mean little"
            )
        play(case, groups, plan, found["sides"], say)
    return found


def first_steps(case: Case, setting: Setting, plan: Plan, names: list[str]) -> dict[str, list[float]]:
    """Seconds from the command to the end of the first step on all ranks, in turn, but for one launch a side: that of
    the group that will be measured."""
    times: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(plan.startups - 1):
        for name in names:
            group = together(case, name, setting)
            with running([group]):
                times[name].append(group.startup)
    return times


def compare_losses(
    groups: dict[str, Group], names: list[str], into: dict[str, Any], tolerance: tuple[float, float]
) -> dict[str, float]:
    """The largest relative difference from mpidp's losses in the first steps, by side; the losses go `into`."""
    differences = {}
    for name in names:
        if name not in groups:
            continue
        rest = groups[name].ask(do="steps", warm=0, count=CHECKED - 1, losses=CHECKED - 1)
        ranks = [[a["loss"], *b["losses"]] for a, b in zip(groups[name].first, rest, strict=True)]
        losses = into[name]["losses"] = [sum(step) / len(ranks) for step in zip(*ranks, strict=True)]
        expected = into[MPIDP]["losses"]
        apart = [abs(a - b) / max(1.0, abs(b)) for a, b in zip(losses, expected, strict=True)]
        difference, (at_first, later) = max(apart), tolerance
        if not (apart[0] <= at_first and difference <= later):
            raise BenchmarkError(
                f"{name} and mpidp do not compute the same: losses {losses} and {expected} differ by {difference:.2g}, "
                f"more than {at_first:g} at first or {later:g} later"
            )
        differences[name] = difference
    return differences


def play(
    case: Case, groups: dict[str, Group], plan: Plan, into: dict[str, Any], say: Callable[[str], None]
) -> None:
    """Rounds in which every group has a turn, then the sgemm of both sides; who begins changes with the round."""
    counts = {}
    for name, group in groups.items():
        counts[name], replies = fill(group, plan.seconds)
        if name in into:  # not one that runs alone
            into[name]["peak_mib"] = max(reply["peak_mib"] for reply in replies)
            into[name]["share_mib"] = max(reply["share_mib"] for reply in replies)
            into[name]["steps_per_turn"] = counts[name]
            into[name] |= {"samples_per_second": [], "alone_samples_per_second": []}
    order = list(groups)
    for turn in range(plan.rounds):
        say(f"{case.name}: round {turn + 1} of {plan.rounds}")
        first = turn % len(order)
        for name in order[first:] + order[:first]:
            count = counts[name]
            replies = groups[name].ask(do="steps", warm=max(1, count // 20), count=count, losses=0)
            seconds = [reply["seconds"] for reply in replies]
            side, is_alone = name.removesuffix(" alone"), name.endswith(" alone")
            key = "alone_samples_per_second" if is_alone else "samples_per_second"
            into[side][key].append(samples_per_second(case.batch * count, seconds, independent=is_alone))
        for name in (MPIDP, TORCH):
            rates = [reply["gflops"] for reply in groups[name].ask(do="sgemm")]
            into[name].setdefault("sgemm_gflops", []).append(sum(rates))


def samples_per_second(samples: int, seconds: list[float], independent: bool) -> float:
    """Of all ranks, each with so many samples in its seconds: together they are as fast as the slowest; independent
    runs are each as fast as they are, and add up."""
    return sum(samples / s for s in seconds) if independent else samples * len(seconds) / max(seconds)


def fill(group: Group, seconds: float) -> tuple[int, list[dict[str, Any]]]:
    """How many steps take this long, at least 2, and the last answers."""
    count = 1
    while True:
        replies = group.ask(do="steps", warm=1, count=count, losses=0)
        took = max(reply["seconds"] for reply in replies)
        if took >= min(SHORTEST, seconds):
            return max(2, round(count * seconds / took)), replies
        count *= 4

"""What is kept of a run: figures of a step on every rank, and the curves at the steps where a loss is known."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.networks import Network
from benchmarks.replay import extended
from benchmarks.watched import FIGURES, Outcome
from mpidp.arithmetic import vectors_dtype
from mpidp.collectives import ring

SUMMARY = (
    "sync", "collective", "compress", "ranks", "workers", "parameters", "dtype", "batch_size", "steps", "train_loss",
    "validation_loss_before", "validation_loss", "accuracy", "messages_sent", "bytes_sent", "shared_bytes",
)  # fmt: skip


def record(name: str, outcome: Outcome, a_sample: float, found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """A run as it is written down. found: by network, what the replay gave: `times` and `traffic`, or a `reason`."""
    steps, summary = outcome.steps, outcome.summary
    count = summary["steps"]
    at = {figure: steps[:, :, i] for i, figure in enumerate(FIGURES)}
    over = {
        figure: at[figure][:, -1] - at[figure][:, 0] for figure in FIGURES
    }  # the steps: not start and merge
    workers = slice(0, summary["workers"])
    compute = over["seconds"] - over["communication"]
    busiest = int(over["bytes"].argmax())
    points = sorted({int(t) for t, _ in (*outcome.losses, *outcome.scores)})
    times = {net: extended(one["times"], count) for net, one in found.items() if "times" in one}
    return {
        "name": name,
        **{key: summary[key] for key in SUMMARY if key in summary},
        "messages_a_step": (over["messages"] / count).tolist(),
        "bytes_a_step": (over["bytes"] / count).tolist(),
        "times_fewer_bytes": fewer(summary, over["bytes"].max() / count),
        "seconds": float(over["seconds"].max()),
        "seconds_compute": float(compute[workers].mean()),
        "seconds_communication": float((over["communication"] - over["waiting"])[workers].mean()),
        "seconds_waiting": float(over["waiting"][workers].mean()),
        "imbalance": float(compute[workers].max() / compute[workers].mean()),
        "gradient_ms_a_sample": 1e3 * a_sample,
        "modelled_s": {net: one[-1] for net, one in times.items()},
        "not_modelled": {net: one["reason"] for net, one in found.items() if "reason" in one},
        "replay_sends_the_same": sends_the_same(over, found, count),
        "curves": {
            "steps": points,
            "bytes": [int(at["bytes"][busiest, t]) - int(at["bytes"][busiest, 0]) for t in points],
            "seconds": [round(float(at["seconds"][:, t].max()), 4) for t in points],
            "modelled_s": {net: [float(f"{one[t]:.5g}") for t in points] for net, one in times.items()},
            "train_loss": on(points, outcome.losses),
            "validation_loss": on(points, outcome.scores),
        },
    }


def on(points: Sequence[int], pairs: Sequence[Sequence[float]]) -> list[float | None]:
    """The value at each of the points, None where there is none."""
    values = {int(t): round(value, 6) for t, value in pairs}
    return [values.get(t) for t in points]


def plain_bytes(summary: dict[str, Any]) -> float:
    """Bytes that the busiest rank sends in a step of plain all-reduce by ring: about 2 n (P - 1) / P."""
    itemsize = np.dtype(vectors_dtype(summary["dtype"])).itemsize
    ranks = summary["ranks"]
    return max(
        ring.cost(summary["parameters"], ranks, rank, lambda n: n * itemsize)[1] for rank in range(ranks)
    )


def fewer(summary: dict[str, Any], bytes_a_step: float) -> float | None:
    """How many times less the busiest rank sends than in plain all-reduce; None where nothing is sent."""
    return plain_bytes(summary) / bytes_a_step if bytes_a_step else None


def sends_the_same(over: dict[str, np.ndarray], found: dict[str, dict[str, Any]], count: int) -> bool | None:
    """Whether the replay of all steps sent what was counted in the run; None where not all, or none, were replayed."""
    counted = [[int(m), int(b)] for m, b in zip(over["messages"], over["bytes"], strict=True)]
    whole = [one for one in found.values() if "times" in one and len(one["times"]) == count + 1]
    return all([list(sent) for sent in one["traffic"]] == counted for one in whole) if whole else None


def described(networks: Sequence[Network]) -> dict[str, dict[str, Any]]:
    """The networks' constants, as they stand beside the figures."""
    return {
        n.name: {
            "short": n.short,
            "title": n.title,
            "alpha_s": n.alpha,
            "bytes_per_s": n.rate,
            "source": n.source,
        }
        for n in networks
    }

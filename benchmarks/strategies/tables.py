"""The report as tables: what was reached and sent, and what it took."""

from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.collective_tables import Sheet

WORDS = ("run", "why not")


def sheets(report: dict[str, Any]) -> list[Sheet]:
    """Results with traffic, then times, then what was refused."""
    runs, refused = report["runs"], report["refused"]
    made = [results(report, runs), times(report, runs)] if runs else []
    if refused:
        sheet = Sheet("what mpidp refuses", ["run", "why not"], words=WORDS)
        sheet.rows = [[one["name"], one["reason"]] for one in refused]
        made.append(sheet)
    return made


def results(report: dict[str, Any], runs: Sequence[dict[str, Any]]) -> Sheet:
    judged = any(run.get("accuracy") is not None for run in runs)
    sheet = Sheet(
        f"what came out, {report['about']}: losses at the end (validation: of the merged model), what the ranks send "
        "in a step (least to most of them), and how many times less the busiest sends than in plain all-reduce",
        ["run", "validation|loss", *["correct|%"] * judged, "training|loss", "messages|a step", "sent|kB a step",
         "fewer bytes|×"],
        words=WORDS,
    )  # fmt: skip
    for run in runs:
        accuracy = run.get("accuracy")
        row = [run["name"], f"{run['validation_loss']:.4f}"]
        row += [f"{100 * accuracy:.1f}" if accuracy is not None else ""] * judged
        row += [f"{run['train_loss']:.4f}", span(run["messages_a_step"], number)]
        row += [span([b / 1e3 for b in run["bytes_a_step"]], number), times_fewer(run)]
        sheet.rows.append(row)
    return sheet


def times(report: dict[str, Any], runs: Sequence[dict[str, Any]]) -> Sheet:
    networks = report["networks"]
    sheet = Sheet(
        f"what it took, in seconds for all {runs[0]['steps']} steps: measured here (a worker's computing, messages and "
        "waiting; imbalance: the largest ÷ the mean of the workers' computing), and modelled with one rank a host on "
        + ", ".join(network["title"] for network in networks.values()),
        ["run", "all|s", "computing|s", "messages|s", "waiting|s", "imbalance",
         *(f"{network['short']}|s" for network in networks.values())],
        words=WORDS,
    )  # fmt: skip
    for run in runs:
        parts = [run[f"seconds{part}"] for part in ("", "_compute", "_communication", "_waiting")]
        modelled = [run["modelled_s"].get(name) for name in networks]
        sheet.rows.append(
            [run["name"], *map(number, parts), f"{run['imbalance']:.2f}", *map(number_or_dash, modelled)]
        )
    return sheet


def number(value: float) -> str:
    """As many digits as say something: 0, 0.0123, 1.23, 12.3, 123, 12,345."""
    if value == 0:
        return "0"
    return f"{value:,.0f}" if value >= 99.95 else f"{value:.3g}" if value >= 0.001 else "<0.001"


def number_or_dash(value: float | None) -> str:
    return "–" if value is None else number(value)


def times_fewer(run: dict[str, Any]) -> str:
    if any(run["shared_bytes"]):
        return "–"  # what went through shared memory is not fewer
    return "∞" if run["times_fewer_bytes"] is None else number(run["times_fewer_bytes"])


def span(values: Sequence[float], text: Callable[[float], str]) -> str:
    """The least and the most."""
    least, most = text(min(values)), text(max(values))
    return least if least == most else f"{least} to {most}"


def remarks(report: dict[str, Any]) -> list[str]:
    """What a reader must know of the figures."""
    notes = []
    ranks, cores = report["ranks"], report["cores"]
    if cores is not None and ranks > cores:
        notes.append(
            f"{ranks} ranks on {cores} cores take turns: measured seconds mean little here; losses, messages, bytes "
            "and modelled times do not depend on it"
        )
    if report["networks"]:
        notes.append(
            "modelled time: the run's messages replayed between ranks that keep the time of the network, a message "
            "of n bytes taking α + n β, each host with one full-duplex link, no other bottleneck; gradients take "
            "what one rank alone took for them here, and adding, encoding and stepping what they took in the replay"
        )
    why: dict[str, list[str]] = {}
    for run in report["runs"]:
        for reason in dict.fromkeys(run["not_modelled"].values()):
            why.setdefault(reason, []).append(run["name"])
    notes += [f"no modelled time for {', '.join(names)}: {reason}" for reason, names in why.items()]
    differ = [run["name"] for run in report["runs"] if run["replay_sends_the_same"] is False]
    if differ:
        notes.append(
            f"the replay of {', '.join(differ)} sends other numbers of messages or bytes than were counted in the "
            "run, since what it sends depends on who is first, or on the gradients"
        )
    return notes

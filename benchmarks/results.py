"""From what was measured to the figures of the table: medians over rounds, ratios within rounds."""

from statistics import median
from typing import Any

from benchmarks.sides import MPIDP, TORCH

HEADERS = (
    "model",
    "side",
    "tokens/s",
    "samples/s",
    "min to max (%)",
    "mpidp ÷ this",
    "sgemm peak used (%)",
    "ranks together ÷ alone",
    "memory of a rank, peak / with shared pages divided (MiB)",
    "start to first step (s)",
)


def ratio(ours: list[float], theirs: list[float]) -> float:
    """The median of the rounds' quotients: what else the machine did in a round, it did to both."""
    return median(a / b for a, b in zip(ours, theirs, strict=True))


def spread(values: list[float]) -> float:
    """(largest - smallest) ÷ median."""
    return (max(values) - min(values)) / median(values)


def sgemm_peak(cases: dict[str, Any]) -> float:
    """GFLOP/s of all ranks in large products at once: the better library's median over all rounds of the run."""
    return max(
        median(rate for case in cases.values() for rate in case["sides"][name]["sgemm_gflops"])
        for name in (MPIDP, TORCH)
    )


def summarise(cases: dict[str, Any]) -> dict[str, dict[str, dict[str, Any]]]:
    """{case: {side: figures}}; a side that failed has none."""
    peak = sgemm_peak(cases)
    return {name: {side: figures(case, side, peak) for side in case["sides"]} for name, case in cases.items()}


def figures(case: dict[str, Any], side: str, peak: float) -> dict[str, Any]:
    found = case["sides"][side]
    if "failed" in found:
        return {}
    rates, rate = found["samples_per_second"], median(found["samples_per_second"])
    alone = found["alone_samples_per_second"]
    return {
        "tokens_per_second": rate * case["tokens_per_sample"] or None,
        "samples_per_second": rate,
        "spread": spread(rates),
        "mpidp_ratio": ratio(case["sides"][MPIDP]["samples_per_second"], rates),
        "flop_utilisation": rate * case["flops_per_sample"] / (peak * 1e9),
        "together_ratio": ratio(rates, alone) if alone else None,
        "peak_mib": found["peak_mib"],
        "share_mib": found["share_mib"],
        "startup_s": median(found["startup_s"]),
    }


def best_torch(summary: dict[str, dict[str, Any]], compiled: bool) -> str | None:
    """The fastest of PyTorch's sides, eager or compiled: the one to be compared with; None where there is none."""
    able = [side for side in summary if side != MPIDP and summary[side] and compiled == ("compile" in side)]
    return max(able, key=lambda side: summary[side]["samples_per_second"], default=None)


def rows(summaries: dict[str, dict[str, dict[str, Any]]]) -> list[tuple[str, ...]]:
    """The table's lines, in the order of HEADERS; of several memory formats the best is marked."""
    lines = []
    for case, summary in summaries.items():
        rivals = {best_torch(summary, compiled) for compiled in (False, True)}
        for side, f in summary.items():
            if not f:
                lines.append((case, side, "does not work here", *[""] * (len(HEADERS) - 3)))
                continue
            eager = [s for s in summary if s != MPIDP and "compile" not in s]
            label = f"{side} (best)" if len(eager) > 1 and side in rivals else side
            lines.append(
                (
                    case,
                    label,
                    f"{f['tokens_per_second']:,.0f}" if f["tokens_per_second"] else "",
                    f"{f['samples_per_second']:,.{1 if f['samples_per_second'] < 100 else 0}f}",
                    f"{100 * f['spread']:.1f}",
                    "" if side == MPIDP else f"{f['mpidp_ratio']:.2f}",
                    f"{100 * f['flop_utilisation']:.{1 if f['flop_utilisation'] < 0.1 else 0}f}",
                    f"{f['together_ratio']:.3f}" if f["together_ratio"] else "",
                    f"{f['peak_mib']:,.0f} / {f['share_mib']:,.0f}",
                    f"{f['startup_s']:.2f}",
                )
            )
    return lines


def markdown(lines: list[tuple[str, ...]]) -> str:
    """The table as documentation shows it."""
    align = ["---" if i < 2 else "---:" for i in range(len(HEADERS))]
    return "".join(f"| {' | '.join(line)} |\n" for line in [HEADERS, align, *lines])

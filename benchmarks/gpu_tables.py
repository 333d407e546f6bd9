"""What `gpu_train.py` found, as a page, and what of it is not as it should be."""

from typing import Any

from benchmarks.gpu_sides import MPIDP, TORCH

TOLERANCE = {"float32": 1e-3, "tf32": 1e-2, "bfloat16": 3e-2}
"""On |loss - loss of the other| / loss in the first steps: other initial values, batches or settings differ by more."""
CURVE_TOLERANCE = 1e-3  # between host and GPU in float32
HEADERS = (
    "model",
    "type",
    "B",
    "mpidp",
    "PyTorch",
    "ratio",
    "utilisation",
    "PyTorch's",
    "memory (MiB)",
    "PyTorch's",
)


def page(found: dict[str, Any], tokens: dict[str, int]) -> str:
    """The GPU, the table, and how host and GPU compare. tokens: of a sample of each model, by which rates count."""
    gpu = found["gpu"]
    versions = ", ".join(f"{k} {v}" for k, v in gpu.items() if k != "name")
    return (
        f"{gpu['name']} ({versions})\n\n{table(rows(found['cases'], tokens))}\n{curve_told(found['curve'])}\n"
    )


def curve_told(found: dict[str, Any]) -> str:
    if "failed" in found:
        return f"Loss curves of host and GPU: {found['failed']}"
    text = f"Loss curves of host and GPU, {found['steps']} steps of a small GPT in float32: they differ by"
    return f"{text} {found['difference']:.1e} of the loss at most."


def wrong(found: dict[str, Any]) -> list[str]:
    """What is not as it should be: a side that failed, or losses that differ."""
    said = [] if found["curve"].get("difference", 1) <= CURVE_TOLERANCE else ["loss curves of host and GPU"]
    for name, dtypes in found["cases"].items():
        for dtype, case in dtypes.items():
            off = case.get("loss_difference")
            failed = "failed" in case or any("failed" in side for side in case["sides"].values())
            if failed or off is None or off > TOLERANCE[dtype]:
                said.append(f"{name} in {dtype}")
    return said


def rows(found: dict[str, dict[str, Any]], of: dict[str, int]) -> list[tuple[str, ...]]:
    """The table's lines, in the order of HEADERS; rates in tokens/s, of the MLP in samples/s."""
    lines = []
    for name, dtypes in found.items():
        for dtype, case in dtypes.items():
            if "failed" in case:
                lines.append((name, dtype, case["failed"], *[""] * (len(HEADERS) - 3)))
                continue
            tokens = of[name]
            mine, other = case["sides"][MPIDP], case["sides"][TORCH]
            rates = [f"{s['rate'] * tokens:,.0f}" if "rate" in s else s["failed"] for s in (mine, other)]
            shares = [f"{100 * s['utilisation']:.1f} %" if "rate" in s else "" for s in (mine, other)]
            peaks = [f"{s['peak_bytes'] / 2**20:,.0f}" if s.get("peak_bytes") else "" for s in (mine, other)]
            quotient = f"{case['ratio']:.2f}" if "ratio" in case else ""
            lines.append((name, dtype, str(case["batch"]), *rates, quotient, *shares, *peaks))
    return lines


def table(lines: list[tuple[str, ...]]) -> str:
    align = ["---" if i < 2 else "---:" for i in range(len(HEADERS))]
    return "".join(f"| {' | '.join(line)} |\n" for line in [HEADERS, align, *lines])

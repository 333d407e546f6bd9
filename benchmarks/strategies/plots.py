"""Loss against steps, bytes, seconds, and seconds on modelled networks: one PNG, and each chart as SVG for the page."""

import importlib.util
import io
import re
from pathlib import Path
from typing import Any

# Okabe and Ito's colours, which people with any kind of colour vision tell apart; the first is the text's own.
INK = "#1a2b3c"
COLOURS = (INK, "#E69F00", "#56B4E9", "#009E73", "#D55E00", "#CC79A7", "#0072B2")
DASHES = ("-", "--", ":")
MARKS = ("o", "s", "^", "D", "v", "P", "X")
WIDE, HIGH = 6.4, 4.2  # inches


def installed() -> bool:
    """Whether there is matplotlib."""
    return importlib.util.find_spec("matplotlib") is not None


def style(i: int, count: int) -> dict[str, Any]:
    """How the i-th run is drawn: colour, mark and dashes of its own, so that none rests on colour alone.

    Earlier ones are broader, and show behind later ones that have the same losses.
    """
    turn, colour = divmod(i, len(COLOURS))
    breadth = 1 - i / count
    return {
        "color": COLOURS[colour],
        "linestyle": DASHES[turn % len(DASHES)],
        "marker": MARKS[(colour + 2 * turn) % len(MARKS)],
        "markersize": 4 + 4 * breadth,
        "linewidth": 1.2 + 2.4 * breadth,
    }


def charts(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """name -> {title, label, log, x(run)}: what each chart has on its horizontal axis."""
    found: dict[str, dict[str, Any]] = {
        "steps": {
            "title": "per step",
            "label": "steps",
            "log": False,
            "unit": "",
            "x": lambda curves: curves["steps"],
        },
        "bytes": {
            "title": "per byte sent",
            "label": "bytes sent by the busiest rank",
            "log": True,
            "unit": "B",
            "x": lambda curves: curves["bytes"],
        },
        "wall": {
            "title": "measured here",
            "label": "training time on this machine (s)",
            "log": False,
            "unit": "s",
            "x": lambda curves: curves["seconds"],
        },
    }
    for name, network in report["networks"].items():
        found[name] = {
            "title": f"modelled on {network['title']} ({rate(network['bytes_per_s'])}, {latency(network['alpha_s'])})",
            "label": f"modelled training time on {network['short']}",
            "log": True,
            "unit": "s",
            "x": lambda curves, name=name: curves["modelled_s"].get(name),
        }
    return found


def rate(bytes_per_s: float) -> str:
    return f"{bytes_per_s / 1e9:.3g} GB/s" if bytes_per_s >= 1e9 else f"{bytes_per_s / 1e6:.3g} MB/s"


def latency(seconds: float) -> str:
    return f"{1e3 * seconds:g} ms" if seconds >= 1e-3 else f"{1e6 * seconds:g} µs"


def draw(axes: Any, report: dict[str, Any], chart: dict[str, Any]) -> None:
    """One chart: validation loss of the merged model over what the chart is about."""
    left_out = []
    for i, run in enumerate(report["runs"]):
        x = chart["x"](run["curves"])
        losses = run["curves"]["validation_loss"]
        if x is None:
            left_out.append(run["name"])
            continue
        points = [(a, loss) for a, loss in zip(x, losses, strict=True) if loss is not None and a > 0]
        if points:
            axes.plot(*zip(*points, strict=True), label=run["name"], **style(i, len(report["runs"])))
        else:
            left_out.append(run["name"])
    if chart["log"]:
        scale(axes, chart["unit"])
    axes.set_xlabel(chart["label"])
    axes.set_ylabel("validation loss")
    axes.set_title(chart["title"], fontsize=10)
    axes.grid(True, which="major", alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if left_out:
        text = "not on this axis: " + ", ".join(left_out)
        axes.text(0.01, 0.02, shortened(text), transform=axes.transAxes, fontsize=7)


def scale(axes: Any, unit: str) -> None:
    """A logarithmic horizontal axis whose ticks read 20 ms, 1 s, 5 MB."""
    from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

    axes.set_xscale("log")
    left, right = axes.get_xlim()
    narrow = right / left < 300
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if narrow else (1,)))
    axes.xaxis.set_major_formatter(EngFormatter(unit))
    axes.xaxis.set_minor_formatter(NullFormatter())


def shortened(text: str, limit: int = 70) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def draw_all(report: dict[str, Any], path: Path) -> None:
    """All charts on one PNG, with one legend."""
    plt = pyplot()
    found = charts(report)
    columns = 2
    lines = -(-len(found) // columns)
    figure, axes = plt.subplots(lines, columns, figsize=(WIDE * columns, HIGH * lines + 0.9), squeeze=False)
    for place, chart in zip(axes.flat, found.values(), strict=False):
        draw(place, report, chart)
    for place in axes.flat[len(found) :]:
        place.set_axis_off()
    handles, names = axes.flat[0].get_legend_handles_labels()
    room = axes.flat[len(found)] if len(found) < axes.size else None
    if room is not None:
        room.legend(handles, names, loc="center", frameon=False, fontsize=9, ncols=1 + (len(names) > 16))
    else:
        figure.legend(handles, names, loc="lower center", ncols=4, frameon=False, fontsize=8)
    figure.suptitle(report["about"], fontsize=12)
    bottom = 0 if room is not None else 0.02 + 0.015 * -(-len(names) // 4)
    figure.tight_layout(rect=(0, bottom, 1, 0.985))
    image = io.BytesIO()
    figure.savefig(image, dpi=110)
    plt.close(figure)
    few_colours(image, path)


def few_colours(image: io.BytesIO, path: Path) -> None:
    """Write the image as a PNG of 64 colours, which takes a quarter of the space."""
    from PIL import Image  # which matplotlib brings

    with Image.open(image) as found:
        found.convert("RGB").quantize(64).save(path, optimize=True)


def svgs(report: dict[str, Any]) -> dict[str, str]:
    """Each chart as an SVG element without a legend, whose text and lines take the page's colour."""
    plt = pyplot()
    made = {}
    for name, chart in charts(report).items():
        figure, axes = plt.subplots(figsize=(WIDE, HIGH))
        draw(axes, report, chart)
        figure.tight_layout()
        made[name] = svg(figure)
        plt.close(figure)
    return made


def svg(figure: Any) -> str:
    """The figure as an SVG element for an HTML page: no prolog, no links, and the ink in the page's colour."""
    text = io.StringIO()
    figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    found = text.getvalue()
    found = found[found.index("<svg") :]
    found = re.sub(r"<metadata>.*?</metadata>", "", found, flags=re.DOTALL)
    found = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", found, count=1)
    found = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", found, count=1)
    found = re.sub(r' xmlns(:xlink)?="[^"]*"', "", found).replace("xlink:href=", "href=")  # HTML knows them
    return found.replace(INK, "currentColor").strip()


def key(i: int, count: int) -> str:
    """The i-th run's line and mark, as a small SVG element for a legend."""
    plt = pyplot()
    figure = plt.figure(figsize=(0.5, 0.16))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.plot([0, 1, 2], [0, 0, 0], markevery=[1], **style(i, count))
    axes.set_xlim(-0.1, 2.1)
    made = svg(figure)
    plt.close(figure)
    return made


def pyplot() -> Any:
    """matplotlib, with our settings and no window."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update(
        {
            "text.color": INK,
            "axes.labelcolor": INK,
            "axes.edgecolor": INK,
            "xtick.color": INK,
            "ytick.color": INK,
            "grid.color": INK,
            "axes.titlecolor": INK,
            "svg.fonttype": "none",
            "font.size": 10,
        }
    )
    return plt

"""The report as one HTML page that needs nothing beside it: charts inlined, tables sorted by a click."""

import html
from collections.abc import Sequence
from typing import Any

from benchmarks.collective_tables import Sheet
from benchmarks.strategies import plots
from benchmarks.strategies.tables import sheets

STYLE = """
:root { color-scheme: light dark; --ink: #1a2b3c; --paper: #ffffff; --line: #d5dbe1; --soft: #f3f5f7; --mark: #0072B2; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #dfe6ec; --paper: #14191e; --line: #36404a; --soft: #1d242b; --mark: #56B4E9; }
}
* { box-sizing: border-box; }
body { color: var(--ink); background: var(--paper); font: 15px/1.5 system-ui, sans-serif; margin: 0 auto;
       max-width: 84rem; padding: 1.5rem; }
h1 { font-size: 1.6rem; margin: 0 0 .3rem; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; }
p, li { max-width: 62rem; } code { background: var(--soft); padding: .1em .35em; border-radius: 3px; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 30rem), 1fr)); gap: 1rem; }
.charts figure { margin: 0; border: 1px solid var(--line); border-radius: 6px; padding: .5rem; }
.charts svg { width: 100%; height: auto; color: var(--ink); display: block; }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; list-style: none; margin: .8rem 0; padding: .5rem .8rem;
          position: sticky; top: 0; z-index: 1; background: var(--paper); border: 1px solid var(--line);
          border-radius: 6px; }
.legend li { display: flex; align-items: center; gap: .4rem; font-size: .85rem; }
.legend svg { width: 2.6rem; height: .8rem; color: var(--ink); }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 6px; }
table { border-collapse: collapse; width: 100%; font-size: .88rem; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .7rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th { background: var(--soft); vertical-align: bottom; white-space: normal; cursor: pointer; user-select: none; }
th:focus-visible { outline: 2px solid var(--mark); } th small { display: block; font-weight: normal; }
th[aria-sort=ascending]::after { content: " \\25B2"; color: var(--mark); }
th[aria-sort=descending]::after { content: " \\25BC"; color: var(--mark); }
.word { text-align: left; } td.long { white-space: normal; min-width: 20rem; } tr:last-child td { border-bottom: 0; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem; font-size: .85rem; }
dt { font-weight: 600; } dd { margin: 0; overflow-wrap: anywhere; }
"""

SCRIPT = """
for (const head of document.querySelectorAll("th")) {
  const sort = () => {
    const body = head.closest("table").tBodies[0], column = head.cellIndex;
    const up = head.getAttribute("aria-sort") !== "ascending";
    for (const other of head.parentNode.children) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const value = row => row.cells[column].dataset.value;
    const rows = [...body.rows].sort((a, b) => {
      const x = Number(value(a)), y = Number(value(b));
      const order = Number.isNaN(x) || Number.isNaN(y) ? value(a).localeCompare(value(b)) : x - y;
      return up ? order : -order;
    });
    body.append(...rows);
  };
  head.tabIndex = 0;
  head.addEventListener("click", sort);
  head.addEventListener("keydown", event => { if (event.key === "Enter") sort(); });
}
"""

INFINITE, NOTHING = "1e300", "1e301"  # where cells without a number are sorted to
LONG = 60  # characters


def made(report: dict[str, Any], drawn: bool) -> str:
    """The whole page; drawn: with the charts."""
    say = html.escape
    parts = [
        f"<h1>Strategies side by side</h1><p>{say(report['about'])}. <code>{say(report['command'])}</code></p>",
        f"<p>Options of all runs: <code>{say(report['common'])}</code></p>",
    ]
    parts += [f"<ul>{''.join(f'<li>{say(note)}</li>' for note in report['notes'])}</ul>"]
    if drawn:
        figures = "".join(f"<figure>{svg}</figure>" for svg in plots.svgs(report).values())
        parts += ["<h2>Validation loss of the merged model</h2>", legend(report)]
        parts += [f"<div class=charts>{figures}</div>"]
    parts += [table(sheet) for sheet in (*sheets(report), networks(report))]
    parts += ["<h2>Where this was measured</h2>", facts(report["environment"])]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>mpidp: strategies side by side</title><style>{STYLE}</style></head>\n<body>\n"
        + "\n".join(parts)
        + f"\n<script>{SCRIPT}</script>\n</body></html>\n"
    )


def legend(report: dict[str, Any]) -> str:
    items = [
        f"<li>{plots.key(i, len(report['runs']))}{html.escape(run['name'])}</li>"
        for i, run in enumerate(report["runs"])
    ]
    return f"<ul class=legend>{''.join(items)}</ul>"


def table(sheet: Sheet) -> str:
    """A sheet as a table whose columns can be sorted."""
    heads = []
    for column in sheet.columns:
        name, _, unit = column.partition("|")
        below = f"<small>{html.escape(unit)}</small>" if unit else ""
        heads.append(f'<th class="{side(sheet, column)}">{html.escape(name)}{below}</th>')
    rows = [
        "".join(cell(sheet, c, text) for c, text in zip(sheet.columns, row, strict=True))
        for row in sheet.rows
    ]
    head, _, rest = (sheet.title[0].upper() + sheet.title[1:]).partition(": ")
    title = f"<h2>{html.escape(head)}</h2>" + (
        f"<p>{html.escape(rest[0].upper() + rest[1:])}</p>" if rest else ""
    )
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return (
        f"{title}<div class=scroll><table><thead><tr>{''.join(heads)}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
    )


def side(sheet: Sheet, column: str) -> str:
    return "word" if column in sheet.words else "number"


def cell(sheet: Sheet, column: str, text: str) -> str:
    long = " long" if len(text) > LONG else ""
    return f'<td class="{side(sheet, column)}{long}" data-value="{html.escape(value(text))}">{html.escape(text)}</td>'


def value(text: str) -> str:
    """What a cell is sorted by: its number, of "1 to 3" the last."""
    last = text.split(" to ")[-1].replace(",", "")
    try:
        return str(float(last))
    except ValueError:
        return {"∞": INFINITE, "–": NOTHING, "": NOTHING}.get(text, text)


def networks(report: dict[str, Any]) -> Sheet:
    sheet = Sheet(
        "modelled networks", ["network", "α|µs", "rate|MB/s", "where from"], words=("network", "where from")
    )
    for one in report["networks"].values():
        figures = [f"{1e6 * one['alpha_s']:,g}", f"{one['bytes_per_s'] / 1e6:,.1f}"]
        sheet.rows.append([one["title"], *figures, one["source"]])
    return sheet


def facts(environment: dict[str, Any]) -> str:
    known: Sequence[tuple[str, Any]] = [(k, v) for k, v in environment.items() if v not in (None, {}, [])]
    items = "".join(f"<dt>{html.escape(k)}</dt><dd>{html.escape(shown(v))}</dd>" for k, v in known)
    return f"<dl>{items}</dl>"


def shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k}={v}" for k, v in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)

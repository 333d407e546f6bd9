"""The pages keep their word: examples run, excerpts are the sources, commands exist, links lead somewhere."""

import doctest
import json
import shlex
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from mpidp.commandline import parse
from mpidp.config import resolve
from mpidp.data import SOURCES, Request, load, synthetic
from mpidp.data.streams import generator
from mpidp.errors import UserError
from mpidp.strategies import STRATEGIES
from tests.docs import pages
from tests.launch import run_ranks

LESSON = pages.ROOT / "docs" / "lessons" / "01-linear-regression.md"
RESULTS = pages.table(LESSON.read_text(encoding="utf-8"), "results")
FACTOR = 1.05  # the page says: to 5 %


def name(page: Path) -> str:
    return str(page.relative_to(pages.ROOT))


@pytest.mark.parametrize("page", [*pages.LESSONS, pages.ROOT / "README.md"], ids=name)
def test_examples(page):
    """All of a page's examples, in one namespace, top to bottom."""
    text = pages.without_fences(page.read_text(encoding="utf-8"))
    examples = doctest.DocTestParser().get_doctest(text, {}, name(page), str(page), 0)
    told: list[str] = []
    results = doctest.DocTestRunner(verbose=False).run(examples, out=told.append)
    assert not results.failed, "".join(told)
    assert results.attempted > 0 or page not in pages.LESSONS


@pytest.mark.parametrize("page", pages.PAGES, ids=name)
def test_excerpts(page):
    for path, names, code in pages.excerpts(page.read_text(encoding="utf-8")):
        what = f"{names} of {path} has changed: python -m tests.docs.pages renews the page"
        assert code == pages.source_of(path, names), what


@pytest.mark.parametrize("page", pages.PAGES, ids=name)
def test_tables_of_figures_are_those_that_were_measured(page):
    text = page.read_text(encoding="utf-8")
    assert text.count("<!-- results:") == len(pages.results(text))
    for path, title, rows in pages.results(text):
        assert rows == pages.rows_of(path, title), f"{path} {title}: python -m tests.docs.pages"


def test_an_excerpt_that_is_out_of_date_is_noticed():
    text = LESSON.read_text(encoding="utf-8")
    stale = text.replace("wire.add(theirs, incoming)", "wire.add(ours, incoming)")
    assert stale != text and pages.renewed(stale) == text
    assert any(code != pages.source_of(path, names) for path, names, code in pages.excerpts(stale))
    with pytest.raises(ValueError, match="marks of excerpts"):
        pages.excerpts(
            text.replace(
                "```python\n@Algorithm\ndef coded_reduce_scatter",
                "\n```python\n@Algorithm\ndef coded_reduce_scatter",
            )
        )


def existing(arguments: list[str], folder: Path) -> list[str]:
    """The arguments, with files that are but examples made in `folder`, or left out where they would lie elsewhere."""
    result = list(arguments)
    for option, value in pairwise(arguments):
        named = option == "--config" or (option == "--data" and value not in SOURCES)
        if not named or Path(value).exists():
            continue
        if Path(value).is_absolute() or value.startswith("~"):
            result = [word for word in result if word not in (option, value)]
        elif value.endswith("/"):
            (folder / value).mkdir(parents=True)
        else:
            touch(folder / value)
    return result


def touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


@pytest.mark.parametrize("page", pages.PAGES, ids=name)
def test_commands(page, tmp_path, monkeypatch):
    """Every option of every command line exists, fits the others, and the ranks suffice."""
    for number, command in enumerate(pages.commands(page.read_text(encoding="utf-8"))):
        start, _, rest = command.partition("mpidp.train")
        if "[" in rest or "--help" in rest:
            continue
        folder = tmp_path / str(number)
        folder.mkdir()
        monkeypatch.chdir(folder)
        arguments = existing([word for word in shlex.split(rest) if word not in ("...", "…")], folder)
        ranks = int(start.split()[2]) if "mpirun" in start else 1
        try:
            given, file, preset = parse(arguments)
            config = resolve(given, preset | file)
            STRATEGIES[config.run.sync].count_workers(ranks, config.sync)
        except UserError as error:
            pytest.fail(f"{name(page)}: {command}: {error}")


def test_commands_are_found_and_mistakes_in_them_noticed():
    text = "a `python -m mpidp.train --lr 1` and\n$ mpirun -n 3 python -m mpidp.train --x \\\n  --y # why\n"
    assert pages.commands(text) == [
        "python -m mpidp.train --lr 1",
        "mpirun -n 3 python -m mpidp.train --x --y",
    ]
    loop = "for s in none 'server --servers 2'; do\n  python -m mpidp.train --sync $s | tail\ndone\n"
    assert pages.commands(loop) == [
        "python -m mpidp.train --sync none",
        "python -m mpidp.train --sync server --servers 2",
    ]
    with pytest.raises(UserError, match="--period"):
        resolve(parse(["--sync", "none", "--period", "3"])[0], {})


@pytest.mark.parametrize("page", pages.PAGES, ids=name)
def test_links(page):
    dead = [
        link for link in pages.links(page.read_text(encoding="utf-8")) if not (page.parent / link).exists()
    ]
    assert not dead


def test_links_are_found():
    text = "[a](b.md#c) [d](https://e) [f](#g) [h](../i)\n```\n[j](k)\n```\n"
    assert pages.links(text) == ["b.md", "../i"]


def lesson_commands() -> dict[str, str]:
    """Options of --sync in the lesson's table -> the command that the page gives for that row."""
    block = LESSON.read_text(encoding="utf-8").partition("<!-- command -->\n")[2].partition("\n```\n")[0]
    return {command.partition("--sync ")[2]: command for command in pages.commands(block)}


def test_the_table_has_a_row_for_every_command():
    rows = [row[0].strip("`") for row in RESULTS]
    assert rows == list(lesson_commands()) and len(rows) == 6
    assert {row.split()[0] for row in rows} <= set(STRATEGIES)


@pytest.mark.parametrize("row", RESULTS, ids=lambda row: row[0].strip("`"))
def test_the_table(row, tmp_path):
    options, error, messages, sent = row
    command = shlex.split(lesson_commands()[options.strip("`")])
    assert command[:4] == ["mpirun", "-n", "4", "python"]
    finished = run_ranks(4, [*command[4:], "--run-dir", tmp_path / "run"], timeout=100).check()
    facts = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert float(error) / FACTOR < facts["weight_error"] < float(error) * FACTOR
    assert messages == span(facts["messages_sent"])
    assert sent == span(facts["bytes_sent"])
    assert "weight error" in finished.stdout and f"{messages} messages, {sent} bytes" in finished.stdout


def test_noise_moves_the_answer_three_times_as_far_as_averaging_once():
    """A claim of the page: ‖θ* - (w, b)‖ / ‖θ*‖ against the last row of the table."""
    place = generator(0, synthetic._REGRESSION)
    law = np.append(place.normal(size=10), place.normal(size=1))
    truth = load("synthetic-regression", None, Request()).truth
    best = np.append(truth["weight"], truth["bias"])
    distance = np.linalg.norm(best - law) / np.linalg.norm(best)
    assert distance / float(RESULTS[-1][1]) == pytest.approx(3, abs=0.2)


def span(values: list[int]) -> str:
    return f"{min(values)} to {max(values)}"

"""What the pages of the project promise, taken out of them: excerpts, examples, commands, tables, links.

`python -m tests.docs.pages` writes every excerpt anew from the sources, and every table of figures from `docs/results`,
after a change of theirs.
"""

import ast
import itertools
import re
import shlex
import textwrap
from pathlib import Path

ROOT = Path(__file__).parents[2]
LESSONS = sorted((ROOT / "docs" / "lessons").glob("*.md"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]

EXCERPT = re.compile(
    r"^<!-- excerpt: (?P<path>\S+) (?P<names>[\w. ]+?) -->\n```python\n(?P<code>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
RESULTS = re.compile(
    r"^<!-- results: (?P<path>\S+)(?P<title>[^>\n]*?) -->\n(?P<rows>(?:\|[^\n]*\n)*)", re.MULTILINE
)
LOOP = re.compile(r"\bfor (\w+) in ([^;\n]*);\s*do\b(.*?)\bdone\b", re.DOTALL)
LINK = re.compile(r"(?<!!)\[[^\]\n]*\]\(([^)\s]+)\)")


def source_of(path: str, names: str) -> str:
    """The source of these dotted names of a file, dedented, without docstrings, a blank line between two."""
    text = (ROOT / path).read_text(encoding="utf-8")
    tree, lines = ast.parse(text), text.splitlines()
    return "\n\n".join(one_source(tree, lines, name) for name in names.split()) + "\n"


def one_source(tree: ast.AST, lines: list[str], name: str) -> str:
    node = tree
    for part in name.split("."):
        found = [child for child in node.body if getattr(child, "name", None) == part]
        if not found:
            raise LookupError(f"no {name} in this file")
        node = found[0]
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    taken = set(range(first, node.end_lineno + 1))
    if ast.get_docstring(node, clean=False) is not None:
        taken -= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return textwrap.dedent("\n".join(lines[i - 1] for i in sorted(taken)))


def excerpts(page: str) -> list[tuple[str, str, str]]:
    """(path, names, code) of every marked block."""
    found = [(m["path"], m["names"], m["code"]) for m in EXCERPT.finditer(page)]
    marks = page.count("<!-- excerpt:")
    if len(found) != marks:
        raise ValueError(f"{marks} marks of excerpts, but {len(found)} with a python block right under them")
    return found


def results(page: str) -> list[tuple[str, str, str]]:
    """(path, title, rows) of every marked table of measured figures."""
    return [(m["path"], m["title"].strip(), m["rows"]) for m in RESULTS.finditer(page)]


def rows_of(path: str, title: str) -> str:
    """The first table of this file, or the first under a line that begins with `title`."""
    lines = (ROOT / path).read_text(encoding="utf-8").splitlines()
    begun = list(itertools.dropwhile(lambda line: not line.startswith(title), lines))
    table = itertools.dropwhile(lambda line: not line.startswith("|"), begun)
    rows = list(itertools.takewhile(lambda line: line.startswith("|"), table))
    if not rows:
        raise LookupError(f"no table {title!r} in {path}")
    return "".join(f"{row}\n" for row in rows)


def renewed(page: str) -> str:
    """The page with every excerpt as its source is now, and every table of figures as last measured."""
    page = RESULTS.sub(
        lambda m: f"<!-- results: {m['path']}{m['title']} -->\n{rows_of(m['path'], m['title'].strip())}", page
    )
    return EXCERPT.sub(
        lambda m: (
            f"<!-- excerpt: {m['path']} {m['names']} -->\n```python\n{source_of(m['path'], m['names'])}```"
        ),
        page,
    )


def without_fences(page: str) -> str:
    """The page with an empty line for each line of ```, as doctest wants the end of an expected output."""
    return re.sub(r"^```.*$", "", page, flags=re.MULTILINE)


def commands(page: str) -> list[str]:
    """Every `... python -m mpidp.train ...` of a page, shell loops over fixed values written out."""
    page = re.sub(r"\s*\\\n\s*", " ", page)
    page = LOOP.sub(lambda m: "\n".join(written_out(*m.groups())), page)
    return [
        m[0].strip() for m in re.finditer(r"(mpirun -n \d+ )?python -m mpidp\.train\b[^\n`#|;&>)]*", page)
    ]


def written_out(variable: str, values: str, body: str) -> list[str]:
    return [re.sub(rf"\${variable}\b", lambda _, v=value: v, body) for value in shlex.split(values)]


def table(page: str, mark: str) -> list[list[str]]:
    """The cells of the rows of the table under `<!-- mark -->`, its head left out."""
    lines = page.partition(f"<!-- {mark} -->\n")[2].splitlines()
    rows = list(itertools.takewhile(lambda line: line.startswith("|"), lines))[2:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def links(page: str) -> list[str]:
    """The files that a page links to, by relative path; code blocks left out."""
    text = re.sub(r"^```.*?^```$", "", page, flags=re.DOTALL | re.MULTILINE)
    targets = [target.partition("#")[0] for target in LINK.findall(text)]
    return [target for target in targets if target and ":" not in target]


if __name__ == "__main__":
    for file in PAGES:
        before = file.read_text(encoding="utf-8")
        after = renewed(before)
        if after != before:
            file.write_text(after, encoding="utf-8")
            print(f"{file.relative_to(ROOT)}: excerpts and tables renewed")

"""The direction of dependencies and the size of files, read from the sources."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.launch import ROOT

PACKAGE = ROOT / "mpidp"
SOURCES = sorted(PACKAGE.rglob("*.py"))
RANKS = ("mpidp.comm", "mpidp.collectives", "mpidp.strategies", "mpidp.compression")
PROGRAMS = ("mpidp.train", "mpidp.generate", "mpidp.evaluate", "mpidp.doctor", "mpidp.config")
FORBIDDEN = {
    "nn": (*RANKS, *PROGRAMS, "mpidp.models", "mpidp.optim", "mpidp.data"),
    "models": (*RANKS, *PROGRAMS, "mpidp.optim"),
    "optim": (*RANKS, *PROGRAMS, "mpidp.models", "mpidp.data"),
    "data": (*RANKS, *PROGRAMS, "mpidp.models", "mpidp.optim", "mpidp.nn"),
    "comm": (*RANKS[1:], *PROGRAMS, "mpidp.nn", "mpidp.models", "mpidp.optim", "mpidp.data"),
    "collectives": (*RANKS[2:], *PROGRAMS, "mpidp.nn", "mpidp.models", "mpidp.optim", "mpidp.data"),
    "compression": ("mpidp.strategies", *PROGRAMS, "mpidp.models", "mpidp.data"),
    "strategies": (*PROGRAMS, "mpidp.models", "mpidp.data"),
}
"""What the modules of a folder may not import, anywhere in them."""


def imports(path: Path) -> Iterator[str]:
    """Every module that the file imports, inside functions too; of `from a import b`, both a and a.b."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = path.relative_to(ROOT).with_suffix("").parts[: -node.level] if node.level else ()
            base = ".".join([*package, *([node.module] if node.module else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def within(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == package or module.startswith(package + ".") for package in packages)


def test_the_reader_of_imports_sees_all_kinds():
    path = ROOT / "mpidp" / "nn" / "layer.py"
    assert {"numpy", "mpidp.arrays", "mpidp.arrays.Array"} <= set(imports(path))


@pytest.mark.parametrize("folder", sorted(FORBIDDEN))
def test_dependency_direction(folder):
    paths = [path for path in SOURCES if path.is_relative_to(PACKAGE / folder)]
    assert paths
    wrong = [f"{name(p)} imports {m}" for p in paths for m in imports(p) if within(m, FORBIDDEN[folder])]
    assert wrong == []


def test_mpi4py_is_imported_in_comm_alone():
    users = {name(path) for path in SOURCES for module in imports(path) if within(module, ("mpi4py",))}
    assert users
    assert {user for user in users if not user.startswith("mpidp/comm/")} == set()


@pytest.mark.parametrize(
    "module", ["torch", "tensorflow", "jax", "pickle", "cloudpickle", "dill", "marshal", "shelve"]
)
def test_never_imported(module):
    assert [name(path) for path in SOURCES if any(within(m, (module,)) for m in imports(path))] == []


def test_files_stay_short():
    folders = [PACKAGE, ROOT / "tests", ROOT / "benchmarks"]
    lengths = {
        name(p): len(p.read_text(encoding="utf-8").splitlines()) for f in folders for p in f.rglob("*.py")
    }
    assert {path: lines for path, lines in lengths.items() if lines > 300} == {}

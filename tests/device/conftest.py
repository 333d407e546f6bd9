"""In this folder `import cupy` finds the stand-in, and nowhere else: before and after it is whatever is installed."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


@contextlib.contextmanager
def stand_in() -> Iterator[ModuleType]:
    """The stand-in as the module `cupy`; our modules that hold on to CuPy have it in their names, and begin anew."""
    before = taken_out()
    sys.path.insert(0, str(Path(__file__).parent))
    try:
        import cupy

        yield cupy
    finally:
        taken_out()
        sys.path.remove(str(Path(__file__).parent))
        for name, module in before.items():
            put(name, module)


def taken_out() -> dict[str, ModuleType]:
    """The modules that are CuPy or hold it, which are forgotten with this."""
    found = {
        name: module
        for name, module in sys.modules.items()
        if name.startswith(("cupy", "mpidp.")) and ("cupy" in name or "cupy" in vars(module))
    }
    for name in found:
        del sys.modules[name]
        parent, _, last = name.rpartition(".")
        if parent in sys.modules and parent not in found and hasattr(sys.modules[parent], last):
            delattr(sys.modules[parent], last)
    return found


def put(name: str, module: ModuleType) -> None:
    sys.modules[name] = module
    parent, _, last = name.rpartition(".")
    if parent in sys.modules:
        setattr(sys.modules[parent], last, module)


@pytest.fixture(scope="package", autouse=True)
def cupy() -> Iterator[Any]:
    with stand_in() as module:
        yield module

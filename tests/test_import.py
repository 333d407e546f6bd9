"""`import mpidp` needs no MPI, loads none and starts none; nor does anything outside the start of the ranks."""

import json
import pkgutil
from pathlib import Path

import pytest

import mpidp
from tests.launch import run_alone

BLOCK_MPI = "import sys; sys.modules['mpi4py'] = None\n"  # makes every import of it an ImportError
NEEDS_MPI = ("mpidp.comm.mpi",)


def modules() -> list[str]:
    names = [m.name for m in pkgutil.walk_packages(mpidp.__path__, "mpidp.")]
    return [name for name in names if name not in NEEDS_MPI and not name.endswith("__main__")]


def test_import_is_light():
    result = run_alone(["-c", "import sys, json, mpidp; print(json.dumps(sorted(sys.modules)))"]).check()
    loaded = {name.partition(".")[0] for name in json.loads(result.stdout)}
    assert "mpidp" in loaded
    assert not loaded & {"mpi4py", "numpy", "cupy", "torch", "rich"}


def test_every_module_imports_without_mpi():
    names = modules()
    assert len(names) > 10
    code = (
        BLOCK_MPI + "import importlib\n" + "".join(f"importlib.import_module({name!r})\n" for name in names)
    )
    run_alone(["-c", code]).check()


def test_every_module_imports_without_starting_mpi():
    code = "import sys, importlib\n" + "".join(f"importlib.import_module({name!r})\n" for name in modules())
    result = run_alone(["-c", code + "print('mpi4py' in sys.modules, 'torch' in sys.modules)"]).check()
    assert result.stdout == "False False\n"


@pytest.mark.parametrize("name", ["py.typed"])
def test_package_data_is_there(name):
    assert (Path(mpidp.__file__).parent / name).exists()

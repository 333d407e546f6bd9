"""`import mpidp` needs no MPI, loads none and starts none; nor does anything outside the start of the ranks."""

import json
import pkgutil
from pathlib import Path

import pytest

import mpidp
from tests.launch import run_alone

EXTRAS = ("mpi4py", "sklearn", "tokenizers", "cupy", "torch", "ml_dtypes")
BLOCK = (
    f"import sys; sys.modules.update(dict.fromkeys({EXTRAS}))\n"  # makes every import of them an ImportError
)
NEEDS_MORE = (
    "mpidp.comm.mpi",
    "mpidp.comm.survivors",
    "cupy",
)  # parts of the names of modules that need MPI, or CuPy


def modules() -> list[str]:
    names = [m.name for m in pkgutil.walk_packages(mpidp.__path__, "mpidp.")]
    return [name for name in names if not any(part in name for part in (*NEEDS_MORE, "__main__"))]


def test_import_is_light():
    result = run_alone(["-c", "import sys, json, mpidp; print(json.dumps(sorted(sys.modules)))"]).check()
    loaded = {name.partition(".")[0] for name in json.loads(result.stdout)}
    assert "mpidp" in loaded
    assert not loaded & {"mpi4py", "numpy", "cupy", "torch", "rich"}


def test_every_module_imports_without_mpi_and_the_extras():
    names = modules()
    assert len(names) > 10
    code = BLOCK + "import importlib\n" + "".join(f"importlib.import_module({name!r})\n" for name in names)
    run_alone(["-c", code]).check()


def test_every_module_imports_without_starting_mpi():
    code = "import sys, importlib\n" + "".join(f"importlib.import_module({name!r})\n" for name in modules())
    result = run_alone(["-c", code + "print('mpi4py' in sys.modules, 'torch' in sys.modules)"]).check()
    assert result.stdout == "False False\n"


@pytest.mark.parametrize("name", ["py.typed"])
def test_package_data_is_there(name):
    assert (Path(mpidp.__file__).parent / name).exists()

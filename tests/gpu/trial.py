"""Is there a GPU that the installed CuPy can use? Asked of a child process, since a wrong driver may end a process."""

import importlib.util
import subprocess
import sys
from functools import cache

TRIAL = """
import cupy
assert cupy.cuda.runtime.getDeviceCount() > 0, "no GPU is shown"
assert int(cupy.arange(4).sum()) == 6
"""


@cache
def missing() -> str:
    """Why tests cannot run on a GPU here, or nothing."""
    if importlib.util.find_spec("cupy") is None:
        return "CuPy is not installed: pip install 'mpidp[cuda13]' or 'mpidp[cuda12]'"
    done = subprocess.run([sys.executable, "-c", TRIAL], capture_output=True, text=True, timeout=100)
    lines = done.stderr.strip().splitlines()
    return (
        f"CuPy finds no GPU that it can use: {lines[-1] if lines else done.returncode}"
        if done.returncode
        else ""
    )

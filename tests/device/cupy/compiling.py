"""CUDA sources by the host's compiler: libraries in a folder of this user, kept for all processes."""

import contextlib
import ctypes
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
import threading
from functools import cache
from pathlib import Path

HERE = Path(__file__).parent
FLAGS = (
    "-std=c++17",
    "-fPIC",
    "-O1",
    "-w",
    "-fno-strict-aliasing",
    "-fvisibility=hidden",
    "-U_FORTIFY_SOURCE",
)
DYNAMIC = re.compile(r"extern\s+__shared__\s+(?:__align__\(\d+\)\s+)?([\w\s:]+?)\s*\b(\w+)\s*\[\s*\]\s*;")
BOUNDS = r"(?:__launch_bounds__\([^)]*\)\s*)?"
KERNEL = re.compile(rf"__global__\s+{BOUNDS}void\s+{BOUNDS}(\w+)\s*\(")


@cache
def library(source: str, options: tuple[str, ...] = ()) -> ctypes.CDLL:
    """The CUDA source as a library of the host, with an entry for each kernel that stands in it by its name."""
    source = DYNAMIC.sub(r"static \1 *const \2 = (\1 *)mpidp_dynamic_shared;", source)
    kernels = "".join(f"MPIDP_KERNEL({name})\n" for name in dict.fromkeys(KERNEL.findall(source)))
    flags = (*FLAGS, f"-I{HERE / 'include'}", *options)
    text = f'#include "device_side.h"\n#line 1 "kernel"\n{source}\n{kernels}'
    made = built(text, flags, ".so", ("-shared", "-Wl,-Bsymbolic", str(blocks())))
    return ctypes.CDLL(str(made))


@cache
def blocks() -> Path:
    """What runs thread blocks."""
    flags = (*FLAGS, f"-I{HERE / 'include'}", "-c")
    return built((HERE / "blocks.cpp").read_text(), flags, ".o", ())


@cache
def headers() -> str:
    return "".join(path.read_text() for path in sorted((HERE / "include").iterdir()))


def built(text: str, flags: tuple[str, ...], suffix: str, inputs: tuple[str, ...]) -> Path:
    """What the compiler makes of this text, made anew only where it or a header is another."""
    folder = Path(tempfile.gettempdir()) / f"mpidp-stand-in-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    key = hashlib.sha256(repr((headers(), text, flags, inputs)).encode()).hexdigest()[:24]
    path = folder / f"{key}{suffix}"
    if not path.exists():
        compiler = shutil.which("c++") or shutil.which("g++")
        if compiler is None:
            raise RuntimeError("the stand-in for CuPy needs a C++ compiler")
        source = path.with_suffix(f".{os.getpid()}.{threading.get_ident()}.cpp")
        target = source.with_suffix(suffix)
        source.write_text(text)
        command = [compiler, *flags, "-o", str(target), str(source), *inputs]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        with contextlib.suppress(FileNotFoundError):
            source.unlink()
        if done.returncode:
            raise RuntimeError(done.stderr)
        target.rename(path)
    return path

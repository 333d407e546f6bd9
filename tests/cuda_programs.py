"""Every CUDA source of the package with every set of options that it is compiled with, and NVRTC to compile them.

`python -m tests.cuda_programs` compiles all of attention's sizes, too, which takes two minutes.
"""

import ctypes
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from mpidp.collectives import cuda_sums
from mpidp.nn.kernels import attention_plan, cuda_source
from mpidp.numbers import flags
from mpidp.optim import clipping

ARCHITECTURES = "sm_80", "sm_90"
DAILY = "-DBF16=1", "-DTF32=1", "-DREAL=double"
"""Of attention's many forms, those that the tests of every day compile: of these types, for heads of 64 columns."""


def programs(everything: bool = False) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """(name, source, options). A new source gets a line here; `test_every_source_is_compiled` asks for it."""
    for (real, narrow), options in cuda_source.VARIANTS.items():
        yield f"kernels {real} {narrow or real}", cuda_source.SOURCE, options
    for real in ("float", "double"):
        for module in (flags, clipping):
            yield f"{module.__name__} {real}", module.SOURCE, (f"-DREAL={real}",)
        for sources, targets in ((2, 1), (4, 4)):
            name, text = f"sums of {sources} to {targets} {real}", cuda_sums.source(sources, targets)
            yield name, text, (f"-DREAL={real}",)
    for kernel in attention_plan.all_kernels():
        common = "-DDEPTH=64" in kernel.options and set(DAILY) & set(kernel.options)
        if everything or common:
            yield f"{kernel.name} {' '.join(kernel.options)}", kernel.source, kernel.options


@cache
def nvrtc() -> ctypes.CDLL | None:
    """NVRTC of the wheel nvidia-cuda-nvrtc (or of CuPy's), or None. It needs neither a driver nor a GPU."""
    for folder in sys.path:
        for path in sorted(Path(folder, "nvidia").glob("*/lib/libnvrtc.so.*")):
            if "builtins" not in path.name:
                for builtins in path.parent.glob("libnvrtc-builtins.so.*"):
                    ctypes.CDLL(str(builtins), ctypes.RTLD_GLOBAL)  # which NVRTC opens by its name alone
                return ctypes.CDLL(str(path))
    return None


def compiled(source: str, options: tuple[str, ...], architecture: str) -> bytes:
    """The binary for that architecture. Raises ValueError with the compiler's words."""
    library, program = nvrtc(), ctypes.c_void_p()
    assert library is not None
    text = source.encode()
    assert not library.nvrtcCreateProgram(ctypes.byref(program), text, b"kernels.cu", 0, None, None)
    try:
        words = [option.encode() for option in (*options, f"-arch={architecture}")]
        failed = library.nvrtcCompileProgram(program, len(words), (ctypes.c_char_p * len(words))(*words))
        what = "ProgramLog" if failed else "CUBIN"
        size = ctypes.c_size_t()
        getattr(library, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
        found = ctypes.create_string_buffer(size.value)
        getattr(library, f"nvrtcGet{what}")(program, found)
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))
    if failed:
        raise ValueError(found.value.decode())
    return found.raw


def main() -> None:
    for architecture in ARCHITECTURES:
        done = [compiled(source, options, architecture) for _, source, options in programs(everything=True)]
        print(f"{architecture}: {len(done)} programs, {sum(map(len, done)) / 2**20:.0f} MiB")


if __name__ == "__main__":
    main()

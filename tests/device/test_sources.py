"""CUDA sources that lie beside what uses them compile for the GPUs that count, where NVRTC can be loaded."""

import pytest

from mpidp.numbers import flags
from mpidp.optim import clipping


@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
@pytest.mark.parametrize("real", ["float", "double"])
@pytest.mark.parametrize(
    "source, names", [(flags.SOURCE, ["look"]), (clipping.SOURCE, ["square_parts", "clip"])]
)
def test_nvrtc_compiles(source, names, real, arch):
    nvrtc = pytest.importorskip("cupy.cuda").nvrtc
    try:
        nvrtc.getVersion()
    except RuntimeError as missing:
        pytest.skip(f"NVRTC cannot be loaded: {missing}")
    program = nvrtc.createProgram(source, "kernels.cu", (), ())
    nvrtc.compileProgram(program, (f"-DREAL={real}", f"-arch={arch}"))
    binary = nvrtc.getCUBIN(program)
    assert all(name.encode() in binary for name in names)

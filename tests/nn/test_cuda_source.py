"""CUDA sources without a GPU: NVRTC compiles every one of them; what they compute the stand-in shows (tests/device)."""

import ast
import re
from pathlib import Path

import pytest

import mpidp
from mpidp.nn.kernels import numpy_kernels
from tests.cuda_programs import ARCHITECTURES, compiled, nvrtc, programs

KERNEL = re.compile(r'extern "C" __global__ void (?:__launch_bounds__\([^)]*\)\s*)?(\w+)\(')


def kernels(text):
    """The names of the kernels in a source."""
    return KERNEL.findall(text)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_nvrtc_compiles_every_kernel(architecture):
    if nvrtc() is None:
        pytest.skip("NVRTC is not installed: pip install nvidia-cuda-nvrtc")
    for name, source, options in programs():
        try:
            binary = compiled(source, options, architecture)
        except ValueError as error:
            pytest.fail(f"{name} for {architecture}: {error}")
        assert not [kernel for kernel in kernels(source) if kernel.encode() not in binary], name


def test_nvrtc_s_words_about_a_bad_source_are_told():
    if nvrtc() is None:
        pytest.skip("NVRTC is not installed: pip install nvidia-cuda-nvrtc")
    with pytest.raises(ValueError, match=r"identifier .nowhere. is undefined"):
        compiled("__global__ void f() { nowhere(); }", (), "sm_90")


def test_every_source_is_compiled():
    known = {kernel for _, source, _ in programs(everything=True) for kernel in kernels(source)}
    for path in sorted(Path(mpidp.__file__).parent.rglob("*.py")):
        for kernel in kernels(path.read_text(encoding="utf-8")):
            assert kernel in known, f"{path}: {kernel} is not among the programs of tests/cuda_programs.py"


def test_both_array_modules_have_the_same_kernels():
    """Read as text: importing the CuPy side needs CuPy."""
    tree = ast.parse((Path(numpy_kernels.__file__).parent / "cupy_kernels.py").read_text())
    public = {n.name for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef) and n.name[0] != "_"}
    (listed,) = (n.value for n in tree.body if isinstance(n, ast.Assign) and "__all__" in ast.unparse(n))
    assert public | set(ast.literal_eval(listed)) == set(numpy_kernels.__all__)

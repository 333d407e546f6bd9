"""The CUDA kernels without a GPU: run on the host by one thread a block, and compiled by NVRTC where CuPy has it."""

import ast
import ctypes
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from mpidp.nn.kernels import numpy_kernels, plain
from mpidp.nn.kernels.cuda_source import NAMES, SOURCE

HOST = r"""
#include <cmath>
using namespace std;
struct Dim { unsigned x; };
static Dim blockIdx, threadIdx, blockDim, gridDim;
#define __device__ static
#define __global__
#define __shared__ static
static void __syncthreads() {}
"""
SET_BLOCK = r"""
extern "C" void set_block(unsigned index, unsigned count) {
    blockIdx.x = index; gridDim.x = count; blockDim.x = 1; threadIdx.x = 0;
}
"""
TOLERANCE = {np.float32: 3e-6, np.float64: 1e-13}


@pytest.fixture(scope="module", params=[np.float32, np.float64])
def kernels(request, tmp_path_factory):
    """call(name, blocks, *arguments), which runs a kernel's blocks one after another on host arrays, and its dtype."""
    compiler = shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        pytest.skip("needs a C++ compiler")
    folder = tmp_path_factory.mktemp("cuda")
    (folder / "kernels.cpp").write_text(HOST + SOURCE + SET_BLOCK)
    real = {np.float32: "float", np.float64: "double"}[request.param]
    command = [compiler, "-shared", "-fPIC", "-O1", f"-DREAL={real}", "-o", "kernels.so", "kernels.cpp"]
    subprocess.run(command, cwd=folder, check=True, timeout=60)
    library = ctypes.CDLL(str(folder / "kernels.so"))
    scalar = {np.float32: ctypes.c_float, np.float64: ctypes.c_double}[request.param]

    def argument(a):
        if isinstance(a, np.ndarray):
            return ctypes.c_void_p(a.ctypes.data)
        return {float: scalar, int: ctypes.c_longlong, np.int32: ctypes.c_int, np.uint32: ctypes.c_uint}[
            type(a)
        ](a)

    def call(name, blocks, *arguments):
        for index in range(blocks):
            library.set_block(index, blocks)
            getattr(library, name)(*map(argument, arguments))

    return call, request.param


def same(actual, expected, dtype):
    np.testing.assert_allclose(
        actual, expected, rtol=0, atol=TOLERANCE[dtype] * max(1.0, np.abs(expected).max())
    )


def draw(dtype, *shape):
    return np.random.default_rng(len(shape)).normal(1, 2, shape).astype(dtype)


def test_layer_norm(kernels):
    call, dtype = kernels
    x, dy, gain, bias = draw(dtype, 9, 33), draw(dtype, 1, 9, 33)[0], draw(dtype, 33), draw(dtype, 1, 33)[0]
    y, xhat, rstd = plain.layer_norm(x.astype(np.float64), gain, bias, 1e-5)
    dx, dgain, _ = plain.layer_norm_backward(dy.astype(np.float64), xhat, rstd, gain)
    out = [np.empty(a.shape, dtype) for a in (y, xhat, rstd)]
    call("layer_norm", 9, x, gain, bias, 1e-5, *out, 33)
    for actual, expected in zip(out, (y, xhat, rstd), strict=True):
        same(actual, expected, dtype)
    actual, product = np.empty_like(dy), np.empty_like(dy)
    call("layer_norm_backward", 9, dy, out[1], out[2], gain, actual, product, 33)
    same(actual, dx, dtype)
    same(product.sum(0), dgain, dtype)


def test_gelu(kernels):
    call, dtype = kernels
    x = draw(dtype, 1000)
    y, slope = np.empty_like(x), np.empty_like(x)
    call("gelu", 7, x, y, slope, 1000)
    for actual, expected in zip((y, slope), plain.gelu(x.astype(np.float64)), strict=True):
        same(actual, expected, dtype)


def test_softmax_cross_entropy(kernels):
    call, dtype = kernels
    z, y = draw(dtype, 8, 21), np.arange(8, dtype=np.int32)
    z[0] *= 1e4
    losses, gradient = plain.softmax_cross_entropy(z.astype(np.float64), y)
    actual = np.empty(8, dtype)
    call("softmax_cross_entropy", 8, z, y, actual, 0.5, np.int32(0), 21)
    same(actual, losses, dtype)
    call("softmax_cross_entropy", 8, z, y, actual, 0.5, np.int32(1), 21)
    same(actual, losses, dtype)
    same(z, 0.5 * gradient, dtype)


def test_embedding_gradient(kernels):
    call, dtype = kernels
    ids, dy = np.random.default_rng(0).integers(0, 12, 50).astype(np.int32), draw(dtype, 50, 5)
    order = np.argsort(ids, kind="stable")
    for blocks in (50, 7):
        grad = np.ones((12, 5), dtype)
        call("embedding_gradient", blocks, ids[order], order, dy, grad, 50, 5)
        same(grad, 1 + plain.embedding_gradient(ids, dy.astype(np.float64), 12), dtype)


def test_dropout_mask(kernels):
    call, dtype = kernels
    multipliers, offsets = np.random.default_rng(0).integers(0, 2**32, (2, 3), dtype=np.uint32)
    mask = np.empty((3, 400), dtype)
    call("dropout_mask", 5, multipliers, offsets, np.uint32(round(0.3 * 2**32)), 1 / 0.7, mask, 3, 400)
    np.testing.assert_array_equal(mask, plain.dropout_mask(multipliers, offsets, 400, 0.3).astype(dtype))


@pytest.mark.parametrize("factor", [1.0, 1e4])
def test_causal_softmax(kernels, factor):
    call, dtype = kernels
    heads, tokens, depth = 3, 17, 4
    q, k, v, do = draw(dtype, 4, 1, heads, tokens, depth)
    q = (q * dtype(factor)).astype(dtype)
    wide = [a.astype(np.float64) for a in (q, k, v, do)]
    p = np.ascontiguousarray((wide[0] @ wide[1].swapaxes(2, 3)).astype(dtype))
    call("causal_softmax", heads * tokens, p, 1 / np.sqrt(depth).item(), tokens)
    if factor == 1:
        same(p @ v, plain.attention(*wide[:3]), dtype)
    assert np.isfinite(p).all() and not np.triu(p, 1).any()
    same(p.sum(-1), np.ones((1, heads, tokens)), dtype)
    ds = np.ascontiguousarray(do @ v.swapaxes(2, 3))
    call("causal_softmax_backward", heads * tokens, p, ds, 1 / np.sqrt(depth).item(), tokens)
    if factor == 1:
        same(ds @ k, plain.attention_backward(*wide)[0], dtype)


@pytest.mark.parametrize("real", ["float", "double"])
def test_nvrtc_compiles_every_kernel(real):
    nvrtc = pytest.importorskip("cupy.cuda").nvrtc
    try:
        nvrtc.getVersion()
    except RuntimeError as missing:
        pytest.skip(f"NVRTC cannot be loaded: {missing}")
    program = nvrtc.createProgram(SOURCE, "kernels.cu", (), ())
    nvrtc.compileProgram(program, (f"-DREAL={real}", "-arch=sm_90"))
    binary = nvrtc.getCUBIN(program)
    assert all(name.encode() in binary for name in NAMES)


def test_every_kernel_is_listed():
    declared = [
        line.split("void ")[1].split("(")[0] for line in SOURCE.splitlines() if "__global__ void" in line
    ]
    assert declared == list(NAMES)


def test_both_array_modules_have_the_same_kernels():
    """Read as text: importing the CuPy side needs CuPy."""
    tree = ast.parse((Path(numpy_kernels.__file__).parent / "cupy_kernels.py").read_text())
    public = {n.name for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef) and n.name[0] != "_"}
    public |= {a.asname for n in tree.body if isinstance(n, ast.ImportFrom) for a in n.names if a.asname}
    assert public == set(numpy_kernels.__all__)

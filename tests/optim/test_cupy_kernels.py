"""The device kernels' bodies are plain C++: g++ compiles them into a loop, so they are tested without a GPU."""

import ctypes
import shutil
import subprocess

import numpy as np
import pytest

from mpidp.nn.layer import Parameter, constant
from mpidp.optim import cupy_kernels
from mpidp.optim.adamw import AdamW, AdamWOptions
from mpidp.optim.sgd import SGD, SGDOptions

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")

LO, SIZE, LR, SCALE = 3, 40, 0.05, 0.6
EDGES = [5, 11, 20, 33]  # decayed: [5, 11) and [20, 33)
SOURCE = """
#include <cmath>
#define __device__
using std::sqrt;
typedef double T;
{preamble}
extern "C" void run(long long size, const long long* edges, int count, long long lo, const T* grads,
                    const T* c, bool nesterov, T* params, T* state0, T* state1) {{
    for (long long i = 0; i < size; ++i) {{
        const T grad = grads[i];
        T &p = params[i], &m = state0[i], &v = state1[i], &buf = state0[i];
        const T lr = c[0], scale = c[1], decay = c[2], mu = c[3];
        const T beta1 = c[4], beta2 = c[5], rate = c[6], floor_ = c[7], keep = c[8];
        const bool grows = c[9] != 0;
        {body}
    }}
}}
"""


class FrozenAdamW(AdamW):
    freeze_after = 1


def parameters():
    shapes = [(5,), (2, 3), (9,), (13, 1), (50,)]
    made, at = [], 0
    for shape in shapes:
        parameter = Parameter(f"p{at}", shape, constant(0.0))
        parameter.lo, parameter.hi = at, at + parameter.size
        at = parameter.hi
        made.append(parameter)
    return made


def compiled(body, folder):
    source, library = folder / "kernel.cpp", folder / "kernel.so"
    source.write_text(SOURCE.format(preamble=cupy_kernels.PREAMBLE, body=body))
    subprocess.run(["g++", "-O1", "-shared", "-fPIC", source, "-o", library], check=True, timeout=60)
    return ctypes.CDLL(str(library)).run


@pytest.mark.parametrize(
    "kind, options, body",
    [
        (AdamW, AdamWOptions(weight_decay=0.3), cupy_kernels.ADAMW),
        (FrozenAdamW, AdamWOptions(weight_decay=0.3), cupy_kernels.ADAMW),
        (SGD, SGDOptions(weight_decay=0.3), cupy_kernels.SGD_PLAIN),
        (SGD, SGDOptions(momentum=0.9, weight_decay=0.3), cupy_kernels.SGD_MOMENTUM),
        (SGD, SGDOptions(momentum=0.9, nesterov=True, weight_decay=0.3), cupy_kernels.SGD_MOMENTUM),
    ],
    ids=["adamw", "frozen", "sgd", "momentum", "nesterov"],
)
def test_kernel_equals_numpy(kind, options, body, tmp_path):
    rng = np.random.default_rng(1)
    expected = rng.normal(size=SIZE)
    params, grads = expected.copy(), rng.normal(size=(3, SIZE))
    optimizer = kind(options, parameters(), LO, LO + SIZE, expected)
    state = [np.zeros(SIZE), np.zeros(SIZE)]
    run = compiled(body, tmp_path)
    edges = np.array(EDGES)
    for t, g in enumerate(grads, 1):
        optimizer.step(expected, g, LO, LR, t, SCALE)
        constants = [LR, SCALE, options.weight_decay, getattr(options, "momentum", 0)]
        if issubclass(kind, AdamW):
            constants += [options.beta1, options.beta2, *optimizer.constants(LR, t), not optimizer.frozen(t)]
        c = np.array(constants + [0.0] * 9)
        arrays = [ctypes.c_void_p(x.ctypes.data) for x in (edges, g, c, params, *state)]
        run(
            ctypes.c_longlong(SIZE),
            arrays[0],
            len(EDGES),
            ctypes.c_longlong(LO),
            *arrays[1:3],
            ctypes.c_bool(getattr(options, "nesterov", False)),
            *arrays[3:],
        )
    np.testing.assert_allclose(params, expected, rtol=1e-12)
    for ours, theirs in zip(state, optimizer.state().values(), strict=False):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)

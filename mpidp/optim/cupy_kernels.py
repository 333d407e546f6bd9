"""The optimizers on a CUDA device: one kernel touches every element once."""

from functools import cache
from typing import TYPE_CHECKING, Any

from mpidp.arrays import Array

if TYPE_CHECKING:
    from mpidp.optim.adamw import AdamW
    from mpidp.optim.optimizer import Optimizer
    from mpidp.optim.sgd import SGD

# Decayed runs alternate with others: an odd number of boundaries at or before an element means that it decays.
PREAMBLE = """
__device__ bool decays(const long long* edges, int count, long long position) {
    int below = 0, above = count;
    while (below < above) {
        int middle = (below + above) / 2;
        if (edges[middle] <= position) below = middle + 1; else above = middle;
    }
    return below & 1;
}
"""

ADAMW = """
    T g = scale * grad;
    if (decays(&edges[0], count, lo + i)) p *= keep;
    m = beta1 * m + g;
    if (grows) v = beta2 * v + g * g;
    p -= rate * m / (sqrt(v) + floor_);
"""
SGD_PLAIN = """
    p -= lr * (scale * grad + (decays(&edges[0], count, lo + i) ? decay * p : T(0)));
"""
SGD_MOMENTUM = """
    T g = scale * grad + (decays(&edges[0], count, lo + i) ? decay * p : T(0));
    buf = mu * buf + g;
    p -= lr * (nesterov ? g + mu * buf : buf);
"""
# The factor of clipping: what the host knows of it, times what the device alone does.
SCALE = "const T scale = factor * T(clip[0]);"
_EDGES = "raw int64 edges, int32 count, int64 lo, T factor, raw float64 clip, "


@cache
def _kernel(name: str, inputs: str, outputs: str, body: str) -> Any:
    import cupy

    inputs = f"T grad, {_EDGES}{inputs}"
    return cupy.ElementwiseKernel(inputs, outputs, f"{SCALE}\n{body}", name, preamble=PREAMBLE)


def adamw(
    optimizer: "AdamW", params: Array, grads: Array, lo: int, lr: float, t: int, scale: float | Array
) -> None:
    """`AdamW.step` on device arrays."""
    inputs = "T beta1, T beta2, T rate, T floor_, T keep, bool grows"
    kernel = _kernel("mpidp_adamw", inputs, "T p, T m, T v", ADAMW)
    o = optimizer.options
    constants = (o.beta1, o.beta2, *optimizer.constants(lr, t), not optimizer.frozen(t))
    common = *_edges(optimizer), lo, *_factors(optimizer, scale)
    kernel(grads, *common, *constants, params, *_state(optimizer, lo, len(params)))


def sgd(optimizer: "SGD", params: Array, grads: Array, lo: int, lr: float, scale: float | Array) -> None:
    """`SGD.step` on device arrays."""
    o = optimizer.options
    constants: tuple[float, ...] = (lr, o.weight_decay)
    if o.momentum:
        kernel = _kernel(
            "mpidp_sgd_momentum", "T lr, T decay, T mu, bool nesterov", "T p, T buf", SGD_MOMENTUM
        )
        constants += (o.momentum, o.nesterov)
    else:
        kernel = _kernel("mpidp_sgd", "T lr, T decay", "T p", SGD_PLAIN)
    common = *_edges(optimizer), lo, *_factors(optimizer, scale)
    kernel(grads, *common, *constants, params, *_state(optimizer, lo, len(params)))


def _edges(optimizer: "Optimizer") -> tuple[Array, int]:
    """The boundaries of the decayed runs as a device array (made once), and how many they are."""
    if optimizer.device_edges is None:
        edges = [edge for run in optimizer.decay_runs for edge in run]
        optimizer.device_edges = optimizer.xp.array(edges or [0], dtype="int64"), len(edges)
    return optimizer.device_edges


def _factors(optimizer: "Optimizer", scale: float | Array) -> tuple[float, Array]:
    """Clipping's factor as the kernels take it: a number times an array of one number."""
    if hasattr(scale, "get"):
        return 1.0, scale
    if optimizer.device_one is None:
        optimizer.device_one = optimizer.xp.ones(1, "float64")
    return scale, optimizer.device_one


def _state(optimizer: "Optimizer", lo: int, length: int) -> list[Array]:
    a = lo - optimizer.lo
    return [array[a : a + length] for array in optimizer.state().values()]

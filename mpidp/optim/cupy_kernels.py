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
_EDGES = "raw int64 edges, int32 count, int64 lo, "


@cache
def _kernel(name: str, inputs: str, outputs: str, body: str) -> Any:
    import cupy

    return cupy.ElementwiseKernel(f"T grad, {_EDGES}{inputs}", outputs, body, name, preamble=PREAMBLE)


def adamw(optimizer: "AdamW", params: Array, grads: Array, lo: int, lr: float, t: int, scale: float) -> None:
    """`AdamW.step` on device arrays."""
    inputs = "T beta1, T beta2, T rate, T floor_, T keep, T scale, bool grows"
    kernel = _kernel("mpidp_adamw", inputs, "T p, T m, T v", ADAMW)
    o = optimizer.options
    constants = (o.beta1, o.beta2, *optimizer.constants(lr, t), scale, not optimizer.frozen(t))
    kernel(grads, *_edges(optimizer), lo, *constants, params, *_state(optimizer, lo, len(params)))


def sgd(optimizer: "SGD", params: Array, grads: Array, lo: int, lr: float, scale: float) -> None:
    """`SGD.step` on device arrays."""
    o = optimizer.options
    constants: tuple[float, ...] = (lr, scale, o.weight_decay)
    if o.momentum:
        kernel = _kernel(
            "mpidp_sgd_momentum", "T lr, T scale, T decay, T mu, bool nesterov", "T p, T buf", SGD_MOMENTUM
        )
        constants += (o.momentum, o.nesterov)
    else:
        kernel = _kernel("mpidp_sgd", "T lr, T scale, T decay", "T p", SGD_PLAIN)
    kernel(grads, *_edges(optimizer), lo, *constants, params, *_state(optimizer, lo, len(params)))


def _edges(optimizer: "Optimizer") -> tuple[Array, int]:
    """The boundaries of the decayed runs as a device array (made once), and how many they are."""
    if optimizer.device_edges is None:
        edges = [edge for run in optimizer.decay_runs for edge in run]
        optimizer.device_edges = optimizer.xp.array(edges or [0], dtype="int64"), len(edges)
    return optimizer.device_edges


def _state(optimizer: "Optimizer", lo: int, length: int) -> list[Array]:
    a = lo - optimizer.lo
    return [array[a : a + length] for array in optimizer.state().values()]

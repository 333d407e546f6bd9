"""The contract of a layer: parameters are views into two flat vectors, buffers are cut once.

Letters used throughout: B samples, T tokens of a sample, C channels (the model's width), V vocabulary,
H heads, D = C / H; n elements of the flat vector.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from mpidp.arrays import Array
from mpidp.nn.kernels.products import Products

Told = Callable[["Layer | None"], None]
Initialiser = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]


def nothing(layer: "Layer | None" = None) -> None:
    """What a layer tells, where nobody listens."""


def normal(std: float) -> Initialiser:
    """Draws from N(0, std²)."""
    return lambda rng, shape: rng.normal(0.0, std, shape)


def uniform(bound: float) -> Initialiser:
    """Draws from U(-bound, bound)."""
    return lambda rng, shape: rng.uniform(-bound, bound, shape)


def constant(value: float) -> Initialiser:
    """Every element is `value`."""
    return lambda rng, shape: np.full(shape, value)


class Parameter:
    """A named tensor whose `value` and `grad` are views `[lo, hi)` of the model's flat vectors.

    `operand` is what products multiply by: `value`, as it was when the batch began, in the type of their operands.

    `decay` says whether weight decay applies (matrices: yes; biases and gains: no).
    """

    def __init__(self, name: str, shape: tuple[int, ...], initialise: Initialiser, decay: bool | None = None):
        self.name = name
        self.shape = shape
        self.initialise = initialise
        self.decay = len(shape) > 1 if decay is None else decay
        self.size = math.prod(shape)
        self.lo = self.hi = -1  # set by Model, which lays the parameters out one after another
        self.value: Array = None
        self.operand: Array = None
        self.grad: Array = None


class Arena:
    """Hands out the arrays that a model works in, from a few large 64-byte-aligned blocks of one array module.

    `empty` gives memory that lives until `reset`; a layer asks for it in `plan`, never while training.
    `scratch(tag, ...)` gives memory that is shared by all who ask with that tag: it holds nothing beyond one call.
    After `reset` the same blocks are handed out again, so that a smaller batch costs no new memory, and what was
    handed out before stays valid memory (of which two plans must not be in use at once).
    Contents are not initialised, and nothing written into them lasts from one plan to another: what a layer
    fills in once and for all (a vector of ones, a mask) it asks for by `constant`.
    `products`: who multiplies matrices (default: the array module itself).
    """

    BLOCK = 32 << 20  # bytes; NumPy asks the system for huge pages only for allocations of 4 MiB and more
    ALIGN = 64

    def __init__(self, xp: Any, dtype: Any, products: Products | None = None):
        self.xp = xp
        self.products = products or Products(xp)
        self.dtype = np.dtype(dtype)
        self.blocks: list[Array] = []
        self.used: list[int] = []
        self.shared: dict[str, Array] = {}
        self.constants: dict[str, Array] = {}

    @property
    def nbytes(self) -> int:
        """Bytes of memory held."""
        return sum(block.nbytes for block in self.blocks)

    def empty(self, shape: tuple[int, ...], dtype: Any = None) -> Array:
        """An array of this shape that is the asker's until `reset`; not initialised."""
        dtype = self.dtype if dtype is None else np.dtype(dtype)
        nbytes = math.prod(shape) * dtype.itemsize
        rounded = -(-nbytes // self.ALIGN) * self.ALIGN
        for i, block in enumerate(self.blocks):
            if self.used[i] + rounded <= block.nbytes:
                break
        else:
            i = len(self.blocks)
            self.blocks.append(self._block(max(rounded, self.BLOCK)))
            self.used.append(0)
        start = self.used[i]
        self.used[i] += rounded
        return self.blocks[i][start : start + nbytes].view(dtype).reshape(shape)

    def scratch(self, tag: str, shape: tuple[int, ...], dtype: Any = None) -> Array:
        """An array of this shape in the memory that all who ask with this tag share."""
        dtype = self.dtype if dtype is None else np.dtype(dtype)
        nbytes = math.prod(shape) * dtype.itemsize
        if tag not in self.shared or self.shared[tag].nbytes < nbytes:
            self.shared[tag] = self.empty((nbytes,), np.uint8)
        return self.shared[tag][:nbytes].view(dtype).reshape(shape)

    def constant(self, tag: str, make: Callable[[], np.ndarray]) -> Array:
        """`make()` in the arena's dtype, made once per tag, never to be written to."""
        if tag not in self.constants:
            self.constants[tag] = self.xp.asarray(make().astype(self.dtype))
        return self.constants[tag]

    def ones(self, count: int) -> Array:
        """A constant vector of ones: sums over rows are products with it."""
        return self.constant(f"ones {count}", lambda: np.ones(count))

    def reset(self) -> None:
        """Take everything back, to be handed out again."""
        self.used = [0] * len(self.blocks)
        self.shared = {}

    def _block(self, nbytes: int) -> Array:
        block = self.xp.empty(nbytes + self.ALIGN, np.uint8)
        offset = -block.ctypes.data % self.ALIGN if self.xp is np else 0  # CuPy aligns to 512 by itself
        return block[offset : offset + nbytes]


class Ruler(Arena):
    """An arena to measure a plan with: its memory is never written to, so that the system does not provide it.

    `asked`: bytes that were asked for, each array on its own, since a search for room in blocks takes its time.
    """

    asked = 0

    def empty(self, shape: tuple[int, ...], dtype: Any = None) -> Array:
        """As an arena's, counted; on the host, whose system provides nothing before it is written to."""
        array = np.empty(shape, self.dtype if dtype is None else dtype)
        self.asked += -(-array.nbytes // self.ALIGN) * self.ALIGN
        return array

    def constant(self, tag: str, make: Callable[[], np.ndarray]) -> Array:
        """Nothing: what is made once for all samples is small beside what each of them needs."""
        return self.xp.empty(0, self.dtype)


class Layer:
    """y = f(x; θ), with backward standing directly under forward in every subclass.

    Life of a layer: `parameters()` lists its tensors in forward order; the model lays them out and binds their
    views (`bind`, once per placement); `plan(shape)` cuts every buffer for an input of that shape and returns the
    output's shape; then `forward(x) -> y` and `backward(dy) -> dx` run as often as wanted and allocate nothing.
    `backward` *writes* its parameters' gradients (never adds, never rebinds), except where a layer shares a
    tensor with a later one (the tied embedding), which adds to what the later one wrote.
    The arrays that forward and backward return belong to the layer, and hold until its next call;
    `backward` may overwrite `dy`.

    A model keeps the plans of several shapes (training, evaluation, the last small batch) and swaps them: a plan is
    the layer's attributes as `plan` left them. So `plan` may set any attribute, and nothing else may be remembered
    from one batch to the next.
    """

    training = True  # False: no dropout, and what only backward needs may be left out
    tell: Told = staticmethod(nothing)
    """To be called by a `backward` that takes long, between its parts, with a layer whose gradients are final by now
    (itself, or one inside it) or None: for whoever sends them on meanwhile."""
    input_gradient = (
        True  # False for a model's first layer, whose `backward` may leave out dx and return None
    )

    def parameters(self) -> list[Parameter]:
        return []

    def layers(self) -> Iterator["Layer"]:
        """This layer and all inside it."""
        yield self

    def bind(self) -> None:
        """Cut whatever views of the parameters the hot path needs (called after their `value` and `grad` are set)."""

    def plan(self, shape: tuple[int, ...], arena: Arena) -> tuple[int, ...]:
        raise NotImplementedError

    def forward(self, x: Array) -> Array:
        raise NotImplementedError

    def backward(self, dy: Array) -> Array:
        raise NotImplementedError

"""A model: layers in a row, a loss at their end, two flat vectors under them all."""

import hashlib
import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from mpidp.arrays import Array, array_module, number
from mpidp.nn.accumulation import Adder, InOrder
from mpidp.nn.dropout import Dropout
from mpidp.nn.kernels.products import Products
from mpidp.nn.layer import Arena, Layer, Parameter, Ruler, nothing
from mpidp.nn.replay import Replay

Ready = Callable[[int, int], None]
PLANS_KEPT = 8  # views only, all cut from the same memory: some kB each


class NotFinite(ArithmeticError):
    """A batch's loss is infinite or no number, so that no gradient can be made of it."""


class Loss:
    """The last stage: per-sample losses of predictions `z` against targets `y`.

    A sample is one row of the batch (for text: one sequence, whose loss is the mean over its T tokens). Numbers are
    left where they are computed, for a device goes on while nobody asks for them.
    """

    def plan(self, shape: tuple[int, ...], arena: Arena) -> None:
        """Cut every buffer for predictions of that shape (the first axis is the batch)."""

    def value(self, z: Array, y: Array) -> Array:
        """Σ_i loss_i over the samples of the batch (not the mean: means are taken over the *global* batch).

        May overwrite z.
        """
        raise NotImplementedError

    def value_and_gradient(self, z: Array, y: Array, scale: float) -> tuple[Array, Array]:
        """Σ_i loss_i, and dz = scale · d(Σ_i loss_i)/dz, which may be written over z."""
        raise NotImplementedError

    def correct(self, z: Array, y: Array) -> Array | None:
        """How many predictions are right (for text: tokens/T, so a float); None where the notion is void.

        Leaves z as it is.
        """
        return None


class Model:
    """Two flat vectors, `params` and `grads`, of `size` elements; every tensor is a view of them.

    layout: `parameters` in forward order, each `[lo, hi)`, one after another without gaps: backward completes
    gradients from the tail to the head. A tensor that several layers share (tied embeddings) lies where the first of
    them lists it, and is complete when that layer's backward is done.
    Nothing is allocated before `bind`.
    """

    def __init__(self, layers: Sequence[Layer], loss: Loss, dtype: Any = np.float32):
        self.stack = list(layers)
        self.loss = loss
        self.dtype = np.dtype(dtype)
        self.layers: list[Layer] = [inner for layer in self.stack for inner in layer.layers()]
        self.parameters: list[Parameter] = []
        self._own: dict[
            Layer, tuple[int, int]
        ] = {}  # [lo, hi) of what a layer, or one inside it, lists first
        bounds = [0]
        for layer in self.stack:
            for parameter in layer.parameters():
                if parameter.lo < 0:
                    start = self.parameters[-1].hi if self.parameters else 0
                    parameter.lo, parameter.hi = start, start + parameter.size
                    self.parameters.append(parameter)
            for inner in layer.layers():
                own = [p for p in inner.parameters() if p.lo >= bounds[-1]]
                if own:
                    self._own[inner] = own[0].lo, own[-1].hi
            bounds.append(self.parameters[-1].hi if self.parameters else 0)
        self.size = bounds[-1]
        self.slices = list(pairwise(bounds))  # of each layer of the stack: its [lo, hi) of the flat vectors
        self.params: Array = None
        self.grads: Array = None
        # A plan is the attributes of every layer and of the loss; kept by the input's shape, and as before any plan.
        self._plans: dict[tuple[int, ...], list[dict[str, Any]]] = {}
        self._unplanned: list[dict[str, Any]] = []
        self._planned: tuple[int, ...] | None = None  # the shape now planned for
        self._adder = InOrder()  # for whoever brings none along
        self.replay: Replay | None = None  # on a device: what makes `passes` by graphs
        self._dropouts = [layer for layer in self.layers if isinstance(layer, Dropout)]
        for index, dropout in enumerate(self._dropouts):
            dropout.index = index
        # Neither the first layer with parameters nor any before it passes a gradient on.
        for layer in self.stack:
            layer.input_gradient = False
            if layer.parameters():
                break

    def bind(self, params: Array, grads: Array, products: Products | None = None) -> None:
        """Place the model on these two contiguous flat vectors (NumPy or CuPy, of `size` elements).

        products: who multiplies matrices; by default the vectors' own array module.
        """
        for name, vector in (("params", params), ("grads", grads)):
            if vector.shape != (self.size,) or vector.dtype != self.dtype or not vector.flags.c_contiguous:
                raise ValueError(
                    f"{name}: need a contiguous vector of {self.size} {self.dtype.name}, "
                    f"got shape {vector.shape} of {vector.dtype}"
                )
        parts = [*self.layers, self.loss]
        if self._unplanned:  # bound before: forget those plans and their memory
            for part, attributes in zip(parts, self._unplanned, strict=True):
                part.__dict__ = dict(attributes)
        self.params, self.grads = params, grads
        self.xp = array_module(params)
        self._products = products or Products(self.xp)
        self._operands = self._products.operands(params)
        for p in self.parameters:
            p.value = params[p.lo : p.hi].reshape(p.shape)
            p.operand = self._operands[p.lo : p.hi].reshape(p.shape)
            p.grad = grads[p.lo : p.hi].reshape(p.shape)
        for layer in self.layers:
            layer.bind()
        self._arena = Arena(self.xp, self.dtype, self._products)
        self._unplanned = [dict(vars(part)) for part in parts]
        self._plans, self._planned, self._adder = {}, None, InOrder()
        if self.replay:
            self.replay.forget()

    def initialise(self, seed: int) -> None:
        """Write the initial values into `params`: a function of the seed and each tensor's name alone."""
        for p in self.parameters:
            words = np.frombuffer(hashlib.sha256(p.name.encode()).digest(), "<u4")
            rng = np.random.default_rng(np.random.SeedSequence([seed, *words.tolist()]))
            p.value[...] = self.xp.asarray(p.initialise(rng, p.shape).astype(self.dtype))

    def gradients(
        self,
        x: Array,
        y: Array,
        scale: float,
        ready: Ready | None = None,
        *,
        between: Callable[[], None] = nothing,
        key: tuple[int, int] = (0, 0),
        slots: Sequence[int] | np.ndarray | None = None,
        cuts: Sequence[int] = (),
        adder: Adder | None = None,
    ) -> float | Array:
        """Write grads = scale · d(Σ_i loss_i)/dparams for the samples of this batch; return Σ_i loss_i.

        Calls `ready(lo, hi)` as slices of `grads` become final, from the tail to the head, covering [0, size)
        exactly once. An empty batch gives zero gradients, announced layer by layer too, and loss 0.
        Calls `between()` between the parts of backward where there is no slice to announce, for whoever has something
        to attend to every few milliseconds.
        key = (seed, step) and the samples' `slots` in the global batch (default: 0, 1, ...) seed the dropout masks, so
        that they do not depend on which rank works on a sample.
        cuts: where the batch is cut into parts (ascending; a part may be empty) that are worked on one after another
        (gradient accumulation); adder: the order in which their gradients are added (default: one after another).
        Raises NotFinite before backward, and so before anything is announced, where the loss is not finite. On a device
        nobody waits to see that: the loss is left there, and may be anything.
        """
        ready = ready or (lambda lo, hi: None)
        adder = adder or self._adder
        slots = np.arange(len(x)) if slots is None else np.asarray(slots)
        adder.begin()
        self._products.take(self.params, self._operands)  # all parts of the batch multiply by the same
        loss: float | Array = 0.0
        parts = [slice(start, stop) for start, stop in pairwise([0, *cuts, len(x)])]
        for part in parts[:-1]:
            loss += adder.loss(self._part(x[part], y[part], scale, None, between, key, slots[part]))
            adder.keep(self.grads)
        part, announce = parts[-1], self._adding(adder.held(), ready)
        return loss + adder.loss(self._part(x[part], y[part], scale, announce, between, key, slots[part]))

    def evaluate(self, x: Array, y: Array) -> tuple[float, float | None]:
        """(Σ_i loss_i, correct predictions or None) without dropout and without touching `grads`."""
        if len(x) == 0:
            return 0.0, None if type(self.loss).correct is Loss.correct else 0.0
        z = self.predict(x)
        y = self.xp.asarray(y)
        correct = self.loss.correct(z, y)
        return number(self.loss.value(z, y)), None if correct is None else number(correct)

    def working_memory(self, shape: tuple[int, ...]) -> int:
        """Bytes of all buffers for inputs of this shape (the first axis is the batch), without providing them.

        To be asked after `bind`. Raises MemoryError where the system would not provide them.
        """
        parts = [*self.layers, self.loss]
        kept = [part.__dict__ for part in parts]
        ruler = Ruler(self.xp, self.dtype, self._arena.products)
        try:
            for part in parts:
                part.__dict__ = dict(vars(part))
            self._cut(shape, ruler)
        finally:
            for part, attributes in zip(parts, kept, strict=True):
                part.__dict__ = attributes
        return ruler.asked

    def predict(self, x: Array) -> Array:
        """The outputs before the loss, without dropout; they hold until the model's next call."""
        self._products.take(self.params, self._operands)
        return self._forward(self._input(x, training=False))

    def _forward(self, x: Array) -> Array:
        for layer in self.stack:
            x = layer.forward(x)
        return x

    def _part(self, x, y, scale, ready: Ready | None, between, key, slots) -> float | Array:
        """The gradient of a part of a batch, announced where it is the last; its loss."""
        if len(x) == 0:
            for lo, hi in reversed(self.slices):
                self.grads[lo:hi] = 0
                if ready is not None and lo < hi:
                    ready(lo, hi)
            return 0.0
        x, y = self._input(x, training=True), self.xp.asarray(y)
        for dropout in self._dropouts:
            dropout.draw(key, slots)
        run = self.passes if self.replay is None else self.replay.passes
        return run(x, y, scale, ready, between)

    def passes(
        self, x: Array, y: Array, scale: float, ready: Ready | None, between: Callable[[], None]
    ) -> float | Array:
        """Forward and backward of one part of a batch, for which the layers are planned; its loss."""
        final = self.size  # grads[final:] is announced

        def tell(layer: Layer | None) -> None:
            nonlocal final
            lo, hi = self._own.get(layer, (0, 0))
            if ready is not None and lo < final <= hi:
                ready(lo, final)
                final = lo
            else:
                between()

        for layer in self.layers:
            layer.tell = tell
        loss, dy = self.loss.value_and_gradient(self._forward(x), y, scale)
        if self.xp is np and not math.isfinite(loss):
            raise NotFinite(f"the loss is {loss}")
        for layer in reversed(self.stack):
            if dy is None:
                break
            dy = layer.backward(dy)
            tell(layer)
        return float(loss) if self.xp is np else loss

    def _adding(self, held: Sequence[Array], ready: Ready) -> Ready:
        """`ready`, after the earlier parts' gradients have been added."""

        def add_then_tell(lo: int, hi: int) -> None:
            for vector in held:
                self.grads[lo:hi] += vector[lo:hi]
            ready(lo, hi)

        return add_then_tell if held else ready

    def _input(self, x: Array, training: bool) -> Array:
        """`x` where the model lies, the layers planned for its shape and told whether this is training."""
        x = self.xp.asarray(x)
        if x.dtype.kind == "f" and x.dtype != self.dtype:
            x = x.astype(self.dtype)
        if x.shape != self._planned:
            self._plan(x.shape)
        for layer in self.layers:
            layer.training = training
        return x

    def _plan(self, shape: tuple[int, ...]) -> None:
        """Swap in the plan for this shape, made now if it is new: all plans use the same memory, one at a time."""
        parts = [*self.layers, self.loss]
        if shape in self._plans:
            for part, attributes in zip(parts, self._plans[shape], strict=True):
                part.__dict__ = attributes
        else:
            if len(self._plans) == PLANS_KEPT:
                del self._plans[next(iter(self._plans))]
            for part, attributes in zip(parts, self._unplanned, strict=True):
                part.__dict__ = dict(attributes)
            self._planned = None  # should a layer refuse the shape, no half-made plan is kept
            self._arena.reset()
            self._cut(shape, self._arena)
            self._plans[shape] = [vars(part) for part in parts]
        self._planned = shape

    def _cut(self, shape: tuple[int, ...], arena: Arena) -> None:
        for layer in self.stack:
            shape = layer.plan(shape, arena)
        self.loss.plan(shape, arena)

"""Forward and backward as CUDA graphs: launched whole, instead of kernel by kernel out of Python."""

import contextlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mpidp.arrays import Array
from mpidp.nn.kernels.products import Products
from mpidp.nn.layer import nothing

if TYPE_CHECKING:
    from mpidp.nn.model import Model, Ready

WARM = 2  # batches of a kind before it is captured: kernels are compiled, and libraries have what they need
KEPT = 4  # kinds of batches, each with graphs of its own
SEGMENT = 1 << 20
"""Elements of the gradient that a graph makes at least: a launch takes some microseconds, and only between two graphs
can messages be started."""


@dataclass
class Captured:
    """The graphs of one kind of batch, each with what of the gradient is final after it; what they read and write."""

    x: Array
    y: Array
    loss: Array
    graphs: list[tuple[Any, int, int]]
    pool: Any  # whose memory the graphs use, which is nobody else's
    plan: list[dict[str, Any]]  # of each layer and the loss: their buffers


class Replay:
    """Makes a model's passes by graphs where it can, else as ever: the same kernels in the same order, the same bits.

    A graph holds addresses and numbers, so there is one for each shape of x and y and each scale. What changes from
    step to step lies in memory: x and y are copied to where the graph reads them, and dropout's keys are written there.
    A model that is captured allocates what its kernels need in between from a pool of its own, filled by a rehearsal.
    Where something refuses to be captured, `why` says what, and nothing is tried again.
    """

    def __init__(self, model: "Model", products: Products, say: Callable[[str], None]):
        self.model, self.xp, self.products, self.say = model, products.xp, products, say
        self.why = ""
        self.forget()

    def forget(self) -> None:
        """The model is bound elsewhere."""
        self.seen: Counter[Any] = Counter()
        self.captured: dict[Any, Captured] = {}

    def passes(
        self, x: Array, y: Array, scale: float, ready: "Ready | None", between: Callable[[], None]
    ) -> Array:
        """As `Model.passes`."""
        made = None if self.why else self.of(x, y, scale)
        if made is None:
            return self.model.passes(x, y, scale, ready, between)
        made.x[...], made.y[...] = x, y
        for graph, lo, hi in made.graphs:
            graph.launch()
            if ready is not None and lo < hi:
                ready(lo, hi)
            between()
        return made.loss

    def of(self, x: Array, y: Array, scale: float) -> Captured | None:
        """The graphs of such a batch, captured now if it has come often enough; None: it is to be made as ever."""
        key = x.shape, x.dtype.str, y.shape, y.dtype.str, scale
        plan = [vars(part) for part in (*self.model.layers, self.model.loss)]
        if key in self.captured and self.captured[key].plan[-1] is not plan[-1]:
            del self.captured[key]  # planned anew since, with other buffers
        if key not in self.captured:
            self.seen[key] += 1
            if self.seen[key] <= WARM or len(self.captured) == KEPT:
                return None
            try:
                self.captured[key] = self.capture(x.copy(), y.copy(), scale, plan)
            except Exception as error:  # CUDA's, CuPy's or a library's: the plain way is still there
                self.why = f"{type(error).__name__}: {error}".splitlines()[0]
                self.say(
                    f"--cuda-graph auto: a step cannot be captured, and is launched kernel by kernel: {self.why}"
                )
                return None
        return self.captured[key]

    def capture(self, x: Array, y: Array, scale: float, plan: list[dict[str, Any]]) -> Captured:
        """Rehearse the passes, then capture them. The model's gradient is lost."""
        cuda = self.xp.cuda
        before, stream, pool = cuda.get_current_stream(), cuda.Stream(non_blocking=True), cuda.MemoryPool()
        graphs: list[tuple[Any, int, int]] = []
        waits: int | None = None  # where the part ends that is final after the graph that is being captured

        def ready(lo: int, hi: int) -> None:
            nonlocal waits
            waits = hi if waits is None else waits
            if lo == 0 or waits - lo >= SEGMENT:
                graphs.append((stream.end_capture(), lo, waits))
                waits = None
                stream.begin_capture()

        stream.wait_event(before.record())
        with cuda.using_allocator(pool.malloc), stream, self.products.capturable(stream):
            try:  # the rehearsal first
                self.model.passes(x, y, scale, None, nothing)
                stream.begin_capture()
                loss = self.model.passes(x, y, scale, ready, nothing)
                graphs.append((stream.end_capture(), 0, 0))
            finally:
                if stream.is_capturing():
                    with contextlib.suppress(Exception):  # what has failed fails again when it is ended
                        stream.end_capture()
                before.wait_event(stream.record())  # the rehearsal works on what comes next, too
        return Captured(x, y, loss, graphs, pool, plan)

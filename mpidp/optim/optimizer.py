"""What every optimizer shares: flat state for one slice of the model, and the cutting of that slice into blocks."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from mpidp.arrays import ALIGNMENT, Array, array_module, zeros
from mpidp.errors import UserError
from mpidp.nn.layer import Parameter

BLOCK = (
    1 << 16
)  # elements: the five arrays of a block stay in a core's second-level cache; calls cost nothing beside it

LINE = ALIGNMENT  # elements: a multiple of the cache's line for every type

TINY = 1e-30  # state below this changes no parameter; left alone it would shrink on into denormal numbers
TINY_EVERY = 128  # updates: from TINY, 0.9^128 of it is still a normal float32


def decay_runs(parameters: Sequence[Parameter], lo: int, hi: int) -> list[tuple[int, int]]:
    """The maximal runs `[start, stop)` inside [lo, hi) of the flat vector to which weight decay applies, in order."""
    runs: list[tuple[int, int]] = []
    for parameter in sorted((p for p in parameters if p.decay), key=lambda p: p.lo):
        start, stop = max(lo, parameter.lo), min(hi, parameter.hi)
        if start < stop and runs and runs[-1][1] == start:
            runs[-1] = (runs[-1][0], stop)
        elif start < stop:
            runs.append((start, stop))
    return runs


@dataclass
class Block:
    """`part` (up to BLOCK elements) of the slice given to `step`, its decayed runs, its views of state and scratch."""

    part: slice
    decay: list[slice]
    state: list[Array]
    scratch: list[Array]


class Optimizer:
    """Updates the slice [lo, hi) of a model's flat vector; its state is flat, of the same length, type and device.

    Subclasses name their state arrays in `state_names`, say in `scratch_count` how many temporary blocks `step`
    needs, and write `step`. Everything is element by element, so that a slice cut in any way gets the same bits.
    """

    Options: Any
    state_names: tuple[str, ...] = ()
    scratch_count = 1
    device_edges: tuple[Array, int] | None = None  # on a device: see `cupy_kernels`
    device_one: Array = None

    def __init__(self, options: Any, parameters: Sequence[Parameter], lo: int, hi: int, like: Array):
        self.options, self.lo, self.hi = options, lo, hi
        self.xp = array_module(like)
        self.dtype = like.dtype
        self.on_device = self.xp is not np
        self._state = {name: zeros(self.xp, hi - lo, self.dtype, lo) for name in self.state_names}
        self.decay_runs = decay_runs(parameters, lo, hi) if options.weight_decay else []
        if not self.on_device:
            length = min(BLOCK, hi - lo) + LINE
            self._scratch = [zeros(np, length, self.dtype) for _ in range(self.scratch_count)]
            self._cuts: dict[tuple[int, int], list[Block]] = {}

    @classmethod
    def state_vectors(cls, options: Any) -> int:
        """How many flat vectors of state it keeps: what it needs of memory beside parameters and gradient."""
        return len(cls.state_names)

    def step(
        self, params: Array, grads: Array, lo: int, lr: float, t: int, scale: float | Array = 1.0
    ) -> None:
        """Update number t = 1, 2, ... of `params`, in place: the views [lo, lo + len) of the model's flat vectors.

        `grads` times `scale` is the gradient; `grads` itself is left as it is. Allocates no array.
        On a device `scale` may be an array of one float64 there, so that nobody waits for it.
        """
        raise NotImplementedError

    def state(self) -> dict[str, Array]:
        """The state arrays by name, each of hi - lo elements (not copies)."""
        return dict(self._state)

    def load_state(self, state: dict[str, Array]) -> None:
        """Copy `state`, from `state()` of the same kind of optimizer on the same slice, into this one's arrays.

        Raises UserError where names or lengths differ.
        """
        if set(state) != set(self._state):
            raise UserError(
                f"optimizer state holds {sorted(state) or 'nothing'}, {type(self).__name__} needs "
                f"{sorted(self._state) or 'nothing'}: resume with the optimizer that wrote it"
            )
        for name, array in self._state.items():
            if state[name].shape != array.shape:
                raise UserError(
                    f"optimizer state {name!r} has shape {state[name].shape}, this model needs {array.shape}: "
                    "resume with the model that wrote it"
                )
            array[...] = self.xp.asarray(state[name])

    def _drop_tiny(self, block: Block, t: int) -> None:
        """Set state below TINY to 0, now and then.

        Where a gradient stays 0 (a dead unit, a token that no text holds), state shrinks into denormal numbers and
        stays there, 0.9 times the least of them being rounded up to itself: 6 to 12 ns an operation instead of 0.2.
        """
        if t % TINY_EVERY == 0:
            work = block.scratch[0]
            for array in block.state:
                np.abs(array, work)
                np.greater(work, TINY, out=work)
                np.multiply(array, work, array)

    def _blocks(self, lo: int, length: int) -> list[Block]:
        """The slice [lo, lo + length) of the flat vector in blocks, cut once for every slice that is asked for.

        All but the first begin at whole lines of the cache where the vector does.
        """
        cut = self._cuts.get((lo, length))
        if cut is None:
            edges = [0, *range(BLOCK - lo % LINE, length, BLOCK), length]
            cut = [self._block(lo, a, b) for a, b in pairwise(edges)] if length else []
            self._cuts[lo, length] = cut
        return cut

    def _block(self, lo: int, a: int, b: int) -> Block:
        start, stop = lo + a, lo + b
        decay = [
            slice(max(first, start) - start, min(last, stop) - start)
            for first, last in self.decay_runs
            if first < stop and last > start
        ]
        mine = slice(start - self.lo, stop - self.lo)
        state = [array[mine] for array in self._state.values()]
        edge = start % LINE
        return Block(slice(a, b), decay, state, [array[edge : edge + b - a] for array in self._scratch])

"""How a batch that is worked on part by part gets one gradient: the orders in which the parts' gradients are added."""

from typing import Any

import numpy as np

from mpidp.arrays import Array, array_module

GRID = 2.0**32


def on_grid(loss: float | Array) -> float | Array:
    """The nearest multiple of 2⁻³²: sums of such losses are exact up to 2²¹, hence the same in every order."""
    xp = array_module(loss)
    rounded = xp.rint(loss * GRID) / GRID
    return float(rounded) if xp is np else rounded


class InOrder:
    """(g_0 + g_1) + g_2 + ...: one vector beside the gradient. Parts are as many as save memory."""

    def __init__(self) -> None:
        self.vector: Array = None  # made when first needed
        self.count = 0

    def begin(self) -> None:
        """Forget the parts of the batch before."""
        self.count = 0

    def keep(self, grads: Array) -> None:
        """Take up the gradient of a part that others follow."""
        if self.vector is None:
            self.vector = empty_like(grads)
        if self.count == 0:
            self.vector[...] = grads
        else:
            self.vector += grads
        self.count += 1

    def held(self) -> list[Array]:
        """What is to be added to the last part's gradient, in this order."""
        return [self.vector] if self.count else []

    def loss(self, loss: float | Array) -> float | Array:
        """A part's loss as it is added to the others'."""
        return loss


class Tree:
    """((g_0 + g_1) + (g_2 + g_3)) + ...: the binary tree over m = 2^k parts, with k vectors beside the gradient.

    Ranks with as many parts each that add their sums in the tree over ranks add all parts in one tree: its bits do not
    depend on how many ranks there are. Nor do those of losses, which are taken `on_grid`.
    A binary counter: level l holds the sum of 2^l parts where bit l of the number of parts that have come is set.
    """

    def __init__(self) -> None:
        self.levels: list[Any] = []
        self.count = 0

    def begin(self) -> None:
        self.count = 0

    def keep(self, grads: Array) -> None:
        below = self.held_in_a_row()
        if len(below) == len(self.levels):
            self.levels.append(empty_like(grads))
        target = self.levels[len(below)]
        if not below:
            target[...] = grads
        else:
            for vector in below[:-1]:
                grads += vector
            array_module(grads).add(grads, below[-1], out=target)
        self.count += 1

    def held_in_a_row(self) -> list[Array]:
        """The sums that the next part's gradient completes: of 1, 2, 4, ... parts."""
        full = (self.count ^ self.count + 1).bit_length() - 1  # how many bits from the lowest on are set
        return self.levels[:full]

    def held(self) -> list[Array]:
        return [vector for level, vector in enumerate(self.levels) if self.count >> level & 1]

    def loss(self, loss: float | Array) -> float | Array:
        return on_grid(loss)


Adder = InOrder | Tree


def empty_like(grads: Array) -> Array:
    return array_module(grads).empty_like(grads)

"""Who sends to whom in gossip, and how fast that mixes.

In round t = 1, 2, ... a graph has d arcs from every rank. A rank sends all it has along each of them, and

    W_ij = 1 / (d + 1) where i = j or an arc leads from j to i, else 0:    x_i ← Σ_j W_ij x_j

Every column of W adds up to 1, so that Σ_i x_i stays as it is. Where a graph is `balanced`, as many arcs lead to every
rank as from it: then the rows add up to 1 as well (W is doubly stochastic) and equal x stay equal.

How fast: ρ, the second largest |eigenvalue| of W. These balanced graphs look the same from every rank, so W is normal
and each round shrinks the distance from the mean, √(1/P Σ ‖x_i - mean‖²), to at most ρ times what it was; 1 - ρ is the
spectral gap.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mpidp.errors import UserError

Arcs = np.ndarray
"""(d, P): to whom each rank sends along its d arcs."""


@dataclass(frozen=True)
class Graph:
    """arcs(P, t, seed): those of round t; rounds(P): after so many they recur (0: never, they are drawn from the seed).

    check(P) raises UserError where the graph is not made for so many ranks.
    """

    name: str
    arcs: Callable[[int, int, int], Arcs]
    rounds: Callable[[int], int] = lambda size: 1
    check: Callable[[int], None] = lambda size: None
    balanced: bool = True


def levels(size: int) -> int:
    """⌈lg P⌉."""
    return (size - 1).bit_length()


def circle(size: int, distances: list[int]) -> Arcs:
    """Every rank sends to those so far on, around a circle; equal targets count once."""
    distances = sorted({distance % size for distance in distances} - {0})
    return (np.arange(size) + np.array(distances, int).reshape(-1, 1)) % size


def ring(size: int, t: int, seed: int) -> Arcs:
    """Both neighbours (Lian et al. 2017, 1705.09056)."""
    return circle(size, [1, -1])


def exponential(size: int, t: int, seed: int) -> Arcs:
    """i + 1, i + 2, i + 4, ...; 1 - ρ = 2 / (1 + ⌈lg P⌉) where P is even (Ying et al. 2021, 2110.13363)."""
    return circle(size, [2**k for k in range(levels(size))])


def one_peer(size: int, t: int, seed: int) -> Arcs:
    """i + 2ᵏ, k = (t - 1) mod lg P: after lg P rounds all have the exact mean (Ying et al. 2021, 2110.13363)."""
    return circle(size, [2 ** ((t - 1) % max(levels(size), 1))])


def torus(size: int, t: int, seed: int) -> Arcs:
    """The neighbours above, below, left and right, on a grid whose edges meet; those that coincide count once."""
    rows, columns = grid(size)
    row, column = np.divmod(np.arange(size), columns)
    steps = sorted({(1 % rows, 0), (-1 % rows, 0), (0, 1 % columns), (0, -1 % columns)})
    return np.array([(row + down) % rows * columns + (column + right) % columns for down, right in steps])


def random(size: int, t: int, seed: int) -> Arcs:
    """Another rank, drawn anew by every rank in every round (Kempe, Dobra & Gehrke 2003, FOCS).

    Who draws is not asked: all ranks draw for all, so that each knows who will send to it.
    """
    if size == 1:
        return circle(1, [])
    further = np.random.default_rng([seed, t]).integers(1, size, size=size)
    return ((np.arange(size) + further) % size).reshape(1, size)


def grid(size: int) -> tuple[int, int]:
    """R x C = P, as square as possible, R ≤ C."""
    rows = next(rows for rows in range(int(size**0.5), 0, -1) if size % rows == 0)
    return rows, size // rows


def require_power_of_two(size: int) -> None:
    if size & (size - 1):
        below = 1 << (size.bit_length() - 1)
        raise UserError(
            f"--graph one-peer reaches the exact mean of 2, 4, 8, ... ranks alone, but there are {size}: start "
            f"mpirun -n {below} or {2 * below}, or take --graph exponential"
        )


def require_grid(size: int) -> None:
    if grid(size)[0] == 1:
        fit = [n for n in range(4, size + 3) if grid(n)[0] > 1]
        near = [*[n for n in fit if n < size][-1:], next((n for n in fit if n > size), 4)]
        raise UserError(
            "--graph torus needs rows and columns of at least 2 ranks each, which "
            f"{'1 rank' if size == 1 else f'{size} ranks'} cannot form: start mpirun -n "
            f"{' or '.join(map(str, near))}, or take --graph ring"
        )


GRAPHS = {
    graph.name: graph
    for graph in (
        Graph("ring", ring),
        Graph("torus", torus, check=require_grid),
        Graph("exponential", exponential),
        Graph("one-peer", one_peer, lambda size: max(levels(size), 1), require_power_of_two),
        Graph("random", random, lambda size: 0, balanced=False),
    )
}


def weights(graph: Graph, size: int, t: int = 1, seed: int = 0) -> np.ndarray:
    """W of round t, P x P."""
    arcs = graph.arcs(size, t, seed)
    found = np.eye(size)
    for targets in arcs:
        found[targets, np.arange(size)] += 1
    return found / (len(arcs) + 1)


def spectral_gap(graph: Graph, size: int) -> float | None:
    """1 - ρ, over all rounds of a graph that has several; None for one whose rounds are drawn."""
    rounds = graph.rounds(size)
    if rounds == 0:
        return None
    product = np.eye(size)
    for t in range(1, rounds + 1):
        product = weights(graph, size, t) @ product
    return float(1 - np.sort(np.abs(np.linalg.eigvals(product)))[:-1].max(initial=0.0))

"""How what the ranks of one run had kept is taken over by another number of ranks: one rule for each piece of it.

The L workers whose state is there are a row of L equal parts, which is cut anew into W parts, one for each worker of
now. Worker r takes over the share

    s_ri = |[r L / W, (r + 1) L / W) ∩ [i, i + 1)|    of what the i-th of them had;    Σ_r s_ri = 1,  Σ_i s_ri = L / W

so that nothing is lost, nothing is taken twice, neighbours stay neighbours, and with L = W each keeps its own.
A rule sees every rank's array of one name, in the order of ranks, and gives what this rank takes up.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

BOUNDS = "bounds"
"""The name under which an owner saves where its part of the vector begins and ends."""


def share(i: int, had: int, r: int | None, have: int) -> float:
    """s_ri, of the i-th of `had` workers, for worker r of `have`; 0 for a rank that is no worker."""
    if r is None or not 0 <= i < had:
        return 0.0
    return max(0, min((r + 1) * had, (i + 1) * have) - max(r * had, i * have)) / have


class Rule:
    """What becomes of one array. `add` is called for each rank that saved it, `result` once, after the last."""

    value: Any = None

    def add(self, name: str, arrays: Mapping[str, np.ndarray], share: float) -> None:
        """That rank saved arrays[name]; this rank takes over `share` of what it had."""
        raise NotImplementedError

    def result(self) -> np.ndarray | None:
        """What this rank takes up; None: nothing."""
        return self.value


class Same(Rule):
    """All had the same: the first one's."""

    def add(self, name, arrays, share):
        if self.value is None:
            self.value = arrays[name]


class Added(Rule):
    """Σ_i s_ri a_i: what is added up over ranks stays, over all ranks, what it was."""

    def add(self, name, arrays, share):
        if share:
            part = arrays[name] * share
            self.value = part if self.value is None else self.value + part


class Mean(Rule):
    """Σ_i s_ri m_i a_i / Σ_i s_ri m_i: so Σ_r (Σ_i s_ri m_i) a_r = Σ_i m_i a_i. Equal a_i stay the same bits.

    m_i = 1, or the array `by`: a number for each of `parts` of the vector. Where all m_i are 0, they are taken as 1.
    """

    def __init__(self, by: str | None = None, parts: Sequence[slice] = (slice(None),)):
        self.by, self.parts = by, parts
        self.weights, self.counts = [0.0] * len(parts), [0.0] * len(parts)

    def add(self, name, arrays, share):
        if not share:
            return
        array = arrays[name]
        if self.value is None:
            self.value = array.copy()
        numbers = [1.0] * len(self.parts) if self.by is None else arrays[self.by].tolist()
        for k, (part, number) in enumerate(zip(self.parts, numbers, strict=True)):
            self.counts[k] += share
            self.weights[k] += share * number
            if number:
                gain = share * number / self.weights[k]
            else:
                gain = 0.0 if self.weights[k] else share / self.counts[k]
            self.value[part] += gain * (array[part] - self.value[part])


class Largest(Rule):
    """Of rows (key, number), the largest number for each key."""

    def add(self, name, arrays, share):
        rows = dict(() if self.value is None else self.value)
        for key, number in arrays[name].tolist():
            rows[key] = max(number, rows.get(key, number))
        self.value = sorted(rows.items())

    def result(self):
        return np.array(self.value, np.int64).reshape(-1, 2)


class Histogram(Rule):
    """Counts are added up, and rank 0 alone goes on with them."""

    def __init__(self, rank: int):
        self.first, self.value = rank == 0, np.empty(0, np.int64)

    def add(self, name, arrays, share):
        counts = arrays[name]
        if self.first and counts.size > self.value.size:
            self.value, counts = counts.copy(), self.value
        if self.first:
            self.value[: counts.size] += counts


class Owned(Rule):
    """The owners' parts put together, and of the whole this rank's part."""

    def __init__(self, part: slice):
        self.lo, self.hi = part.start, part.stop

    def add(self, name, arrays, share):
        if BOUNDS not in arrays:
            raise ValueError(
                "a part that does not say where it belongs, as in files of older versions: start as many ranks as that "
                "run had"
            )
        array, (lo, hi) = arrays[name], arrays[BOUNDS].tolist()
        if self.value is None:
            self.value = np.empty(self.hi - self.lo, array.dtype)
        first, last = max(lo, self.lo), min(hi, self.hi)
        if first < last:
            self.value[first - self.lo : last - self.lo] = array[first - lo : last - lo]


def require_whole(parts: Sequence[tuple[int, int]], n: int) -> None:
    """Raise ValueError where these parts, by their bounds, are not a vector of n elements, each of them once."""
    begins, ends = zip(*sorted(parts), strict=True)
    if [*begins, n] != [0, *ends]:
        raise ValueError(f"the owners' parts are {sorted(parts)}, not all of 0 to {n}")


Rules = Mapping[str, Callable[[], Rule]]
"""Rules by the names of arrays, or by what names begin with up to a dot; "": of all others."""


def rule_of(rules: Rules, name: str) -> Rule:
    """That of the longest of these names which is this one or its beginning."""
    while name and name not in rules:
        name = name.rpartition(".")[0]
    return rules[name]()

"""PowerSGD: every matrix as the product of two thin ones."""

from dataclasses import dataclass
from typing import ClassVar

from mpidp.arrays import Array
from mpidp.compression.codec import Feedback
from mpidp.compression.feedback import FeedbackSum
from mpidp.compression.turn import Turn
from mpidp.errors import UserError
from mpidp.options import option
from mpidp.takeover import Same


@dataclass
class PowerSGDOptions(Feedback):
    rank: int = option(2, "columns of the thin matrices by which a matrix travels", minimum=1)


@dataclass
class Layout:
    """Of a part of the vector: the matrices M (a × b) that travel as P (a × r) and Q (b × r), and all the rest."""

    matrices: list[tuple[slice, tuple[int, int], slice, slice]]  # places of M, (a, b), places of P and of Q
    plain: list[tuple[slice, slice]]  # places in the part, and behind the P's
    first: int  # elements of all P and the rest
    second: int  # elements of all Q


class PowerSGD(FeedbackSum):
    """Each matrix M (a × b) of the model, of rank r = `--rank`, with Q (b × r) left by the step before:

        M ← g + e;   P ← Σ_ranks M Q;   P ← orthonormal columns of P;   Q ← Σ_ranks Mᵀ P
        g ← P Qᵀ on all ranks alike;   e ← M - P (Mᵀ P)ᵀ with this rank's own Mᵀ P

    One step of power iteration, with a warm start: the Q's of one step are where the next begins. The e's of all ranks
    are together what the g's lack of Σ M. A tensor of more than two dimensions is a matrix with as many rows as its
    first has; vectors, and matrices for which (a + b) r ≥ a b, travel as they are, along with the P's. Both sums are
    of plain vectors, by any route.
    Wire: Σ (a + b) r of the matrices and the other elements, each of the vector's type. Biased: it lives by e.
    Source: Vogels et al. 2019, arXiv 1905.13727 (algorithms 1 and 2; columns made orthonormal by QR).
    """

    Options = PowerSGDOptions
    rules: ClassVar = FeedbackSum.rules | {"q": Same}
    at_once = True
    unfit = {"pushes": "both of its sums are needed by all ranks, and a server has no matrix to multiply"}

    def __init__(self, place, options):
        super().__init__(place, options, options.error_feedback)
        self.layouts: dict[tuple[int, int], Layout] = {}
        whole = self.layout(0, place.n)
        if not whole.matrices:
            raise UserError(self.why_none_pays())
        self.first = place.route.allocate(self.comm, whole.first, place.dtype)
        self.second = place.route.allocate(self.comm, whole.second, place.dtype)
        draws = Turn(place.seed, 0, 0, 0).draws(self.xp)
        self.q = draws.standard_normal(whole.second).astype(place.dtype)

    def layout(self, start: int, length: int) -> Layout:
        """That of the part of the vector that begins at `start`: whole tensors."""
        layout = self.layouts.get((start, length))
        if layout is None:
            layout = self.layouts[start, length] = self.lay_out(start, start + length)
        return layout

    def lay_out(self, start: int, stop: int) -> Layout:
        r, p, q = self.options.rank, 0, 0
        matrices, vectors = [], []
        for tensor in self.place.parameters:
            if not start <= tensor.lo < stop:
                continue
            part = slice(tensor.lo - start, tensor.hi - start)
            a = tensor.shape[0]
            b = tensor.size // a
            if len(tensor.shape) > 1 and (a + b) * r < a * b:
                matrices.append((part, (a, b), slice(p, p + a * r), slice(q, q + b * r)))
                p, q = p + a * r, q + b * r
            else:
                vectors.append(part)
        plain = []
        for part in vectors:
            length = part.stop - part.start
            plain.append((part, slice(p, p + length)))
            p += length
        return Layout(matrices, plain, p, q)

    def why_none_pays(self) -> str:
        what, r = "--compress powersgd", self.options.rank
        matrices = [tensor for tensor in self.place.parameters if len(tensor.shape) > 1]
        if not matrices:
            return f"{what}: this model has no matrix: choose another encoding"
        limits = {}  # of each matrix: the largest rank at which its two thin ones are smaller than itself
        for tensor in matrices:
            a, b = tensor.shape[0], tensor.size // tensor.shape[0]
            limits[tensor.name] = (a * b - 1) // (a + b), " x ".join(map(str, tensor.shape))
        name = max(limits, key=lambda name: limits[name][0])
        limit, shape = limits[name]
        cure = f"give --rank {limit} or less" if limit else "choose another encoding"
        return f"{what}: no matrix of this model is larger than two of --rank {r} (not even {name}, {shape}): {cure}"

    def steps(self, buffer, start=0, lane=0):
        xp, r = self.xp, self.options.rank
        layout, residual = self.layout(start, buffer.size), self.kept(start, buffer.size)
        first, second, warm = (
            self.first[: layout.first],
            self.second[: layout.second],
            self.warm(start, layout),
        )
        for part, shape, p, q in layout.matrices:
            m = buffer[part].reshape(shape)
            if residual is not None:
                m += residual[part].reshape(shape)
            xp.matmul(m, warm[q].reshape(-1, r), out=first[p].reshape(-1, r))
        for part, place in layout.plain:
            first[place] = buffer[part]
        yield from self.route_steps(first, lane)
        for part, shape, p, q in layout.matrices:
            m, columns = buffer[part].reshape(shape), first[p].reshape(-1, r)
            columns[...] = xp.linalg.qr(columns)[0]
            rows = second[q].reshape(-1, r)
            xp.matmul(m.T, columns, out=rows)
            if residual is not None:
                kept = residual[part].reshape(shape)
                kept[...] = m
                xp.matmul(columns, rows.T, out=m)
                kept -= m
        yield from self.route_steps(second, lane)
        warm[...] = second
        for part, shape, p, q in layout.matrices:
            xp.matmul(first[p].reshape(-1, r), warm[q].reshape(-1, r).T, out=buffer[part].reshape(shape))
        for part, place in layout.plain:
            buffer[part] = first[place]

    def warm(self, start: int, layout: Layout) -> Array:
        """The Q's of a part among those of all matrices."""
        before = self.layout(0, start).second
        return self.q[before : before + layout.second]

    def reduce_scatter(self, vector):
        self.allreduce(vector)

    def cost(self, t=1, n=None, start=0):
        layout = self.layout(start, self.place.n if n is None else n)
        first, second = super().cost(t, layout.first), super().cost(t, layout.second)
        return first[0] + second[0], first[1] + second[1]

    def scatter_cost(self, t=1):
        return self.cost()

    def state(self):
        return super().state() | {"q": self.q}

    def load_state(self, state):
        super().load_state(state)
        self.q[...] = self.xp.asarray(state["q"])

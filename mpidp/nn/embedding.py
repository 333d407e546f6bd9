"""Token and position embeddings, and the output layer that shares the token table."""

import math

from mpidp.arrays import Array
from mpidp.nn.kernels import kernels_for
from mpidp.nn.layer import Initialiser, Layer, Parameter, normal


class Embedding(Layer):
    """y_bt = wte[ids_bt] + wpe[t] for ids (B, T), wte (V, C), wpe (longest T, C).

    dwte[v] = Σ dy over the places of token v, added to what `TiedOutput` wrote when `tied`; dwpe[t] = Σ_b dy_bt.
    """

    def __init__(
        self,
        vocabulary: int,
        context: int,
        width: int,
        tied: bool = False,
        initialise: Initialiser | None = None,
        position_initialise: Initialiser | None = None,
    ):
        self.wte = Parameter("wte.weight", (vocabulary, width), initialise or normal(0.02))
        self.wpe = Parameter("wpe.weight", (context, width), position_initialise or normal(0.02))
        self.tied = tied

    def parameters(self):
        return [self.wte, self.wpe]

    def plan(self, shape, arena):
        batch, tokens = shape
        context, width = self.wpe.shape
        if tokens > context:
            raise ValueError(f"sequences of {tokens} tokens, but the model's context is {context}")
        self.kernels = kernels_for(arena.xp)
        self.y = arena.empty((batch, tokens, width))
        self.work = self.kernels.sums_workspace(arena, batch, tokens * width)
        return self.y.shape

    def forward(self, x: Array) -> Array:
        self.ids = x.reshape(-1)
        self.kernels.embedding(self.ids, self.wte.value, self.wpe.value[: self.y.shape[1]], self.y)
        return self.y

    def backward(self, dy: Array) -> None:
        batch, tokens, width = dy.shape
        if not self.tied:
            self.wte.grad[...] = 0
        self.kernels.embedding_gradient(self.ids, dy.reshape(-1, width), self.wte.grad)
        self.wpe.grad[tokens:] = 0
        self.kernels.column_sums(dy.reshape(batch, -1), self.wpe.grad[:tokens].reshape(-1), self.work)


class TiedOutput(Layer):
    """z = x wteᵀ for x (..., C), sharing the token table wte (V, C) (Press, Wolf 2016, arXiv:1608.05859).

    dx = dz wte; *writes* dwte = dzᵀ x, to which the embedding adds its own part later.
    narrow: x and dx, and in training z and dz, are of the type that products take as it is, where there is one
    (`Products.narrow`), for a loss that knows such arrays. Rows of z may lie further apart than they are long.
    """

    def __init__(self, wte: Parameter, narrow: bool = False):
        self.wte, self.narrow = wte, narrow

    def parameters(self):
        return [self.wte]

    def plan(self, shape, arena):
        vocabulary, width = self.wte.shape
        self.products = arena.products
        kind = self.products.narrow if self.narrow else None
        self.z_shape = (*shape[:-1], vocabulary)
        rows, wide = math.prod(shape[:-1]), self.products.wide(vocabulary)
        # In training, and otherwise: one memory for both.
        self.logits = [arena.scratch("logits", (rows, wide), dtype)[:, :vocabulary] for dtype in (None, kind)]
        self.dx = arena.empty(shape, kind)
        self.dx_rows = self.dx.reshape(-1, width)
        given = kind is not None
        self.x_memory = None if given else self.products.memory(arena, self.dx_rows.shape)
        self.dz_memory = None if given else self.products.memory(arena, (rows, vocabulary), "dy")
        return self.z_shape

    def forward(self, x: Array) -> Array:
        self.x = self.products.take(x.reshape(self.dx_rows.shape), self.x_memory)
        z = self.logits[self.training]
        self.products.matmul(self.x, self.wte.operand.T, z)
        return z.reshape(self.z_shape)

    def backward(self, dy: Array) -> Array:
        dz = self.products.take(dy.reshape(-1, dy.shape[-1]), self.dz_memory)
        self.products.matmul(dz.T, self.x, self.wte.grad)
        self.products.matmul(dz, self.wte.operand, self.dx_rows)
        return self.dx

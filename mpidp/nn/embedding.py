"""Token and position embeddings, and the output layer that shares the token table."""

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
        self.xp = arena.xp
        self.y = arena.empty((batch, tokens, width))
        self.y_rows = self.y.reshape(batch * tokens, width)
        self.ones = arena.ones(batch)
        return self.y.shape

    def forward(self, x: Array) -> Array:
        self.ids = x.reshape(-1)
        self.kernels.embedding(self.ids, self.wte.value, self.y_rows)
        self.y += self.wpe.value[: self.y.shape[1]]
        return self.y

    def backward(self, dy: Array) -> None:
        batch, tokens, width = dy.shape
        if not self.tied:
            self.wte.grad[...] = 0
        self.kernels.embedding_gradient(self.ids, dy.reshape(-1, width), self.wte.grad)
        self.wpe.grad[tokens:] = 0
        self.xp.matmul(self.ones, dy.reshape(batch, -1), out=self.wpe.grad[:tokens].reshape(-1))


class TiedOutput(Layer):
    """z = x wteᵀ for x (..., C), sharing the token table wte (V, C) (Press, Wolf 2016, arXiv:1608.05859).

    dx = dz wte; *writes* dwte = dzᵀ x, to which the embedding adds its own part later.
    """

    def __init__(self, wte: Parameter):
        self.wte = wte

    def parameters(self):
        return [self.wte]

    def plan(self, shape, arena):
        vocabulary, width = self.wte.shape
        self.products = arena.products
        self.z = arena.empty((*shape[:-1], vocabulary))
        self.z_rows = self.z.reshape(-1, vocabulary)
        self.dx = arena.empty(shape)
        self.dx_rows = self.dx.reshape(-1, width)
        self.x_memory = self.products.memory(arena, self.dx_rows.shape)
        self.wte_memory = self.products.memory(arena, self.wte.shape)
        self.dz_memory = self.products.memory(arena, self.z_rows.shape, "dy")
        return self.z.shape

    def forward(self, x: Array) -> Array:
        self.x = self.products.take(x.reshape(self.dx_rows.shape), self.x_memory)
        self.table = self.products.take(self.wte.value, self.wte_memory)
        self.products.matmul(self.x, self.table.T, self.z_rows)
        return self.z

    def backward(self, dy: Array) -> Array:
        dz = self.products.take(dy.reshape(self.z_rows.shape), self.dz_memory)
        self.products.matmul(dz.T, self.x, self.wte.grad)
        self.products.matmul(dz, self.table, self.dx_rows)
        return self.dx

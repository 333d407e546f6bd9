"""Causal multi-head self-attention (Vaswani et al. 2017, arXiv:1706.03762) with GPT-2's fused projections."""

from mpidp.arrays import Array
from mpidp.nn.kernels import kernels_for
from mpidp.nn.layer import Initialiser, Layer, normal
from mpidp.nn.linear import Linear


class CausalSelfAttention(Layer):
    """y = c_proj(O), O = softmax(q kᵀ / √D, no key later than its query) v a head, (q, k, v) = c_attn(x).

    x, y (B, T, C); c_attn.weight (C, 3C), c_proj.weight (C, C); the heads are slices of D = C / H columns.
    adds_bias: False where whoever takes y adds c_proj's. narrow: x, y and their gradients are as Linear's.
    """

    def __init__(
        self,
        name: str,
        width: int,
        heads: int,
        weight: Initialiser | None = None,
        projection: Initialiser | None = None,
        adds_bias: bool = True,
        narrow: bool = False,
    ):
        self.heads = heads
        inside = {"share": "block.dx", "narrow_input": narrow, "narrow_output": narrow}
        self.c_attn = Linear(f"{name}.c_attn", width, 3 * width, weight or normal(0.02), **inside)
        self.c_proj = Linear(
            f"{name}.c_proj", width, width, projection or normal(0.02), adds_bias=adds_bias, **inside
        )
        self.narrow = narrow

    def parameters(self):
        return self.c_attn.parameters() + self.c_proj.parameters()

    def layers(self):
        yield self
        yield self.c_attn
        yield self.c_proj

    def plan(self, shape, arena):
        batch, tokens, width = shape
        kind = arena.products.narrow if self.narrow else None
        self.c_attn.plan(shape, arena)
        self.core = kernels_for(arena.xp).CausalAttention(
            arena, batch, tokens, self.heads, width // self.heads
        )
        self.o = arena.empty(shape, kind)
        self.dqkv = arena.scratch("attention.dqkv", (batch, tokens, 3 * width), kind)
        return self.c_proj.plan(shape, arena)

    def forward(self, x: Array) -> Array:
        self.qkv = self.c_attn.forward(x)
        self.core.forward(self.qkv, self.o)
        return self.c_proj.forward(self.o)

    def backward(self, dy: Array) -> Array:
        do = self.c_proj.backward(dy)
        self.tell(self.c_proj)
        self.core.backward(self.qkv, self.o, do, self.dqkv)
        self.tell(None)
        return self.c_attn.backward(self.dqkv)

"""Causal attention on the GPU, without the T x T matrix: kernels by tiles, forward and backward."""

import math
from functools import cache
from typing import Any

import cupy
import numpy as np

from mpidp.nn.kernels.attention_plan import FORWARD, KEYS, QUERIES, ROLES, Kernel, chosen, of_products


@cache
def _found(name: str, operands: str | None, real: str, depth: int, *types: str) -> tuple[Kernel, Any]:
    """The kernel for these types of its roles, and what launches it."""
    kernel = chosen(name, operands, real, depth, dict(zip(ROLES[name], types, strict=True)))
    function = cupy.RawModule(code=kernel.source, options=kernel.options).get_function(kernel.name)
    function.max_dynamic_shared_size_bytes = kernel.shared
    return kernel, function


class CausalAttention:
    """O = softmax(q kᵀ / √D, no key later than its query) v for all heads, q, k, v being thirds of one array.

    Forward keeps the logarithm of each row's sum, from which backward finds the probabilities again (Dao 2023,
    FlashAttention-2, arXiv:2307.08691). Where D is a multiple of 16 up to 128, tensor cores multiply, in the type that
    the arena's `products` have for operands, with sums in float32; else products are of the arena's type. Every run
    gives the same bits. Raises UserError for heads that no kernel takes.
    """

    takes_narrow = True
    """Whether qkv, out and their gradients may be of `Products.narrow`."""

    def __init__(self, arena, batch: int, tokens: int, heads: int, depth: int):
        self.shape = batch, tokens, heads, depth
        self.operands = of_products(arena.products)
        self.dtype = arena.dtype
        self.real = {"float32": "float", "float64": "double"}[self.dtype.name]
        self.scale = self.dtype.type(1.0 / math.sqrt(depth))
        self.forward_scale = self.dtype.type(math.log2(math.e) / math.sqrt(depth))
        self.sums = arena.empty((batch, heads, tokens))  # log₂ of each row's
        self.delta = arena.scratch("attention.delta", (batch, heads, tokens))
        chosen(FORWARD, self.operands, self.real, depth, dict.fromkeys(ROLES[FORWARD], self.real))

    def forward(self, qkv, out) -> None:
        """qkv (B, T, 3C) to out (B, T, C)."""
        self._launch(FORWARD, (qkv, out), (self.sums, self.forward_scale))

    def backward(self, qkv, out, dout, dqkv) -> None:
        """dout (B, T, C) to dqkv (B, T, 3C), for the qkv and out of the last forward."""
        scales = self.forward_scale, self.scale
        self._launch(QUERIES, (qkv, out, dout, dqkv), (self.sums, self.delta, *scales))
        self._launch(KEYS, (qkv, dout, dqkv), (self.sums, self.delta, *scales))

    def _launch(self, name: str, activations: tuple[Any, ...], others: tuple[Any, ...]) -> None:
        batch, tokens, heads, depth = self.shape
        types = (self.real if x.dtype == self.dtype else "word" for x in activations)
        kernel, function = _found(name, self.operands, self.real, depth, *types)
        blocks = batch * heads * -(-tokens // kernel.rows)
        sizes = np.int32(tokens), np.int32(heads)
        function((blocks,), (kernel.threads,), (*activations, *others, *sizes), shared_mem=kernel.shared)

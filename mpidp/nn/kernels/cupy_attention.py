"""Causal attention on the GPU, without the T x T matrix: kernels by tiles, forward and backward."""

import math
from functools import cache
from typing import Any

import cupy
import numpy as np

from mpidp.nn.kernels.attention_plan import FORWARD, KEYS, QUERIES, ROLES, Kernel, chosen, of_products


@cache
def _module(source: str, options: tuple[str, ...]) -> Any:
    return cupy.RawModule(code=source, options=options)


@cache
def _function(kernel: Kernel) -> Any:
    function = _module(kernel.source, kernel.options).get_function(kernel.name)
    function.max_dynamic_shared_size_bytes = kernel.shared
    return function


class CausalAttention:
    """O = softmax(q kᵀ / √D, no key later than its query) v for all heads, q, k, v being thirds of one array.

    Forward keeps the logarithm of each row's sum, from which backward finds the probabilities again (Dao 2023,
    FlashAttention-2, arXiv:2307.08691). Products are made by tensor cores in the type that the arena's `products` have
    for operands, with sums in float32, where D is a multiple of 16 up to 128; else in the arena's own type. The same bits
    in every run.
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
        self._kernel(FORWARD, dict.fromkeys(ROLES[FORWARD], self.real))  # refuses what no kernel does

    def forward(self, qkv, out) -> None:
        """qkv (B, T, 3C) to out (B, T, C)."""
        types = self._types(QKV=qkv, OUT=out)
        self._launch(FORWARD, types, qkv, out, self.sums, self.forward_scale)

    def backward(self, qkv, out, dout, dqkv) -> None:
        """dout (B, T, C) to dqkv (B, T, 3C), for the qkv and out of the last forward."""
        types = self._types(QKV=qkv, OUT=out, DOUT=dout, DQKV=dqkv)
        scales = self.forward_scale, self.scale
        self._launch(QUERIES, types, qkv, out, dout, self.sums, self.delta, dqkv, *scales)
        self._launch(KEYS, types, qkv, dout, self.sums, self.delta, dqkv, *scales)

    def _types(self, **arrays: Any) -> dict[str, str]:
        return {role: self.real if x.dtype == self.dtype else "word" for role, x in arrays.items()}

    def _kernel(self, name: str, types: dict[str, str]) -> Kernel:
        return chosen(name, self.operands, self.real, self.shape[3], types)

    def _launch(self, name: str, types: dict[str, str], *arguments: Any) -> None:
        batch, tokens, heads, _ = self.shape
        kernel = self._kernel(name, types)
        blocks = batch * heads * -(-tokens // kernel.rows)
        sizes = np.int32(tokens), np.int32(heads)
        _function(kernel)((blocks,), (kernel.threads,), (*arguments, *sizes), shared_mem=kernel.shared)

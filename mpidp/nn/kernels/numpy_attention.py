"""Causal attention on NumPy: strided views of the heads, row blocks that skip most of what lies above the diagonal."""

import math

import numpy as np

ROWS = 64  # queries of a block: T = 256 then computes 62 % of the square
CHUNK = 65536  # probabilities worked on at a time
FLOOR = -125.0  # 2^-125 is still a normal float32: exp2 of less would be 4 times slower
TRUSTED = 2.0**60  # row sums within [1/TRUSTED, TRUSTED] need no maximum subtracted


class CausalAttention:
    """O = softmax(q kᵀ / √D, no key later than its query) v for all heads, q, k, v being thirds of one array.

    Scores are taken in units of log 2 (the factor log₂e / √D is folded into the transposed copy of k), exponentiated
    without subtracting the row's maximum, and stay unnormalised: P = 2^S, O = (P v) / rowsum. Where a row sum shows
    that this was not safe, the block is done again with the maximum subtracted, which changes nothing else.
    Backward, with G = dO / rowsum: dv = Pᵀ G, dS = P ∘ (G vᵀ - Σ_d G ∘ O), dq = dS k / √D, dk = dSᵀ q / √D.
    """

    def __init__(self, arena, batch: int, tokens: int, heads: int, depth: int):
        self.shape = batch, tokens, heads, depth
        dtype = arena.dtype
        width = heads * depth
        scale = 1.0 / math.sqrt(depth)
        self.forward_scale = np.array(scale * math.log2(math.e), dtype)
        self.scale = np.array(scale, dtype)
        transposed = arena.scratch("attention.transposed", (batch, heads, depth, tokens))
        self.transposed = transposed  # of k going forward, of v going backward
        self.expanded = arena.scratch("attention.expanded", (batch * tokens, width))
        spread = np.repeat(np.eye(heads), depth, axis=1)  # a row a head, 1 at its columns
        self.spread = arena.constant(f"attention.spread {heads} {depth}", lambda: spread)
        self.gather = arena.constant(f"attention.gather {heads} {depth}", lambda: spread.T * scale)
        self.ones = arena.ones(tokens)
        self.sums = arena.empty((batch, heads, tokens))
        self.inverse = arena.empty((batch * tokens, heads))  # 1 / rowsum
        self.delta = arena.scratch("attention.delta", (batch, heads, tokens, 1))
        self.sum_kv = arena.scratch("attention.kv", (batch, tokens, 2 * width))
        self.blocks = []
        step = max(1, min(batch, CHUNK // (heads * min(ROWS, tokens) * tokens)))
        for first in range(0, batch, step):
            samples = slice(first, min(first + step, batch))
            for lo in range(0, tokens, ROWS):
                hi = min(lo + ROWS, tokens)
                shape = (samples.stop - first, heads, hi - lo, hi)
                mask = arena.constant(f"attention.mask {lo} {hi}", lambda a=lo, b=hi: np.tri(b - a, b, a))
                self.blocks.append(
                    (samples, lo, hi, mask, arena.empty(shape), arena.scratch("attention.dp", shape))
                )

    def forward(self, qkv, out) -> None:
        """qkv (B, T, 3C) to out (B, T, C)."""
        batch, tokens, heads, depth = self.shape
        q, k, v = qkv.reshape(batch, tokens, 3, heads, depth).transpose(2, 0, 3, 1, 4)
        o = out.reshape(batch, tokens, heads, depth).transpose(0, 2, 1, 3)
        np.multiply(k.swapaxes(2, 3), self.forward_scale, self.transposed)
        with np.errstate(over="ignore", invalid="ignore"):
            for samples, lo, hi, mask, p, _ in self.blocks:
                rows, keys = q[samples, :, lo:hi], self.transposed[samples, :, :, :hi]
                sums = self.sums[samples, :, lo:hi]
                np.matmul(rows, keys, p)
                if p.min() < FLOOR:
                    np.maximum(p, FLOOR, out=p)
                np.exp2(p, p)
                np.multiply(p, mask, p)
                np.matmul(p, self.ones[:hi], sums)
                if not (sums.min() > 1 / TRUSTED and sums.max() < TRUSTED):
                    self._subtract_maximum(rows, keys, mask, p, sums)
                np.matmul(p, v[samples, :, :hi], o[samples, :, lo:hi])
        np.reciprocal(self.sums.swapaxes(1, 2), self.inverse.reshape(batch, tokens, heads))
        np.matmul(self.inverse, self.spread, self.expanded)
        flat = out.reshape(self.expanded.shape)
        np.multiply(flat, self.expanded, flat)

    def _subtract_maximum(self, rows, keys, mask, p, sums) -> None:
        np.matmul(rows, keys, p)
        p[np.broadcast_to(mask == 0, p.shape)] = -np.inf
        p -= p.max(axis=-1, keepdims=True)
        np.maximum(p, FLOOR, out=p)
        np.exp2(p, p)
        p *= mask
        np.matmul(p, self.ones[: p.shape[-1]], sums)

    def backward(self, qkv, out, dout, dqkv) -> None:
        """dout (B, T, C), overwritten, to dqkv (B, T, 3C), for the qkv and out of the last forward."""
        batch, tokens, heads, depth = self.shape
        width = heads * depth
        split = (batch, tokens, 3, heads, depth)
        q, k, v = qkv.reshape(split).transpose(2, 0, 3, 1, 4)
        dq, dk, dv = dqkv.reshape(split).transpose(2, 0, 3, 1, 4)
        more_dk, more_dv = self.sum_kv.reshape(batch, tokens, 2, heads, depth).transpose(2, 0, 3, 1, 4)
        np.multiply(v.swapaxes(2, 3), self.scale, self.transposed)
        flat = dout.reshape(batch * tokens, width)
        np.matmul(self.inverse, self.spread, self.expanded)
        np.multiply(flat, self.expanded, flat)
        np.multiply(flat, out.reshape(flat.shape), self.expanded)
        delta = np.matmul(self.expanded, self.gather).reshape(batch, tokens, heads)
        self.delta[..., 0] = delta.swapaxes(1, 2)
        g = dout.reshape(batch, tokens, heads, depth).transpose(0, 2, 1, 3)
        for samples, lo, hi, _, p, ds in reversed(self.blocks):
            rows = g[samples, :, lo:hi]
            np.matmul(rows, self.transposed[samples, :, :, :hi], ds)
            np.subtract(ds, self.delta[samples, :, lo:hi], ds)
            np.multiply(ds, p, ds)
            np.matmul(ds, k[samples, :, :hi], dq[samples, :, lo:hi])
            if hi == tokens:
                np.matmul(p.swapaxes(2, 3), rows, dv[samples])
                np.matmul(ds.swapaxes(2, 3), q[samples, :, lo:hi], dk[samples])
            else:
                np.matmul(p.swapaxes(2, 3), rows, more_dv[samples, :, :hi])
                np.matmul(ds.swapaxes(2, 3), q[samples, :, lo:hi], more_dk[samples, :, :hi])
                dqkv[samples, :hi, width:] += self.sum_kv[samples, :hi]

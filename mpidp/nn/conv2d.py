"""Convolution of images, as products with matrices of unfolded windows (im2col; Chellapilla, Puri & Simard 2006)."""

import math

import numpy as np

from mpidp.arrays import Array
from mpidp.nn.layer import Initialiser, Layer, Parameter, constant, uniform

BLOCK = 65536  # elements of unfolded windows at a time: written and multiplied while in a core's second-level cache
FEW_CHANNELS = 8  # below this many, windows are stored one element after another: longer runs to copy


class Unfolding:
    """Every kernel window of `padded` (B, H, W, C) as a row of a matrix, made and multiplied block by block of samples.

    Rows are in the order (row in its pool, column in its pool, sample, pool's row, pool's column), for pools of
    `pool` x `pool` windows (1: plain reading order). keep: hold the whole matrix, else one block.
    """

    def __init__(self, padded: Array, kernel: int, stride: int, arena, keep: bool, pool: int = 1):
        self.xp = xp = arena.xp
        count, height, width, channels = padded.shape
        rows, columns = (height - kernel) // stride + 1, (width - kernel) // stride + 1
        grid = (rows // pool, columns // pool)
        window = (kernel, kernel, channels)
        b, h, w, c = padded.strides
        windows = xp.lib.stride_tricks.as_strided(
            padded,
            (pool, pool, count, *grid, *window),
            (h * stride, w * stride, b, h * stride * pool, w * stride * pool, h, w, c),
        )
        positions, elements = grid[0] * grid[1], math.prod(window)
        step = max(1, BLOCK // (pool * pool * positions * elements)) if xp is np else count
        held = count if keep else min(step, count)
        if channels < FEW_CHANNELS:
            memory = arena.empty((*window, pool, pool, held, *grid))
            unfolded = memory.transpose(3, 4, 5, 6, 7, 0, 1, 2)
            self.matrix = memory.reshape(elements, -1).T
            by_place = memory.reshape(elements, pool * pool, -1).transpose(1, 2, 0)
        else:
            unfolded = arena.empty((pool, pool, held, *grid, *window))
            self.matrix = unfolded.reshape(-1, elements)
            by_place = unfolded.reshape(pool * pool, -1, elements)
        self.blocks = []
        for start in range(0, count, step):
            stop = min(start + step, count)
            first, last = (start, stop) if keep else (0, stop - start)
            self.blocks.append(
                (
                    windows[:, :, start:stop],
                    unfolded[:, :, first:last],
                    by_place[:, first * positions : last * positions],
                    slice(start * positions, stop * positions),
                )
            )

    def times(self, weight: Array, out: Array) -> None:
        """out (pool·pool, rows, O) = all windows as rows @ weight (kernel·kernel·C, O)."""
        for windows, unfolded, matrix, rows in self.blocks:
            self.xp.copyto(unfolded, windows)
            self.xp.matmul(matrix, weight, out=out[:, rows])


class Conv2d(Layer):
    """y[b, r, c, o] = bias[o] + Σ_ijk x[b, r·s + i - p, c·s + j - p, k] weight[i, j, k, o], s the stride, p padding.

    x (B, H, W, C), weight (kernel, kernel, C, O), y (B, rows, columns, O) with rows = (H + 2p - kernel) // s + 1; x is
    0 outside. dweight = windowsᵀ dy. dx is itself a convolution: of dy, with s - 1 zeros between its elements and
    kernel - 1 - p zeros around them, by the weight turned by 180° and transposed.

    pool: give y as (pool², B, rows // pool, columns // pool, O), the places in a pool first (in reading order), which
    is how `MaxPool2d(pool)` takes it fastest; what is beyond the last whole pool is not computed.
    """

    def __init__(
        self,
        name: str,
        inputs: int,
        outputs: int,
        kernel: int = 3,
        stride: int = 1,
        padding: int = 0,
        weight: Initialiser | None = None,
        bias: bool = True,
        pool: int = 1,
    ):
        if not 0 <= padding < kernel:
            raise ValueError(f"{name}: padding {padding} must be at least 0 and below the kernel's {kernel}")
        self.kernel, self.stride, self.padding, self.pool = kernel, stride, padding, pool
        shape = (kernel, kernel, inputs, outputs)
        self.weight = Parameter(f"{name}.weight", shape, weight or uniform(1 / (kernel * math.sqrt(inputs))))
        self.bias = Parameter(f"{name}.bias", (outputs,), constant(0.0)) if bias else None

    def parameters(self):
        return [self.weight] if self.bias is None else [self.weight, self.bias]

    def bind(self):
        self.matrix = self.weight.value.reshape(-1, self.weight.shape[-1])
        self.matrix_grad = self.weight.grad.reshape(self.matrix.shape)
        self.turned = self.weight.value[::-1, ::-1].transpose(0, 1, 3, 2)  # (kernel, kernel, O, C)

    def plan(self, shape, arena):
        count, height, width, channels = shape
        k, s, p, pool = self.kernel, self.stride, self.padding, self.pool
        inputs, outputs = self.weight.shape[2:]
        smallest = k + (pool - 1) * s - 2 * p
        if channels != inputs or min(height, width) < smallest:
            raise ValueError(
                f"{self.weight.name}: needs images of {inputs} channels and at least {smallest} x {smallest}, "
                f"got a batch of shape {shape}"
            )
        self.xp = xp = arena.xp
        # Zeros around images must outlast other plans, so these two do not come from the arena.
        padded = xp.zeros((count, height + 2 * p, width + 2 * p, channels), arena.dtype)
        self.inside = padded[:, p : p + height, p : p + width]
        self.unfolding = Unfolding(padded, k, s, arena, keep=True, pool=pool)
        rows, columns = ((height + 2 * p - k) // s + 1) // pool, ((width + 2 * p - k) // s + 1) // pool
        self.y = arena.empty((pool * pool, count, rows, columns, outputs))
        self.y_rows = self.y.reshape(-1, outputs)
        self.ones = arena.ones(len(self.y_rows))
        if self.input_gradient:
            spread = xp.zeros((count, height + k - 1, width + k - 1, outputs), arena.dtype)
            first = k - 1 - p
            used = spread[:, first::s, first::s][:, : rows * pool, : columns * pool]
            used = used.reshape(count, rows, pool, columns, pool, outputs)  # a view: axes are only split
            self.spread = used.transpose(2, 4, 0, 1, 3, 5)
            self.dy_unfolding = Unfolding(spread, k, 1, arena, keep=False)
            self.turned_matrix = arena.empty(self.turned.shape)
            self.dx = arena.empty(shape)
        self.y = self.y if pool > 1 else self.y[0]
        return self.y.shape

    def forward(self, x: Array) -> Array:
        self.inside[...] = x
        self.unfolding.times(self.matrix, self.y_rows.reshape(self.pool**2, -1, self.weight.shape[-1]))
        if self.bias is not None:
            self.y_rows += self.bias.value
        return self.y

    def backward(self, dy: Array) -> Array:
        rows = dy.reshape(self.y_rows.shape)
        self.xp.matmul(self.unfolding.matrix.T, rows, out=self.matrix_grad)
        if self.bias is not None:
            self.xp.matmul(self.ones, rows, out=self.bias.grad)
        if not self.input_gradient:
            return None
        self.spread[...] = dy.reshape(self.spread.shape)
        self.turned_matrix[...] = self.turned
        inputs = self.weight.shape[2]
        self.dy_unfolding.times(self.turned_matrix.reshape(-1, inputs), self.dx.reshape(1, -1, inputs))
        return self.dx

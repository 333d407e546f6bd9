"""Convolution of images, as products with matrices of unfolded windows (im2col; Chellapilla, Puri & Simard 2006)."""

import math

import numpy as np

from mpidp.arrays import Array
from mpidp.nn.layer import Initialiser, Layer, Parameter, constant, uniform

BLOCK = 32768  # elements of unfolded windows at a time: written and multiplied while in a core's second-level cache
FEW_CHANNELS = 8  # below this many, windows are stored one element after another: longer runs to copy


class Unfolding:
    """Every kernel window of `padded` (B, H, W, C) as a row of a matrix, made and multiplied block by block of samples.

    keep: hold the whole matrix (`matrix`, (B·rows·columns, kernel·kernel·C)), else one block.
    """

    def __init__(self, padded: Array, kernel: int, stride: int, arena, keep: bool):
        xp = arena.xp
        count, height, width, channels = padded.shape
        rows, columns = (height - kernel) // stride + 1, (width - kernel) // stride + 1
        b, h, w, c = padded.strides
        windows = xp.lib.stride_tricks.as_strided(
            padded,
            (count, rows, columns, kernel, kernel, channels),
            (b, h * stride, w * stride, h, w, c),
        )
        self.xp = xp
        self.positions, elements = rows * columns, kernel * kernel * channels
        step = max(1, BLOCK // (self.positions * elements)) if xp is np else count
        held = count if keep else min(step, count)
        if channels < FEW_CHANNELS:
            memory = arena.empty((kernel, kernel, channels, held, rows, columns))
            unfolded = memory.transpose(3, 4, 5, 0, 1, 2)
            self.matrix = memory.reshape(elements, -1).T
        else:
            unfolded = arena.empty((held, rows, columns, kernel, kernel, channels))
            self.matrix = unfolded.reshape(-1, elements)
        self.blocks = []
        for start in range(0, count, step):
            stop = min(start + step, count)
            place = start if keep else 0
            self.blocks.append(
                (
                    windows[start:stop],
                    unfolded[place : place + stop - start],
                    self.matrix[place * self.positions : (place + stop - start) * self.positions],
                    slice(start * self.positions, stop * self.positions),
                )
            )

    def times(self, weight: Array, out: Array) -> None:
        """out (B·rows·columns, O) = all windows as rows @ weight (kernel·kernel·C, O)."""
        for windows, unfolded, matrix, rows in self.blocks:
            self.xp.copyto(unfolded, windows)
            self.xp.matmul(matrix, weight, out=out[rows])


class Conv2d(Layer):
    """y[b, r, c, o] = bias[o] + Σ_ijk x[b, r·s + i - p, c·s + j - p, k] weight[i, j, k, o], s the stride, p padding.

    x (B, H, W, C), weight (kernel, kernel, C, O), y (B, rows, columns, O) with rows = (H + 2p - kernel) // s + 1; x is
    0 outside. dweight = windowsᵀ dy. dx is itself a convolution: of dy, with s - 1 zeros between its elements and
    kernel - 1 - p zeros around them, by the weight turned by 180° and transposed.
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
    ):
        if not 0 <= padding < kernel:
            raise ValueError(f"{name}: padding {padding} must be at least 0 and below the kernel's {kernel}")
        self.kernel, self.stride, self.padding = kernel, stride, padding
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
        k, s, p = self.kernel, self.stride, self.padding
        inputs, outputs = self.weight.shape[2:]
        if channels != inputs or min(height, width) + 2 * p < k:
            raise ValueError(
                f"{self.weight.name}: needs images of {inputs} channels and at least {k - 2 * p} x {k - 2 * p}, "
                f"got a batch of shape {shape}"
            )
        self.xp = xp = arena.xp
        # Zeros around images must outlast other plans, so these two do not come from the arena.
        padded = xp.zeros((count, height + 2 * p, width + 2 * p, channels), arena.dtype)
        self.inside = padded[:, p : p + height, p : p + width]
        self.unfolding = Unfolding(padded, k, s, arena, keep=True)
        rows, columns = (height + 2 * p - k) // s + 1, (width + 2 * p - k) // s + 1
        self.y = arena.empty((count, rows, columns, outputs))
        self.y_rows = self.y.reshape(-1, outputs)
        self.ones = arena.ones(len(self.y_rows))
        if self.input_gradient:
            spread = xp.zeros((count, height + k - 1, width + k - 1, outputs), arena.dtype)
            first = k - 1 - p
            self.spread = spread[:, first::s, first::s][:, :rows, :columns]
            self.dy_unfolding = Unfolding(spread, k, 1, arena, keep=False)
            self.turned_matrix = arena.empty(self.turned.shape)
            self.dx = arena.empty(shape)
        return self.y.shape

    def forward(self, x: Array) -> Array:
        self.inside[...] = x
        self.unfolding.times(self.matrix, self.y_rows)
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
        self.spread[...] = dy
        self.turned_matrix[...] = self.turned
        inputs = self.weight.shape[2]
        self.dy_unfolding.times(self.turned_matrix.reshape(-1, inputs), self.dx.reshape(-1, inputs))
        return self.dx

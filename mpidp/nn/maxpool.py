"""Max-pooling over windows that do not overlap."""

from mpidp.arrays import Array
from mpidp.nn.layer import Layer


class MaxPool2d(Layer):
    """y[b, r, c, k] = max of x[b, r·s : (r+1)·s, c·s : (c+1)·s, k] for x (B, H, W, C), s the window's `size`.

    Rows and columns beyond the last whole window are left out. Of equal values the first in reading order gets the
    gradient, as in PyTorch: the maximum is taken along each row of a window, then over its rows, and a later value
    must be greater to win; the gradient goes the same way back.
    """

    def __init__(self, size: int = 2):
        if size < 2:
            raise ValueError(f"max-pool: a window of {size} x {size} has nothing to choose from")
        self.size = size

    def plan(self, shape, arena):
        count, height, width, channels = shape
        s = self.size
        rows, columns = height // s, width // s
        if not rows or not columns:
            raise ValueError(f"max-pool: windows of {s} x {s} do not fit an image of {height} x {width}")
        self.xp = arena.xp
        self.whole = (slice(None), slice(rows * s), slice(columns * s))
        self.row_maxima = arena.empty((count, rows * s, columns, channels))
        self.y = arena.empty((count, rows, columns, channels))
        self.in_row = [arena.empty(self.row_maxima.shape, bool) for _ in range(1, s)]
        self.over_rows = [arena.empty(self.y.shape, bool) for _ in range(1, s)]
        # Column j of every window, row i of every window:
        self.columns = lambda x: [x[self.whole][:, :, j::s] for j in range(s)]
        self.rows = lambda x: [x.reshape(count, rows, s, columns, channels)[:, :, i] for i in range(s)]
        self.dx = arena.empty(shape) if self.input_gradient else None
        self.left_out = [
            (slice(None), slice(rows * s, None)),
            (slice(None), slice(None), slice(columns * s, None)),
        ]
        return self.y.shape

    def forward(self, x: Array) -> Array:
        self._maximum(self.columns(x), self.row_maxima, self.in_row)
        self._maximum(self.rows(self.row_maxima), self.y, self.over_rows)
        return self.y

    def backward(self, dy: Array) -> Array:
        if self.dx is None:
            return None
        self._route(dy, self.over_rows, self.rows(self.row_maxima))  # the maxima are no longer needed
        self._route(self.row_maxima, self.in_row, self.columns(self.dx))
        for part in self.left_out:
            self.dx[part] = 0
        return self.dx

    def _maximum(self, parts: list[Array], out: Array, later_wins: list[Array]) -> None:
        best = parts[0]
        for part, wins in zip(parts[1:], later_wins, strict=True):
            if self.training:
                self.xp.greater(part, best, out=wins)
            best = self.xp.maximum(best, part, out=out)

    def _route(self, d: Array, later_wins: list[Array], parts: list[Array]) -> None:
        """Each element of d to the part that won, 0 to the others; d is used up."""
        for part, wins in zip(reversed(parts), [*reversed(later_wins), None], strict=True):
            if wins is None:
                part[...] = d
            else:
                self.xp.multiply(d, wins, out=part)
                self.xp.subtract(d, part, out=d)

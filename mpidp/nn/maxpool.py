"""Max-pooling over windows that do not overlap."""

from mpidp.arrays import Array
from mpidp.nn.layer import Layer


class MaxPool2d(Layer):
    """y[b, r, c, k] = max of x[b, r·s : (r+1)·s, c·s : (c+1)·s, k] for x (B, H, W, C), s the window's `size`.

    Takes also x (s², B, H // s, W // s, C), the places in a window first, as `Conv2d(pool=s)` gives it: the same
    maxima from longer runs of memory. Rows and columns beyond the last whole window are left out. Of equal values the
    first in reading order gets the gradient, as in PyTorch: a later one must be greater to win.
    """

    def __init__(self, size: int = 2):
        if size < 2:
            raise ValueError(f"max-pool: a window of {size} x {size} has nothing to choose from")
        self.size = size

    def plan(self, shape, arena):
        s = self.size
        self.xp = arena.xp
        self.places_first = len(shape) == 5
        if self.places_first:
            places, count, rows, columns, channels = shape
            if places != s * s:
                raise ValueError(f"max-pool: windows of {s} x {s}, but {places} places in each were given")
        else:
            count, rows, columns, channels = shape[0], shape[1] // s, shape[2] // s, shape[3]
            self.left_out = [
                (slice(None), slice(rows * s, None)),
                (slice(None), slice(None), slice(columns * s, None)),
            ]
        if not rows or not columns:
            raise ValueError(f"max-pool: windows of {s} x {s} do not fit images of shape {shape}")
        self.whole = (slice(None), slice(rows * s), slice(columns * s))
        self.y = arena.empty((count, rows, columns, channels))
        self.later_wins = [arena.empty(self.y.shape, bool) for _ in range(1, s * s)]
        self.dx = arena.empty(shape) if self.input_gradient else None
        return self.y.shape

    def places(self, x: Array) -> list[Array]:
        """One view a place in the window, each of y's shape, in reading order."""
        if self.places_first:
            return list(x)
        s, x = self.size, x[self.whole]
        return [x[:, i::s, j::s] for i in range(s) for j in range(s)]

    def forward(self, x: Array) -> Array:
        best, *others = self.places(x)
        for place, wins in zip(others, self.later_wins, strict=True):
            if self.training:
                self.xp.greater(place, best, out=wins)
            best = self.xp.maximum(best, place, out=self.y)
        return self.y

    def backward(self, dy: Array) -> Array:
        if self.dx is None:
            return None
        places = self.places(self.dx)
        for j in range(len(places) - 1, 0, -1):  # dy is used up: what the later places win is taken from it
            self.xp.multiply(dy, self.later_wins[j - 1], out=places[j])
            self.xp.subtract(dy, places[j], out=dy if j > 1 else places[0])
        if not self.places_first:
            for part in self.left_out:
                self.dx[part] = 0
        return self.dx

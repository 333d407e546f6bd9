import numpy as np
import pytest

from mpidp.optim import clip_scale, squared_norm
from mpidp.optim.clipping import BLOCK


@pytest.mark.parametrize("dtype, tolerance", [(np.float32, 1e-6), (np.float64, 1e-14)])
@pytest.mark.parametrize("size", [0, 1, 3, 200_001])
def test_squared_norm(dtype, tolerance, size):
    g = np.random.default_rng(size).normal(size=size).astype(dtype)
    assert squared_norm(g) == pytest.approx(float(np.sum(g.astype(np.float64) ** 2)), rel=tolerance)


def test_squared_norm_does_not_lose_small_parts_beside_large_ones():
    # One float32 sum would lose every 1 beside 2**42 (its last digit is worth 2**19); block sums meet in float64.
    g = np.ones(1 << 20, np.float32)
    g[:BLOCK] = 2.0**13
    assert squared_norm(g) == BLOCK * 2.0**26 + len(g) - BLOCK


def test_clip_scale():
    assert clip_scale(2.0, 0.5) == 0.25
    assert clip_scale(0.4, 0.5) == 1.0
    assert clip_scale(1e9, 0.0) == 1.0
    assert clip_scale(0.0, 1.0) == 1.0

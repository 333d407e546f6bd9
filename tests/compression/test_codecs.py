"""Codecs: payloads of the stated size, errors within the stated bounds, whatever the values and lengths."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpidp.compression import COMPRESSORS
from mpidp.compression.codec import CHUNK, Codec
from mpidp.compression.dgc import DGCOptions, Masking
from mpidp.compression.sign import Signs
from mpidp.compression.turn import Turn
from mpidp.errors import UserError

LENGTHS = [0, 1, 7, 8, 9, 255, 256, 257, 1000, CHUNK + 13]
CODECS = [name for name, kind in COMPRESSORS.items() if issubclass(kind, Codec)]
TURN = Turn(0, 0, 1, 0)


def make(name: str, **options) -> Codec:
    return COMPRESSORS[name](COMPRESSORS[name].Options(**options), np)


def vector(n: int, dtype=np.float32, seed=0) -> np.ndarray:
    """Values of all sizes, some of them 0."""
    rng = np.random.default_rng([n, seed])
    values = rng.normal(size=n) * 10.0 ** rng.uniform(-9, 3, n)
    values[rng.random(n) < 0.1] = 0
    return values.astype(dtype)


def decoded(codec: Codec, x: np.ndarray, turn: Turn = TURN) -> np.ndarray:
    payload, out = np.empty(codec.nbytes(x.size), np.uint8), np.empty_like(x)
    codec.encode(x, payload, turn)
    codec.decode(payload, out)
    return out


def through(codec: Codec, x: np.ndarray, turn: Turn = TURN) -> np.ndarray:
    """x encoded and decoded, checked to be the same for every reader, and to be added as it is decoded."""
    before = x.copy()
    payload = np.full(codec.nbytes(x.size), 255, np.uint8)
    codec.encode(x, payload, turn)
    assert (x == before).all()
    out, again, added = np.full_like(x, np.nan), np.full_like(x, np.nan), np.ones_like(x)
    codec.decode(payload, out)
    codec.decode(payload.copy(), again)
    assert (out == again).all()
    codec.add(payload, added)
    assert (added == (1 + out).astype(x.dtype)).all()
    return out


@pytest.mark.parametrize("name", CODECS)
def test_payloads_of_every_length(name):
    codec = make(name)
    for n in LENGTHS:
        assert codec.nbytes(n) % 4 == 0 and 0 <= codec.nbytes(n) - codec.size(n) < 4
        for dtype in (np.float32, np.float64):
            assert np.isfinite(through(codec, vector(n, dtype))).all()
            assert (through(codec, np.zeros(n, dtype)) == 0).all()


@pytest.mark.parametrize(
    ("name", "options", "size"),
    [
        ("fp16", {}, 2000),
        ("bf16", {}, 2000),
        ("int8", {}, 1000 + 4 * 4),
        ("int8", {"block": 8}, 1000 + 4 * 125),
        ("qsgd", {}, 5 * 125 + 4 * 16),
        ("qsgd", {"levels": 1, "block": 1024}, 2 * 125 + 4),
        ("onebit", {}, 125 + 4 * 4),
        ("topk", {}, 80),
        ("topk", {"density": 1.0}, 8000),
        ("topk", {"density": 1e-9}, 8),
    ],
)
def test_sizes_are_those_stated(name, options, size):
    assert make(name, **options).size(1000) == size


def test_halves_are_numpy_s_and_nothing_overflows():
    edges = [0.0, -0.0, 65504, 65519, 65520, 1e30, -1e30, 2**-14, 2**-24, 2**-25, 3 * 2**-26, 1e-45]
    x = np.concatenate([vector(40_000), edges]).astype(np.float32)
    expected = np.clip(x, -65504, 65504).astype(np.float16)
    assert through(make("fp16"), x).tobytes() == expected.astype(np.float32).tobytes()
    found = decoded(make("fp16"), np.array([np.nan, np.inf, 1.0], np.float32))
    assert np.isnan(found[0]) and (found[1:] == [65504, 1]).all()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=20))
def test_bfloat16_rounds_as_ml_dtypes_does(values):
    x = np.array(values, np.float32)
    with np.errstate(over="ignore"):
        expected = x.astype(ml_dtypes.bfloat16).astype(np.float32)
    assert decoded(make("bf16"), x).tobytes() == expected.tobytes()


@pytest.mark.parametrize("n", [256, 300, CHUNK + 13])
def test_int8_is_right_to_half_a_step_of_its_block(n):
    x = vector(n)
    error = np.abs(through(make("int8"), x) - x)
    for lo in range(0, n, 256):
        largest = np.abs(x[lo : lo + 256]).max()
        assert error[lo : lo + 256].max() <= largest / 254 * 1.001


@pytest.mark.parametrize("levels", [1, 2, 7, 15, 64, 127])
def test_qsgd_is_unbiased_within_its_variance(levels):
    n, block, draws = 64, 32, 1500
    codec = make("qsgd", levels=levels, block=block)
    x = np.random.default_rng(levels).normal(size=n)
    mean, square = np.zeros(n), 0.0
    for number in range(draws):
        found = decoded(codec, x, Turn(0, 0, number, 0))
        mean += found / draws
        square += ((found - x) ** 2).sum() / draws
    norms = (x.reshape(-1, block) ** 2).sum(1)
    bound = min(block / levels**2, block**0.5 / levels) * norms.sum()
    assert square <= bound
    assert np.linalg.norm(mean - x) <= 4 * (bound / draws) ** 0.5


def test_qsgd_draws_anew_for_every_rank_turn_and_place():
    codec, x = make("qsgd"), vector(1000)
    seen = {
        decoded(codec, x, turn).tobytes()
        for turn in (Turn(0, 0, 1, 0), Turn(1, 0, 1, 0), Turn(0, 1, 1, 0), Turn(0, 0, 2, 0), Turn(0, 0, 1, 8))
    }
    assert len(seen) == 5
    assert decoded(codec, x, TURN).tobytes() == decoded(codec, x, TURN).tobytes()


def test_one_bit_is_the_sign_and_the_mean_magnitude():
    x = vector(300)
    found = through(make("onebit"), x)
    for lo in (0, 256):
        block = x[lo : lo + 256]
        expected = np.where(block >= 0, 1, -1) * np.abs(block).mean()
        np.testing.assert_allclose(found[lo : lo + 256], expected, rtol=1e-5)


def test_top_k_keeps_the_largest():
    x = np.random.default_rng(0).permutation(np.arange(1.0, 101.0)) * np.tile([1, -1], 50)
    found = through(make("topk", density=0.07), x)
    assert (found == np.where(np.abs(x) > 93, x, 0)).all()


def test_momentum_begins_anew_where_a_gradient_was_sent():
    codec = Masking(DGCOptions(density=0.5), np)
    codec.momentum = np.ones(10)
    codec.encode(np.array([1.0, -4, 0, 3]), np.empty(16, np.uint8), Turn(0, 0, 1, 5))
    assert codec.momentum.tolist() == [1, 1, 1, 1, 1, 1, 0, 1, 0, 1]


@pytest.mark.parametrize(("number", "zero"), [(1, 1), (2, -1)])
def test_votes_that_are_no_number_s_sign_drift_neither_way(number, zero):
    codec, turn = Signs(None, np), Turn(0, 0, number, 0)
    x = np.array([3.0, -1e-9, 0, -0.0, 5, -5, 0, 0, -1])
    signs = [1, -1, zero, zero, 1, -1, zero, zero, -1]
    assert decoded(codec, x, turn).tolist() == signs
    own = x.copy()
    codec.own(own, turn)
    assert own.tolist() == signs
    votes = np.array([2.0, -3, 0, 1])
    codec.decide(votes, turn)
    assert votes.tolist() == [1, -1, zero, 1]


def test_blocks_begin_at_whole_bytes():
    with pytest.raises(UserError, match="--block 100: must be a multiple of 8"):
        COMPRESSORS["int8"].Options(block=100)

"""The rules by which another number of ranks takes over what some had kept."""

import numpy as np
import pytest

from mpidp.takeover import BOUNDS, Added, Histogram, Largest, Mean, Owned, Same, rule_of, share

PAIRS = [(had, have) for had in (1, 2, 3, 4, 7, 8) for have in (1, 2, 3, 5, 8)]


def shares(had: int, have: int) -> np.ndarray:
    """s_ri, have x had."""
    return np.array([[share(i, had, r, have) for i in range(had)] for r in range(have)])


def taken(rule, everyone, shares=None, name="a"):
    """What one rank takes up of what each of `everyone` saved."""
    for arrays, ours in zip(everyone, shares or [1.0] * len(everyone), strict=True):
        rule.add(name, arrays, ours)
    return rule.result()


@pytest.mark.parametrize(("had", "have"), PAIRS)
def test_nothing_is_lost_nor_taken_twice(had, have):
    found = shares(had, have)
    np.testing.assert_allclose(found.sum(axis=0), 1, rtol=1e-15)
    np.testing.assert_allclose(found.sum(axis=1), had / have, rtol=1e-15)


def test_as_many_ranks_keep_their_own_and_half_as_many_take_over_neighbours():
    assert (shares(4, 4) == np.eye(4)).all()
    assert (shares(4, 2) == [[1, 1, 0, 0], [0, 0, 1, 1]]).all()
    assert (shares(2, 4) == np.array([[1, 1, 0, 0], [0, 0, 1, 1]]).T / 2).all()


def test_who_is_no_worker_takes_over_nothing_and_from_a_server_there_is_nothing():
    assert share(0, 3, None, 2) == 0 == share(3, 3, 1, 2)


@pytest.mark.parametrize(("had", "have"), PAIRS)
def test_a_mean_of_means_is_the_mean(had, have):
    """Weighted by numbers, which are shared out as well; of several parts, each with numbers of its own."""
    rng = np.random.default_rng(had * 10 + have)
    x, m = rng.normal(size=(had, 5)), rng.integers(0, 4, size=(had, 2)).astype(float)
    m[:, 1] += 1
    parts = [slice(0, 2), slice(2, 5)]
    everyone = [{"a": x[i], "m": m[i]} for i in range(had)]
    rows = shares(had, have).tolist()
    means = np.array([taken(Mean("m", parts), everyone, row) for row in rows])
    counts = np.array([taken(Added(), everyone, row, "m") for row in rows])
    for k, part in enumerate(parts):
        before, after = m[:, k] @ x[:, part], counts[:, k] @ means[:, part]
        np.testing.assert_allclose(after, before, rtol=1e-13, atol=1e-14)
    plain = np.array([taken(Mean(), everyone, row) for row in rows])
    np.testing.assert_allclose(plain.mean(axis=0), x.mean(axis=0), rtol=1e-13)


def test_a_mean_of_equals_has_their_bits_and_of_weights_of_0_all_count_alike():
    x = np.random.default_rng(0).normal(size=9)
    assert (taken(Mean(), [{"a": x}] * 7, shares(7, 3)[1].tolist()) == x).all()
    nobody = [{"a": np.full(2, value), "m": np.zeros(1)} for value in (1.0, 2.0, 6.0)]
    assert taken(Mean("m"), nobody).tolist() == pytest.approx([3, 3])


def test_float32_stays_float32():
    arrays = [{"a": np.ones(3, np.float32)}] * 3
    assert taken(Mean(), arrays, [1 / 3] * 3).dtype == taken(Added(), arrays, [1 / 3] * 3).dtype == np.float32


def test_parts_are_put_together_and_cut_anew():
    x = np.arange(10.0)
    owners = [{"a": x[lo:hi], BOUNDS: np.array([lo, hi])} for lo, hi in ((4, 7), (0, 4), (7, 10))]
    for part in (slice(0, 10), slice(3, 8), slice(5, 6), slice(4, 4)):
        assert (taken(Owned(part), owners) == x[part]).all()


def test_tables_and_histograms():
    tables = [{"a": np.array(rows).reshape(-1, 2)} for rows in ([[0, 4], [9, 1]], [[0, 3], [5, 2]], [])]
    assert taken(Largest(), tables).tolist() == [[0, 4], [5, 2], [9, 1]]
    counts = [{"a": np.array(counts, np.int64)} for counts in ([1, 2], [4, 0, 1], [])]
    assert taken(Histogram(0), counts).tolist() == [5, 2, 1]
    assert taken(Histogram(1), counts).tolist() == []


def test_the_longest_name_has_the_rule():
    rules = {"": Same, "state": Added, "state.sum.turns": Largest}
    found = [rule_of(rules, name) for name in ("params", "state.a.b", "state.sum.turns", "stateless")]
    assert [type(rule) for rule in found] == [Same, Added, Largest, Same]

from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpidp.data import split as splits
from mpidp.data.split import SPLITS, Dirichlet, Hash, Split
from mpidp.errors import UserError

STRATIFIED = ["contiguous", "strided", "random"]


@pytest.fixture(scope="module", autouse=True, params=[splits.MANY, 0], ids=["held", "computed"])
def _orders_held_or_computed(request):
    """Every promise holds for both."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(splits, "MANY", request.param)
        yield


def make(name, samples, batch_size, workers, seed=3, options=None, classes=4):
    labels = np.arange(samples) * 7 % classes if name == "dirichlet" else None
    return SPLITS[name](samples, batch_size, workers, seed, labels, options)


def one_epoch(split: Split, epoch: int):
    """batches[step][slot] = index, and owner of every index, as the workers' parts say."""
    batches, owner = [], {}
    for step in range(split.steps_per_epoch):
        batch = {}
        for worker in range(split.workers):
            indices, slots = split.part(epoch, step, worker)
            assert indices.dtype == slots.dtype == np.int64 and indices.shape == slots.shape
            assert (np.diff(slots) > 0).all()
            for index, slot in zip(indices.tolist(), slots.tolist(), strict=True):
                assert slot not in batch and 0 <= slot < split.batch_size
                batch[slot] = index
                assert index not in owner
                owner[index] = worker
        assert len(batch) == split.batch_count(epoch, step)
        batches.append(batch)
    return batches, owner


sizes = st.integers(1, 60).flatmap(
    lambda n: st.integers(1, n).flatmap(
        lambda b: st.integers(1, b).map(lambda w: (n, b, w)),
    )
)


@pytest.mark.parametrize("name", SPLITS)
@settings(max_examples=60, deadline=None)
@given(sizes=sizes, seed=st.integers(0, 2**63), epoch=st.integers(0, 10**6))
def test_an_epoch_uses_every_sample_once_and_shards_are_fixed(name, sizes, seed, epoch):
    split = make(name, *sizes, seed)
    n, b, w = sizes
    assert split.steps_per_epoch == -(-n // b)
    first, owner = one_epoch(split, epoch)
    assert sorted(owner) == list(range(n))
    assert [len(batch) for batch in first[:-1]] == [b] * (len(first) - 1)
    _, later = one_epoch(split, epoch + 1)
    assert owner == later
    shards = [split.shard(worker) for worker in range(w)]
    assert all((np.diff(shard) > 0).all() for shard in shards)
    assert {i: worker for worker, shard in enumerate(shards) for i in shard.tolist()} == owner
    assert split.shard_sizes().tolist() == [len(shard) for shard in shards] and split.shard_sizes().sum() == n


@pytest.mark.parametrize("name", SPLITS)
@settings(max_examples=40, deadline=None)
@given(sizes=sizes, seed=st.integers(0, 2**63))
def test_the_order_does_not_depend_on_the_number_of_workers(name, sizes, seed):
    n, b, w = sizes
    many, one = make(name, n, b, w, seed), make(name, n, b, 1, seed)
    for epoch in (0, 3):
        assert one_epoch(many, epoch)[0] == one_epoch(one, epoch)[0]


@pytest.mark.parametrize("name", STRATIFIED)
@settings(max_examples=60, deadline=None)
@given(sizes=sizes)
def test_stratified_loads_differ_by_at_most_one_sample(name, sizes):
    n, b, w = sizes
    split = make(name, n, b, w)
    for step in range(n // b):  # full batches
        loads = [len(split.part(0, step, worker)[0]) for worker in range(w)]
        assert max(loads) - min(loads) <= 1
    if b % w == 0:
        assert np.ptp(split.shard_sizes()) <= 1


@pytest.mark.parametrize("name", SPLITS)
def test_epochs_and_seeds_differ_and_the_same_seed_gives_the_same(name):
    orders = [
        one_epoch(make(name, 96, 8, 4, seed), epoch)[0] for seed, epoch in [(1, 0), (1, 1), (2, 0), (1, 0)]
    ]
    assert orders[0] == orders[3]
    assert orders[0] != orders[1] and orders[0] != orders[2] and orders[1] != orders[2]


@pytest.mark.parametrize("name", SPLITS)
def test_any_step_can_be_asked_for_in_any_order(name):
    split, again = make(name, 50, 8, 3), make(name, 50, 8, 3)
    inorder = [split.part(e, s, w) for e in range(2) for s in range(7) for w in range(3)]
    backward = [again.part(e, s, w) for e in (1, 0) for s in range(6, -1, -1) for w in (2, 1, 0)][::-1]

    for (i, j), (k, m) in zip(inorder, backward, strict=True):
        assert (i == k).all() and (j == m).all()


def test_contiguous_shards_are_runs():
    split = make("contiguous", 103, 8, 4)
    assert all((np.diff(split.shard(w)) == 1).all() for w in range(4))
    assert split.shard(0)[0] == 0 and split.shard(3)[-1] == 102


def test_strided_shards_are_every_wth_sample():
    split = make("strided", 40, 8, 4)
    assert all((split.shard(w) == np.arange(w, 40, 4)).all() for w in range(4))


def test_random_shards_have_no_order_and_change_with_the_seed():
    split, other = make("random", 1000, 8, 4, 1), make("random", 1000, 8, 4, 2)
    assert abs(split.shard(0).mean() - 500) < 100  # a contiguous one has a mean of 125
    assert not np.array_equal(split.shard(0), other.shard(0))


def test_shuffling_within_a_stratum_is_uniform():
    """The first sample of a stratum of 4 is each of them in about a quarter of 2000 epochs (5 σ: ± 97)."""
    split = make("contiguous", 8, 2, 1)
    first = [int(split.part(epoch, 0, 0)[0][1]) for epoch in range(2000)]
    assert all(abs(first.count(i) - 500) < 97 for i in (4, 5, 6, 7))


def test_a_step_beyond_the_epoch_is_an_error():
    for name in SPLITS:
        split = make(name, 10, 4, 2)
        for step in (-1, 3):
            with pytest.raises(IndexError, match=f"step {step} of an epoch of 3 steps"):
                split.part(0, step, 0)
            with pytest.raises(IndexError):
                split.batch_count(0, step)


# hash


@given(n=st.integers(2, 300), more=st.integers(1, 300), workers=st.integers(1, 9))
@settings(max_examples=40, deadline=None)
def test_hash_leaves_samples_where_they_are_when_samples_are_added(n, more, workers):
    before = Hash(max(n, workers), workers, workers)
    after = Hash(max(n, workers) + more, workers, workers, seed=9)
    assert (after.owner[: before.samples] == before.owner).all()


@given(workers=st.integers(1, 9), more=st.integers(1, 5))
@settings(max_examples=30, deadline=None)
def test_hash_moves_samples_to_new_workers_alone(workers, more):
    n = 3000
    before, after = Hash(n, 64, workers).owner, Hash(n, 64, workers + more).owner
    moved = before != after
    assert (after[moved] >= workers).all()
    expected = n * more / (workers + more)
    assert abs(moved.sum() - expected) < 6 * np.sqrt(expected)


def test_hash_spreads_samples_evenly():
    sizes = Hash(8000, 64, 8).shard_sizes()
    assert np.abs(sizes - 1000).max() < 5 * np.sqrt(1000 * 7 / 8)


def test_hash_is_what_it_was():
    """Shards on disk, or in a run that is resumed, must not move when the package changes."""
    assert Hash(16, 4, 4).owner.tolist() == [1, 1, 2, 3, 2, 0, 3, 0, 2, 0, 3, 3, 0, 1, 0, 2]


# dirichlet


def skew(alpha: float, seed: int) -> float:
    """Mean over classes of the largest share that one worker has of it: 1/W … 1."""
    labels = np.arange(4000) % 10
    split = Dirichlet(4000, 64, 8, seed, labels, Dirichlet.Options(alpha=alpha))
    counts = np.array([np.bincount(labels[split.shard(w)], minlength=10) for w in range(8)])
    return float((counts.max(axis=0) / counts.sum(axis=0)).mean())


def test_dirichlet_is_more_one_sided_as_alpha_falls():
    means = [np.mean([skew(alpha, seed) for seed in range(5)]) for alpha in (1e6, 10.0, 1.0, 0.3, 0.05, 1e-6)]
    assert (np.diff(means) > 0).all()
    assert means[0] == pytest.approx(1 / 8, abs=0.002) and means[-1] == pytest.approx(1.0)


def test_dirichlet_proportions_have_the_moments_of_the_law():
    """Share of a class on one worker: mean 1/W, variance (1/W)(1-1/W)/(αW+1), with W = 2, α = 1: uniform on [0, 1]."""
    labels = np.repeat(np.arange(400), 50)
    split = Dirichlet(len(labels), 64, 2, 0, labels, Dirichlet.Options(alpha=1.0))
    shares = np.bincount(labels[split.shard(0)], minlength=400) / 50
    assert shares.mean() == pytest.approx(1 / 2, abs=5 * np.sqrt(1 / 12 / 400))
    assert shares.var() == pytest.approx(1 / 12, rel=0.25)


def test_dirichlet_shards_may_be_empty():
    split = Dirichlet(40, 8, 8, 0, np.zeros(40, np.int32), Dirichlet.Options(alpha=1e-6))
    assert sorted(split.shard_sizes()) == [0] * 7 + [40]
    empty = int(np.argmin(split.shard_sizes()))
    indices, slots = split.part(0, 0, empty)
    assert len(indices) == len(slots) == 0


def test_dirichlet_needs_classes():
    with pytest.raises(UserError, match=r"needs samples with classes.*contiguous, strided, random, hash"):
        Dirichlet(10, 4, 2)


def test_dirichlet_labels_must_be_of_all_samples():
    with pytest.raises(ValueError, match="9 labels of 10 samples"):
        Dirichlet(10, 4, 2, labels=np.zeros(9, np.int32))


def test_alpha_is_the_only_option_and_is_above_zero():
    for name, cls in SPLITS.items():
        assert [f.name for f in fields(cls.Options)] == (["alpha"] if name == "dirichlet" else [])
    assert fields(Dirichlet.Options)[0].metadata["above"] == 0.0


# refusals


@pytest.mark.parametrize("name", SPLITS)
@pytest.mark.parametrize(
    "samples, batch_size, workers, message",
    [
        (100, 2, 4, "--batch-size 2 is less than the 4 workers"),
        (3, 4, 4, "4 workers are more than the 3 training samples"),
        (10, 11, 2, "--batch-size 11 is more than the 10 training samples"),
        (10, 4, 0, "0 workers"),
    ],
)
def test_refusals(name, samples, batch_size, workers, message):
    with pytest.raises(UserError, match=message):
        make(name, samples, batch_size, workers)

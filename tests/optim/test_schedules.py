import pytest

from mpidp.optim import SCHEDULES


def schedule(name, lr, steps, **options):
    kind = SCHEDULES[name]
    return kind(kind.Options(**options), lr, steps)


@pytest.mark.parametrize("name", SCHEDULES)
def test_warm_up_rises_linearly_to_lr(name):
    lr = schedule(name, 0.2, 100, warmup=4)
    assert [lr(t) for t in (1, 2, 3, 4)] == pytest.approx([0.05, 0.1, 0.15, 0.2])


@pytest.mark.parametrize("name", SCHEDULES)
def test_no_warm_up_starts_at_about_lr(name):
    assert schedule(name, 0.2, 1000)(1) == pytest.approx(0.2, rel=1e-5)


def test_constant_stays():
    assert {schedule("constant", 0.3, 10, warmup=2)(t) for t in range(2, 30)} == {0.3}


def test_cosine_reaches_half_way_and_the_final_share():
    lr = schedule("cosine", 1.0, 110, warmup=10, final_lr=0.2)
    assert [lr(10), lr(60), lr(110), lr(500)] == pytest.approx([1.0, 0.6, 0.2, 0.2])
    assert all(lr(t) > lr(t + 1) for t in range(10, 110))


def test_a_warm_up_longer_than_the_run_just_rises():
    lr = schedule("cosine", 1.0, 5, warmup=10)
    assert [lr(t) for t in range(1, 6)] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])

"""A rank made late, and who was late."""

import pytest

from mpidp.comm.world import SharedError
from mpidp.errors import UserError
from mpidp.stragglers import Lag, by_rank, slowed
from tests.test_diagnostics import LINEAR, trained


def test_texts():
    assert slowed("3:2.5") == {3: 2.5}
    assert slowed("1:3, 0:1") == {1: 3.0, 0: 1.0}


@pytest.mark.parametrize(
    ("text", "words"),
    [("3", "3 is no RANK:FACTOR"), ("", "nothing is no"), ("a:2", "a:2 is no"), ("1:2,", "nothing is no"),
     ("1:x", "1:x is no"), ("1.5:2", "1.5:2 is no"), ("-1:2", "count from 0"), ("1:0.5", "at least 1"),
     ("1:nan", "at least 1"), ("1:inf", "at least 1"), ("1:2,1:3", "rank 1 stands there twice")],
)  # fmt: skip
def test_mistakes(text, words):
    with pytest.raises(UserError, match=words) as error:
        slowed(text)
    assert str(error.value).startswith(f"--slow {text}: ")


class Clock:
    """Seconds that pass when somebody sleeps; and a strategy that takes half a millisecond to look after messages."""

    def __init__(self, monkeypatch):
        self.now, self.seconds_communication, self.calls = 100.0, 0.0, 0
        monkeypatch.setattr("mpidp.stragglers.time", self)

    def perf_counter(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds

    def advance(self):
        self.calls += 1
        self.send(0.5e-3)

    def send(self, seconds):
        self.now += seconds
        self.seconds_communication += seconds


def test_computing_takes_so_many_times_as_long(monkeypatch):
    """Communication is no part of it, whether during backward or during the delay."""
    clock = Clock(monkeypatch)
    clock.send(5)  # of earlier steps
    lag = Lag(2.5, clock)
    lag.begin()
    clock.sleep(0.02)
    clock.send(0.07)
    lag.end()
    assert lag.computing() == pytest.approx(2.5 * 0.02)
    assert clock.calls == pytest.approx(1.5 * 0.02 / 1e-3, abs=1)
    assert clock.now == pytest.approx(105 + 0.07 + 0.05 + clock.calls * 0.5e-3)


def test_a_factor_of_1_waits_for_nothing(monkeypatch):
    clock = Clock(monkeypatch)
    lag = Lag(1.0, clock)
    lag.begin()
    clock.sleep(0.02)
    lag.end()
    assert clock.calls == 0 and clock.now == pytest.approx(100.02)


def test_times_by_rank():
    found = by_rank((10, 10, 10), (4, 1, 9), (3, 0.5, 8), workers=2)
    assert found["seconds_compute_by_rank"] == [6, 9, 1] and found["seconds_compute"] == 7.5
    assert found["seconds_communication_by_rank"] == [1, 0.5, 1] and found["seconds_communication"] == 0.75
    assert found["seconds_waiting_by_rank"] == [3, 0.5, 8] and found["seconds_waiting"] == 1.75
    assert found["slowest_rank"] == 1 and found["imbalance"] == 9 / 7.5
    assert "imbalance" not in by_rank((0, 0), (0, 0), (0, 0), workers=2)


def test_the_slow_rank_is_named(tmp_path, capsys):
    found = trained(3, tmp_path / "slow", *LINEAR, "--steps", 12, "--slow", "1:30")
    compute = found["seconds_compute_by_rank"]
    assert found["slowest_rank"] == 1 and compute[1] > 3 * max(compute[0], compute[2])
    assert found["imbalance"] == pytest.approx(compute[1] / (sum(compute) / 3))
    assert len(found["seconds_communication_by_rank"]) == len(found["seconds_waiting_by_rank"]) == 3
    assert "slowest rank" in capsys.readouterr().out
    plain = trained(3, tmp_path / "plain", *LINEAR, "--steps", 12)
    assert found["params_sha256"] == plain["params_sha256"]


@pytest.mark.parametrize(
    ("args", "words"),
    [(["--slow", "2:3"], "rank 2: there is no such rank: name one of 0 to 1"),
     (["--slow", "2"], "2 is no RANK:FACTOR"),
     (["--slow", "1:3", "--sync", "server"], "rank 1: a server.*name one of 0 to 0")],
)  # fmt: skip
def test_who_cannot_be_slow(tmp_path, args, words):
    linear = [word for word in LINEAR if word not in ("--collective", "ring")]
    with pytest.raises(SharedError, match=words):
        trained(2, tmp_path / "run", *linear, *args)

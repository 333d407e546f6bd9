"""Where time goes, rank by rank, and who is late again and again."""

import json

from mpidp.comm import run_ranks
from mpidp.pace import LEAST, TIMES, Laggards, interval
from tests.test_diagnostics import LINEAR, trained


def test_an_interval():
    rate, figures = interval([8, 4], [[2.0, 0.5, 0.25], [4.0, 3.0, 1.0]])
    assert rate == 8 / 2 + 4 / 4
    assert figures == {"seconds_compute_by_rank": [1.5, 1.0], "seconds_waiting_by_rank": [0.25, 1.0]}


def watched(*intervals, workers=None):
    """What is told after each of these intervals."""
    ranks = len(intervals[0])

    def body(comm):
        laggards = Laggards(comm, workers or ranks)
        return [laggards.seen(seconds) for seconds in intervals]

    return run_ranks(ranks, body)[0]


def test_a_rank_that_is_late_again_and_again_is_named_once():
    late, usual = [1.0, 1.0, 1.6], [1.0, 1.0, 1.4]
    assert watched(*[usual] * 9) == [None] * 9
    told = watched(late, late, usual, *[late] * 9)
    assert [i for i, text in enumerate(told) if text] == [2 + TIMES]
    assert "rank 2 on " in told[2 + TIMES] and "1.6 times as long" in told[2 + TIMES]


def test_what_a_machine_does_by_chance_and_what_a_server_does_are_no_lag():
    short = [LEAST, LEAST, 1.9 * LEAST]
    assert watched(*[short] * 9) == [None] * 9
    assert watched(*[[1.0, 1.0, 9.0]] * 9, workers=2) == [None] * 9
    assert watched(*[[1.0]] * 9) == [None] * 9


def test_metrics_have_every_rank_s_seconds(tmp_path):
    facts = trained(3, tmp_path, *LINEAR, "--steps", 20, "--slow", "1:3", "--log-every", 5)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    logged = [line for line in lines if "train_loss" in line]
    assert logged
    for name in ("seconds_compute_by_rank", "seconds_waiting_by_rank"):
        columns = zip(*(line[name] for line in logged), strict=True)
        assert all(abs(sum(column) - all_) < 1e-3 for column, all_ in zip(columns, facts[name], strict=True))

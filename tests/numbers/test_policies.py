"""What becomes of a run in which one rank's numbers go bad in one step: for every strategy, under each policy."""

import json

import pytest

from mpidp.comm.world import SharedError
from mpidp.errors import RunError
from mpidp.strategies import STRATEGIES
from tests.numbers.poison import RANK, STEP, TINY, Told, options_of, poison_a_sample, run, run_until
from tests.runs import CASES

RANKS = 4
ASYNCHRONOUS = [(name, case) for name, case in CASES if name == "onesided" or
                (name == "server" and not {"servers"} == STRATEGIES[name].cases[case].keys())]  # fmt: skip
TOGETHER = [pair for pair in CASES if pair not in ASYNCHRONOUS]


@pytest.mark.parametrize(("name", "case"), CASES)
def test_the_rank_where_it_began_ends_the_run(monkeypatch, tmp_path, name, case):
    poison_a_sample(monkeypatch)
    with pytest.raises(RunError) as error:
        run(RANKS, tmp_path, TINY | options_of(name, case))
    text = str(error.value)
    assert text.startswith(
        f"the loss on rank {RANK} is not finite at step {STEP}: first the input, of sample "
    )
    assert "lower --lr" in text and "samples of this rank: " in text and "\n" not in text


@pytest.mark.parametrize(("name", "case"), TOGETHER)
def test_a_step_is_left_out_by_skipping_and_by_going_back(monkeypatch, tmp_path, name, case):
    """The same bits whichever way, and when a run that went back is stopped after that and resumed."""
    given = TINY | options_of(name, case)
    poison_a_sample(monkeypatch)
    whole, made = run(RANKS, tmp_path / "skip", given | {"on-nonfinite": "skip"}, watch=Told)
    assert whole["skipped"] == [STEP] and whole["skipped_steps"] == 1 and whole["rewinds"] == 0
    assert whole["samples"] == 9 * 12 - 12
    (said,) = made[0].said
    assert said.startswith(
        f"warning: step {STEP} is left out: the loss on rank {RANK} is not finite at step {STEP}"
    )
    if STRATEGIES[name].replicated:
        for one in made[: whole["workers"]]:
            assert one.bits[STEP] == one.bits[STEP - 1] != one.bits[STEP + 1]
    logged = [json.loads(line) for line in (tmp_path / "skip" / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["skipped_steps"]) for line in logged] == [(4, 0), (8, 1), (9, 1)]

    back = given | {"on-nonfinite": "rewind", "checkpoint-every": 3}
    run_until(8, RANKS, tmp_path / "back", back)
    again, _ = run(RANKS, tmp_path / "back", {"checkpoint-every": 3}, resume=True)
    assert again["resumed_from"] == 6 and again["skipped"] == [STEP] and again["rewinds"] == 1
    for key in ("params_sha256", "train_loss", "validation_loss"):
        assert again[key] == whole[key]


@pytest.mark.parametrize(("name", "case"), ASYNCHRONOUS)
@pytest.mark.parametrize("policy", [{"on-nonfinite": "skip"}, {"on-nonfinite": "rewind", "checkpoint-every": 3},
                                    {"dtype": "float16"}], ids=str)  # fmt: skip
def test_ranks_that_run_apart_cannot_leave_a_step_out_together(tmp_path, name, case, policy):
    with pytest.raises(SharedError, match=rf"leave a step out together.*--sync {name} as it is set here"):
        run(RANKS, tmp_path, TINY | options_of(name, case) | policy)

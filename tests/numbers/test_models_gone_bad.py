"""Models that become infinite, and runs that cannot be saved by leaving steps out."""

import numpy as np
import pytest

from mpidp.building import Job
from mpidp.checkpoint import complete
from mpidp.config import resolve
from mpidp.errors import RunError, UserError
from mpidp.progress import Progress
from tests.numbers.poison import RANK, STEP, TINY, Told, poison_a_sample, run

ONE = TINY | {"collective": "ring"}
HIDDEN = 20  # of the parameters: a bias, whose ReLU hides from the loss that it is -inf


def spoilt_after(step, times=1):
    """A progress by which a parameter of every rank is infinite after this step, the first so many times."""
    left = [times] * 8

    class Spoilt(Told):
        def step(self, made, loss):
            super().step(made, loss)
            rank = self.job.comm.rank
            if made.t == step and left[rank]:
                left[rank] -= 1
                self.checkpoints.finish()
                self.job.strategy.params[HIDDEN] = -np.inf

    return Spoilt


@pytest.mark.parametrize("sync", ["allreduce", "sharded", "averaging", "gossip"])
def test_an_infinite_model_is_seen_at_the_next_step_and_never_saved(tmp_path, sync):
    with pytest.raises(
        RunError, match=r"the model on rank \d is not finite at step 7: the parameter layers.0.bias"
    ):
        run(3, tmp_path, ONE | {"sync": sync, "checkpoint-every": 3}, watch=spoilt_after(6))
    assert [path.name for path in complete(tmp_path / "checkpoints")] == ["step-00000003"]


def test_state_that_is_not_finite_is_not_saved(tmp_path, capsys):
    """Also where the model itself goes on: an infinite mean square leaves a parameter as it is."""

    class Spoilt(Told):
        def step(self, made, loss):
            super().step(made, loss)
            if made.t == 4 and self.job.comm.rank == 1:
                self.job.strategy.optimizer.state()["square"][2] = np.inf

    given = {name: value for name, value in ONE.items() if name != "momentum"} | {"optimizer": "adamw"}
    facts, _ = run(2, tmp_path, given | {"sync": "averaging", "checkpoint-every": 3}, watch=Spoilt)
    assert [path.name for path in complete(tmp_path / "checkpoints")] == ["step-00000003"]
    assert (facts["checkpoints_written"], facts["checkpoints_failed"]) == (1, 2)
    said = capsys.readouterr().out
    assert "no checkpoint at step 6: rank 1: state.optimizer.square is not finite; training goes on" in said


def test_an_infinite_model_is_no_result(tmp_path):
    with pytest.raises(RunError, match=r"the merged model is not finite: the parameter layers.0.bias"):
        run(2, tmp_path, ONE, watch=spoilt_after(9))
    assert not (tmp_path / "model.safetensors").exists() and not (tmp_path / "summary.json").exists()


def test_of_an_infinite_model_the_update_before_is_left_out(tmp_path):
    given = ONE | {"on-nonfinite": "rewind", "checkpoint-every": 3}
    facts, made = run(3, tmp_path / "spoilt", given, watch=spoilt_after(5))
    assert facts["skipped"] == [5] and facts["rewinds"] == 1
    assert "to leave step 5 out: the model on rank 0 is not finite at step 6" in made[0].said[0]
    with pytest.raises(RunError, match="leaving steps out does not mend that"):
        run(3, tmp_path / "skip", ONE | {"on-nonfinite": "skip"}, watch=spoilt_after(5))


def test_limits(monkeypatch, tmp_path):
    """Where every batch is bad from some step on."""
    batch = Job.batch

    def bad(job, t):
        step, x, y, slots = batch(job, t)
        return step, x if t < STEP or job.comm.rank != RANK else x * np.nan, y, slots

    monkeypatch.setattr(Job, "batch", bad)
    with pytest.raises(RunError, match=r"at step 7: .*; 2 steps before it were left out, one after another"):
        run(2, tmp_path / "skip", ONE | {"on-nonfinite": "skip", "max-skips": 2})
    with pytest.raises(
        RunError, match=r"at step 6: .*; the run has gone back 1 times before \(--max-rewinds\)"
    ):
        run(2, tmp_path / "back", ONE | {"on-nonfinite": "rewind", "checkpoint-every": 3, "max-rewinds": 1})


def test_steps_in_a_row_are_counted_anew_after_a_good_one(monkeypatch, tmp_path):
    for step in (2, 4, 6):
        poison_a_sample(monkeypatch, step)
    facts, _ = run(2, tmp_path, ONE | {"on-nonfinite": "skip", "max-skips": 1})
    assert facts["skipped"] == [2, 4, 6]


def test_back_to_the_very_beginning(monkeypatch, tmp_path):
    poison_a_sample(monkeypatch, 1)
    facts, _ = run(2, tmp_path, ONE | {"on-nonfinite": "rewind", "checkpoint-every": 4})
    assert facts["skipped"] == [1] and facts["validation_loss"] < facts["validation_loss_before"]


@pytest.mark.parametrize(
    "given", [{"lr": 1e30}, {"lr": 1e30, "clip": 1.0}, {"lr": 3e38, "optimizer": "adamw"}], ids=str
)
def test_a_learning_rate_beyond_all_limits_is_one_line(tmp_path, given):
    options = {name: value for name, value in ONE.items() if name != "momentum"} | given
    with pytest.raises(RunError, match=r"on rank \d is not finite at step 2: first .*lower --lr"):
        run(2, tmp_path, options)


def test_held_out_samples_that_overflow_are_named(tmp_path):
    class Far(Progress):
        def begin(self, done, scores):
            super().begin(done, scores)
            self.job.data.validation.x[-1] = np.inf

    with pytest.raises(
        RunError, match=r"the validation loss at step 4 is not finite: first the input of layers.0"
    ):
        run(2, tmp_path, ONE | {"eval-every": 4}, watch=Far)


MISTAKES = {
    "skips without skip": ({"max-skips": 3}, "--max-skips 3 is used by --on-nonfinite skip"),
    "rewinds without rewind": ({"max-rewinds": 3, "on-nonfinite": "skip"}, "this run has --on-nonfinite skip"),
    "nowhere to go back to": ({"on-nonfinite": "rewind"}, "give --checkpoint-every N"),
    "no policy": ({"on-nonfinite": "hope"}, "no such name"),
    "scale of float32": ({"loss-scale": "dynamic"}, "--loss-scale dynamic is used by --dtype float16"),
    "no power": ({"loss-scale": "1000", "dtype": "float16"}, "power of two"),
    "no number": ({"loss-scale": "big", "dtype": "float16"}, "--loss-scale big: must be dynamic"),
    "not a number": ({"loss-scale": "nan", "dtype": "float16"}, "power of two"),
    "infinite": ({"loss-scale": "inf", "dtype": "float16"}, "power of two"),
    "below 1": ({"loss-scale": "0.5", "dtype": "float16"}, "from 1 to 16777216"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes(mistake):
    given, words = MISTAKES[mistake]
    with pytest.raises(UserError) as error:
        resolve(ONE | given, {})
    assert words in str(error.value)

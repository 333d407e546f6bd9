"""What a stranger does to the programs: each mistake is one line and exit code 2, and nothing is ignored."""

import json
import os
import shutil
import sys

import numpy as np
import pytest

from tests.launch import run_alone, run_program, run_ranks
from tests.test_train import TINY_GPT, error_line, summary, train

LINEAR = ["--model", "linear", "--samples", 60, "--batch-size", 20, "--steps", 6, "--checkpoint-every", 2]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mistakes") / "run"
    run_alone(train(*LINEAR, "--run-dir", folder)).check()
    return folder


TOO_MUCH = {
    "samples": (["--model", "linear", "--samples", 10**12], "--data synthetic-regression: too much for"),
    "layers": (["--layers", 1_000_000], "--layers 1000000: must be at most 10000"),
    "nothing for a path": (["--data", ""], "no such data source or file"),
}


@pytest.mark.parametrize("mistake", TOO_MUCH)
def test_too_much_is_refused_at_once(mistake, tmp_path):
    args, words = TOO_MUCH[mistake]
    finished = run_alone(train(*args), cwd=tmp_path)
    assert words in error_line(finished)
    assert finished.seconds < 20 and list(tmp_path.iterdir()) == []


def test_buffers_beyond_the_free_memory_are_refused(tmp_path):
    """Asked of a machine that has 256 MiB left."""
    small = (
        "import sys, mpidp.memory as b; b.memory_available = lambda: 1 << 28;"
        "from mpidp.train import main; sys.exit(main())"
    )
    many = ["-c", small, "--batch-size", "250", "--steps", "1", "--layers", "2"]
    assert "250 sample(s) of 128 at a time: its buffers" in error_line(run_alone(many, cwd=tmp_path))
    assert list(tmp_path.iterdir()) == []
    run_alone([*many, "--micro-batch", "8", "--eval-every", "1"], cwd=tmp_path).check()


def test_resume_with_fewer_steps_than_are_done(run):
    before = (run / "config.toml").read_text()
    assert "6 steps behind it" in error_line(run_alone(train("--resume", "--run-dir", run, "--steps", 5)))
    assert (run / "config.toml").read_text() == before


def test_resume_with_other_data_under_the_same_name(tmp_path):
    values = np.random.default_rng(0).normal(size=(60, 3))
    args = ["--model", "linear", "--data", tmp_path / "table.npy", "--batch-size", 20, "--steps", 4]
    np.save(tmp_path / "table.npy", values)
    run_alone(train(*args, "--checkpoint-every", 2, "--run-dir", tmp_path / "run")).check()
    np.save(tmp_path / "table.npy", -3 * values[::-1])
    finished = run_alone(train("--resume", "--run-dir", tmp_path / "run", "--steps", 6))
    assert "is not what" in error_line(finished)


def test_resume_refuses_a_preset_of_another_run(run):
    refused = error_line(run_alone(train("--resume", "--run-dir", run, "--preset", "digits-mlp")))
    assert "was started with --data synthetic-regression, not digits" in refused


def test_resume_takes_the_length_that_a_preset_gives(tmp_path):
    """As one option does; and the preset that the run was started with is no change."""
    args = ["--preset", "linear-regression", "--samples", 60, "--batch-size", 20]
    run_alone(train(*args, "--steps", 4, "--checkpoint-every", 2, "--run-dir", tmp_path / "run")).check()
    again = run_alone(
        train("--resume", "--run-dir", tmp_path / "run", "--preset", "linear-regression", "--json")
    )
    assert summary(again)["resumed_from"] == 4


def test_a_run_without_checkpoints_says_what_can_be_done(tmp_path):
    run_alone(train("--model", "linear", "--epochs", 1, "--run-dir", tmp_path / "run")).check()
    line = error_line(run_ranks(2, train("--resume", "--run-dir", tmp_path / "run")))
    assert "name another --run-dir" in line and "rank 0" not in line


def test_numbers_of_a_file_that_are_none(tmp_path):
    (tmp_path / "options.toml").write_text("lr = nan\n")
    assert "lr = nan: must be a finite number" in error_line(
        run_alone(train("--config", tmp_path / "options.toml"))
    )


def test_columns_whose_squares_overflow(tmp_path):
    table = np.random.default_rng(0).normal(size=(60, 3)) * [1e200, 1, 1]
    np.save(tmp_path / "table.npy", table)
    line = error_line(run_alone(train("--model", "linear", "--data", tmp_path / "table.npy"), cwd=tmp_path))
    assert "overflow: rescale them" in line


def test_any_seed_will_do(tmp_path):
    args = ["--model", "mlp", "--data", "synthetic-classes", "--dropout", 0.5, "--epochs", 1, "--seed", 2**70]
    run_alone(train(*args), cwd=tmp_path).check()


def test_prompts_and_temperatures(tmp_path):
    run_alone(train(*TINY_GPT, "--run-dir", tmp_path / "gpt")).check()
    generate = ["-m", "mpidp.generate", "--run", tmp_path / "gpt", "--tokens", "3"]
    assert "a\\udcff: not valid UTF-8" in error_line(run_alone([*generate, "--prompt", "a\udcff"]))
    cold = run_alone([*generate, "--temperature", "1e-320"]).check().stdout
    assert cold == run_alone([*generate, "--temperature", "0"]).check().stdout


def test_evaluate_names_its_own_option(tmp_path):
    line = error_line(run_alone(["-m", "mpidp.evaluate", "--run", tmp_path]))
    assert "--config" not in line and "no such file" in line


def test_evaluation_takes_no_more_samples_at_a_time_than_training(tmp_path):
    """--micro-batch is there to save memory."""
    spy = (
        "import sys; from mpidp.nn import Model; sizes = set(); plan = Model._plan\n"
        "Model._plan = lambda self, shape: (sizes.add(shape[0]), plan(self, shape))\n"
        "from mpidp.train import main; code = main(sys.argv[1:]); print(sorted(sizes)); sys.exit(code)"
    )
    args = ["--model", "linear", "--samples", 60, "--batch-size", 20, "--epochs", 1, "--micro-batch", 4]
    finished = run_alone(["-c", spy, *map(str, args)], cwd=tmp_path).check()
    assert max(json.loads(finished.stdout.splitlines()[-1])) == 4


def test_a_last_step_too_far_is_an_error_and_no_model(tmp_path):
    """The loss of a step is that before it, so that only the validation loss tells of the last one."""
    far = ["--model", "linear", "--lr", "1e38", "--steps", "1", "--json", "--run-dir", tmp_path / "run"]
    finished = run_ranks(2, train(*far))
    assert finished.returncode == 1 and "Traceback" not in finished.stderr
    assert finished.stderr.count("validation loss of the merged model is") == 1
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_metrics_that_something_else_spoilt(tmp_path):
    run_alone(train(*LINEAR, "--log-every", 2, "--run-dir", tmp_path / "run")).check()
    metrics = tmp_path / "run" / "metrics.jsonl"
    metrics.write_text(metrics.read_text() + '{"loss": 1}\n[3]\nspoilt}\n')
    run_alone(train("--resume", "--run-dir", tmp_path / "run", "--steps", 8)).check()
    assert [json.loads(line)["step"] for line in metrics.read_text().splitlines()] == [2, 4, 6, 8]


@pytest.mark.parametrize("sync", ["none", "allreduce", "averaging"])
def test_parts_of_the_time_are_parts_of_the_steps(tmp_path, sync):
    """What starting and merging cost is no part of a step: without steps there is nothing to divide."""
    args = [*LINEAR, "--sync", sync, "--run-dir", tmp_path / "run"]
    run_ranks(2, train(*args)).check()
    finished = run_ranks(2, train(*args, "--resume", "--json"))
    facts = summary(finished)
    assert [facts[f"seconds_{part}"] for part in ("compute", "communication", "waiting")] == [0, 0, 0]
    assert "0 steps in 0.0 s" in finished.stdout
    longer = summary(run_ranks(2, train(*args, "--resume", "--steps", 12, "--json")))
    assert longer["seconds_compute"] > 0 and longer["seconds_communication"] >= 0


def test_paths_that_are_no_text(tmp_path):
    line = error_line(run_alone(train("--model", "linear", "--run-dir", "run\udcff"), cwd=tmp_path))
    assert "run\\udcff: not valid UTF-8" in line
    assert list(tmp_path.iterdir()) == []


def test_the_users_own_folder(tmp_path):
    """A shell leaves ~ as it is behind an = and in a file of options."""
    home = {"HOME": str(tmp_path)}
    args = train("--model", "linear", "--epochs", 1, "--checkpoint-every", 5, "--run-dir", "~/run")
    run_alone(args, env=home).check()
    assert (tmp_path / "run" / "model.safetensors").exists()
    run_alone([*args, "--resume"], env=home).check()
    run_alone(["-m", "mpidp.evaluate", "--run", "~/run"], env=home).check()
    assert "~nobody-of-this-name" in error_line(run_alone(train("--data", "~nobody-of-this-name/x")))


def test_a_terminal_that_lacks_characters(tmp_path):
    latin = {"PYTHONIOENCODING": "latin-1", "PYTHONUTF8": "0"}
    args = train("--model", "linear", "--epochs", 1, "--run-dir", tmp_path / "run", "--json")
    finished = run_program([sys.executable, *args], 60, env=latin)
    assert " ? " in finished.check().stdout


@pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("setpriv"), reason="needs root, to do without its powers"
)
def test_a_run_directory_that_may_not_be_looked_into(tmp_path):
    (tmp_path / "closed").mkdir(mode=0)
    bound = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", sys.executable]
    for more in ([], ["--resume"]):
        args = train("--model", "linear", "--run-dir", tmp_path / "closed" / "run", *more)
        assert "Permission denied" in error_line(run_program([*bound, *args], 60))

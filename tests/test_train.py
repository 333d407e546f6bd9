"""The train program as people start it: real ranks, exit codes, files."""

import json
import sys
import tomllib
from pathlib import Path

import pytest

from tests.crash import failing
from tests.launch import find_mpiexec, run_alone, run_program, run_ranks

TINY_GPT = ["--layers", 1, "--heads", 2, "--width", 32, "--context", 32, "--batch-size", 16, "--steps", 12]
# Where bits are compared the route is named: `auto` may take another from one run to the next.
SYNCS = {
    "allreduce": ["--collective", "ring"],
    "auto": [],
    "library": ["--collective", "mpi"],
    "shared": ["--collective", "shared"],
    "sharded": ["--sync", "sharded", "--collective", "shared"],
    "server": ["--sync", "server"],
    "servers": ["--sync", "server", "--servers", "2"],
    "asynchronous server": ["--sync", "server", "--consistency", "asynchronous"],
    "onesided": ["--sync", "onesided"],
    "averaging": ["--sync", "averaging", "--period", "3"],
    "diloco": [
        "--sync",
        "averaging",
        "--collective",
        "ring",
        "--period",
        "3",
        "--outer",
        "sgd",
        "--sync-steps",
        "2",
    ],
    "none": ["--sync", "none", "--collective", "ring"],
}
KEYS = {
    "model", "sync", "collective", "compress", "ranks", "workers", "steps", "samples", "seconds", "samples_per_second",
    "train_loss", "validation_loss", "bytes_sent", "messages_sent", "seconds_compute", "seconds_communication",
    "params_sha256", "resumed_from",
}  # fmt: skip


def train(*args):
    return ["-m", "mpidp.train", *map(str, args)]


def summary(finished) -> dict:
    return json.loads(finished.check().stdout.splitlines()[-1])


def error_line(finished) -> str:
    """The one line of a user's mistake; the test fails where there is more, or a traceback."""
    lines = [line for line in finished.stderr.splitlines() if "mpidp: error:" in line]
    assert finished.returncode == 2 and len(lines) == 1, str(finished)
    assert "Traceback" not in finished.stdout + finished.stderr, str(finished)
    return lines[0]


@pytest.mark.parametrize("sync", SYNCS)
def test_gpt_on_four_ranks(tmp_path, sync):
    run = tmp_path / "run"
    finished = run_ranks(4, train(*TINY_GPT, *SYNCS[sync], "--run-dir", run, "--json"))
    facts = summary(finished)
    assert (facts["collective"] is None) == ("server" in sync or sync == "onesided")
    missing = KEYS - facts.keys()
    assert not missing
    assert facts["validation_loss"] < facts["validation_loss_before"] - 0.05
    assert facts["ranks"] == 4 and facts["samples"] == 12 * 16
    assert len(facts["bytes_sent"]) == len(facts["messages_sent"]) == 4
    assert sum(facts["shard_sizes"]) > 0 and len(facts["shard_sizes"]) == facts["workers"]
    assert facts["tokens_per_second"] == pytest.approx(32 * facts["samples_per_second"])
    assert json.loads((run / "summary.json").read_text()) == facts
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [10, 12]
    options = tomllib.loads((run / "config.toml").read_text())
    assert options["sync"] == facts["sync"] and options["layers"] == 1
    assert (run / "model.safetensors").stat().st_size > 4 * facts["parameters"]
    assert finished.stderr == ""


@pytest.mark.parametrize("sync", ["allreduce", "sharded", "server", "averaging", "none"])
def test_linear_regression_reaches_least_squares(tmp_path, sync):
    facts = summary(
        run_ranks(
            4, train("--model", "linear", *SYNCS[sync], "--run-dir", tmp_path / "run", "--json"), timeout=100
        )
    )
    assert facts["data"] == "synthetic-regression" and facts["epochs"] == 100
    assert facts["shard_sizes"] == ([250] * 4 if sync != "server" else [330, 330, 340])
    assert facts["weight_error"] < (5e-4 if sync != "none" else 5e-3)


def test_one_rank_without_mpirun(tmp_path):
    facts = summary(run_alone(train(*TINY_GPT, "--run-dir", tmp_path / "run", "--json")))
    assert facts["ranks"] == 1 and facts["bytes_sent"] == [0]


def test_one_rank_without_any_mpi(tmp_path):
    """mpi4py is there, as it always is, but no MPI library that it could open."""
    program = (
        "import sys, types\n"
        "broken = types.ModuleType('mpi4py')\n"
        "broken.__path__, broken.__version__ = [], '4'\n"
        "broken.rc = types.SimpleNamespace()\n"
        "sys.modules['mpi4py'] = broken\n"
        "from mpidp.train import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    args = [*TINY_GPT, "--run-dir", tmp_path / "run", "--json"]
    assert summary(run_alone(["-c", program, *map(str, args)]))["ranks"] == 1
    alone = run_alone(["-c", program, *map(str, args)], env={"PMI_SIZE": "4", "PMI_RANK": "0"})
    assert "cannot load an MPI library" in error_line(alone) and "mpidp[mpich]" in error_line(alone)


def test_the_same_model_however_many_ranks(tmp_path):
    """The order of samples does not depend on P: losses agree, bits of course need not."""
    losses = []
    for ranks in (1, 3):
        args = train(*TINY_GPT, "--dtype", "float64", "--run-dir", tmp_path / str(ranks), "--json")
        losses.append(summary(run_ranks(ranks, args))["validation_loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-10)


@pytest.mark.parametrize("sync", ["allreduce", "sharded", "servers", "diloco", "none"])
def test_resuming_gives_the_same_bits(tmp_path, sync):
    """Stopped by a crash after step 8 of 12, with dropout, clipping and an optimizer that has state."""
    args = [
        *TINY_GPT,
        *SYNCS[sync],
        "--checkpoint-every",
        4,
        "--dropout",
        0.1,
        "--clip",
        0.5,
        "--log-every",
        1,
        "--json",
    ]
    whole = summary(run_ranks(4, train(*args, "--run-dir", tmp_path / "whole")))
    crash = failing("raise ZeroDivisionError", step=10, rank=2)
    cut = run_ranks(4, ["-c", crash, *map(str, args), "--run-dir", tmp_path / "cut"])
    assert cut.returncode != 0 and "Traceback" in cut.stderr
    again = summary(run_ranks(4, train(*args, "--run-dir", tmp_path / "cut", "--resume")))
    assert again["resumed_from"] == 8
    for name in ("params_sha256", "validation_loss", "validation_loss_before", "train_loss"):
        assert again[name] == whole[name]
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")


def losses(run: Path) -> list:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["train_loss"]) for line in lines]


MISTAKES = {
    "a name": (["--model", "gtp"], "did you mean gpt"),
    "an option": (["--perid", "3"], "did you mean --period"),
    "an option of another choice": (["--period", "3"], "--period is used by --sync averaging"),
    "a number": (["--lr", "fast"], "--lr fast: must be a number"),
    "a range": (["--sync", "averaging", "--period", "0"], "--period 0: must be at least 1"),
    "a route that is not used": (["--sync", "server", "--collective", "ring"], "messages of its own"),
    "too many servers": (["--sync", "server", "--servers", "3"], "needs a worker"),
    "batch below workers": (["--batch-size", "2"], "less than the 3 workers"),
    "workers above samples": (
        ["--model", "linear", "--samples", "2", "--features", "1", "--batch-size", "3"],
        "2",
    ),
    "no such data": (["--data", "nothing-here"], "no such data source"),
    "no such path": (["--data", "no/such/file.txt"], "no/such/file.txt"),
    "data of another kind": (["--model", "cnn", "--data", "synthetic-regression"], "--model cnn"),
    "vocabulary": (["--vocabulary", "50"], "token ids up to 255"),
    "memory": (["--layers", "100", "--width", "12288", "--heads", "96"], "GiB"),
    "both lengths": (["--steps", "3", "--epochs", "1"], "give one"),
    "resume what": (["--resume"], "--run-dir"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_2(mistake, tmp_path):
    args, words = MISTAKES[mistake]
    finished = run_ranks(3, train(*args), cwd=tmp_path)
    assert words in error_line(finished)
    assert finished.seconds < 20
    assert list(tmp_path.iterdir()) == []  # nothing is begun


def test_options_that_differ_between_ranks(tmp_path):
    """Also options of one rank that are wrong: the others must not wait for it."""
    for first, odd, words in [
        (["--lr", "0.1"], ["--lr", "0.2"], "rank 2 has --lr = '0.2', but rank 0 has '0.1'"),
        ([], ["--seed", "1"], "rank 2 has --seed = '1', but rank 0 has None"),
        ([], ["--lr", "no"], "rank 2"),
        ([], ["--help"], "rank 2 has --help = True"),
    ]:
        one = [sys.executable, *train(*TINY_GPT, *first)]
        other = [sys.executable, *train(*TINY_GPT, *odd)]
        mpiexec = find_mpiexec() or pytest.skip("no mpiexec")
        finished = run_program([mpiexec, "-n", "2", *one, ":", "-n", "1", *other], 60, cwd=tmp_path)
        assert words in error_line(finished)


def test_another_version_on_one_rank():
    one = [sys.executable, *train(*TINY_GPT)]
    older = "import sys, mpidp; mpidp.__version__ = '0.0.1'; from mpidp.train import main; sys.exit(main())"
    mpiexec = find_mpiexec() or pytest.skip("no mpiexec")
    finished = run_program(
        [mpiexec, "-n", "1", *one, ":", "-n", "1", sys.executable, "-c", older, *one[3:]], 60
    )
    assert "rank 1 has the version of mpidp = '0.0.1'" in error_line(finished)


def test_a_launcher_of_another_mpi_is_refused():
    """Open MPI's mpirun sets OMPI_COMM_WORLD_SIZE; MPICH's library would believe that each rank is alone."""
    mpiexec = find_mpiexec() or pytest.skip("no mpiexec")
    version = run_program([mpiexec, "--version"], 20).stdout
    foreign = "OMPI_COMM_WORLD_SIZE" if "HYDRA" in version else "PMI_SIZE"
    finished = run_alone(train(), env={foreign: "4"})
    assert "every rank believes it is alone" in error_line(finished)


def test_a_run_directory_is_not_overwritten(tmp_path):
    args = train("--model", "linear", "--epochs", 1, "--run-dir", tmp_path / "run")
    run_alone(args).check()
    before = (tmp_path / "run" / "summary.json").read_bytes()
    assert "holds a run already" in error_line(run_alone(args))
    assert (tmp_path / "run" / "summary.json").read_bytes() == before


def test_resume_refuses_another_training(tmp_path):
    args = ["--model", "linear", "--epochs", 2, "--checkpoint-every", 5, "--run-dir", tmp_path / "run"]
    run_alone(train(*args)).check()
    refused = run_alone(train(*args, "--resume", "--lr", "0.5"))
    assert "was started with --lr 0.01, not 0.5" in error_line(refused)
    longer = ["--epochs", 3, "--run-dir", tmp_path / "run", "--resume", "--json"]
    assert summary(run_alone(train(*longer)))["resumed_from"] == 20


def test_help_is_given_once():
    finished = run_ranks(3, train("--help")).check()
    assert finished.stdout.count("usage:") == 1
    for words in (
        "what to train:",
        "keeping ranks in step:",
        "--sync averaging:",
        "--period N",
        "--model gpt:",
    ):
        assert words in finished.stdout

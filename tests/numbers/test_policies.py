"""What becomes of a run in which one rank's numbers go bad in one step: for every strategy, under each policy."""

import json
import re

import numpy as np
import pytest

from mpidp.comm import run_ranks
from mpidp.comm.world import SharedError
from mpidp.compression import COMPRESSORS, PLAIN
from mpidp.errors import RunError
from mpidp.strategies import STRATEGIES
from tests.launch import run_ranks as launch
from tests.numbers.poison import RANK, STEP, TINY, Told, options_of, poison_a_sample, run, run_until
from tests.runs import CASES, Run
from tests.test_train import summary

RANKS = 4
# All but where the number of steps that a rank makes is measured.
REPEATABLE = [(name, i) for name, i in CASES if "adapt_steps" not in STRATEGIES[name].cases[i]]
BOTH = {"skip": {"on-nonfinite": "skip"}, "rewind": {"on-nonfinite": "rewind", "checkpoint-every": 3}}


@pytest.mark.parametrize(("name", "case"), CASES)
def test_the_rank_where_it_began_ends_the_run(monkeypatch, tmp_path, name, case):
    left_behind = (
        "backup_workers" in STRATEGIES[name].cases[case]
    )  # it may be any worker, which then has no samples
    poison_a_sample(monkeypatch, rank=None if left_behind else RANK)
    with pytest.raises(RunError) as error:
        run(RANKS, tmp_path, TINY | options_of(name, case))
    text, rank = str(error.value), r"\d" if left_behind else RANK
    assert re.match(
        f"the loss on rank {rank} is not finite at step {STEP}: first the input, of sample ", text
    )
    assert "lower --lr" in text and "samples of this rank: " in text and "\n" not in text


def refused(tmp_path, given):
    """Where ranks run apart, and none can leave a step out."""
    for number, policy in enumerate([*BOTH.values(), {"dtype": "float16"}]):
        with pytest.raises(
            SharedError, match=rf"leave a step out together.*--sync {given['sync']} as it is set here"
        ):
            run(RANKS, tmp_path / str(number), given | policy)


@pytest.mark.parametrize(("name", "case"), REPEATABLE)
def test_a_step_is_left_out_by_skipping_and_by_going_back(monkeypatch, tmp_path, name, case):
    """The same bits whichever way, and when a run that went back is stopped after that and resumed; or refused."""
    given = TINY | options_of(name, case)
    if run_ranks(RANKS, lambda comm: Run(comm, name, case).strategy.why_no_skip)[0]:
        return refused(tmp_path, given)
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

    beginning, _ = run(
        RANKS, tmp_path / "beginning", given | {"on-nonfinite": "rewind", "checkpoint-every": 6}
    )
    run_until(8, RANKS, tmp_path / "back", given | {"on-nonfinite": "rewind", "checkpoint-every": 3})
    again, _ = run(RANKS, tmp_path / "back", {}, resume=True)
    assert again["resumed_from"] == 6
    for facts in (beginning, again):
        assert facts["skipped"] == [STEP] and facts["rewinds"] == 1
        for key in ("params_sha256", "train_loss", "validation_loss"):
            assert facts[key] == whole[key]


@pytest.mark.parametrize("encoding", [name for name in COMPRESSORS if name != PLAIN])
def test_encodings_keep_their_state(monkeypatch, tmp_path, encoding):
    """Residuals, momenta and draws: a step that is left out leaves nothing in them, and going back takes them back."""
    poison_a_sample(monkeypatch)
    given = {name: value for name, value in TINY.items() if name != "momentum"}
    given |= {"onebit-adam": {"optimizer": "adamw", "freeze-after": 2}, "powersgd": {"rank": 1}}.get(
        encoding, {}
    )
    given |= {"compress": encoding, "collective": "pairwise"}
    ways = [
        BOTH["skip"],
        BOTH["rewind"],
        BOTH["rewind"] | {"checkpoint-every": 6},
    ]  # back to 3, and to the beginning
    found = [run(3, tmp_path / str(i), given | options)[0] for i, options in enumerate(ways)]
    assert [facts["skipped"] for facts in found] == [[STEP]] * 3
    assert len({facts["params_sha256"] for facts in found}) == 1


def test_diagnostics_leave_the_step_out(monkeypatch, tmp_path):
    poison_a_sample(monkeypatch)
    given = TINY | {"collective": "ring", "noise-scale": True, "check-replicas": 1}
    found = [run(3, tmp_path / policy, given | options)[0] for policy, options in BOTH.items()]
    for key in ("noise_scale", "gradient_variance", "params_sha256"):
        assert found[0][key] == found[1][key]
    assert np.isfinite(found[0]["gradient_variance"])


PROGRAM = f"""
import os, signal, sys
import numpy as np
from mpidp import train
from mpidp.building import Job
batch = Job.batch
def bad(job, t):
    if t == 8 and job.comm.rank == int(sys.argv[1]) and job.comm.size == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    step, x, y, slots = batch(job, t)
    if t == {STEP} and job.comm.rank == {RANK}:
        x = x.copy()
        x[-1, 0] = np.inf
    return step, x, y, slots
Job.batch = bad
sys.exit(train.main(sys.argv[2:]))
"""
"""Takes the rank that is to be killed in step 8, or -1, before its options."""


def launched(killed, folder, *more):
    given = TINY | {"sync": "sharded", "collective": "shared", "checkpoint-every": 3, "run-dir": folder}
    words = [word for key, value in given.items() for word in (f"--{key}", value)]
    goes_on = {"PRTE_MCA_state_base_recoverable": "1"}  # Open MPI's mpirun, when a rank is killed
    return launch(3, ["-c", PROGRAM, *map(str, [killed, *words, *more]), "--json"], env=goes_on)


def test_on_real_ranks(tmp_path):
    policies = ("abort", "skip", "rewind")
    ends = {policy: launched(-1, tmp_path / policy, "--on-nonfinite", policy) for policy in policies}
    ended = ends["abort"]
    (line,) = [line for line in ended.stderr.splitlines() if "mpidp: error" in line]
    assert (
        ended.returncode == 1
        and f"the loss on rank {RANK} is not finite at step {STEP}: first the input" in line
    )
    assert "Traceback" not in ended.stdout + ended.stderr
    skipped, back = summary(ends["skip"]), summary(ends["rewind"])
    assert skipped["skipped"] == back["skipped"] == [STEP] and back["rewinds"] == 1
    assert skipped["params_sha256"] == back["params_sha256"]


def test_a_step_stays_left_out_when_a_rank_is_lost(tmp_path):
    """The others go on after step 6, and know of step 5."""
    more = ["--on-nonfinite", "skip", "--on-failure", "shrink", "--copy-every", 3]
    facts = summary(launched(2, tmp_path / "run", *more))
    assert facts["ranks"] == 2 and facts["losses"][0]["goes_on_after"] == 6
    assert facts["skipped"] == [STEP] and facts["skipped_steps"] == 1

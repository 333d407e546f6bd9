"""Memory that GPUs share, on the stand-in for CuPy: real ranks map each other's, threads have one address space."""

import json
import os
from pathlib import Path

import pytest

from tests.launch import ROOT, run_alone, run_ranks

STAND_IN = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(Path(__file__).parent)])}
RANKS = ["-m", "tests.device.ranks"]
RUN = ["-m", "mpidp.train", "--steps", 6, "--model", "mlp", "--data", "synthetic-classes", "--device", "cuda"]


@pytest.mark.parametrize(
    ("ranks", "bodies"),
    [
        (2, ["routes", "halves", "unsynchronised", "refused", "given_back", "contracts"]),
        (4, ["routes", "halves", "pieces"]),
    ],
)
def test_real_ranks(ranks, bodies):
    run_ranks(ranks, [*RANKS, *bodies], env=STAND_IN).check()


@pytest.mark.parametrize(
    ("ranks", "bodies"), [(1, ["routes", "halves"]), (3, ["routes", "halves", "unsynchronised", "contracts"])]
)
def test_ranks_that_are_threads(ranks, bodies):
    run_alone([*RANKS, *bodies, "--threads", str(ranks)], env=STAND_IN).check()


def test_over_several_hosts():
    """Threads on two hosts: memory inside each, messages between them."""
    run_alone([*RANKS, "over_hosts", "--threads", "4", "--hosts", "0,0,1,1"], env=STAND_IN).check()


def test_training_says_which_way_it_went(tmp_path):
    found = {}
    for name, env in (("peers", {}), ("staged", {"MPIDP_STAND_IN_IPC": "none"})):
        done = run_ranks(2, [*RUN, "--run-dir", tmp_path / name], env=STAND_IN | env).check()
        found[name] = json.loads((tmp_path / name / "summary.json").read_text()), done.stdout
    summary, said = found["peers"]
    assert "no memory shared" not in said and "staged through page-locked" in said
    summary, said = found["staged"]
    assert "no memory shared between GPUs: rank 0 cannot share events (cudaErrorNotSupported" in said.replace(
        "\n", " "
    )
    assert summary["collective"] not in ("shared", "hierarchical") and not any(summary["shared_bytes"])


def test_the_route_is_refused_where_gpus_share_nothing(tmp_path):
    env = STAND_IN | {"MPIDP_STAND_IN_IPC": "none"}
    done = run_ranks(2, [*RUN, "--run-dir", tmp_path / "run", "--collective", "shared"], env=env)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert (
        "do not reach each other's GPU memory: rank 0 cannot share events (cudaErrorNotSupported"
        in done.stderr
    )


def test_mpi_reads_gpu_memory_where_it_can(tmp_path):
    """It is tried in a run of its own; here a device's addresses are the host's, which any MPI reads."""
    found = {}
    for way in ("direct", "staged"):
        options = ["--device-mpi", way, "--collective", "ring", "--run-dir", tmp_path / way]
        done = run_ranks(2, [*RUN, *options], env=STAND_IN).check()
        found[way] = json.loads((tmp_path / way / "summary.json").read_text()), done.stdout
    (direct, said), (staged, _) = found["direct"], found["staged"]
    assert "messages read and written by MPI in GPU memory" in said
    assert (
        direct["device_messages"] == "direct"
        and not any(direct["staged_bytes"])
        and all(staged["staged_bytes"])
    )
    assert direct["params_sha256"] == staged["params_sha256"]


def test_mpi_is_not_asked_to_read_gpu_memory_that_it_cannot(tmp_path):
    """The trial ends with a crash, and not the run: it says so, and stages; told to read, it is refused."""
    env = STAND_IN | {"MPIDP_STAND_IN_DIRECT": "crash", "MPIR_CVAR_ENABLE_GPU": "1"}
    done = run_ranks(2, [*RUN, "--run-dir", tmp_path / "auto"], env=env).check()
    said = " ".join(done.stdout.split())
    assert (
        "staged through page-locked host memory (MPI says that it reads GPU memory, but a trial of 2 rank"
        in said
    )
    done = run_ranks(2, [*RUN, "--run-dir", tmp_path / "run", "--device-mpi", "direct"], env=env)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "does not read GPU memory: a trial of 2 rank(s) ended with code" in " ".join(done.stderr.split())


def test_the_option_means_nothing_on_the_host(tmp_path):
    done = run_alone(["-m", "mpidp.train", "--device-mpi", "staged", "--run-dir", str(tmp_path / "run")])
    assert done.returncode == 2 and "--device-mpi staged is about messages from GPUs" in done.stderr

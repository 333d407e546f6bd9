"""Which rank gets which GPU, how much of it, and what is said where it does not suffice."""

import json
from pathlib import Path

import pytest

from mpidp.comm import run_ranks as threads
from mpidp.device import CUDA, USABLE, Device, opened, out_of_memory
from mpidp.errors import UserError
from tests.device.test_train import RUN, STAND_IN
from tests.launch import run_alone, run_ranks
from tests.test_train import TINY_GPT, error_line, train

SHORT = [*TINY_GPT, "--context", 16, "--steps", 2, "--validation-fraction", 0.0002]
GPUS = {**STAND_IN, "CUDA_VISIBLE_DEVICES": "0,1"}


def test_ranks_of_a_host_take_its_gpus_in_turn(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    hosts = [0, 0, 0, 1, 1, 2]
    places = threads(6, lambda comm: opened(CUDA, "auto", "float32", comm), hosts=hosts)
    assert [place.about for place in places] == [
        "GPU 0 (stand-in, shared by 2 ranks)", "GPU 1 (stand-in)", "GPU 0 (stand-in, shared by 2 ranks)",
        "GPU 0 (stand-in)", "GPU 1 (stand-in)", "GPU 0 (stand-in)",
    ]  # fmt: skip
    whole = int(USABLE * (2 << 30))
    assert [place.free for place in places] == [whole // 2, whole, whole // 2, whole, whole, whole]


def test_no_gpu_is_visible(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(UserError, match="CUDA_VISIBLE_DEVICES"):
        threads(1, lambda comm: opened(CUDA, "auto", "float32", comm))


def test_what_is_planned_adds_up():
    place = Device(about="GPU 0", free=3 << 30)
    place.require(1 << 30, "vectors", "fewer")
    with pytest.raises(
        UserError, match=r"buffers are 2\.5 GiB, beside the 1\.0 GiB .* than the 3\.0 GiB .* fewer"
    ):
        place.require(2.5 * (1 << 30), "buffers", "fewer")


def test_too_little_memory_is_said_before_the_run_starts(tmp_path):
    run = [
        "--model",
        "gpt",
        "--size",
        "medium",
        "--batch-size",
        "64",
        "--device",
        "cuda",
        "--run-dir",
        tmp_path,
    ]
    line = error_line(run_ranks(2, ["-m", "mpidp.train", *run], env=STAND_IN))
    assert "GiB" in line and "GPU 0 (stand-in, shared by 2 ranks)" in line and not list(tmp_path.iterdir())


def test_too_little_memory_in_the_middle_of_a_run(tmp_path):
    """By an error as CuPy raises it, in the third step of rank 1."""
    script = tmp_path / "run.py"
    script.write_text(
        "import sys\n"
        "from mpidp.building import Job\n"
        "from mpidp.train import main\n"
        "Full = type('OutOfMemoryError', (MemoryError,), {'__module__': 'cupy.cuda.memory'})\n"
        "prepare = Job.prepare\n"
        "def full(job, t):\n"
        "    if t == 4 and job.comm.rank == 1: raise Full('Out of memory allocating 512 bytes.')\n"
        "    prepare(job, t)\n"
        "Job.prepare = full\n"
        "sys.exit(main())\n"
    )
    done = run_ranks(2, [script, *RUN[2:], "--device", "cuda", "--run-dir", tmp_path / "run"], env=STAND_IN)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert (
        "rank 1: its GPU has no memory left: Out of memory allocating 512 bytes: set a smaller" in done.stderr
    )
    assert out_of_memory(MemoryError("the host's"), 0) is None


def test_a_model_is_scored_and_goes_on_on_a_gpu_as_on_the_host(tmp_path):
    run_alone(train(*SHORT, "--run-dir", tmp_path)).check()
    for program, *options in (("evaluate", "--json"), ("generate", "--tokens", 5, "--temperature", 0)):
        words = ["-m", f"mpidp.{program}", "--run", tmp_path, *options]
        host = run_alone(words).check().stdout
        device = run_ranks(2, [*words, "--device", "cuda"], env=GPUS).check().stdout
        if program == "evaluate":
            assert json.loads(device)["loss"] == pytest.approx(json.loads(host)["loss"], rel=1e-5)
        else:
            assert device == host


def test_what_was_trained_on_a_gpu_is_read_on_the_host(tmp_path: Path):
    run_alone([*RUN, "--run-dir", tmp_path, "--device", "cuda"], env=STAND_IN).check()
    summary = json.loads((tmp_path / "summary.json").read_text())
    found = json.loads(run_alone(["-m", "mpidp.evaluate", "--run", tmp_path, "--json"]).check().stdout)
    assert found["loss"] == pytest.approx(summary["validation_loss"], rel=1e-4)

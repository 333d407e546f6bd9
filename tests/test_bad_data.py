"""Whole runs on data that goes bad, and on files larger than memory."""

import io
import os
import struct
import zipfile

import numpy as np
import pytest

from tests.launch import run_alone, run_ranks
from tests.test_train import TINY_GPT, error_line

SPOILING = """
import glob, os, sys, time
import mpidp.building as building
from mpidp.train import main
path, what, batch = sys.argv[1], sys.argv[2], building.Job.batch
def spoiling(self, t):
    if t == 11 and self.comm.rank == 1:
        folder = sys.argv[sys.argv.index("--run-dir") + 1]
        limit = time.monotonic() + 20
        while not glob.glob(folder + "/checkpoints/step-*") and time.monotonic() < limit:
            time.sleep(0.01)
        os.truncate(path, 100) if what == "truncated" else open(path, "ab").write(b"more")
    return batch(self, t)
building.Job.batch = spoiling
sys.exit(main(sys.argv[3:]))
"""


@pytest.mark.parametrize(
    "what, words", [("truncated", "has shrunk from"), ("written to", "was written to since")]
)
def test_a_file_that_changes_in_the_middle_of_a_run(tmp_path, what, words):
    """One line, code 1, nothing that hangs, and how to go on; what was mended, or put back, is gone on with."""
    path, content = tmp_path / "a.txt", b"some text to learn " * 2000
    path.write_bytes(content)
    args = [*map(str, TINY_GPT), "--data", path, "--checkpoint-every", "4", "--run-dir", tmp_path / "run"]
    finished = run_ranks(2, ["-c", SPOILING, path, what, *args])
    lines = [line for line in finished.stderr.splitlines() if "mpidp: error:" in line]
    assert finished.returncode == 1 and "Traceback" not in finished.stderr, str(finished)
    assert words in lines[0] and str(path) in lines[0], str(finished)
    assert f" is kept: mend that, then --resume --run-dir {tmp_path / 'run'}" in lines[0]
    path.write_bytes(content.replace(b"learn", b"spoil"))
    assert "is not what" in error_line(run_ranks(2, ["-m", "mpidp.train", *args, "--resume"]))
    path.write_bytes(content)
    run_ranks(2, ["-m", "mpidp.train", *args, "--resume"]).check()


def test_a_path_that_one_rank_cannot_see(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"some text to learn " * 2000)
    hiding = (
        "import os, sys; rank = int(os.environ.get('PMI_RANK', os.environ.get('OMPI_COMM_WORLD_RANK', 0)))\n"
        "if rank == 2: os.chdir('/')\nfrom mpidp.train import main; sys.exit(main(sys.argv[1:]))"
    )
    finished = run_ranks(
        3, ["-c", hiding, *TINY_GPT, "--data", "./a.txt", "--run-dir", tmp_path / "run"], cwd=tmp_path
    )
    assert "rank 2: a.txt: no such file or folder" in error_line(finished)


# Not ru_maxrss: a process inherits it from the one that started it, here all of pytest.
MEASURED = (
    "import sys; from benchmarks.worker import memory; from mpidp.train import main; code = main(sys.argv[1:])\n"
    "print(int(memory()['peak_mib'])); sys.exit(code)"
)


def peak(path, folder, args):
    """MiB: the most that a run of 3 steps on this data had resident."""
    args = [*args, "--steps", 3, "--data", path, "--run-dir", folder / "run"]
    return int(run_alone(["-c", MEASURED, *args]).check().stdout.splitlines()[-1])


@pytest.mark.parametrize("kind", ["text", "folder", "bin"])
def test_a_file_larger_than_memory_is_trained_on_in_little(tmp_path, kind):
    """64 GiB, all hole (token ids are all looked at, so there it is 1 GiB)."""
    names = {"text": ["a.txt"], "folder": ["a.txt", "b.txt"], "bin": ["a.bin"]}[kind]
    size = 1 << 30 if kind == "bin" else 1 << 36
    for name in names:
        with open(tmp_path / name, "wb") as file:
            file.truncate(size // len(names))
    path = tmp_path / names[0] if len(names) == 1 else tmp_path
    args = [*TINY_GPT, "--validation-fraction", 1e-8, "--split", "random", "--vocabulary", 256]
    assert peak(path, tmp_path, args) < 300


LITTLE = ["--batch-size", 8, "--validation-fraction", 1e-4]


def test_images_larger_than_memory_are_trained_on_in_little(tmp_path):
    """64 GiB of bytes, all hole, of which no more than a batch is read."""
    n, side = 1 << 20, 1 << 8
    with open(tmp_path / "train-images-idx3-ubyte", "wb") as file:
        file.write(struct.pack(">4B3I", 0, 0, 8, 3, n, side, side))
        file.truncate(16 + n * side * side)
    labels = struct.pack(">4BI", 0, 0, 8, 1, n) + bytes([0, 1]) * (n // 2)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(labels)
    assert peak(tmp_path, tmp_path, [*LITTLE, "--model", "logistic"]) < 300


@pytest.mark.parametrize("kind", ["npy", "npz"])
def test_a_table_too_large_to_be_held_is_trained_on_in_little(tmp_path, kind):
    """320 MiB, nearly all hole: all of it is looked at, and so it is no more."""
    n, width = 5 << 16, 128
    header = io.BytesIO()
    shape = (n, width) if kind == "npy" else (n, width, 1, 1)
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": shape})
    path = tmp_path / f"a.{kind}"
    if kind == "npy":
        with open(path, "wb") as file:
            file.write(header.getvalue())
            file.seek(4 * width * 8 - 8, os.SEEK_CUR)
            file.write(struct.pack("<d", 1.5))
            file.truncate(len(header.getvalue()) + n * width * 8)
    else:
        with zipfile.ZipFile(path, "w") as archive, archive.open("x.npy", "w", force_zip64=True) as member:
            member.write(header.getvalue())
            for _ in range(n * width * 8 >> 24):
                member.write(bytes(1 << 24))
        with zipfile.ZipFile(path, "a") as archive, archive.open("y.npy", "w") as member:
            np.save(member, np.arange(n) % 2)
    model = ["--model", "linear" if kind == "npy" else "logistic"]
    assert peak(path, tmp_path, [*LITTLE, *model, "--lr", 1e-3]) < 250

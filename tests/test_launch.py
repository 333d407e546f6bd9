"""The launcher of the other tests: it passes on what ranks do, and ends what does not end."""

import re
import time

import pytest

from tests.launch import marked_processes, run_alone, run_ranks

# Lines are written whole: print, unbuffered, writes them in pieces, between which another rank's may come.
HANG = "import os, time; os.write(1, b'mark %s\\n' % os.environb[b'MPIDP_TEST_LAUNCH']); time.sleep(600)"


def test_output_and_exit_code_come_back():
    result = run_alone(["-c", "import sys; print('out'); print('err', file=sys.stderr); sys.exit(7)"])
    assert (result.returncode, result.stdout, result.stderr) == (7, "out\n", "err\n")
    with pytest.raises(pytest.fail.Exception, match="exit code 7"):
        result.check()


def test_nothing_of_an_outer_launcher_is_passed_on(monkeypatch):
    monkeypatch.setenv("PMI_SIZE", "9")
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "9")
    code = "import os; print(os.environ.get('PMI_SIZE'), os.environ.get('OMPI_COMM_WORLD_SIZE'))"
    assert run_alone(["-c", code]).stdout == "None None\n"
    assert run_alone(["-c", code], env={"PMI_SIZE": "3"}).stdout == "3 None\n"


def test_every_rank_is_started():
    result = run_ranks(3, ["-c", "import os; os.write(1, b'here\\n')"]).check()
    assert result.stdout.split() == ["here"] * 3


@pytest.mark.parametrize("ranks", [None, 2])
def test_a_launch_that_hangs_is_ended_whole(ranks):
    began = time.monotonic()
    with pytest.raises(pytest.fail.Exception, match="after its limit of 4 s") as caught:
        run_alone(["-c", HANG], timeout=4) if ranks is None else run_ranks(ranks, ["-c", HANG], timeout=4)
    assert time.monotonic() - began < 20
    marks = re.findall(r"^mark (\w+)$", str(caught.value), re.MULTILINE)
    assert len(marks) == (ranks or 1) and len(set(marks)) == 1
    assert marked_processes(marks[0]) == []

"""The one command for a GPU: parts that fail or are late stand on the page and stop nobody (nothing is timed here)."""

import os
import subprocess
import sys
import time
from pathlib import Path

from benchmarks import gpu_all
from benchmarks.gpu_all import PARTS, Part
from tests.launch import ROOT


def test_a_part_that_fails_or_is_late_stops_nobody(tmp_path, monkeypatch, capsys):
    write = "import sys, pathlib; pathlib.Path(sys.argv[1]).with_suffix('.md').write_text('| a table |')"
    parts = (
        Part("failing", "that it fails", ("-c", "print('why'); raise SystemExit(3)"), 20),
        Part("late", "that it ends", ("-c", "import time; print('begun', flush=True); time.sleep(60)"), 1),
        Part("good", "that it is shown", ("-c", write, "OUT"), 20),
        Part("other", "what is not asked for", ("-c", ""), 20),
    )
    monkeypatch.setattr(gpu_all, "PARTS", parts)
    began = time.monotonic()
    assert gpu_all.main(["--out", str(tmp_path), "--parts", "failing,late,good"]) == 1
    assert time.monotonic() - began < 15
    text = (tmp_path / "gpu.md").read_text()
    assert "**ended with exit code 3**" in text and "why" in text
    assert "**ended after 1 s, its limit**" in text and "begun" in text
    assert "| a table |" in text and "(done, " in text
    assert "- **other**: what is not asked for" in text
    assert "good: done" in capsys.readouterr().out


def test_what_is_left_when_a_part_is_late_is_ended(tmp_path):
    file = tmp_path / "pid"
    child = f"import os, time; open({str(file)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    assert gpu_all.run([sys.executable, "-c", parent], 2, os.environ).wrong
    state = Path(f"/proc/{file.read_text()}/stat")
    assert not state.exists() or state.read_text().split()[2] == "Z"


def test_the_page_says_what_is_not_measured():
    text = gpu_all.page({}, Path("nowhere"))
    assert all(f"- **{part.name}**" in text for part in PARTS)
    assert "bash benchmarks/gpu_all.sh" in text
    assert sum(part.limit for part in PARTS) <= 630  # the last may be cut short


def test_the_script_says_how_it_is_used():
    script = ROOT / "benchmarks" / "gpu_all.sh"
    done = subprocess.run(["bash", script, "--help"], capture_output=True, text=True, timeout=20)
    assert done.returncode == 0 and "--pack DIR" in done.stdout and "--wheels DIR" in done.stdout

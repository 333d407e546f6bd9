"""What the doctor says of GPUs: one line for each thing, and what to do where it is wrong."""

import pytest

from mpidp import machine
from mpidp.doctor.findings import OK, PROBLEM, WARNING
from mpidp.doctor.gpus import gpus


@pytest.fixture(autouse=True)
def driver(monkeypatch):
    monkeypatch.setattr(machine, "driver_present", lambda: True)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def told(ranks=1):
    return [(finding.status, finding.found, finding.mend) for finding in gpus(ranks)]


def test_all_is_well(cupy, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    (first, versions, _), *each = told(2)
    assert first == OK and versions == f"CuPy {cupy.__version__} for CUDA 13.0; driver for CUDA 13.0"
    assert [(status, text) for status, text, _ in each] == [
        (OK, f"{n}: stand-in, compute capability 9.0, 2.0 GiB of 2.0 GiB free") for n in (0, 1)
    ]


def test_more_ranks_than_gpus(cupy):
    assert told(4)[-1][1].startswith("4 ranks share 1: ")


def test_another_cuda_than_the_driver_s(cupy, monkeypatch):
    monkeypatch.setattr(cupy.cuda.runtime, "driverGetVersion", lambda: 12080)
    ((status, text, mend),) = told()
    assert status == PROBLEM and "is for CUDA 13.0, but the driver knows 12.8 at most" in text
    assert "mpidp[cuda12]" in mend


def test_no_gpu_that_is_visible(cupy, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    ((status, text, mend),) = told()
    assert status == PROBLEM and "CUDA_VISIBLE_DEVICES is ''" in text and "unset it" in mend


def test_little_memory_and_an_old_one(cupy, monkeypatch):
    monkeypatch.setattr(cupy.cuda.Device, "mem_info", (1 << 28, 2 << 30))
    monkeypatch.setattr(cupy.cuda.Device, "compute_capability", "70")
    _, (status, text, mend) = told()
    assert status == WARNING and "256.0 MiB of 2.0 GiB free" in text and "nvidia-smi" in mend
    assert "too old for --dtype bfloat16" in text


def test_a_driver_that_does_not_work(cupy, monkeypatch):
    def fails():
        raise cupy.cuda.runtime.CUDARuntimeError(35, "cudaErrorInsufficientDriver: too old")

    monkeypatch.setattr(cupy.cuda.runtime, "getDeviceCount", fails)
    ((status, text, mend),) = told()
    assert status == PROBLEM and "cudaErrorInsufficientDriver" in text and "nvidia-smi" in mend
    monkeypatch.setattr(machine, "driver_present", lambda: False)
    assert told()[0][0] == WARNING

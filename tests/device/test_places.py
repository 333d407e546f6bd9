"""`--device cuda` where there is no such device, or it will not do: one line that says why and what to do."""

import sys

import pytest

from mpidp.comm import run_ranks
from mpidp.comm.endings import one_line
from mpidp.errors import UserError
from mpidp.train import run

RUN = ["--steps", "1", "--model", "mlp", "--data", "synthetic-classes", "--device", "cuda"]


def refused(folder, *options, ranks=2):
    with pytest.raises(UserError) as refusal:
        run_ranks(ranks, lambda comm: run(comm, [*RUN, *options, "--run-dir", str(folder / "run")]))
    assert not (folder / "run").exists()
    return one_line(refusal.value)


def test_no_cupy(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert "needs CuPy" in (text := refused(tmp_path)) and "pip install 'mpidp[cuda13]'" in text


def test_cupy_without_a_driver(cupy, tmp_path, monkeypatch):
    def missing():
        raise cupy.cuda.runtime.CUDARuntimeError(
            35, "cudaErrorInsufficientDriver: driver version is insufficient"
        )

    monkeypatch.setattr(cupy.cuda.runtime, "getDeviceCount", missing)
    text = refused(tmp_path)
    assert "cudaErrorInsufficientDriver" in text and "is there a driver" in text and "mpidp.doctor" in text


def test_a_cupy_that_cannot_load_its_libraries(tmp_path, monkeypatch):
    (tmp_path / "cupy.py").write_text(
        "raise ImportError('\\n\\nCuPy is not correctly installed.\\n\\nno libnvrtc\\n')"
    )
    for name in [name for name in sys.modules if name.partition(".")[0] == "cupy"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        assert "CuPy is not correctly installed. no libnvrtc" in refused(tmp_path)
    finally:
        sys.modules.pop("cupy", None)


def test_no_gpu(cupy, tmp_path, monkeypatch):
    monkeypatch.setattr(cupy.cuda.runtime, "getDeviceCount", lambda: 0)
    assert "this machine shows no GPU" in refused(tmp_path)


def test_too_little_memory_is_shared_by_the_ranks_on_it(cupy, tmp_path, monkeypatch):
    """20 MiB are enough for a model of 1.3 million parameters and its optimizer on one rank, and not for two."""
    import cupy.cuda as cuda

    monkeypatch.setattr(cuda, "MEMORY", 24 << 20)
    text = refused(tmp_path, "--hidden", "1100,1100", ranks=2)
    assert "GiB that this rank may take of GPU 0 (stand-in, shared by 2 ranks)" in text
    assert "--model mlp has 1," in text
    assert cupy.get_default_memory_pool().get_limit() == int(0.95 * (24 << 20) / 2)


@pytest.mark.parametrize(
    "options, words",
    [
        (["--blas", "mkl"], "--blas mkl multiplies on the host"),
        (["--sync", "sharded", "--stage", "2"], "--stage 1"),
        (["--device", "tpu"], "cpu, cuda"),
        (["--on-failure", "shrink", "--device", "gpu"], "cpu, cuda"),
    ],
)
def test_options_that_mean_nothing_there(cupy, tmp_path, options, words):
    assert words in refused(tmp_path, *options)

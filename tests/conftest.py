"""What all tests share: one BLAS thread, and no silent skipping."""

import os

import pytest

from tests.gpu.trial import missing

pytest.register_assert_rewrite("tests.on_device")  # bodies that two folders run

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")  # read when NumPy is first imported


def pytest_configure(config: pytest.Config) -> None:
    if config.rootpath.name == "mpi":
        # pytest-mpi skips whatever has "mpi" among its keywords, and the root folder's name is one of them.
        raise pytest.UsageError(
            f"a checkout in a folder named 'mpi' has all its tests skipped: rename {config.rootpath}"
        )


@pytest.fixture(autouse=True)
def _gpu_tests_need_a_device(request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("gpu") and (reason := missing()):
        pytest.skip(reason)


@pytest.fixture
def has_device() -> bool:
    """Whether there is a GPU here that the real CuPy can use."""
    return not missing()

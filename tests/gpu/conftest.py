"""In this folder `import cupy` is the real one, on a GPU; where there is none, all is skipped with the reason."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.gpu.trial import missing


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("gpu")


@pytest.fixture(scope="package", autouse=True)
def cupy() -> Iterator[Any]:
    if reason := missing():
        pytest.skip(reason)
    import cupy

    yield cupy

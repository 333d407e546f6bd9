"""Batches that come to the device ahead of their step: the same bits, and none is used that was not asked for."""

import pytest

from tests.device.test_waits import trained
from tests.numbers.poison import TINY

UNEVEN = TINY | {
    "device": "cuda",
    "collective": "ring",
    "batch-size": 16,
    "steps": 9,
}  # the last of 4 batches is short
CASES = {
    "uneven": {},
    "resumed": {"checkpoint-every": 3, "stopped": 5},
    "rewound": {"checkpoint-every": 2, "on-nonfinite": "rewind", "poisoned": True},
}


@pytest.mark.parametrize("case", CASES)
def test_the_same_bits_as_without(tmp_path, case):
    options = UNEVEN | CASES[case]
    ahead = trained(tmp_path / "ahead", 2, options)
    now = trained(tmp_path / "now", 2, options | {"unprepared": True})
    assert ahead["params_sha256"] == now["params_sha256"] and ahead["samples"] == now["samples"]
    if case == "uneven":
        assert (
            ahead["fills"] == now["fills"] == 2 * options["steps"]
        )  # every batch that was prepared was used

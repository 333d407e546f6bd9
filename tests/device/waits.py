"""Training on the stand-in for CuPy, with ranks as threads: `python -m tests.device.waits FOLDER RANKS OPTIONS`.

Prints how often the host waited for the device in each step of each rank, and how the run ended.
"""

import json
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest
from cupy.streams import Stream

from mpidp.comm import run_ranks
from mpidp.config import resolve
from mpidp.errors import RunError
from mpidp.progress import Progress
from mpidp.train import train
from tests.numbers.poison import poison_a_sample

WAITED: Counter[int] = Counter()  # by thread: how often it has learned that the device is done with something
reach = Stream.reach


def counted(stream: Stream, number: int) -> None:
    if number > stream.done:
        WAITED[threading.get_ident()] += 1
    reach(stream, number)


def main(folder: str, ranks: str, options: str) -> None:
    Stream.reach = counted
    given = json.loads(options) | {"run-dir": folder}
    waits: list[list[int]] = [[] for _ in range(int(ranks))]

    class Counting(Progress):
        def step(self, step, loss):
            waits[self.job.comm.rank].append(WAITED.pop(threading.get_ident(), 0))
            super().step(step, loss)
            WAITED.pop(threading.get_ident(), 0)

    with pytest.MonkeyPatch.context() as patch:
        if given.pop("poisoned", False):
            poison_a_sample(patch)
        try:
            facts = run_ranks(
                int(ranks), lambda comm: train(resolve(given, {}), comm, Path(folder), None, Counting)
            )[0]
        except RunError as error:
            facts = {"error": str(error)}
    print(json.dumps({"waits": waits, **facts}))


if __name__ == "__main__":
    main(*sys.argv[1:])

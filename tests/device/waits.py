"""Training on the stand-in for CuPy, with ranks as threads: `python -m tests.device.waits FOLDER RANKS OPTIONS`.

Prints how often the host waited, in each step of each rank, for the stream that computes; how many batches were brought
to the device; and how the run ended. Options of its own: "poisoned", a sample that is no number; "unprepared", no batch
ahead of its step; "stopped", the step behind which the run is cut off, to be resumed at once.
"""

import json
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest
from cupy.streams import Stream, get_current_stream

from mpidp.building import Job
from mpidp.comm import run_ranks
from mpidp.config import resolve
from mpidp.data.feed import Feed
from mpidp.errors import RunError
from mpidp.progress import Progress
from mpidp.train import train
from tests.numbers.poison import poison_a_sample, run, run_until

WAITED: Counter[int] = Counter()  # by thread: how often it has learned how far the stream that computes is
reach = Stream.reach


def counted(stream: Stream, number: int) -> None:
    if number > stream.done and stream is get_current_stream():
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

    fills = []
    with pytest.MonkeyPatch.context() as patch:
        fill = Feed.fill
        patch.setattr("mpidp.progress.sample", lambda job: "")
        patch.setattr(Feed, "fill", lambda feed, indices: fills.append(1) or fill(feed, indices))
        if given.pop("poisoned", False):
            poison_a_sample(patch)
        if given.pop("unprepared", False):
            patch.setattr(Job, "prepare", lambda job, t: None)
        stopped = given.pop("stopped", None)
        try:
            if stopped:
                run_until(stopped, int(ranks), Path(folder), given)
                facts, _ = run(int(ranks), Path(folder), {}, resume=True)
            else:
                facts = run_ranks(
                    int(ranks), lambda comm: train(resolve(given, {}), comm, Path(folder), None, Counting)
                )[0]
        except RunError as error:
            facts = {"error": str(error)}
    print(json.dumps({"waits": waits, "fills": len(fills), **facts}))


if __name__ == "__main__":
    main(*sys.argv[1:])

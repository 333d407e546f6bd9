"""Whether what an input did is allowed: it is taken, or refused in one line; no traceback, no warning, no hang."""

import contextlib
import io
import resource
import signal
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator

from mpidp.comm.endings import one_line
from mpidp.errors import RunError, UserError

SECONDS = 20  # that one input may take
MEMORY = 4 << 30  # bytes of address space that the whole process may take beyond what it has


class Hang(BaseException):
    """An input took longer than `SECONDS`. No `except Exception` of the program swallows it."""


def limit_memory(more: int = MEMORY) -> None:
    """For the rest of this process: what asks for more memory gets a MemoryError."""
    with open("/proc/self/statm", encoding="ascii") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + more, resource.RLIM_INFINITY))


@contextlib.contextmanager
def limited(seconds: float = SECONDS) -> Iterator[None]:
    """Raises Hang inside, where it takes longer."""

    def ring(number, frame):
        raise Hang(f"still at it after {seconds} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def judged(body: Callable[[], None]) -> tuple[str, str]:
    """("accepted", ""), ("refused", the line), or ("defect", what is wrong) of what `body()` did."""
    said = io.StringIO()
    try:
        with warnings.catch_warnings(record=True) as warned, contextlib.redirect_stderr(said), limited():
            warnings.simplefilter("always")
            body()
        outcome, line = "accepted", ""
    except (UserError, RunError) as error:
        outcome, line = "refused", one_line(error)
        if len(line) < 10 or len(line) > 5000 or "Traceback" in line or not line.isprintable():
            return "defect", f"a poor line: {line[:500]!r}"
    except (Exception, SystemExit, Hang) as error:
        place = traceback.format_exception(error)
        return "defect", "".join(place[-6:])[:3000]
    if warned:
        return (
            "defect",
            f"a warning: {warned[0].category.__name__}: {warned[0].message} ({warned[0].filename})",
        )
    if said.getvalue().strip():
        return "defect", f"words on standard error: {said.getvalue()[:500]}"
    return outcome, line


class Tally:
    """How inputs of some kind went."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.defects: list[str] = []

    def add(self, name: str, body: Callable[[], None]) -> None:
        outcome, text = judged(body)
        self.counts[outcome] += 1
        if outcome == "defect":
            self.defects.append(f"{name}\n{text}")

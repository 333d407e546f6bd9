"""One run at a time in a run directory."""

import contextlib
import errno
import fcntl
import json
import os
import socket
import time
from pathlib import Path

from mpidp.errors import UserError

PATIENCE = 2.0  # seconds: a run that is just ending, and is started again

UNABLE = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)
"""What file systems say that know no locks: there, nothing keeps two runs apart."""


class Claim:
    """A run's hold on its directory, as long as this object (or its process) lives.

    It is a lock on the file `.lock`, which the kernel takes back however the process ends, so that none is ever stale;
    what the file says is for the one that is refused. Raises UserError where another run has it, and OSError.
    """

    def __init__(self, folder: Path):
        path = folder / ".lock"
        self.handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        limit = time.monotonic() + PATIENCE
        try:
            while not self.locked():
                said = os.pread(self.handle, 4096, 0)
                if who(said) == ours():  # this process has it already, and goes on in the same directory
                    return
                if time.monotonic() > limit:
                    raise UserError(
                        f"--run-dir {folder}: another run is at work in it ({told(said)}): wait for its end, or name "
                        "another --run-dir"
                    )
                time.sleep(0.1)
            with contextlib.suppress(OSError):  # a full disk: then it says nothing
                os.ftruncate(self.handle, 0)
                os.pwrite(self.handle, json.dumps(ours()).encode(), 0)
        except BaseException:
            self.release()
            raise

    def locked(self) -> bool:
        """Whether it is ours now."""
        try:
            fcntl.flock(self.handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            return error.errno in UNABLE
        return True

    def release(self) -> None:
        if self.handle >= 0:
            os.close(self.handle)
            self.handle = -1

    def __del__(self) -> None:
        if hasattr(self, "handle"):
            self.release()


def ours() -> list[object]:
    """[host, process] of this run's rank 0."""
    return [socket.gethostname(), os.getpid()]


def who(said: bytes) -> object:
    try:
        return json.loads(said)
    except (ValueError, RecursionError):
        return None


def told(said: bytes) -> str:
    """Of whom the file speaks, for a message."""
    match who(said):
        case [str(host), int(pid)]:
            return f"its rank 0 is process {pid} on host {host[:80]}"
        case _:
            return "its rank 0 has left no name"

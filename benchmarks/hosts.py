"""Two hosts on one machine: network namespaces joined by a link of a given rate, and mpirun over both of them.

A host is a network namespace, and whatever is started in it gets host name, System V memory, process ids and /dev/shm
of its own, so that an MPI library finds no way from one host to the other but the link. All of it is gone when the
namespaces are: nothing is left in the machine's own network. Linux, root, `ip`, `tc` and `unshare` are needed.
"""

import os
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import IO

from benchmarks.groups import ROOT, SETTINGS, BenchmarkError, mpirun
from mpidp.comm.probe import library
from mpidp.errors import UserError

ADDRESSES = ("10.77.0.1", "10.77.0.2")
DEVICE = "eth0"
PREFIX = "mpidp"
BURST, LATENCY = "256kb", "20ms"  # what the shaper sends at once, and how long it lets a packet wait
DEVICES = {"UCX_NET_DEVICES": DEVICE, "GLOO_SOCKET_IFNAME": DEVICE}  # and not the loopback
NEEDED = ("ip", "tc", "unshare")

ENTER = """#!/bin/sh
# As ssh does: [options] HOST COMMAND..., the command for a shell there. Whoever is ended takes all with it.
while [ "${1#-}" != "$1" ]; do shift; done
host=$1; shift
exec ip netns exec "%s-$host" unshare --uts --ipc --pid --fork --kill-child --mount-proc sh -c \\
  'hostname "host${0##*.}" && mount -t tmpfs -o mode=1777 tmpfs /dev/shm && exec sh -c "$*"' "$host" "$@"
"""


class Hosts:
    """Both hosts while they are up; `run` starts ranks on them."""

    def __init__(self, name: str, folder: Path):
        self.name = name
        self.script = folder / "enter.sh"
        self.script.write_text(ENTER % name)
        self.script.chmod(0o755)

    def launcher_options(self) -> list[str]:
        """What MPICH's mpirun has to be told beside the hosts."""
        return ["-iface", DEVICE, "-launcher", "ssh", "-launcher-exec", str(self.script)]

    def start(self, command: Sequence[str], output: IO[bytes]) -> "subprocess.Popen[bytes]":
        """Start a command on the first host; when the process that is returned is killed, so is all on both hosts."""
        paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        return subprocess.Popen(
            [str(self.script), ADDRESSES[0], shlex.join(command)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=ROOT,
            env=os.environ | SETTINGS | DEVICES | {"PYTHONPATH": paths},
            start_new_session=True,
        )

    def link(self, state: str) -> None:
        """Take the link down, or up again."""
        tell("ip", "-n", f"{self.name}-{ADDRESSES[1]}", "link", "set", DEVICE, state)

    def kill(self, address: str) -> None:
        """End all that runs on a host, as a loss of power would."""
        pids = tell("ip", "netns", "pids", f"{self.name}-{address}").split()
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)

    def run(self, ranks: Sequence[str], arguments: Sequence[str], timeout: float) -> str:
        """`python ARGUMENTS` on ranks as `placement` lists them; what they printed.

        Raises BenchmarkError where the exit code is not 0 or the time is up; then no process of it is left.
        """
        if "Open MPI" in library().vendor:
            raise UserError(
                "benchmarks.link starts its ranks with MPICH's mpirun: pip install 'mpidp[mpich]'"
            )
        program = mpirun(len(ranks))
        hosts = ",".join(listed(ranks))
        command = [program[0], *self.launcher_options(), "-hosts", hosts, *program[1:], *arguments]
        with tempfile.TemporaryFile() as output:
            process = self.start(command, output)
            late = False
            try:
                process.wait(timeout)
            except subprocess.TimeoutExpired:
                late = True
            finally:
                if process.poll() is None:
                    process.kill()  # `unshare --kill-child`: all of the host's processes end with it
                    process.wait()
            output.seek(0)
            text = output.read().decode(errors="replace")
        if late or process.returncode:
            why = f"were not done after {timeout:g} s" if late else f"ended with code {process.returncode}"
            raise BenchmarkError(f"the ranks on two hosts {why}; their last words:\n{text.strip()[-3000:]}")
        return text


def placement(counts: Sequence[int], cyclic: bool = False) -> list[str]:
    """The address of every rank's host: `counts` ranks of each host, one host after the other or in turn."""
    left, ranks = list(counts), []
    while any(left):
        for i, address in enumerate(ADDRESSES):
            take = min(left[i], 1) if cyclic else left[i]
            ranks += [address] * take
            left[i] -= take
    return ranks


def listed(ranks: Sequence[str]) -> Sequence[str]:
    """Hosts as mpirun wants them: one that is named again after another counts as a third, but it goes round a list."""
    hosts = list(dict.fromkeys(ranks))
    in_turn = all(host == hosts[i % len(hosts)] for i, host in enumerate(ranks))
    return hosts if in_turn else ranks


@contextmanager
def two_hosts(rate: str) -> Iterator[Hosts]:
    """Set them up, joined by a link of `rate` (as tc writes it: 1gbit, 100mbit) each way; taken down at the end.

    Raises UserError where this machine does not allow it. An interruption, SIGTERM included, takes them down too.
    """
    missing = [program for program in NEEDED if shutil.which(program) is None]
    if os.geteuid() != 0 or missing:
        lacks = f"{', '.join(missing)} (apt-get install iproute2)" if missing else "the rights of root"
        raise UserError(f"two hosts on one machine need {lacks}")
    remove_lost()
    name = f"{PREFIX}-{os.getpid()}"
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        with tempfile.TemporaryDirectory(prefix="mpidp-link-") as folder:
            set_up(name, rate)
            yield Hosts(name, Path(folder))
    finally:
        signals = [signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)]
        take_down(name)
        signal.signal(signal.SIGINT, signals[0])
        signal.signal(signal.SIGTERM, before)


def set_up(name: str, rate: str) -> None:
    spaces = [f"{name}-{address}" for address in ADDRESSES]
    for space in spaces:
        tell("ip", "netns", "add", space)
    ends = [["name", DEVICE, "netns", space] for space in spaces]
    tell("ip", "link", "add", *ends[0], "type", "veth", "peer", *ends[1])
    for space, address in zip(spaces, ADDRESSES, strict=True):
        tell("ip", "-n", space, "address", "add", f"{address}/24", "dev", DEVICE)
        for device in ("lo", DEVICE):
            tell("ip", "-n", space, "link", "set", device, "up")
        shape = ["tbf", "rate", rate, "burst", BURST, "latency", LATENCY]
        tell("tc", "-n", space, "qdisc", "add", "dev", DEVICE, "root", *shape)
    tell("ip", "netns", "exec", spaces[0], "unshare", "--uts", "--ipc", "--pid", "--fork", "true")
    limit = time.monotonic() + 10
    while not all("state UP" in tell("ip", "-n", space, "link", "show", DEVICE) for space in spaces):
        if time.monotonic() > limit:
            raise UserError(
                f"this machine does not allow two hosts: the link between {name}'s ends stays down"
            )
        time.sleep(0.05)


def take_down(name: str) -> None:
    """Remove the namespaces; with them go the link and its shaping."""
    for address in ADDRESSES:
        with suppress(OSError):
            subprocess.run(["ip", "netns", "delete", f"{name}-{address}"], capture_output=True, check=False)


def remove_lost() -> None:
    """Take down what runs that were killed have left."""
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=False).stdout
    for line in listed.splitlines():
        prefix, _, rest = line.partition("-")
        pid = rest.partition("-")[0]
        if prefix == PREFIX and pid.isdigit() and not Path(f"/proc/{pid}").exists():
            take_down(f"{PREFIX}-{pid}")


def tell(*command: str) -> str:
    """Run a command; what it printed. Raises UserError, in one line, where it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(f"{command[0]} cannot be run here: {error}") from None
    if done.returncode:
        why = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        raise UserError(f"this machine does not allow two hosts: `{' '.join(command)}` says: {why}")
    return done.stdout


def interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def link_bytes() -> int:
    """Bytes that this host, seen from inside, has sent over the link so far, headers included."""
    return int(Path(f"/sys/class/net/{DEVICE}/statistics/tx_bytes").read_text())


def wait_for_link() -> None:
    """Return when what was handed to the shaper has left: its longest wait."""
    time.sleep(0.02)

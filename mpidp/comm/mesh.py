"""TCP connections between all ranks of a job, beside MPI: who is where, and how they find each other at the start."""

import contextlib
import fcntl
import hmac
import json
import os
import secrets
import socket
import struct
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mpidp.comm.communicator import Communicator

PATIENCE = 15.0  # seconds that the ranks have to reach each other
KNOCK = 3.0  # seconds that one address has to answer
LONGEST_HELLO = 4096  # bytes
UNREACHABLE = 20.0
"""Seconds after which a host that answers nothing any more, its kernel included, counts as lost (a cut link)."""


@dataclass
class Peer:
    """Another rank: where it runs, and the connection to it."""

    rank: int
    host: str
    pid: int
    socket: socket.socket
    out: bytearray = field(default_factory=bytearray)  # what its connection has not taken yet
    read: bytearray = field(default_factory=bytearray)  # of a line whose end is still to come
    heard: float = 0.0  # when it last sent anything
    left: bool = False  # has said goodbye
    ending: str = "ended without a word"  # how it did, as far as its guard could say

    def __str__(self) -> str:
        return f"rank {self.rank} ({self.host}, pid {self.pid})"


def connect(comm: "Communicator") -> list[Peer] | str:
    """Connect this rank with all others: they, in rank order; or, on every rank, why that cannot be.

    Every rank listens while this lasts, tells the others through MPI where, and is called by those behind it. A
    connection counts when it has shown the job's token, which rank 0 makes and MPI carries.
    """
    listener = listen(comm.size)
    here = {"host": socket.gethostname(), "pid": os.getpid(), "net": namespace(), "addresses": addresses()}
    here |= {"port": listener.getsockname()[1], "token": secrets.token_hex(16) if comm.rank == 0 else ""}
    everyone: list[dict[str, Any]] = comm.allgather(here)
    token = everyone[0]["token"]
    found: dict[int, socket.socket] = {}
    deadline = time.monotonic() + PATIENCE
    answering = threading.Thread(
        target=answer, args=(listener, token, range(comm.rank + 1, comm.size), found, deadline), daemon=True
    )
    answering.start()
    failed: str | None = None
    for rank, there in enumerate(everyone[: comm.rank]):
        connection = call(there, here, {"token": token, "from": comm.rank, "to": rank})
        if connection is None:
            where = " or ".join(f"{address}:{there['port']}" for address in there["addresses"])
            failed = (
                f"rank {comm.rank} on {here['host']} cannot reach rank {rank} on {there['host']} at {where}"
            )
            break
        found[rank] = connection
    answering.join(deadline - time.monotonic() if failed is None else 0)
    listener.close()
    if failed is None and len(found) < comm.size - 1:
        missing = next(rank for rank in range(comm.size) if rank != comm.rank and rank not in found)
        failed = (
            f"rank {missing} on {everyone[missing]['host']} did not reach rank {comm.rank} on {here['host']}"
        )
    failures = [text for text in comm.allgather(failed) if text]
    if failures:
        for connection in found.values():
            connection.close()
        return failures[0]
    now = time.monotonic()
    peers = []
    for rank in sorted(found):
        settle(found[rank])
        peers.append(Peer(rank, everyone[rank]["host"], everyone[rank]["pid"], found[rank], heard=now))
    return peers


def listen(size: int) -> socket.socket:
    """A listening socket on a free port of all addresses of this host."""
    if socket.has_dualstack_ipv6():
        with contextlib.suppress(OSError):  # switched off in some kernels
            return socket.create_server(
                ("", 0), family=socket.AF_INET6, backlog=size + 16, dualstack_ipv6=True
            )
    return socket.create_server(("", 0), backlog=size + 16)


def answer(
    listener: socket.socket, token: str, awaited: range, found: dict[int, socket.socket], deadline: float
) -> None:
    """Take the calls of the ranks `awaited`; whoever shows no token is not answered."""
    waiting = set(awaited)
    while waiting and (left := deadline - time.monotonic()) > 0:
        try:
            listener.settimeout(left)
            connection, _ = listener.accept()
            connection.settimeout(KNOCK)
            hello = json.loads(line(connection))
            if not hmac.compare_digest(str(hello["token"]), token) or hello["to"] != awaited.start - 1:
                raise ValueError
            caller = hello["from"]
            connection.sendall(b'{"welcome": %d}\n' % caller)
        except OSError:
            continue
        except (ValueError, KeyError, TypeError):
            connection.close()
            continue
        found[caller] = connection
        waiting.discard(caller)


def call(there: dict[str, Any], here: dict[str, Any], hello: dict[str, Any]) -> socket.socket | None:
    """A connection to the rank that said `there` where it listens, by the first of its addresses that leads to it."""
    same = (there["host"], there["net"]) == (here["host"], here["net"])
    deadline = time.monotonic() + PATIENCE
    for address in [*(["127.0.0.1", "::1"] if same else []), *there["addresses"]]:
        patience = min(KNOCK, deadline - time.monotonic())
        if patience <= 0:
            break
        with contextlib.suppress(OSError, ValueError):
            connection = socket.create_connection((address, there["port"]), patience)
            try:
                connection.sendall(json.dumps(hello).encode() + b"\n")
                if json.loads(line(connection)) == {"welcome": hello["from"]}:
                    return connection
            except (OSError, ValueError):
                pass
            connection.close()
    return None


def line(connection: socket.socket) -> bytes:
    """What comes up to the first line break. Raises OSError where it does not come, ValueError where it is too long.

    Byte by byte, since what is behind it is not ours to read.
    """
    text = b""
    while not text.endswith(b"\n"):
        byte = connection.recv(1)
        if not byte:
            raise ConnectionError("closed")
        text += byte
        if len(text) > LONGEST_HELLO:
            raise ValueError("no hello")
    return text


def settle(connection: socket.socket) -> None:
    """Send at once; and let the kernels find out between them when a host is gone without a word."""
    connection.setblocking(False)
    options = [
        (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 5),
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
        (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, int(UNREACHABLE / 5) - 1),
        (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(UNREACHABLE * 1000)),
    ]
    for level, name, value in options:
        with contextlib.suppress(OSError):
            connection.setsockopt(level, name, value)


def namespace() -> int:
    """The network that this process is in, of those of its host: loopback leads to no other."""
    with contextlib.suppress(OSError):
        return os.stat("/proc/self/ns/net").st_ino
    return 0


def addresses() -> list[str]:
    """The addresses of this host by which another may reach it, the likeliest first."""
    found = [*ipv4(), *ipv6()]
    with contextlib.suppress(OSError):
        found += [entry[4][0] for entry in socket.getaddrinfo(socket.gethostname(), None)]
    outside = [a for a in dict.fromkeys(found) if not a.startswith("127.") and a != "::1"]
    return outside or ["127.0.0.1"]


def ipv4() -> list[str]:
    """That of each network interface which is up (SIOCGIFADDR of netdevice(7))."""
    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            with contextlib.suppress(OSError):  # it has none
                answer = fcntl.ioctl(probe, 0x8915, struct.pack("256s", name.encode()[:15]))
                found.append(socket.inet_ntoa(answer[20:24]))
    return found


def ipv6() -> list[str]:
    """Those that hold beyond one link."""
    found = []
    with contextlib.suppress(OSError):
        for entry in Path("/proc/net/if_inet6").read_text().splitlines():
            address, _, _, scope, *_ = entry.split()
            if scope == "00":
                found.append(socket.inet_ntop(socket.AF_INET6, bytes.fromhex(address)))
    return found

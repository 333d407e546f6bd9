"""What a guard tells the others when its rank has ended."""

import mmap
import os
import socket
import struct

from mpidp.comm.guard import Watch


def connection() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        ours = socket.create_connection(server.getsockname())
        return ours, server.accept()[0]


def test_the_others_hear_how_a_rank_ended_whatever_it_has_not_read():
    """What is unread has a connection reset when it is closed, and what is still to be sent is thrown away then."""
    for _ in range(5):
        ours, theirs = connection()
        line, record = socket.socketpair()[0], mmap.mmap(-1, mmap.PAGESIZE)
        struct.pack_into("q", record, 0, 3)
        for _ in range(3):  # small ones wait for the answer to those before them
            ours.send(b"\n")
        theirs.send(b"\n")
        pid = os.fork()
        if pid == 0:
            theirs.close()
            watch = Watch(1, 0, line, record, 0)
            watch.peers, watch.told = [ours], True
            watch.end(-9)
        ours.close()
        theirs.settimeout(5)
        said = b""
        while text := theirs.recv(4096):
            said += text
        theirs.close()
        os.waitpid(pid, 0)
        assert b"was killed by signal 9" in said

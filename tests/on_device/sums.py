"""Sums over ranks of device arrays, staged through the host: every route and every encoding gives the host's bits."""

import numpy as np
import pytest

from mpidp.arrays import to_host
from mpidp.collectives import COLLECTIVES
from mpidp.collectives.wire import plain_bytes
from mpidp.comm import run_ranks
from mpidp.comm.staging import Pool, StagedCommunicator
from mpidp.compression import COMPRESSORS, Place
from mpidp.nn.layer import Parameter, constant

DTYPES = [np.float32, np.float64]
RANDOM = {"qsgd", "randomk"}
"""Encodings that draw numbers, which a device draws otherwise."""


def on_device(cupy, body):
    """`body(comm, ...)` with the communicator of device arrays in place of the ranks' own."""
    return lambda comm, *rest: body(StagedCommunicator(comm, cupy, Pool(cupy)), *rest)


def unable(cupy, route: str, ranks: int) -> str | None:
    """Why the route cannot be taken for device arrays of so many threads, or None."""
    why = on_device(cupy, lambda comm: COLLECTIVES[route].unable(comm, np.dtype(np.float64)))
    return run_ranks(ranks, why)[0]


def vector(rank: int, n: int, t: int = 0) -> np.ndarray:
    return np.random.default_rng([rank, n, t]).normal(size=n)


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
@pytest.mark.parametrize("name", COLLECTIVES)
def test_every_route_sums(cupy, name, ranks):
    route = COLLECTIVES[name]
    if reason := unable(cupy, name, ranks):
        assert "memory" in reason  # threads of one process cannot open each other's
        return

    def body(comm, n, dtype):
        xp = comm.xp
        buffer = route.allocate(comm, n, np.dtype(dtype))
        found, scratch = [], xp.empty(route.scratch(n, ranks), dtype)
        for t in range(3):
            buffer[...] = xp.asarray(vector(comm.rank, n, t).astype(dtype))
            before = comm.traffic.copy()
            route.allreduce(comm, buffer, scratch)
            sent = comm.traffic - before
            cost = route.cost(n, comm.hosts(), comm.rank, plain_bytes(dtype))
            assert (sent.messages, sent.bytes) == cost
            assert (sent.staged_bytes > 0) == (xp is cupy and sent.bytes > 0)
            found.append(to_host(buffer).copy())
        if route.reduce_scatter is not None:
            mine, whole = route.part(n, ranks, comm.rank), route.allocate_common(comm, n, np.dtype(dtype))
            route.reduce_scatter(comm, buffer, scratch)
            whole[mine] = buffer[mine]
            route.all_gather(comm, whole)
            found.append(to_host(whole))
            comm.Barrier()
        return np.concatenate(found)

    for n in (0, 1, 3, 1001):
        for dtype in DTYPES:
            host = run_ranks(ranks, body, n, dtype)
            device = run_ranks(ranks, on_device(cupy, body), n, dtype)
            for ours, theirs in zip(device, host, strict=True):
                assert (ours == theirs).all()


def parameters() -> list[Parameter]:
    made, at = [], 0
    for i, shape in enumerate([(12, 17), (17,), (7,), (4, 3, 6), (3, 3)]):
        made.append(Parameter(f"p{i}", shape, constant(0.0)))
        made[-1].lo, made[-1].hi = at, at + made[-1].size
        at = made[-1].hi
    return made


@pytest.mark.parametrize("name", [name for name in COMPRESSORS if name != "onebit-adam"])
def test_every_encoding_delivers_what_it_delivers_on_the_host(cupy, name):
    """By every route that takes it; and its state goes to the host and back."""
    encoding, tensors = COMPRESSORS[name], parameters()
    n = tensors[-1].hi

    def make(comm, route):
        place = Place(comm, COLLECTIVES[route], n, np.dtype(np.float64), comm.xp, tensors, 3)
        return encoding.make(place, encoding.Options())

    def body(comm, route):
        summing, found = make(comm, route), []
        for t in range(5):
            if t == 3:
                state = {key: to_host(array).copy() for key, array in summing.state().items()}
                summing = make(comm, route)
                summing.load_state(state)
            buffer = COLLECTIVES[route].allocate(comm, n, np.dtype(np.float64))
            buffer[...] = comm.xp.asarray(vector(comm.rank, n, t))
            before = comm.traffic.copy()
            summing.allreduce(buffer)
            sent = comm.traffic - before
            assert (sent.messages, sent.bytes) == summing.cost(t + 1)
            found.append(to_host(buffer).copy())
        return np.array(found)

    routes = [name for name, route in COLLECTIVES.items() if encoding.unable(route) is None]
    for route in [route for route in routes if unable(cupy, route, 3) is None]:
        host = run_ranks(3, body, route)
        device = run_ranks(3, on_device(cupy, body), route)
        for ours, theirs in zip(device, host, strict=True):
            assert np.isfinite(ours).all()
            assert (ours == device[0]).all()
            if name not in RANDOM:
                np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12)

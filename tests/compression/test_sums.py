"""Sums over ranks in every encoding, by every route that takes it: nothing is lost, all ranks hold the same bits."""

from functools import partial

import numpy as np
import pytest

from mpidp.collectives import COLLECTIVES
from mpidp.comm import Communicator, run_ranks
from mpidp.compression import COMPRESSORS, PLAIN, Place, Sum
from mpidp.nn.layer import Parameter, constant

STEPS = 4
HOSTS = {1: [0], 2: [0, 1], 3: [0, 1, 0], 4: [0, 0, 1, 1]}
LOSSLESS_WITH_RESIDUALS = {"dgc": {"local_momentum": 0.0}}
"""Options under which an encoding delivers the gradient itself, now or later."""
KEEPING = [name for name in COMPRESSORS if name not in (PLAIN, "sign", "onebit-adam")]


def parameters() -> list[Parameter]:
    made, at = [], 0
    for i, shape in enumerate([(12, 17), (17,), (7,), (4, 3, 6), (3, 3)]):
        parameter = Parameter(f"p{i}", shape, constant(0.0))
        parameter.lo, parameter.hi = at, at + parameter.size
        at = parameter.hi
        made.append(parameter)
    return made


PARAMETERS = parameters()
N = PARAMETERS[-1].hi


def able(name: str) -> list[str]:
    return [route for route, one in COLLECTIVES.items() if COMPRESSORS[name].unable(one) is None]


def make(comm: Communicator, name: str, route: str = "pairwise", dtype=np.float64, **options) -> Sum:
    kind = COMPRESSORS[name]
    options = LOSSLESS_WITH_RESIDUALS.get(name, {}) | options
    place = Place(comm, COLLECTIVES[route], N, np.dtype(dtype), np, PARAMETERS, 3)
    return kind.make(place, kind.Options(**options))


def gradient(rank: int, t: int, dtype=np.float64) -> np.ndarray:
    return np.random.default_rng([rank, t]).normal(size=N).astype(dtype)


def parts(summing: Sum) -> list[slice]:
    """Whole tensors, so that matrices stay whole: the tail first, as backward goes."""
    if summing.at_once or not summing.lanes:
        return [slice(0, N)]
    middle = PARAMETERS[2].hi
    return [slice(middle, N), slice(0, middle)]


def loses_nothing(comm: Communicator, name: str, route: str, dtype, tolerance: float) -> None:
    """Σ delivered + Σ_r residuals = Σ_t Σ_r gradients; the traffic is that of the formula; all bits are the same."""
    summing = make(comm, name, route, dtype)
    vector = summing.route.allocate(comm, N, np.dtype(dtype))
    delivered, gradients = np.zeros(N), np.zeros(N)
    for t in range(1, STEPS + 1):
        vector[...] = gradient(comm.rank, t, dtype)
        gradients += sum(gradient(rank, t, dtype).astype(float) for rank in range(comm.size))
        before = comm.traffic.copy()
        for part in parts(summing):
            summing.allreduce(vector[part], part.start)
        sent = comm.traffic - before
        costs = [summing.cost(t, part.stop - part.start, part.start) for part in parts(summing)]
        assert (sent.messages, sent.bytes) == tuple(map(sum, zip(*costs, strict=True)))
        delivered += vector
        comm.Barrier()  # through shared memory: nobody writes its next vector while another still reads
    residuals = comm.allgather(summing.residual.tolist())
    assert len(set(comm.allgather(delivered.tobytes().hex()))) == 1
    assert np.abs(np.sum(residuals, 0)).max() > 0
    assert np.abs(delivered + np.sum(residuals, 0) - gradients).max() <= tolerance * np.abs(gradients).max()


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
@pytest.mark.parametrize("name", KEEPING)
def test_what_is_not_delivered_is_kept(name, ranks):
    for route in able(name):
        hosts = HOSTS[ranks] if route == "hierarchical" else None
        run_ranks(ranks, loses_nothing, name, route, np.float64, 1e-14, hosts=hosts)
    run_ranks(ranks, loses_nothing, name, able(name)[0], np.float32, 1e-6)


def scatters_all(comm: Communicator, name: str, route: str) -> None:
    """The parts that ranks get are together what was to be delivered, with the residuals."""
    summing = make(comm, name, route)
    vector = summing.route.allocate(comm, N, np.dtype(np.float64))
    mine = summing.route.part(N, comm.size, comm.rank)
    missing = np.zeros(N)
    for t in (1, 2, 3):
        vector[...] = gradient(comm.rank, t)
        missing += sum(gradient(rank, t) for rank in range(comm.size))
        before = comm.traffic.copy()
        summing.reduce_scatter(vector)
        sent = comm.traffic - before
        assert (sent.messages, sent.bytes) == summing.scatter_cost(t)
        missing[mine] -= vector[mine]
        comm.Barrier()
    kept = np.sum(comm.allgather(summing.residual.tolist()), 0)
    assert np.abs(missing - kept)[mine].max() <= 1e-13


@pytest.mark.parametrize("name", KEEPING)
def test_owners_of_parts_get_their_sums(name):
    for route in able(name):
        if COLLECTIVES[route].reduce_scatter is not None:
            hosts = [0, 1, 0] if route == "hierarchical" else None
            run_ranks(3, scatters_all, name, route, hosts=hosts)


@pytest.mark.parametrize("name", [name for name in KEEPING if name != "dgc"])
def test_without_error_feedback_nothing_is_kept(name):
    def body(comm):
        summing = make(comm, name, error_feedback=False)
        for t in (1, 2):
            vector = gradient(comm.rank, t)
            summing.allreduce(vector)
        assert summing.residual is None and "residual" not in summing.state()
        return vector

    found = run_ranks(2, body)
    assert found[0].tobytes() == found[1].tobytes()
    exact = gradient(0, 2) + gradient(1, 2)
    assert 0 < np.linalg.norm(found[0] - exact) < (20 if name == "randomk" else 1) * np.linalg.norm(exact)


def resumes(comm: Communicator, name: str, **options) -> None:
    """A sum that takes up the state of another goes on with its bits."""

    def steps(summing: Sum, ts: range) -> np.ndarray:
        for t in ts:
            vector = gradient(comm.rank, t)
            for part in parts(summing):
                summing.allreduce(vector[part], part.start)
        return vector

    summing = make(comm, name, **options)
    steps(summing, range(1, 4))
    saved = {key: array.copy() for key, array in summing.state().items()}
    whole = steps(summing, range(4, 7))
    again = make(comm, name, **options)
    again.load_state(saved)
    assert steps(again, range(4, 7)).tobytes() == whole.tobytes()


@pytest.mark.parametrize("name", [name for name in COMPRESSORS if name not in (PLAIN, "onebit-adam")])
def test_resumed_sums_have_the_same_bits(name):
    options = {"dgc": {"local_momentum": 0.9, "density_warmup": 5}}.get(name, {})
    run_ranks(3, partial(resumes, name=name, **options))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_halves_do_not_overflow_while_they_are_added(dtype):
    """Gradients of 6e4 on each of 4 ranks come divided by 4: added as they are they would be 2.4e5."""

    def body(comm, route, size):
        summing = make(comm, "fp16", route, dtype)
        vector = np.full(N, size / comm.size, dtype)
        summing.allreduce(vector)
        return vector

    for route in able("fp16"):
        for found in run_ranks(4, body, route, 6e4):
            np.testing.assert_allclose(found, 6e4, rtol=2**-11)
        for found in run_ranks(4, body, route, 1e6):  # beyond what a half holds: the rest is kept
            assert (found == 65504).all()


@pytest.mark.parametrize("name", ["fp16", "topk", "sign", PLAIN])
def test_contributions_to_a_server(name):
    """Rank 1 sends its vector in two parts to rank 0, which adds it to nothing: the residual has what is missing."""

    def body(comm):
        bounds, total = [0, 100, N], np.zeros(N)
        cells = [slice(0, 100), slice(100, N)]
        summing = make(comm, name)
        if comm.rank == 1:
            vector = gradient(1, 1)
            wire = summing.outgoing(vector, bounds)
            for part in cells:
                payload = wire.partial(part)
                assert payload.nbytes == summing.nbytes(part.stop - part.start)
                comm.Send(payload, 0)
            return getattr(summing, "residual", None)
        for part in cells:
            landed = summing.landing(total[part])
            comm.Recv(landed, 1)
            summing.decode(landed, total[part])
        summing.settle(total)
        return total

    total, residual = run_ranks(2, body)
    if name == "sign":
        assert (total == np.sign(gradient(1, 1))).all()
    else:
        kept = 0 if residual is None else residual
        np.testing.assert_allclose(total + kept, gradient(1, 1), rtol=1e-14, atol=1e-15)

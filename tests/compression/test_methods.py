"""Encodings that are methods of their own, against what their papers say, written out."""

import numpy as np

from mpidp.comm import Communicator, run_ranks
from mpidp.compression import PLAIN
from mpidp.optim import OPTIMIZERS
from tests.compression.test_sums import PARAMETERS, N, gradient, make


def test_the_majority_decides():
    def body(comm):
        summing, total = make(comm, "sign", local_momentum=0.0), np.zeros(N)
        for t in (1, 2):
            vector = gradient(comm.rank, t)
            summing.allreduce(vector)
            votes = sum(np.sign(gradient(rank, t)) for rank in range(comm.size))
            assert (
                vector
                == (np.sign(votes) if comm.size % 2 else np.where(votes == 0, 3 - 2 * t, np.sign(votes)))
            ).all()
            total += vector
        return total

    for ranks in (1, 2, 3, 4):
        assert len({total.tobytes() for total in run_ranks(ranks, body)}) == 1


def test_signs_are_those_of_the_momentum():
    def body(comm):
        summing, momentum = make(comm, "sign"), np.zeros(N)
        for t in (1, 2, 3):
            vector = gradient(0, t)
            summing.allreduce(vector)
            momentum = 0.9 * momentum + gradient(0, t)
            assert (vector == np.sign(momentum)).all()

    run_ranks(1, body)


def test_random_k_is_unbiased_without_error_feedback():
    draws = 3000

    def body(comm):
        summing, mean, seen = (
            make(comm, "randomk", density=0.1, error_feedback=False),
            np.zeros(N),
            np.zeros(N),
        )
        for _ in range(draws):
            vector = np.arange(1.0, N + 1)
            summing.allreduce(vector)
            mean += vector / draws
            seen += vector != 0
        return mean, seen

    mean, seen = run_ranks(1, body)[0]
    assert abs(seen.sum() - draws * 0.1 * N) < draws  # so many each time, and each as often
    assert seen.min() > 0.07 * draws and seen.max() < 0.13 * draws
    np.testing.assert_allclose(mean, np.arange(1.0, N + 1), rtol=0.25)


def test_a_matrix_of_low_rank_is_delivered_whole():
    """Two ranks' matrices of rank 1 add up to one of rank 2."""

    def body(comm):
        rng = np.random.default_rng(comm.rank)
        vector = rng.normal(size=N)
        whole = PARAMETERS[0]
        vector[whole.lo : whole.hi] = np.outer(rng.normal(size=12), rng.normal(size=17)).ravel()
        expected = vector.copy()
        summing = make(comm, "powersgd", "ring")
        summing.allreduce(vector)
        return vector, expected

    (found, one), (_, other) = run_ranks(2, body)
    np.testing.assert_allclose(
        found[: PARAMETERS[2].hi], (one + other)[: PARAMETERS[2].hi], rtol=1e-9, atol=1e-12
    )


def test_power_iteration_finds_what_is_largest():
    """The same gradient again and again, without feedback: what is delivered nears its best approximation of rank r."""
    matrix = gradient(0, 1)[: PARAMETERS[0].hi].reshape(PARAMETERS[0].shape)
    u, s, v = np.linalg.svd(matrix, full_matrices=False)
    best = (u[:, :2] * s[:2]) @ v[:2]

    def body(comm):
        summing = make(comm, "powersgd", "ring", error_feedback=False)
        errors = []
        for _ in range(60):
            vector = gradient(0, 1)
            summing.allreduce(vector)
            errors.append(np.linalg.norm(vector[: matrix.size].reshape(matrix.shape) - best))
        return errors

    errors = run_ranks(1, body)[0]
    assert errors[-1] < 0.05 * errors[0]


def test_deep_gradient_compression_is_the_paper_s():
    """Momentum correction, masking, clipping of the rank's own gradient, and a density that falls from 1/4."""

    def body(comm):
        options = {"density": 0.045, "density_warmup": 3, "local_momentum": 0.5, "local_clip": 2.0}
        summing = make(comm, "dgc", **options)
        u, v = np.zeros(N), np.zeros(N)
        for t in range(1, 6):
            vector = gradient(0, t)
            g = vector * min(1, 2.0 / np.linalg.norm(vector))
            u = 0.5 * u + g
            v = v + u
            summing.allreduce(vector)
            density = 0.25 * (0.045 / 0.25) ** ((t - 1) / 3) if t <= 3 else 0.045
            count = int(np.ceil(N * density))
            sent = np.argsort(np.abs(v))[-count:]
            assert np.count_nonzero(vector) == count
            np.testing.assert_allclose(vector[sent], v[sent], rtol=1e-6)
            u[sent] = 0
            v[sent] -= vector[sent]

    run_ranks(1, body)


def steps_of_adam(comm: Communicator, name: str, count: int, freeze_after=3) -> tuple[np.ndarray, list]:
    """AdamW on sums of fixed gradients; parameters, and the optimizer's second moment after every step."""
    kind = OPTIMIZERS["adamw"]
    params = np.ones(N)
    optimizer = kind(kind.Options(), PARAMETERS, 0, N, params)
    summing = make(comm, name, **({"freeze_after": freeze_after} if name == "onebit-adam" else {}))
    summing.accompany(optimizer)
    moments = []
    for t in range(1, count + 1):
        vector = gradient(comm.rank, t) / comm.size
        vector[:5] = 0  # gets no gradient
        before = comm.traffic.copy()
        summing.allreduce(vector)
        sent = comm.traffic - before
        assert (sent.messages, sent.bytes) == summing.cost(t)
        optimizer.step(params, vector, 0, 0.01, t)
        moments.append(optimizer.state()["square"].copy())
    return params, moments


def test_one_bit_adam_begins_as_adam_and_then_fixes_the_second_moment():
    for ranks in (1, 2, 3):
        plain = run_ranks(ranks, steps_of_adam, PLAIN, 3)
        begun = run_ranks(ranks, steps_of_adam, "onebit-adam", 3)
        assert all((params == other).all() for (params, _), (other, _) in zip(plain, begun, strict=True))
        gone_on = run_ranks(ranks, steps_of_adam, "onebit-adam", 8)
        assert len({params.tobytes() for params, _ in gone_on}) == 1
        for params, moments in gone_on:
            assert (moments[2] != moments[1])[5:].all()
            assert all((moment == moments[2]).all() for moment in moments[3:])
            assert (params[:5] == params[0]).all()  # what has had no gradient moves by its decay alone


def test_one_bit_adam_is_the_paper_s():
    """One rank: m ← C(β₁ m + (1 - β₁) g + e), where C is the sign and the mean magnitude of a block of 256."""

    def body(comm):
        kind = OPTIMIZERS["adamw"]
        options = kind.Options(weight_decay=0.0)
        params, expected = np.ones(N), np.ones(N)
        optimizer = kind(options, PARAMETERS, 0, N, params)
        summing = make(comm, "onebit-adam", freeze_after=2)
        summing.accompany(optimizer)
        m, v, e = np.zeros(N), np.zeros(N), np.zeros(N)
        for t in range(1, 7):
            g = gradient(0, t)
            m = 0.9 * m + 0.1 * g
            if t <= 2:
                v = 0.95 * v + 0.05 * g**2
            else:
                p = m + e
                m = np.concatenate([np.where(b >= 0, 1, -1) * np.abs(b).mean() for b in (p[:256], p[256:])])
                e = p - m
            scale = np.sqrt(v / (1 - 0.95 ** min(t, 2))) + 1e-8
            expected -= 0.01 * m / (1 - 0.9**t) / scale
            summing.allreduce(g)
            optimizer.step(params, g, 0, 0.01, t)
            np.testing.assert_allclose(params, expected, rtol=1e-5, atol=1e-7)

    run_ranks(1, body)

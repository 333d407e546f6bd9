"""How long a run would have taken on a named network: its messages once more, between ranks that keep modelled time."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.networks import Network
from benchmarks.simulated import SimulatedCommunicator, run_simulated
from mpidp.building import Job, build
from mpidp.config import Config
from mpidp.stragglers import slowed

FORWARD = 1 / 3  # of a gradient's time; backward takes the rest
LOOKS = 16  # how often, at least, backward lets the strategy move its messages on
SIZE = 1e-3  # of the made-up gradients: what is sent, and when, does not depend on them


@dataclass
class Modelled:
    """times[t]: seconds until all ranks have done step t; ends: until each has done the last one; traffic: what each
    sent in them, (messages, bytes)."""

    times: list[float]
    ends: list[float]
    traffic: list[tuple[int, int]]


def replay(
    config: Config,
    route: str | None,
    ranks: int,
    network: Network,
    gradient_seconds: float,
    steps: int,
    hosts: Sequence[int] | None = None,
    slow: dict[int, float] | None = None,
    cpu: bool = True,
) -> Modelled:
    """The first `steps` steps of the run that `config` describes, by `route`, on a network.

    Every rank builds its strategy, and in each step takes `gradient_seconds` for each of its samples (`slow`: rank ->
    times as long), a third of it before backward announces the first slice of the gradient, the rest in proportion to
    the parameters of each tensor. What the strategy itself computes (adding, encoding, stepping) it does in earnest,
    and with `cpu` it counts as it is measured here. Gradients are made up.
    Raises UserError where this route needs ranks that share memory, or cannot be seen into.
    """

    def body(comm: SimulatedCommunicator) -> tuple[list[float], tuple[int, int]]:
        run = dataclasses.replace(config.run, collective=route, steps=steps, epochs=None)
        job = build(dataclasses.replace(config, run=run), comm)  # which writes into it what it has chosen
        if comm.rank == 0:
            job.model.initialise(config.run.seed)
        job.strategy.start()
        comm.Barrier()
        began, before = comm.now(), job.strategy.comm.traffic.copy()
        a_sample = gradient_seconds * (slow or {}).get(comm.rank, 1.0)
        noise = np.random.default_rng(comm.rank).normal(0.0, SIZE, job.model.size).astype(job.model.dtype)
        times = [0.0]
        for t in range(1, steps + 1):
            take(job, comm, t, a_sample, noise)
            times.append(comm.now() - began)
        sent = job.strategy.comm.traffic - before
        comm.Barrier()
        return times, (sent.messages, sent.bytes)

    found = run_simulated(ranks, network, body, hosts, cpu)
    everyone = np.array([times for times, _ in found])
    return Modelled(everyone.max(0).tolist(), everyone[:, -1].tolist(), [sent for _, sent in found])


def take(job: Job, comm: SimulatedCommunicator, t: int, a_sample: float, noise: np.ndarray) -> None:
    """Step t, with a gradient of noise that takes its time."""
    comm.now()  # what came before has its time
    step, *_ = job.batch(t)
    job.strategy.grads[...] = noise
    comm.world.mark(comm.me)  # and getting this ready has none
    whole = step.samples * a_sample
    comm.compute(FORWARD * whole)
    for parameter in reversed(job.model.parameters):
        share = (parameter.hi - parameter.lo) / job.model.size
        parts = math.ceil(LOOKS * share)
        for _ in range(parts):
            comm.compute((1 - FORWARD) * whole * share / parts)
            job.strategy.advance()
        job.strategy.ready(parameter.lo, parameter.hi)
    job.strategy.step(step)


def extended(times: Sequence[float], steps: int) -> list[float]:
    """The times of `steps` steps where only the first few were modelled: the rest takes as long on average."""
    done = len(times) - 1
    each = times[-1] / max(done, 1)
    return [*times, *(times[-1] + each * (t - done) for t in range(done + 1, steps + 1))]


def modelled(
    config: Config, summary: dict[str, Any], network: Network, a_sample: float, steps: int
) -> Modelled:
    """`replay` of a run with this summary, one rank a host, with the ranks that it slowed."""
    slow = slowed(config.run.slow) if config.run.slow else None
    return replay(config, summary["collective"], summary["ranks"], network, a_sample, steps, slow=slow)

"""The papers' claims, each with the runs that test it at a scale of minutes on two cores."""

from pathlib import Path

import numpy as np

from benchmarks.papers.experiment import Experiment, Results, Verdict, gap, mean, signed
from mpidp.data import Request, load

LOSS = ("validation loss", "", 4)
CORRECT = ("correct", "%", 1)
SENT = ("MB sent", "", 2)
MESSAGES = ("messages", "", 0)

GPT = "--model gpt --layers 2 --heads 2 --width 48 --context 48 --collective ring"
DIGITS = "--model mlp --data digits --validation-fraction 0.3 --collective ring"


# 1. DiLoCo


def diloco(results: Results) -> Verdict:
    texts, agrees = [], True
    for side, period in (("DiLoCo, H = 50", 50), ("DiLoCo, H = 500", 500)):
        loss, error = gap(results, side, "data parallel", "validation loss")
        fewer = mean(results["data parallel"]["MB sent"]) / mean(results[side]["MB sent"])
        better = loss <= error
        agrees = agrees and better and abs(fewer / period - 1) < 0.01
        texts.append(
            f"H = {period} sends {fewer:.0f} times less at a loss of {signed(loss, error, 4)} against it"
        )
    return Verdict(agrees, "; ".join(texts))


# 2. Post-local SGD


def post_local(results: Results) -> Verdict:
    large, error = gap(results, "post-local SGD", "large batch", "correct")
    small, small_error = gap(results, "post-local SGD", "small batch", "correct")
    text = (
        f"post-local SGD classifies {signed(large, error, 1)} points against the large batch, "
        f"{signed(small, small_error, 1)} against the small one"
    )
    return Verdict(large > error, text)


# 3. PowerSGD


def powersgd(results: Results) -> Verdict:
    loss, error = gap(results, "PowerSGD, rank 2", "plain", "validation loss")
    fewer = mean(results["plain"]["MB sent"]) / mean(results["PowerSGD, rank 2"]["MB sent"])
    tolerance = max(error, 0.01 * mean(results["plain"]["validation loss"]))
    return Verdict(
        loss <= tolerance, f"{fewer:.1f} times fewer bytes at a loss of {signed(loss, error, 4)} against it"
    )


# 4. Gossip


def gossip(results: Results) -> Verdict:
    loss, error = gap(results, "one-peer exponential", "ring", "validation loss")
    fewer = mean(results["ring"]["MB sent"]) / mean(results["one-peer exponential"]["MB sent"])
    return Verdict(
        loss <= error and fewer > 1.9,
        f"one-peer sends {fewer:.1f} times less than the ring at a loss of {signed(loss, error, 4)} against it",
    )


# 5. Asynchronous servers


def asynchronous(results: Results) -> Verdict:
    rate = {side: mean(results[side]["samples a second"]) for side in results}
    kept = {way: rate[f"{way}, one slowed"] / rate[way] for way in ("synchronous", "asynchronous")}
    loss, error = gap(results, "asynchronous, one slowed", "synchronous, one slowed", "validation loss")
    return Verdict(
        kept["asynchronous"] > 1.3 * kept["synchronous"],
        f"with one worker slowed, the synchronous server keeps {100 * kept['synchronous']:.0f} % of its speed, the "
        f"asynchronous {100 * kept['asynchronous']:.0f} %; after the same number of samples its loss is "
        f"{signed(loss, error, 4)} against the synchronous one's",
    )


# 6. Splits of data that are not alike


def sorted_digits(folder: Path) -> list[str]:
    """The digits in the order of their labels, as data comes that nobody has shuffled."""
    path = folder / "sorted-digits.npz"
    if not path.exists():
        data = load("digits", None, Request(seed=0, validation_fraction=0.3))
        x, y = data.train.batch(np.arange(len(data.train)))
        held = data.validation.batch(np.arange(len(data.validation)))
        order = np.argsort(y, kind="stable")
        np.savez(path, x_train=x[order], y_train=y[order], x_test=held[0], y_test=held[1])
    return ["--data", str(path)]


def splits(results: Results) -> Verdict:
    hashed, error = gap(results, "hash", "random", "correct")
    worst, worst_error = gap(results, "dirichlet, α = 0.1", "random", "correct")
    own, own_error = gap(results, "contiguous: classes in order", "random", "correct")
    text = (
        f"hash classifies {signed(hashed, error, 1)} points against random; Dirichlet with α = 0.1 "
        f"{signed(worst, worst_error, 1)}, shards of one or two classes each {signed(own, own_error, 1)}"
    )
    return Verdict(abs(hashed) <= max(error, 1.0) and own < -own_error and worst < -worst_error, text)


EXPERIMENTS = {
    experiment.name: experiment
    for experiment in (
        Experiment(
            name="diloco",
            claim="as good as fully synchronous training in the same number of steps, and 500 times less is sent "
            "(H = 500, 8 workers)",
            source="Douillard et al. 2023, 2311.08105",
            ranks=4,
            common=f"{GPT} --batch-size 16 --steps 2000 --lr 3e-3 --log-every 2000",
            sides={
                "data parallel": "--sync allreduce --bucket-mib 0",
                "DiLoCo, H = 50": "--sync averaging --period 50 --outer sgd",
                "DiLoCo, H = 500": "--sync averaging --period 500 --outer sgd",
            },
            seeds=2,
            shown=(LOSS, SENT),
            judge=diloco,
            quick="--steps 500",
        ),
        Experiment(
            name="post-local",
            claim="first synchronous, then local SGD generalises better than the same large batch",
            source="Lin et al. 2018, 1808.07217",
            ranks=4,
            common=f"{DIGITS} --optimizer sgd --epochs 20 --log-every 1000",
            sides={
                "small batch": "--sync allreduce --batch-size 32 --lr 0.1",
                "large batch": "--sync allreduce --batch-size 256 --lr 0.8 --schedule cosine --warmup 10",
                "post-local SGD": "--sync averaging --batch-size 256 --lr 0.8 --schedule cosine --warmup 10 "
                "--sync-steps 50 --period 8",
            },
            seeds=5,
            shown=(CORRECT, LOSS, SENT),
            judge=post_local,
            quick="--epochs 2",
        ),
        Experiment(
            name="powersgd",
            claim="rank 2 reaches what plain SGD reaches, and sends a small part of it",
            source="Vogels et al. 2019, 1905.13727",
            ranks=4,
            common=f"{GPT} --batch-size 16 --steps 600 --lr 3e-3 --log-every 600",
            sides={
                "plain": "--sync allreduce",
                "PowerSGD, rank 2": "--sync allreduce --compress powersgd --rank 2",
            },
            seeds=2,
            shown=(LOSS, SENT),
            judge=powersgd,
            quick="--steps 20",
        ),
        Experiment(
            name="gossip",
            claim="one-peer exponential graphs, one message a step, are as good as graphs with more neighbours",
            source="Ying et al. 2021, 2110.13363",
            ranks=8,
            common="--model mlp --data digits --validation-fraction 0.3 --optimizer sgd --lr 0.1 --batch-size 64 "
            "--epochs 15 --split dirichlet --alpha 0.3 --log-every 1000 --sync gossip",
            sides={
                "ring": "--graph ring",
                "one-peer exponential": "--graph one-peer",
                "exponential": "--graph exponential",
            },
            seeds=3,
            shown=(LOSS, CORRECT, MESSAGES, SENT),
            judge=gossip,
            quick="--epochs 1",
        ),
        Experiment(
            name="splits",
            claim="averaged models of shards that are not alike are worse, the more the shards differ; random and "
            "hash splits make them alike",
            source="Zhao et al. 2018, 1806.00582; Hsu et al. 2019, 1909.06335",
            ranks=4,
            common="--model mlp --collective ring --batch-size 32 --epochs 10 --optimizer sgd --lr 0.1 "
            "--log-every 1000 --sync averaging --period 64",
            sides={
                "random": "--split random",
                "hash": "--split hash",
                "contiguous: classes in order": "--split contiguous",
                "dirichlet, α = 100": "--split dirichlet --alpha 100",
                "dirichlet, α = 1": "--split dirichlet --alpha 1",
                "dirichlet, α = 0.1": "--split dirichlet --alpha 0.1",
            },
            seeds=5,
            shown=(CORRECT, LOSS),
            judge=splits,
            quick="--epochs 1",
            data=sorted_digits,
            note="the training samples lie in the order of their classes; every shard is worked on by one rank alone",
        ),
    )
}

"""The papers' claims, each with the runs that test it at a scale of minutes on two cores."""

from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.papers.experiment import (
    AGREES,
    DISAGREES,
    PARTLY,
    Experiment,
    Results,
    Verdict,
    gap,
    mean,
    signed,
    times_fewer,
)
from mpidp.data import Request, load

LOSS = ("validation loss", "", 4)
TRAIN = ("train loss", "", 4)
CORRECT = ("correct", "%", 1)
SENT = ("MB sent", "", 2)
MESSAGES = ("messages", "", 0)
SGD = "--optimizer sgd --momentum 0.9 --lr 0.3"
RATE = ("samples a second", "", 0)


def diloco(results: Results) -> Verdict:
    texts, good = [], []
    for side, period in (("DiLoCo, H = 50", 50), ("DiLoCo, H = 500", 500)):
        loss, error = gap(results, side, "data parallel", "validation loss")
        fewer = times_fewer(results, side, "data parallel")
        good.append(loss <= error and fewer > 0.99 * period)
        texts.append(
            f"H = {period} sends {fewer:.0f} times less, its loss is {signed(loss, error, 4)} against it"
        )
    return Verdict(AGREES if all(good) else PARTLY if any(good) else DISAGREES, "; ".join(texts))


def post_local(results: Results) -> Verdict:
    large, error = gap(results, "post-local SGD", "large batch", "correct")
    small, small_error = gap(results, "large batch", "small batch", "correct")
    text = (
        f"post-local SGD classifies {signed(large, error, 1)} points against the large batch, which has "
        f"{signed(small, small_error, 1)} against the small one"
    )
    return Verdict(AGREES if large > error else DISAGREES, text)


def powersgd(results: Results) -> Verdict:
    loss, error = gap(results, "rank 2", "plain", "correct")
    fewer = times_fewer(results, "rank 2", "plain")
    text = f"{fewer:.0f} times fewer bytes, {signed(loss, error, 1)} points against plain SGD"
    return Verdict(AGREES if loss >= -max(error, 0.3) and fewer > 2 else DISAGREES, text)


def powersgd_gpt(results: Results) -> Verdict:
    texts, near = [], []
    for side, plain in (
        ("SGD, rank 2", "SGD"),
        ("SGD, rank 8", "SGD"),
        ("AdamW, rank 2", "AdamW"),
        ("AdamW, rank 8", "AdamW"),
    ):
        loss, error = gap(results, side, plain, "validation loss")
        near.append(loss <= max(error, 0.01 * mean(results[plain]["validation loss"])))
        texts.append(
            f"{side}: {times_fewer(results, side, plain):.1f} times fewer bytes, loss {signed(loss, error, 4)}"
        )
    return Verdict(AGREES if near[0] else PARTLY if any(near) else DISAGREES, "; ".join(texts))


def gossip(results: Results) -> Verdict:
    loss, error = gap(results, "one-peer exponential", "ring", "validation loss")
    fewer = times_fewer(results, "one-peer exponential", "ring")
    text = f"one-peer sends {fewer:.1f} times less than the ring, its loss is {signed(loss, error, 4)} against it"
    return Verdict(AGREES if loss <= error and fewer > 1.9 else DISAGREES, text)


def asynchronous(results: Results) -> Verdict:
    rate = {side: median(results[side]["samples a second"]) for side in results}
    kept = {way: rate[f"{way}, one slowed"] / rate[way] for way in ("synchronous", "asynchronous")}
    loss, error = gap(results, "asynchronous, one slowed", "synchronous, one slowed", "validation loss")
    text = (
        f"of its speed the synchronous server keeps {100 * kept['synchronous']:.0f} %, the asynchronous one "
        f"{100 * kept['asynchronous']:.0f} %; after as many samples its loss is {signed(loss, error, 4)} against it"
    )
    faster = kept["asynchronous"] > 1.3 * kept["synchronous"]
    return Verdict((AGREES if loss <= max(error, 0.02) else PARTLY) if faster else DISAGREES, text)


def sorted_digits(folder: Path) -> list[str]:
    """The digits in the order of their labels, as data comes that nobody has shuffled."""
    data = load("digits", None, Request(seed=0, validation_fraction=0.3))
    x, y = data.train.batch(np.arange(len(data.train)))
    held = data.validation.batch(np.arange(len(data.validation)))
    order = np.argsort(y, kind="stable")
    path = folder / "sorted-digits.npz"
    np.savez(path, x_train=x[order], y_train=y[order], x_test=held[0], y_test=held[1])
    return ["--data", str(path)]


ALIKE = ("hash", "dirichlet, α = 100")
UNLIKE = ("dirichlet, α = 0.1", "contiguous: classes in order")


def splits(results: Results) -> Verdict:
    gaps = {side: gap(results, side, "random", "correct") for side in (*ALIKE, *UNLIKE)}
    text = (
        "against random: "
        + ", ".join(f"{side} {signed(*found, 1)}" for side, found in gaps.items())
        + " points"
    )
    alike = all(abs(gaps[side][0]) <= max(gaps[side][1], 1.0) for side in ALIKE)
    unlike = all(gaps[side][0] < -gaps[side][1] for side in UNLIKE)
    return Verdict(AGREES if alike and unlike else PARTLY if unlike else DISAGREES, text)


EXPERIMENTS = {
    experiment.name: experiment
    for experiment in (
        Experiment(
            name="diloco",
            claim="as good as fully synchronous training in the same number of steps, from a pretrained model on, and "
            "500 times less is sent (H = 500, 8 workers)",
            source="Douillard et al. 2023, 2311.08105",
            ranks=4,
            common="--model gpt --layers 2 --heads 2 --width 32 --context 32 --collective ring --batch-size 64 "
            "--steps 8500 --lr 3e-3 --log-every 8500",
            sides={
                "data parallel": "--sync allreduce --bucket-mib 0",
                "DiLoCo, H = 50": "--sync averaging --period 50 --outer sgd --sync-steps 500",
                "DiLoCo, H = 500": "--sync averaging --period 500 --outer sgd --sync-steps 500",
            },
            seeds=2,
            shown=(LOSS, SENT),
            judge=diloco,
            quick="--steps 600",
            since=500,
            why="the first 500 steps are synchronous on all sides (the pretrained model), and not in the traffic. 8000 "
            "steps with H = 500 are 16 outer steps, few for an outer momentum of 0.9: the gap was 0.17 after 4 of them "
            "(--steps 2500), and the paper has 128",
        ),
        Experiment(
            name="post-local",
            claim="synchronous at first, then local SGD: it generalises better than the same large batch",
            source="Lin et al. 2018, 1808.07217",
            ranks=4,
            common="--model mlp --data digits --validation-fraction 0.5 --collective ring --optimizer sgd "
            "--momentum 0.9 --schedule cosine --epochs 160 --log-every 80",
            sides={
                "small batch": "--sync allreduce --batch-size 32 --lr 0.02",
                "large batch": "--sync allreduce --batch-size 448 --lr 0.1 --warmup 10",
                "post-local SGD": "--sync averaging --batch-size 448 --lr 0.1 --warmup 10 --sync-steps 160 --period 16",
            },
            seeds=5,
            shown=(CORRECT, LOSS, TRAIN, SENT),
            judge=post_local,
            quick="--epochs 2",
            why="what the large batch lacks here is not generalisation but steps, of which local SGD takes as few: the "
            "digits are too easy for a minimum to generalise worse than another. Equally good, for fewer bytes",
        ),
        Experiment(
            name="powersgd",
            claim="low-rank gradients reach what plain SGD with momentum reaches (rank 2, images)",
            source="Vogels et al. 2019, 1905.13727",
            ranks=4,
            common="--model mlp --data digits --validation-fraction 0.3 --collective ring --optimizer sgd "
            "--momentum 0.9 --schedule cosine --lr 0.05 --batch-size 64 --epochs 20 --log-every 1000 --sync allreduce",
            sides={
                "plain": "",
                "rank 2": "--compress powersgd --rank 2",
                "rank 1": "--compress powersgd --rank 1",
            },
            seeds=5,
            shown=(CORRECT, LOSS, TRAIN, SENT),
            judge=powersgd,
            quick="--epochs 1",
        ),
        Experiment(
            name="powersgd-gpt",
            claim="and so they do on a language model",
            source="Vogels et al. 2019, 1905.13727",
            ranks=4,
            common="--model gpt --layers 2 --heads 2 --width 48 --context 48 --collective ring --batch-size 16 "
            "--steps 2000 --log-every 2000 --sync allreduce",
            sides={
                "SGD": SGD,
                "SGD, rank 2": f"{SGD} --compress powersgd --rank 2",
                "SGD, rank 8": f"{SGD} --compress powersgd --rank 8",
                "AdamW": "--lr 3e-3",
                "AdamW, rank 2": "--lr 3e-3 --compress powersgd --rank 2",
                "AdamW, rank 8": "--lr 3e-3 --compress powersgd --rank 8",
            },
            seeds=2,
            shown=(LOSS, SENT),
            judge=powersgd_gpt,
            quick="--steps 20",
            why="what is lost lies in the rank, and grows with the steps (+0.05 after 600 of them): 2 is little for "
            "matrices 48 wide, and the higher the rank, the less is lost. The paper takes rank 4 for its language "
            "model, an LSTM of far wider matrices, and SGD, not AdamW",
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
            why="the shards are unlike (Dirichlet, α = 0.3), so that it matters how well the ranks mix",
        ),
        Experiment(
            name="asynchronous",
            claim="one slow machine holds up the others of a synchronous server, and not those of an asynchronous one",
            source="Dean et al. 2012, NIPS 25",
            ranks=3,
            common="--model gpt --layers 2 --heads 2 --width 48 --context 48 --batch-size 16 --steps 250 --lr 1e-3 "
            "--log-every 250 --sync server",
            sides={
                "synchronous": "--consistency synchronous",
                "synchronous, one slowed": "--consistency synchronous --slow 1:3",
                "asynchronous": "--consistency asynchronous",
                "asynchronous, one slowed": "--consistency asynchronous --slow 1:3",
            },
            seeds=3,
            shown=(RATE, LOSS),
            judge=asynchronous,
            quick="--steps 10",
            why="2 workers and a server, which mostly sleeps, on 2 cores; a slowed worker sleeps as much longer. "
            "The rate is the sum of the workers', while both are at work. An asynchronous server makes an update of "
            "each push, so that its loss is lower here after as many samples",
        ),
        Experiment(
            name="splits",
            claim="averages of models whose shards are unlike are worse, the more so the more these differ; random and "
            "hash splits make shards alike",
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
            quick="--epochs 2",
            data=sorted_digits,
            why="the digits lie in the order of their classes, as data comes that nobody has shuffled",
        ),
    )
}

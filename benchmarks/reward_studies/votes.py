"""Votes: what becomes of several people's answers to one question, when they disagree, slip, or do not look."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from random import Random
from typing import Any

import torch
from torch import Tensor

from benchmarks.reward_studies.cells import Cells, Job, Result
from benchmarks.reward_studies.demo_pairs import candidate_pairs, split
from benchmarks.reward_studies.fits import Data, DataRow, Probe, Start, best_by, train
from benchmarks.reward_studies.measures import log_loss, mean_entropy, pair_accuracy
from benchmarks.reward_studies.starts import Starts
from lit_rlhf.world.labellers import Labeller, label_votes

NAME = "votes"
BASELINE = "majority"
ARMS: Mapping[str, str] = {
    "majority": "majority",
    "share": "share of votes",
    "share_prior": "share, one vote for each side beforehand",
    "each": "one comparison a vote",
    "share_reliability": "share, votes weighted by reliability",
    "posterior": "Dawid-Skene posterior",
}
OPTIONS: Mapping[str, dict[str, Any]] = {
    "majority": {"votes": "majority"},
    "share": {"votes": "share"},
    "share_prior": {"votes": "share", "vote_prior": 1.0},
    "each": {"votes": "each"},
    "share_reliability": {"votes": "share", "reliability": True},
    "posterior": {"votes": "posterior"},
}
CONDITIONS = {
    "as_is": "the votes as they are",
    "flips": "25 % of the single votes turned round",
    "spammers": "two votes of each pair replaced by answers that four spammers gave blindly",
}
METRICS: Mapping[str, str] = {
    "accuracy": "accuracy on held-out votes",
    "log_loss": "log-loss on held-out votes, nats",
    "best_accuracy": "accuracy at the best development point",
    "best_log_loss": "log-loss at the same point",
    "gold_accuracy": "accuracy against gold",
}
HOW = """\
Five votes a pair. Demo world: 800 pairs, each judged by five of twelve labellers (temperature 1, ties
within 0.3). `multi_ukp_convarg`: 500 pairs of the training debates, tested on the held-out debates.
`multi_blimp_human`: five of about twenty votes, each seed holds out another one of a paradigm's five pairs;
starts from a reward model of `pairs_blimp` (without the sentences voted on), because 196 pairs alone teach
a new model nothing of unseen paradigms (0.51 when tried). Noise is added to training and development votes
alone. Tested on single votes as they were given; a tie is half a vote for either in the log-loss and left
out of the accuracy."""
FINDING = (
    "Shares of votes give better probabilities than the majority where votes are as they are (demo −0.040 "
    "nats, BLiMP −0.154), and more accuracy on the demo world alone (+0.011). Reliability weights help "
    "where some annotators answer blindly (demo +0.016 accuracy, −0.032 nats; BLiMP −0.097 nats). With "
    "flipped votes nothing beats the majority. The posterior failed on the debates with spammers "
    "(−0.174): most people there voted too seldom to be known. On the debates no way of counting is "
    "better than the majority."
)
COMPARED = ("accuracy", "log_loss")
"""Metrics whose differences to the baseline are given."""
DRAWN = ("accuracy", "log_loss")
"""Metrics of the figure."""
EXTRAS = {
    "majority": {
        "noise_floor": "Noise floor of the log-loss (mean entropy of the votes)",
        "ceiling": "most that any judge reaches on these votes",
    }
}
WORLDS = ("demo", "multi_ukp_convarg", "multi_blimp_human")
PASSES = {"demo": 3.0, "multi_ukp_convarg": 2.0, "multi_blimp_human": 3.0}
VOTES, SPAMMERS = 5, 4
UKP_ROWS = 500
DEMO_PAIRS = 800


def jobs(seeds: Sequence[int]) -> list[Job]:
    """One a world, condition and seed."""
    return [
        Job(NAME, world, condition, seed) for seed in seeds for world in WORLDS for condition in CONDITIONS
    ]


def run(job: Job, starts: Starts, cells: Cells) -> None:
    """Every arm of a job; two in the demo world alone (one comparison a vote is the share, but for rounding)."""
    start, training, development, held_out = data(job, starts)
    for arm in ARMS:
        in_demo = job.world == "demo"
        if (arm != "each" or (in_demo and job.condition == "as_is")) and (arm != "share_prior" or in_demo):
            cells.once(arm, partial(_fit, job, start, arm, training, development, held_out, starts.quick))


def data(job: Job, starts: Starts) -> tuple[Start, list[DataRow], list[DataRow], list[DataRow]]:
    """The model to start from; rows to train on, to develop on (with the same noise), and to test on (without)."""
    if job.world == "demo":
        return _demo(job, starts)
    generator = Random(f"votes {job.seed}")
    rows = starts.rows(job.world, "train")
    if job.world == "multi_blimp_human":
        start = starts.blimp()
        held_out = held_out_of_each_paradigm(rows, job.seed)
        training = [row for row in rows if row not in held_out]
    else:
        start, held_out, training = starts.real(48, 96), starts.rows(job.world, "valid"), rows
    generator.shuffle(training)
    training = training[: 60 if starts.quick else UKP_ROWS]
    training = [_few_votes(row, generator) for row in training]
    training = [spoiled(row, job.condition, generator) for row in training]
    cut = len(training) // 6
    return start, training[cut:], training[:cut], held_out


def held_out_of_each_paradigm(rows: Sequence[DataRow], fold: int) -> list[DataRow]:
    """One pair of each paradigm, which has five."""
    by_paradigm: dict[str, list[DataRow]] = {}
    for row in rows:
        by_paradigm.setdefault(row["paradigm"], []).append(row)
    return [pairs[fold % len(pairs)] for pairs in by_paradigm.values()]


def spoiled(row: DataRow, condition: str, generator: Random) -> DataRow:
    """The row with noise added to its votes."""
    labels = [dict(label) for label in row["labels"]]
    if condition == "flips":
        for label in labels:
            if label["choice"] != "tie" and generator.random() < 0.25:
                label["choice"] = "b" if label["choice"] == "a" else "a"
    elif condition == "spammers":
        for place, spammer in enumerate(generator.sample(range(SPAMMERS), 2)):
            labels[place] = {"labeler": f"spammer {spammer}", "choice": generator.choice("ab")}
    return {**row, "labels": labels}


def share(row: DataRow) -> float:
    """Share of votes for the first response, a tie half a vote."""
    values = {"a": 1.0, "b": 0.0, "tie": 0.5}
    return sum(values[label["choice"]] for label in row["labels"]) / len(row["labels"])


def _few_votes(row: DataRow, generator: Random) -> DataRow:
    labels = generator.sample(row["labels"], min(VOTES, len(row["labels"])))
    return {name: row[name] for name in ("prompt", "response_a", "response_b")} | {"labels": labels}


def _demo(job: Job, starts: Starts) -> tuple[Start, list[DataRow], list[DataRow], list[DataRow]]:
    people = [Labeller(name=f"person {number}", tie_width=0.3) for number in range(12)]
    parts, generator = split(starts.pool(job.seed)), Random(f"votes {job.seed}")
    counts = (
        {"train": 60, "dev": 20, "test": 60}
        if starts.quick
        else {"train": DEMO_PAIRS, "dev": 200, "test": 1000}
    )
    rows = {
        part: label_votes(candidate_pairs(parts[part], count), people, VOTES, generator).rows
        for part, count in counts.items()
    }
    for part in ("train", "dev"):
        rows[part] = [spoiled(row, job.condition, generator) for row in rows[part]]
    return starts.demo(job.seed), rows["train"], rows["dev"], rows["test"]


def vote_accuracy(differences: Tensor, rows: Sequence[DataRow]) -> float:
    """Share of the decided votes that σ(difference) > ½ agrees with."""
    signs = [
        torch.tensor(
            [1.0 if label["choice"] == "a" else -1.0 for label in row["labels"] if label["choice"] != "tie"]
        )
        for row in rows
    ]
    return pair_accuracy(torch.cat([value * sign for value, sign in zip(differences, signs, strict=True)]))


def _fit(
    job: Job,
    start: Start,
    arm: str,
    training: list[DataRow],
    development: list[DataRow],
    held_out: list[DataRow],
    quick: bool,
) -> Result:
    measure = _measure(start, development, held_out)
    options = OPTIONS[arm]
    passes = 1.0 if quick else PASSES[job.world]
    source = Data(training, start.batch_size, options=options)
    curve = train(start, source, passes, job.seed, measure, probes=3).curve
    shares = torch.tensor([share(row) for row in held_out])
    best = best_by(curve, "dev_accuracy")
    return {
        **curve[-1],
        "best_accuracy": best["accuracy"],
        "best_log_loss": best["log_loss"],
        "noise_floor": mean_entropy(shares),
        "ceiling": vote_accuracy(shares - 0.5, held_out),
        "curve": curve,
    }


def _measure(
    start: Start, development: list[DataRow], held_out: list[DataRow]
) -> Callable[[Any], dict[str, float]]:
    probes = {"dev_": (Probe(start, development), development), "": (Probe(start, held_out), held_out)}

    def measure(network: Any) -> dict[str, float]:
        numbers = {}
        for prefix, (probe, rows) in probes.items():
            differences = probe.differences(network)
            numbers[f"{prefix}accuracy"] = vote_accuracy(differences, rows)
            numbers[f"{prefix}log_loss"] = log_loss(differences, torch.tensor([share(row) for row in rows]))
            if not prefix and "gold_a" in rows[0]:
                gaps = torch.tensor([row["gold_a"] - row["gold_b"] for row in rows])
                numbers["gold_accuracy"] = pair_accuracy((differences * gaps.sign())[gaps != 0])
        return numbers

    return measure

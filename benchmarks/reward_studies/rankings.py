"""Rankings: the losses on whole rankings, against the same comparisons as rows of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import combinations
from random import Random
from typing import Any

import torch

from benchmarks.reward_studies.cells import Cells, Job, Result
from benchmarks.reward_studies.demo_pairs import candidate_lists, golds, split
from benchmarks.reward_studies.fits import Data, DataRow, Probe, Start, best_by, train
from benchmarks.reward_studies.measures import (
    correlation_within_rows,
    kendall_tau,
    log_loss,
    pair_accuracy,
    strict_differences,
)
from benchmarks.reward_studies.starts import Starts
from lit_rlhf import RankingDataModule
from lit_rlhf.world.labellers import Labeller, label_rankings

NAME = "rankings"
BASELINE = "all_pairs"
ARMS: Mapping[str, str] = {
    "all_pairs": "all pairs of a ranking in one batch element",
    "plackett_luce": "Plackett-Luce",
    "best_of_k": "best of K",
    "split_rows": "each pair a row, as many passes over each response",
    "split_rows_epochs": "each pair a row, as many passes over each comparison",
    "all_pairs_drop": "all pairs, ties dropped",
    "plackett_luce_drop": "Plackett-Luce, order of ties left open",
    "rao_kupper": "all pairs, ties by Rao and Kupper's width",
}
MODULE: Mapping[str, dict[str, Any]] = {
    "plackett_luce": {"loss": "plackett_luce"},
    "best_of_k": {"loss": "best_of_k"},
    "all_pairs_drop": {"ties": "drop"},
    "plackett_luce_drop": {"loss": "plackett_luce", "ties": "drop"},
    "rao_kupper": {"ties": "rao_kupper"},
}
METRICS: Mapping[str, str] = {
    "accuracy": "accuracy on held-out pairs",
    "log_loss": "log-loss, nats",
    "gap": "training accuracy − held-out accuracy",
    "best_accuracy": "accuracy at the best development point",
    "tau": "Kendall's τ",
    "gold_accuracy": "accuracy against gold",
    "gold_correlation": "correlation with gold within prompts",
}
HOW = """\
Demo world: 300 rankings of 4 to 6 samples by a Plackett-Luce labeller (temperature 1, felt differences up
to 0.3 are ties). Real: `kwise_ukp_rank` (169 rankings, K up to 9) and 175 rankings of
`kwise_gsm8k_solutions` that are not all ties, K = 4. All arms but “as many passes over each comparison” see
every response equally often, in batches of as many responses, with as many updates; the prompt is computed
once a row, so split rows pay for it more often. Held-out pairs are those that the ranking tells apart."""
FINDING = (
    "All pairs in one element and Plackett-Luce cannot be told apart in accuracy. Split rows over-fit as "
    "the literature says when every comparison is passed over as often (gap +0.075, log-loss +0.073); at "
    "the same compute they do not, and on the debates their log-loss is even lower (-0.154). Best of K "
    "costs log-loss everywhere, though it orders the debates' pairs a little better (+0.013). Dropping "
    "ties costs log-loss (+0.016); a learned width does no better than half-half."
)
COMPARED = ("accuracy", "log_loss", "gap")
"""Metrics whose differences to the baseline are given."""
DRAWN = ("all_pairs", "plackett_luce", "best_of_k", "split_rows", "split_rows_epochs")
"""Arms of the figure."""
PASSES = {"demo": 5.0, "kwise_ukp_rank": 4.0, "kwise_gsm8k_solutions": 2.0}
GSM8K_RANKINGS = 200
DEMO_RANKINGS, HELD_OUT_RANKINGS = 300, 300
FULL_SPLIT = ("demo",)
"""Where split rows are also trained for as many passes over each comparison: 4 to 6 times the compute."""


def jobs(seeds: Sequence[int]) -> list[Job]:
    """One a world and seed."""
    return [Job(NAME, world, "as_is", seed) for seed in seeds for world in PASSES]


def arms(world: str) -> list[str]:
    """Those that are run in a world."""
    chosen = ["all_pairs", "plackett_luce", "best_of_k", "split_rows"]
    if world in FULL_SPLIT:
        chosen.append("split_rows_epochs")
    if world == "demo":
        chosen += ["all_pairs_drop", "plackett_luce_drop", "rao_kupper"]
    return chosen


def run(job: Job, starts: Starts, cells: Cells) -> None:
    """Every arm of a job."""
    start, training, development, held_out = data(job, starts)
    for arm in arms(job.world):
        cells.once(arm, partial(_fit, job, start, arm, training, development, held_out, starts.quick))


def data(job: Job, starts: Starts) -> tuple[Start, list[DataRow], list[DataRow], list[DataRow]]:
    """The model to start from, and the rankings to train on, to develop on and to test on."""
    if job.world == "demo":
        count, held_out = (40, 40) if starts.quick else (DEMO_RANKINGS, HELD_OUT_RANKINGS)
        parts = split(starts.pool(job.seed))
        rows = {}
        for part, rankings in (("train", count), ("dev", held_out // 4), ("test", held_out)):
            generator = Random(f"rankings {part} {job.seed}")
            candidates = candidate_lists(parts[part], rankings, generator, sizes=(4, 5, 6))
            rows[part] = label_rankings(candidates, Labeller(tie_width=0.3), generator).rows
        return starts.demo(job.seed), rows["train"], rows["dev"], rows["test"]
    start = starts.real(48, 96) if job.world == "kwise_ukp_rank" else starts.real(64, 96)
    training = [row for row in starts.rows(job.world, "train") if len(set(row["ranks"])) > 1]
    Random(job.seed).shuffle(training)
    if job.world == "kwise_gsm8k_solutions":
        training = training[:GSM8K_RANKINGS]
    cut = len(training) // 8
    if starts.quick:
        training = training[: cut + 16]
    return start, training[cut:], training[:cut], starts.rows(job.world, "valid")


def split_rows(rankings: Sequence[DataRow]) -> list[DataRow]:
    """Every comparison of the rankings as a pair row of its own, ties among them."""
    rows = []
    for row in rankings:
        for one, other in combinations(range(len(row["responses"])), 2):
            better, worse = (one, other) if row["ranks"][one] <= row["ranks"][other] else (other, one)
            pair = {
                "prompt": row["prompt"],
                "chosen": row["responses"][better],
                "rejected": row["responses"][worse],
            }
            if row["ranks"][one] == row["ranks"][other]:
                pair["tie"] = True
            if pair["chosen"] != pair["rejected"]:
                rows.append(pair)
    return rows


def _fit(
    job: Job,
    start: Start,
    arm: str,
    training: list[DataRow],
    development: list[DataRow],
    held_out: list[DataRow],
    quick: bool,
) -> Result:
    probes = {
        name: (Probe(start, rows), rows)
        for name, rows in (("train", training[:40]), ("dev", development), ("test", held_out))
    }

    def measure(network: Any) -> dict[str, float]:
        numbers = {}
        for name, (probe, rows) in probes.items():
            scores, truths = probe.scores(network), [-torch.tensor(row["ranks"]).float() for row in rows]
            differences = strict_differences(scores, truths)
            prefix = "" if name == "test" else f"{name}_"
            numbers[f"{prefix}accuracy"] = pair_accuracy(differences)
            numbers[f"{prefix}log_loss"] = log_loss(differences, torch.ones_like(differences))
            if name == "test":
                numbers["tau"] = kendall_tau(scores, truths)
                if job.world == "demo":
                    gold = [golds(row) for row in rows]
                    numbers["gold_accuracy"] = pair_accuracy(strict_differences(scores, gold))
                    numbers["gold_correlation"] = correlation_within_rows(scores, gold)
        return numbers

    responses = sum(len(row["responses"]) for row in training)
    group = (
        start.batch_size * 2 * len(training) // responses
    )  # rankings with about as many responses as the pairs of a batch
    passes = 1.0 if quick else PASSES[job.world]
    if arm.startswith("split_rows"):
        pairs = split_rows(training)
        source = Data(pairs, start.batch_size)
        factor = 2 * len(pairs) / responses if arm == "split_rows_epochs" else 1.0
    else:
        source, factor = Data(training, max(1, group), RankingDataModule), 1.0
    trained = train(
        start,
        source,
        passes * factor,
        job.seed,
        measure,
        pass_size=responses,
        probes=max(1, round(passes)),
        **MODULE.get(arm, {}),
    )
    end, best = trained.curve[-1], best_by(trained.curve, "dev_accuracy")
    return {
        **end,
        "gap": end["train_accuracy"] - end["accuracy"],
        "best_accuracy": best["accuracy"],
        "best_passes": best["passes"],
        "curve": trained.curve,
    }

"""Denoising: do several models together find planted wrong labels, and what does it help to act on it?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random
from statistics import median
from typing import Any

import torch
from torch import Tensor

from benchmarks.reward_studies.cells import Cells, Job, Result
from benchmarks.reward_studies.demo_pairs import candidate_pairs, golds, split
from benchmarks.reward_studies.fits import Data, DataRow, Probe, Start, best_by, train
from benchmarks.reward_studies.measures import area_under_curve, log_loss, pair_accuracy
from benchmarks.reward_studies.starts import Starts
from lit_rlhf.cli.strength_rows import StrengthRow, treat
from lit_rlhf.data.formats import parse_row
from lit_rlhf.ops.strength import preference_strength
from lit_rlhf.records import Comparison, Tree
from lit_rlhf.world.labellers import Labeller, label_pairs
from lit_rlhf.world.tastes import Taste

NAME = "denoising"
BASELINE = "plain"
NOISE = 0.25
ARMS: Mapping[str, str] = {
    "plain": "plain",
    "label_smoothing": "label smoothing, 0.25",
    "flip_rate": "robust loss, flip rate 0.25",
    "uniform_error": "uniform error, 0.5",
    "flip": "flip the weakest 20 %",
    "margin": "margin",
    "flip+margin": "flip and margin",
    "soft+margin": "soft labels and margin",
    "flip+margin_in_sample": "flip and margin by in-sample strength",
    "clean": "no label flipped (the ceiling)",
}
MODULE: Mapping[str, dict[str, Any]] = {
    "label_smoothing": {"label_smoothing": NOISE},
    "flip_rate": {"flip_rate": NOISE},
    "uniform_error": {"uniform_error": 2 * NOISE},
}
CONDITIONS = {
    "uniform": "25 % of the labels flipped, whichever",
    "uniform_many": "25 % of the labels flipped, whichever; three times as many pairs",
    "concentrated": "about 25 % wrong: near-ties of four annotators, and a fifth annotator with another taste",
}
METRICS: Mapping[str, str] = {
    "accuracy": "accuracy on clean held-out pairs",
    "best_accuracy": "the same at the best development point",
    "log_loss": "log-loss on clean held-out pairs, nats",
    "noisy_fit": "share of the wrong training labels learned",
}
EXTRAS: Mapping[str, Mapping[str, str]] = {
    "strength": {
        "in_sample_auc": "AUC, in-sample",
        "in_sample_auc_early": "AUC, in-sample, after one pass",
        "out_of_fold_auc": "AUC, out of fold",
        "out_of_fold_single_auc": "AUC, out of fold, one member",
        "weakest_fifth_wrong": "wrong among the weakest fifth, out of fold",
        "flipped_share": "wrong in all",
    }
}
HOW = """\
The demo world's labels are those of the gold reward, equal ones left out, and a quarter of them is then
wrong: whichever, or near-ties (gold rewards up to 1 apart, flipped by 3 in 10) and a fifth annotator who
enjoys a complaint. `pairs_ukp_convarg`: near-ties are arguments of about one length, the other annotator
prefers the shorter one. Strength: mean over 3 models, in-sample or out of fold (3 folds); flip, soft and
margin as `lit-rlhf strength --then` does them, by out-of-fold strength. Demo: 800 pairs, five passes,
strengths from three passes, or 2,400, four and two; real: 300, three and two. Tested on clean pairs."""
FINDING = (
    "Strength finds planted flips with an AUC of 0.73 to 0.75 out of fold and 0.74 to 0.79 in sample on "
    "the demo world, 0.69 on the debates: at the mark of 0.75 in two of six, below it elsewhere. Acting "
    "on it did not help: flip and margin lost 0.023 where a fifth annotator has another taste, and is not "
    "told apart from plain elsewhere. The robust loss with the true flip rate gained 0.061 on the "
    "debates. A clean label is worth far more than any of them (+0.06 to +0.09)."
)
COMPARED = ("accuracy", "best_accuracy")
"""Metrics whose differences to the baseline are given."""
DRAWN = ("accuracy", "best_accuracy")
"""Metrics of the figure."""


@dataclass(frozen=True)
class Size:
    """How much a world and condition is trained on."""

    pairs: int
    passes: float
    member_passes: float
    """Of the models whose differences are the strength."""
    arms: Sequence[str]


FEWER_ARMS = ("plain", "label_smoothing", "flip_rate", "flip", "margin", "flip+margin", "clean")
SIZES = {
    ("demo", "uniform"): Size(800, 5.0, 3.0, tuple(ARMS)),
    ("demo", "uniform_many"): Size(2400, 4.0, 2.0, FEWER_ARMS),
    ("demo", "concentrated"): Size(800, 5.0, 3.0, tuple(ARMS)),
    ("pairs_ukp_convarg", "concentrated"): Size(300, 3.0, 2.0, FEWER_ARMS),
}
MEMBERS, FOLDS = 3, 3
FLIP_SHARE, ALPHA = 0.2, 0.25

BIASED = Taste(praise=-1.0, stress=-0.5)
"""The fifth annotator of the demo world enjoys a complaint."""


def jobs(seeds: Sequence[int]) -> list[Job]:
    """One a world, condition and seed."""
    return [Job(NAME, world, condition, seed) for seed in seeds for world, condition in SIZES]


def run(job: Job, starts: Starts, cells: Cells) -> None:
    """The strengths first, then every arm."""
    start, training, development, held_out = data(job, starts)
    size = SIZES[job.world, job.condition]
    passes, member_passes = (1.0, 1.0) if starts.quick else (size.passes, size.member_passes)
    strengths = cells.once("strength", lambda: measure_strength(start, training, member_passes, job.seed))
    for arm in size.arms:
        rows = training
        if arm == "clean":
            rows = [_turned(row) if row["wrong"] else row for row in training]
        elif ("flip" in arm or "margin" in arm) and arm != "flip_rate":
            if strengths is None:
                print(f"{job.name}/{arm}: left out, for want of strengths", flush=True)
                continue
            source = "in_sample" if arm.endswith("_in_sample") else "out_of_fold"
            rows = treated(training, strengths[source], arm.removesuffix("_in_sample"))
        cells.once(
            arm,
            partial(_fit, job, start, arm, rows, training, development, held_out, passes),
        )


def data(job: Job, starts: Starts) -> tuple[Start, list[DataRow], list[DataRow], list[DataRow]]:
    """The model; noisy pairs to train and to develop on, clean ones to test on; each says whether it is `wrong`."""
    count = 60 if starts.quick else SIZES[job.world, job.condition].pairs
    generator = Random(f"denoising {job.seed}")
    if job.world == "demo":
        parts = split(starts.pool(job.seed))
        rows = {
            part: [row for row in candidate_pairs(parts[part], number) if golds(row)[0] != golds(row)[1]]
            for part, number in (
                ("train", count * 3 // 2),
                ("dev", min(count // 4, 300)),
                ("test", min(700, count * 2)),
            )
        }
        noisy = {part: _demo_noise(rows[part], job.condition, generator) for part in ("train", "dev")}
        clean = label_pairs(rows["test"], Labeller(temperature=0.0), generator).rows
        return starts.demo(job.seed), noisy["train"][:count], noisy["dev"], clean
    pairs = starts.rows(job.world, "train")
    generator.shuffle(pairs)
    noisy_rows = _real_noise(pairs[: count + count // 4], job.condition, generator)
    return starts.real(48, 96), noisy_rows[:count], noisy_rows[count:], starts.rows(job.world, "valid")[:300]


def _demo_noise(candidates: Sequence[DataRow], condition: str, generator: Random) -> list[DataRow]:
    honest, biased = Labeller(0.0, NOISE), None
    if condition == "concentrated":
        honest = Labeller(0.0, 0.3, flip_width=1.25)
        biased = Labeller(0.0, taste=BIASED)
    rows = []
    for candidate in candidates:
        labeller = biased if biased and generator.random() < 0.2 else honest
        (row,) = label_pairs([candidate], labeller, generator).rows
        rows.append({**row, "wrong": row["gold_chosen"] < row["gold_rejected"]})
    # equal in the biased annotator's eyes: nothing to flip, and nothing that the others have
    return [row for row in rows if "tie" not in row]


def _real_noise(pairs: Sequence[DataRow], condition: str, generator: Random) -> list[DataRow]:
    """Near-ties are arguments of about one length; the biased annotator prefers the shorter one."""
    longer = [len(pair["chosen"]) - len(pair["rejected"]) for pair in pairs]
    near = median(map(abs, longer))
    rows = []
    for pair, length in zip(pairs, longer, strict=True):
        if condition == "uniform":
            wrong = generator.random() < NOISE
        elif generator.random() < 0.2:
            wrong = length > 0
        else:
            wrong = abs(length) < near and generator.random() < 0.3
        kept = {name: pair[name] for name in ("prompt", "chosen", "rejected")}
        rows.append({**(_turned(kept) if wrong else kept), "wrong": wrong})
    return rows


def measure_strength(start: Start, rows: Sequence[DataRow], passes: float, seed: int) -> Result:
    """Strengths of the training pairs by members that saw them, and by members that did not; how well they find."""
    wrong = torch.tensor([row["wrong"] for row in rows])
    probe, early = Probe(start, rows), []
    seen: list[Tensor] = []
    for member in range(MEMBERS):
        by_pass: list[Tensor] = []

        def keep(network: Any, by_pass: list[Tensor] = by_pass) -> dict[str, float]:
            by_pass.append(probe.differences(network))
            return {}

        train(start, Data(rows, start.batch_size), passes, 1000 * member + seed, keep, probes=round(passes))
        early.append(by_pass[0])
        seen.append(by_pass[-1])
    unseen = torch.stack(
        [_out_of_fold(start, rows, passes, 1000 * member + seed) for member in range(MEMBERS)]
    )
    in_sample, out_of_fold = (preference_strength(torch.stack(list(d)))[0] for d in (seen, unseen))
    weakest = out_of_fold.argsort()[: round(FLIP_SHARE * len(rows))]
    return {
        "in_sample": in_sample.tolist(),
        "out_of_fold": out_of_fold.tolist(),
        "in_sample_auc": area_under_curve(in_sample, wrong),
        "in_sample_auc_early": area_under_curve(preference_strength(torch.stack(early))[0], wrong),
        "out_of_fold_auc": area_under_curve(out_of_fold, wrong),
        "out_of_fold_single_auc": area_under_curve(unseen[0], wrong),
        "weakest_fifth_wrong": wrong[weakest].float().mean().item(),
        "flipped_share": wrong.float().mean().item(),
        "wrong": wrong.tolist(),
    }


def _out_of_fold(start: Start, rows: Sequence[DataRow], passes: float, seed: int) -> Tensor:
    """Each row's difference by a model that was trained on the other folds."""
    differences = torch.zeros(len(rows))
    order = list(range(len(rows)))
    Random(seed).shuffle(order)
    for fold in range(FOLDS):
        judged = order[fold::FOLDS]
        others = [rows[place] for place in order if place not in set(judged)]
        network = train(start, Data(others, start.batch_size), passes, seed).network
        differences[judged] = Probe(start, [rows[place] for place in judged]).differences(network)
    return differences


def treated(rows: Sequence[DataRow], strengths: Sequence[float], then: str) -> list[DataRow]:
    """The rows as ``lit-rlhf strength --then ...`` writes them."""
    given = [
        StrengthRow(
            fields=row,
            row=parse_row(row, "pairs", str(place)),
            tree=Tree([], comparisons=[Comparison(better=0, worse=1)]),
            strengths=[strength],
            spreads=[0.0],
        )
        for place, (row, strength) in enumerate(zip(rows, strengths, strict=True))
    ]
    treat(given, then, FLIP_SHARE, ALPHA)
    return [row.written() for row in given]


def _turned(row: DataRow) -> DataRow:
    return {**row, "chosen": row["rejected"], "rejected": row["chosen"]}


def _fit(
    job: Job,
    start: Start,
    arm: str,
    rows: Sequence[DataRow],
    noisy: Sequence[DataRow],
    development: Sequence[DataRow],
    held_out: Sequence[DataRow],
    passes: float,
) -> Result:
    wrong = [row for row in noisy if row["wrong"]]
    probes = {
        name: Probe(start, part)
        for name, part in (("dev", development), ("test", held_out), ("wrong", wrong))
    }

    def measure(network: Any) -> dict[str, float]:
        found = {name: probe.differences(network) for name, probe in probes.items()}
        return {
            "accuracy": pair_accuracy(found["test"]),
            "log_loss": log_loss(found["test"], torch.ones(len(held_out))),
            "dev_accuracy": pair_accuracy(found["dev"]),
            "noisy_fit": pair_accuracy(found["wrong"]),
        }

    curve = train(
        start,
        Data(rows, start.batch_size),
        passes,
        job.seed,
        measure,
        probes=round(passes),
        **MODULE.get(arm, {}),
    ).curve
    return {**curve[-1], "best_accuracy": best_by(curve, "dev_accuracy")["accuracy"], "curve": curve}

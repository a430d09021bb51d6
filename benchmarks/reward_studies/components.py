"""Components: a head for each group of people, and how to combine them for people nobody has asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from random import Random
from typing import Any

import torch
from torch import Tensor

from benchmarks.reward_studies.cells import Cells, Job, Result
from benchmarks.reward_studies.demo_pairs import candidate_pairs, split
from benchmarks.reward_studies.fits import Data, DataRow, Probe, Start, train
from benchmarks.reward_studies.measures import pair_accuracy
from benchmarks.reward_studies.starts import Starts
from lit_rlhf.models.components import combine_scores, fit_weights
from lit_rlhf.rewards.model import score_trees
from lit_rlhf.world.grammar import parse_prompt
from lit_rlhf.world.tastes import Taste, mix_tastes

NAME = "components"
BASELINE = "pooled"
ARMS: Mapping[str, str] = {
    "pooled": "one head on all groups",
    "pooled_tuned": "the same, then trained on the few pairs",
    "few_only": "one head on the few pairs alone",
    "best_single": "best single head, chosen on the few pairs",
    "mean": "mean of the heads",
    "min": "least of the heads",
    "gate": "gate on the prompt",
    "few_shot": "weights fitted on the few pairs",
    "oracle_weights": "the true weights of the mixture",
}
CONDITIONS = {
    "conflicting_domains": "each domain has a taste of its own, against the others'; the prompt names the domain",
    "conflicting_groups": "each group of people has a taste of its own; no prompt says who asks",
    "agreeing_domains": "all domains have the gold reward's taste",
}
METRICS: Mapping[str, str] = {
    "accuracy": "accuracy in the held-out domain or group",
    "inside_accuracy": "accuracy in those trained on",
}
HOW = """\
Three tastes: adverbs; no adverbs, and at length; short and grumpy. 600 candidate pairs of each domain (or
group), two passes, judged with Bradley and Terry's noise. The held-out one is a mixture, 0.6 of the first
and 0.4 of the third; 32 of its pairs are known, labelled with the same noise. Tested on which response the
taste itself prefers. “Best single” inside the known domains is each domain's own head."""
FINDING = (
    "Where tastes conflict, weights fitted on 32 pairs of the new group come near the true weights of the "
    "mixture: +0.196 over one pooled head where prompts name the domain, +0.115 [-0.000, +0.230] where "
    "they do not. Where tastes agree every combination of heads loses to the pooled head (by 0.03 to "
    "0.04). Mean, least and gate do not carry over to a held-out mixture; within known domains of "
    "opposite tastes each domain's own head is right in 0.92 of the pairs, the pooled one in 0.87."
)
COMPARED = ("accuracy",)
"""Metrics whose differences to the baseline are given."""
DRAWN = ("accuracy",)
"""Metrics of the figure."""
EXTRAS: dict[str, dict[str, str]] = {}
FEW = 32
PAIRS, PASSES = 600, 2.0
"""Of each domain or group."""
TASTES = (
    Taste(praise=1.0, stress=0.0, mention=0.0, adverb=2.0),
    Taste(praise=1.0, stress=0.0, mention=0.0, adverb=-2.0, length=0.3),
    Taste(praise=-0.5, stress=0.0, mention=0.0, length=-0.5),
)
"""Adverbs; no adverbs, and at length; short and grumpy."""
MIXTURE = (0.6, 0.0, 0.4)
"""What the held-out domain or group is made of."""
GROUPS = ("food", "trip", "home")
HELD_OUT = "show"


def jobs(seeds: Sequence[int]) -> list[Job]:
    """One a condition and seed."""
    return [Job(NAME, "demo", condition, seed) for seed in seeds for condition in CONDITIONS]


def run(job: Job, starts: Starts, cells: Cells) -> None:
    """A model with a head for each group gives most arms at once; the others are fits of their own."""
    rows = data(job, starts)
    start, passes = starts.demo(job.seed), 1.0 if starts.quick else PASSES
    heads = cells.once("heads", lambda: _heads(job, start, rows, passes))
    for arm in ("best_single", "mean", "min", "gate", "few_shot", "oracle_weights"):
        if heads is not None:
            cells.once(arm, partial(heads.__getitem__, arm))
    cells.once("pooled", lambda: _pooled(job, start, rows, passes))
    cells.once(
        "pooled_tuned",
        lambda: _pooled(job, start, {**rows, "train": [*rows["train"], *rows["few"] * 4]}, passes),
    )
    cells.once("few_only", lambda: _pooled(job, start, {**rows, "train": rows["few"]}, passes * 4))


def data(job: Job, starts: Starts) -> dict[str, list[DataRow]]:
    """Pairs to train on with their group as `domain`; few of the held-out one; tests inside and outside."""
    parts, generator = split(starts.pool(job.seed)), Random(f"components {job.seed}")
    pairs, held_out = (40, 100) if starts.quick else (PAIRS, 800)
    mixture = mix_tastes(TASTES, MIXTURE)
    tastes = dict(zip(GROUPS, TASTES, strict=True)) | {HELD_OUT: mixture}
    if job.condition == "agreeing_domains":
        tastes = dict.fromkeys((*GROUPS, HELD_OUT), Taste())
    by_prompt = job.condition != "conflicting_groups"
    inside, outside, train_rows = [], [], []
    if by_prompt:
        for group in GROUPS:
            train_rows += judge(
                candidate_pairs(parts["train"], pairs, [group]), tastes[group], group, 1.0, generator
            )
            inside += judge(
                candidate_pairs(parts["test"], held_out // 4, [group]), tastes[group], group, 0.0, generator
            )
        few = candidate_pairs(parts["dev"], FEW, [HELD_OUT])
        outside = candidate_pairs(parts["test"], held_out // 4, [HELD_OUT])
    else:
        candidates = candidate_pairs(parts["train"], pairs * len(GROUPS))
        tests = candidate_pairs(parts["test"], held_out)
        for place, group in enumerate(GROUPS):
            train_rows += judge(candidates[place :: len(GROUPS)], tastes[group], group, 1.0, generator)
            inside += judge(tests[place :: len(GROUPS)], tastes[group], group, 0.0, generator)
        few, outside = candidate_pairs(parts["dev"], FEW), tests
    return {
        "train": train_rows,
        "few": judge(few, tastes[HELD_OUT], HELD_OUT, 1.0, generator),
        "inside": inside,
        "outside": judge(outside, tastes[HELD_OUT], HELD_OUT, 0.0, generator),
    }


def judge(
    candidates: Sequence[DataRow], taste: Taste, group: str, temperature: float, generator: Random
) -> list[DataRow]:
    """Pairs judged by a taste, with Bradley and Terry's noise; those that the taste cannot tell apart are left out."""
    rows = []
    for candidate in candidates:
        _, noun = parse_prompt(candidate["prompt"])
        first, second = (taste.reward(noun, text.split()) for text in candidate["responses"])
        if first == second:
            continue
        gap = torch.tensor(first - second, dtype=torch.float64)
        wins = (
            bool(gap > 0)
            if temperature == 0
            else generator.random() < torch.sigmoid(gap / temperature).item()
        )
        better, worse = candidate["responses"] if wins else reversed(candidate["responses"])
        rows.append({"prompt": candidate["prompt"], "chosen": better, "rejected": worse, "domain": group})
    return rows


def _pooled(job: Job, start: Start, rows: Mapping[str, list[DataRow]], passes: float) -> Result:
    network = train(start, Data(rows["train"], start.batch_size), passes, job.seed).network
    return {
        "accuracy": pair_accuracy(Probe(start, rows["outside"]).differences(network)),
        "inside_accuracy": pair_accuracy(Probe(start, rows["inside"]).differences(network)),
    }


def _heads(job: Job, start: Start, rows: Mapping[str, list[DataRow]], passes: float) -> Result:
    """All ways to combine the heads of one model, by name."""
    network = train(
        start,
        Data(rows["train"], start.batch_size),
        passes,
        job.seed,
        components={"domains": list(GROUPS), "combine": "gate"},
    ).network
    found = {name: Heads(start, network, rows[name]) for name in ("few", "inside", "outside")}
    few, inside, outside = found["few"], found["inside"], found["outside"]
    singles = [pair_accuracy(outside.differences(weights=w)) for w in torch.eye(len(GROUPS))]
    chosen = int((few.better - few.worse > 0).float().mean(0).argmax())
    own = torch.tensor([GROUPS.index(row["domain"]) for row in rows["inside"]])
    weights = fit_weights(few.better, few.worse)
    inside_own = (inside.better - inside.worse).gather(1, own[:, None]).squeeze(1)
    result: Result = {
        "best_single": {"accuracy": singles[chosen], "inside_accuracy": pair_accuracy(inside_own)},
        "few_shot": {
            "accuracy": pair_accuracy(outside.differences(weights=weights)),
            "weights": weights.tolist(),
        },
        "oracle_weights": {"accuracy": pair_accuracy(outside.differences(weights=torch.tensor(MIXTURE)))},
        "singles": singles,
    }
    for combine in ("mean", "min", "gate"):
        result[combine] = {
            "accuracy": pair_accuracy(outside.differences(combine)),
            "inside_accuracy": pair_accuracy(inside.differences(combine)),
        }
    return result


class Heads:
    """The standardised scores of each head on pairs, ``[C, heads]``, and the gate's logits.

    Args:
        start: whose tokenizer and limits are used.
        network: a scorer with components and a gate.
        rows: pairs.
    """

    def __init__(self, start: Start, network: Any, rows: Sequence[DataRow]) -> None:
        trees = Probe(start, rows).trees

        def read(batch: Any) -> Tensor:
            reading = network.read(batch)
            logits = network.gate_logits(reading)[batch.tree_index]
            return torch.cat([network.normalized(network.raw(reading.states)), logits], 1)

        heads = len(GROUPS)
        scored = score_trees(read, trees, 64, "cpu").unflatten(0, (len(rows), 2))
        self.better, self.worse = scored[:, 0, :heads], scored[:, 1, :heads]
        self.gates = scored[:, 0, heads:]

    def differences(self, combine: Any = "mean", weights: Tensor | None = None) -> Tensor:
        """Better minus worse of the combined scores, ``[C]``."""
        better, worse = (
            combine_scores(side, combine, 1.0, weights, self.gates) for side in (self.better, self.worse)
        )
        return better - worse

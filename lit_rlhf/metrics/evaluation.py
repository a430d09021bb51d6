"""How good a reward model is, in the numbers that a careful person would want beside its accuracy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lit_rlhf.metrics.calibration import bin_by_confidence, calibration_error
from lit_rlhf.metrics.groups import Group, by_agreement, by_domain, by_length_difference
from lit_rlhf.metrics.human import judge_by_votes
from lit_rlhf.metrics.intervals import Interval, bootstrap
from lit_rlhf.metrics.judged import Judged
from lit_rlhf.metrics.length import moments_within, pearson
from lit_rlhf.metrics.log_loss import preference_log_loss, target_entropy
from lit_rlhf.metrics.rankings import compare_rankings
from lit_rlhf.ops.shapes import check_same_shape
from lit_rlhf.records import Vote

LONGER_WINS = "longer wins"
WORST = 20
"""Comparisons that are named as the most wrong."""


class ReliabilityBin(NamedTuple):
    """The comparisons in which the model is about as sure."""

    confidence: float
    """Mean of max(p, 1 - p)."""
    right: float
    """Share of the judgements that are on the side the model prefers."""
    comparisons: int


@dataclass(frozen=True)
class Evaluation:
    """Plain values; None or an empty list where the data do not hold what a number needs."""

    comparisons: int
    strict: int
    """Comparisons whose target is not 1/2: what the accuracies are counted over."""
    prompts: int
    """Different prompts among the comparisons."""
    accuracy: Interval | None
    """Share of the strict comparisons in which the side with more judgements scores higher; equal scores are wrong."""
    baselines: dict[str, Interval]
    """The same of each baseline, by its name; where one says neither it is half right."""
    minus_baselines: dict[str, Interval]
    """Accuracy minus that of the baseline, on the same comparisons."""
    log_loss: Interval | None
    """Nats a comparison, ties and soft targets included."""
    noise_floor: float | None
    """Mean entropy of the targets, nats: the log-loss of a model that says the targets themselves; None where
    every target is 0 or 1. With few voters the shares are surer than the people are, so that the floor is low."""
    ece: float | None
    """Expected calibration error, in [0, 1]."""
    reliability: list[ReliabilityBin]
    """Only bins that hold a comparison."""
    kendall_tau: Interval | None
    """Mean over the ranked prompts of τ-b; None where no prompt has more than two judged responses."""
    top1: Interval | None
    """Share of the ranked prompts whose highest-scored response is among the best-ranked; None as above."""
    tied_prompts: int
    """Ranked prompts whose judged responses all tie; they are in neither of the two."""
    by_domain: list[Group]
    """The most frequent domains, then the rest as one."""
    by_agreement: list[Group]
    """By the share of the votes that the majority has, from the least to the most."""
    by_length_difference: list[Group]
    """Quintiles of the tokens that the preferred response has more than the other."""
    length_correlation: float | None
    """Of score with tokens within prompts, Pearson's: what is logged as ``bias/length_correlation``."""
    length_correlation_overall: float | None
    """The same over all responses, whatever their prompt."""
    disagreement: float | None
    """Mean standard deviation of a score over the model's components; None where it has one."""
    vote_accuracy: Interval | None
    """Mean share of a comparison's votes that are on the model's side; a tie, on either part, is half."""
    vote_ceiling: float | None
    """The most that `vote_accuracy` can be: mean max(p, 1 - p)."""
    human_accuracy: Interval | None
    """How often an annotator sides with the majority of the others; an annotator's tie is half right."""
    accuracy_beside_humans: Interval | None
    """The model's own on those very majorities."""
    worst: list[int]
    """Places in the :class:`Judged` of the strict comparisons with the highest log-loss, the worst first, two
    responses of a row at most once."""

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def evaluate(
    judged: Judged,
    prompts: Sequence[str],
    domains: Sequence[str | None],
    votes: Sequence[Sequence[Vote]],
    baselines: Mapping[str, Tensor],
    seed: int = 0,
) -> Evaluation:
    """Evaluates a model on a data set.

    Args:
        judged: what people and the model said of it.
        prompts: of each row of the data set; intervals are resampled by them, where there are too few by whole rows.
        domains: of each row, None where it has none.
        votes: of each row; empty where nobody voted.
        baselines: what a baseline says of each comparison, as better minus worse: positive where it prefers
            `better`, 0 where it says neither. Shape ``[C]``. "longer wins", in tokens, is added.
        seed: of the resampling.

    Raises:
        ValueError: a row or a shape that does not fit.
    """
    _check(judged, [prompts, domains, votes], baselines)
    prompt_numbers: dict[str, int] = {}
    numbers = torch.tensor([prompt_numbers.setdefault(prompt, len(prompt_numbers)) for prompt in prompts])

    def interval(values: Tensor, rows: Tensor) -> Interval | None:
        return bootstrap(values, numbers[rows].tolist(), seed, rows.tolist()) if len(values) else None

    strict = judged.target != 0.5
    preferred = (judged.target - 0.5).sign()
    # equal scores are wrong, though a baseline that says neither is half right: a model can break its ties, and has not
    right = ((judged.better_scores - judged.worse_scores).sign() == preferred).double()
    lengths = (judged.better_lengths - judged.worse_lengths) * preferred
    said_by_baselines = {LONGER_WINS: judged.better_lengths - judged.worse_lengths, **baselines}
    baselines_right = {name: (said.sign() * preferred + 1) / 2 for name, said in said_by_baselines.items()}
    losses = preference_log_loss(judged.probability, judged.target)
    soft = bool(((judged.target > 0) & (judged.target < 1)).any())
    binned = bin_by_confidence(judged.probability, judged.target)
    rankings = compare_rankings(judged.scores, judged.ranks, judged.response_row)
    ranked = ~rankings.tied if bool((rankings.judged > 2).any()) else torch.zeros_like(rankings.tied)
    correlations = [
        _number(pearson(moments_within(judged.scores.double(), judged.lengths, prompt)))
        for prompt in (judged.response_row, torch.zeros_like(judged.response_row))
    ]
    row, of_strict = judged.row[strict], right[strict]
    human = judge_by_votes(judged, votes)
    return Evaluation(
        comparisons=len(strict),
        strict=int(strict.sum()),
        prompts=len(numbers[judged.row].unique()),
        accuracy=interval(of_strict, row),
        baselines=_intervals({n: interval(values[strict], row) for n, values in baselines_right.items()}),
        minus_baselines=_intervals(
            {n: interval(of_strict - values[strict], row) for n, values in baselines_right.items()}
        ),
        log_loss=interval(losses, judged.row),
        noise_floor=target_entropy(judged.target).mean().item() if soft else None,
        ece=_number(calibration_error(binned)),
        reliability=[
            ReliabilityBin(confidence / count, share / count, int(count))
            for confidence, share, count in binned.T.tolist()
            if count
        ],
        kendall_tau=interval(rankings.kendall_tau[ranked], rankings.prompt[ranked]),
        top1=interval(rankings.top1[ranked], rankings.prompt[ranked]),
        tied_prompts=int(rankings.tied.sum()),
        by_domain=by_domain(of_strict, row, [domains[place] for place in row.tolist()], interval),
        by_agreement=by_agreement(of_strict, row, [votes[place] for place in row.tolist()], interval),
        by_length_difference=by_length_difference(of_strict, row, lengths[strict].long(), interval),
        length_correlation=correlations[0],
        length_correlation_overall=correlations[1],
        disagreement=judged.disagreement.mean().item() if judged.disagreement.any() else None,
        vote_accuracy=interval(human.vote_accuracy, human.voted_row),
        vote_ceiling=_number(human.vote_ceiling.mean()),
        human_accuracy=interval(human.human_right, human.left_out_row),
        accuracy_beside_humans=interval(human.model_right, human.left_out_row),
        worst=_worst(judged, losses, strict & (right == 0)),
    )


def _check(judged: Judged, of_rows: Sequence[Sequence[Any]], baselines: Mapping[str, Tensor]) -> None:
    names = ("prompts", "domains", "votes")
    if len({len(values) for values in of_rows}) > 1:
        found = ", ".join(f"{len(values)} {name}" for name, values in zip(names, of_rows, strict=True))
        raise ValueError(f"expected prompts, domains and votes of every row, found {found}")
    for name, said in baselines.items():
        check_same_shape(target=judged.target, **{f"baseline {name!r}": said})
    for rows in (judged.row, judged.response_row):
        if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < len(of_rows[0]):
            raise ValueError(
                f"expected rows from 0 to {len(of_rows[0]) - 1}, found {int(rows.min())} to {int(rows.max())}: "
                "the rows are not those that were judged"
            )
    for name in ("scores", "probability"):
        if (bad := int((~getattr(judged, name).isfinite()).sum())) > 0:
            raise ValueError(f"expected finite {name}, found {bad} that are not; leave those responses out")


def _worst(judged: Judged, losses: Tensor, wrong: Tensor) -> list[int]:
    """Places of the wrong comparisons with the highest losses; of equal ones, and of those of a pair, the earlier."""
    places = wrong.nonzero().flatten()
    order = places[losses[places].argsort(descending=True, stable=True)]
    sides = torch.stack([judged.better, judged.worse], 1).sort(1).values
    pairs: dict[tuple[int, ...], int] = {}
    for place, pair in zip(
        order.tolist(), torch.cat([judged.row[:, None], sides], 1)[order].tolist(), strict=True
    ):
        pairs.setdefault(tuple(pair), place)
    return list(pairs.values())[:WORST]


def _intervals(found: Mapping[str, Interval | None]) -> dict[str, Interval]:
    return {name: interval for name, interval in found.items() if interval is not None}


def _number(value: Tensor) -> float | None:
    return value.item() if bool(value.isfinite()) else None

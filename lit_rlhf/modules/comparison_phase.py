"""A phase that learns from comparisons: what reward models and DPO do alike."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lit_rlhf.metrics.accuracy import PairAccuracy
from lit_rlhf.metrics.calibration import CalibrationError
from lit_rlhf.metrics.judged import Judged, JudgedComparisons
from lit_rlhf.metrics.length import LengthCorrelation
from lit_rlhf.metrics.means import NamedMeans
from lit_rlhf.metrics.rankings import KendallTau, TopOne
from lit_rlhf.modules.base import PhaseModule
from lit_rlhf.records import LossOutput, ResponseTrees

SHOWN = 4
"""Comparisons in the sample table."""


VALIDATION_MEANS = [
    "val/loss",  # of the losses themselves; the others are means of what a batch shows
    "val/rewards/chosen",
    "val/rewards/rejected",
    "val/rewards/margins",
    "val/logps/chosen",
    "val/logps/rejected",
    "val/nll",
    "val/kto/reference_point",
    "val/bco/reward_shift",
    "val/wpo/weight",
]


class Judgement(NamedTuple):
    """What a phase thinks of a batch's responses."""

    losses: Tensor
    """Of each item that the loss is a mean of, ``[M]``: comparisons, or what else the phase counts."""
    weights: Tensor
    """What each of them adds to a mean over prompts of per-prompt means, ``[M]``."""
    scores: Tensor
    """Score or implicit reward of each response, ``[N]``."""
    probability: Tensor
    """P(better ≻ worse) of each comparison, ``[C]``, without gradient."""
    disagreement: Tensor
    """Standard deviation of each response's scores over the components, ``[N]``; 0 where there is one."""
    extra: Tensor | None = None
    """What is added to the mean in training, a scalar."""
    logprobs: Tensor | None = None
    """log π(y|x) of each response, ``[N]``, where the phase has a policy."""
    metrics: Mapping[str, Tensor] = MappingProxyType({})
    """Detached scalars of the phase's own to log, by their logged name."""


class ComparisonPhase(PhaseModule):
    """Abstract; a phase defines :meth:`judge`."""

    needs_comparisons = True
    """Whether a batch without one has nothing to learn from."""
    takes_labels = False
    """Whether there may be something to learn from responses that were judged by themselves."""

    def set_up_validation(self) -> None:
        """Make the validation metrics; called once by the constructor."""
        self.val_accuracy = PairAccuracy()
        self.val_calibration = CalibrationError()
        self.val_kendall_tau = KendallTau()
        self.val_top1 = TopOne()
        self.val_length_correlation = LengthCorrelation()
        self.val_means = NamedMeans(VALIDATION_MEANS)
        self.val_judged = JudgedComparisons()
        self._judged: Judged | None = None
        self._shown: list[dict[str, Any]] = []

    def judge(self, batch: ResponseTrees) -> Judgement:
        """Losses of the comparisons and scores of the responses."""
        raise NotImplementedError

    def compute_loss(self, batch: ResponseTrees) -> LossOutput:
        """Summed comparison losses, prompts weighing the same whatever their K, and the sum of weights.

        Raises:
            ValueError: the batch holds no comparison, and no label that the phase learns from.
        """
        labelled = self.takes_labels and not bool(batch.desirable.isnan().all())
        if batch.better.numel() == 0 and self.needs_comparisons and not labelled:
            raise ValueError(
                f"{type(self).__name__} needs comparisons; {batch.row_ids[0]} has none. Give it a PairDataModule or a "
                "RankingDataModule."
            )
        judgement = self.judge(batch)
        total, count = (judgement.weights * judgement.losses).sum(), judgement.weights.sum()
        if judgement.extra is not None:
            total = total + count * judgement.extra
        return LossOutput(total, count, self._metrics(judgement, batch))

    def training_step(self, batch: ResponseTrees, batch_idx: int) -> Tensor:
        output = self.compute_loss(batch)
        loss = self.mean_loss(output, batch.row_ids)
        self.log_training(output)
        return loss

    def validation_step(self, batch: ResponseTrees, batch_idx: int) -> None:
        judgement = self.judge(batch)
        scores = judgement.scores
        self.val_means.update("val/loss", judgement.losses, judgement.weights)
        self.val_accuracy.update(scores[batch.better], scores[batch.worse], batch.target)
        self.val_calibration.update(judgement.probability, batch.target)
        self.val_kendall_tau.update(scores, batch.ranks, batch.tree_index)
        self.val_top1.update(scores, batch.ranks, batch.tree_index)
        lengths = torch.tensor(batch.response_lengths, device=scores.device)
        self.val_length_correlation.update(scores, lengths, batch.tree_index)
        self.val_judged.update(batch, scores, judgement.probability, judgement.disagreement)
        chosen, rejected, pairs = chosen_and_rejected(batch)
        counts = {"chosen": len(chosen), "rejected": len(rejected), "margins": pairs, "nll": len(chosen)}
        numbers = {f"val/{name}": value for name, value in self._metrics(judgement, batch).items()}
        for name in VALIDATION_MEANS[1:]:
            # Those that are not there weigh nothing: all ranks have to ask for the same sums.
            counted = counts.get(name.rpartition("/")[2], len(chosen) + len(rejected) - pairs)
            weight = float(counted) if name in numbers else 0.0
            self.val_means.update(name, numbers.get(name, scores.new_zeros(())), weight)
        if batch_idx == 0:
            self._shown = self._comparison_table(batch, scores)

    def on_validation_epoch_end(self) -> None:
        # the metrics have been summed over ranks already; sync_dist then averages equal numbers
        shown = {"val/loss", "val/rewards/accuracies"}
        counted = {
            "val/rewards/accuracies": self.val_accuracy,
            "val/calibration/ece": self.val_calibration,
            "val/ranking/kendall_tau": self.val_kendall_tau,
            "val/ranking/top1": self.val_top1,
            "val/bias/length_correlation": self.val_length_correlation,
        }
        numbers = self.val_means.compute()
        for name, metric in counted.items():
            numbers[name] = metric.compute()
            metric.reset()
        for name, value in numbers.items():
            if not value.isnan():  # nothing was seen that it could be counted on
                self.log(name, value, prog_bar=name in shown, sync_dist=True)
        self._judged = self.val_judged.compute()
        self.val_judged.reset()

    test_step = validation_step
    on_test_epoch_end = on_validation_epoch_end

    def evaluation(self) -> Judged | None:
        """Every comparison and response of the last validation or test, all ranks; None before there was one."""
        return self._judged

    def sample_table(self) -> list[dict[str, Any]] | None:
        """The first validation comparisons, or labelled responses, with their scores."""
        return self._shown or None

    def _metrics(self, judgement: Judgement, batch: ResponseTrees) -> dict[str, Tensor]:
        numbers = comparison_numbers(judgement.scores, judgement.logprobs, batch)
        return {**judgement.metrics, **numbers} if numbers else {}

    def _comparison_table(self, batch: ResponseTrees, scores: Tensor) -> list[dict[str, Any]]:
        segments = [self.encoder.decode(ids.tolist()) for ids in batch.input_ids.split(batch.segment_lengths)]
        # segments run prompt, its responses, prompt, ...: response n of tree t is behind t + 1 prompts
        trees = batch.tree_index.tolist()
        response = [segments[number + tree + 1] for number, tree in enumerate(trees)]
        prompt = [segments[trees.index(tree) + tree] for tree in trees]
        pairs = zip(batch.better.tolist(), batch.worse.tolist(), strict=True)
        if batch.better.numel() == 0:
            labels = [(number, said) for number, said in enumerate(batch.desirable.tolist()) if said == said]
            return [
                {
                    "prompt": prompt[number],
                    "response": response[number],
                    "label": "desirable" if said else "undesirable",
                    "score": round(scores[number].item(), 3),
                }
                for number, said in labels[:SHOWN]  # those that are not NaN
            ]
        return [
            {
                "prompt": prompt[better],
                "chosen": response[better],
                "rejected": response[worse],
                "chosen score": round(scores[better].item(), 3),
                "rejected score": round(scores[worse].item(), 3),
            }
            for better, worse in list(pairs)[:SHOWN]
        ]


def comparison_numbers(scores: Tensor, logprobs: Tensor | None, batch: ResponseTrees) -> dict[str, Tensor]:
    """Means over the batch's decided comparisons, under TRL's names; a target under 1/2 swaps the two.

    Responses that were judged by themselves are among the chosen and the rejected ones, and have no margins.

    Args:
        scores: score or implicit reward of each response, ``[N]``.
        logprobs: log π(y|x), ``[N]``; None where there is no policy.
        batch: what was said of them.

    Returns:
        Detached scalars; nothing where no comparison is decided and no response has a label.
    """
    chosen, rejected, pairs = chosen_and_rejected(batch)
    numbers: dict[str, Tensor] = {}
    for kind, values in (("rewards", scores), ("logps", logprobs)):
        for side, places in (("chosen", chosen), ("rejected", rejected)):
            if values is not None and len(places):
                numbers[f"{kind}/{side}"] = values.detach()[places].mean()
    if pairs:
        above, below = scores.detach()[chosen[:pairs]], scores.detach()[rejected[:pairs]]
        numbers["rewards/margins"] = (above - below).mean()
        numbers["rewards/accuracies"] = (above > below).float().mean()
    return numbers


def chosen_and_rejected(batch: ResponseTrees) -> tuple[Tensor, Tensor, int]:
    """The responses of decided comparisons and, behind them, those called desirable or undesirable by themselves.

    Returns:
        Long, as many chosen and rejected ones as there are; and how many of each are of a comparison.
    """
    decided = batch.target != 0.5
    chosen = torch.where(batch.target > 0.5, batch.better, batch.worse)[decided]
    rejected = torch.where(batch.target > 0.5, batch.worse, batch.better)[decided]
    desirable, undesirable = (batch.desirable == said for said in (1, 0))
    return (
        torch.cat([chosen, desirable.nonzero()[:, 0]]),
        torch.cat([rejected, undesirable.nonzero()[:, 0]]),
        len(chosen),
    )

"""A phase that learns from comparisons: what reward models and DPO do alike."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from lit_rlhf.metrics import NamedMeans, PairAccuracy
from lit_rlhf.modules.base import PhaseModule
from lit_rlhf.records import LossOutput, ResponseTrees

SHOWN = 4
"""Comparisons in the sample table."""


VALIDATION_MEANS = [
    "val/loss",
    "val/rewards/chosen",
    "val/rewards/rejected",
    "val/rewards/margins",
    "val/logps/chosen",
    "val/logps/rejected",
]


class Judgement(NamedTuple):
    """What a phase thinks of a batch's responses."""

    losses: Tensor
    """Of each comparison, ``[C]``."""
    scores: Tensor
    """Score or implicit reward of each response, ``[N]``."""
    logprobs: Tensor | None = None
    """log π(y|x) of each response, ``[N]``, where the phase has a policy."""


class ComparisonPhase(PhaseModule):
    """Abstract; a phase defines :meth:`judge`."""

    def set_up_validation(self) -> None:
        """Make the validation metrics; called once by the constructor."""
        self.val_accuracy = PairAccuracy()
        self.val_means = NamedMeans(VALIDATION_MEANS)
        self._shown: list[dict[str, Any]] = []

    def judge(self, batch: ResponseTrees) -> Judgement:
        """Losses of the comparisons and scores of the responses."""
        raise NotImplementedError

    def compute_loss(self, batch: ResponseTrees) -> LossOutput:
        """Summed comparison losses, prompts weighing the same whatever their K, and the sum of weights.

        Raises:
            ValueError: the batch holds no comparison.
        """
        if batch.better.numel() == 0:
            raise ValueError(
                f"{type(self).__name__} needs comparisons; {batch.row_ids[0]} has none. Give it a PairDataModule or a "
                "RankingDataModule."
            )
        judgement = self.judge(batch)
        weights = batch.comparison_weights()
        return LossOutput((weights * judgement.losses).sum(), weights.sum(), self._metrics(judgement, batch))

    def training_step(self, batch: ResponseTrees, batch_idx: int) -> Tensor:
        output = self.compute_loss(batch)
        loss = self.mean_loss(output, batch.row_ids)
        self.log_training(output)
        return loss

    def validation_step(self, batch: ResponseTrees, batch_idx: int) -> None:
        judgement = self.judge(batch)
        self.val_means.update("val/loss", judgement.losses, batch.comparison_weights())
        better, worse = judgement.scores[batch.better], judgement.scores[batch.worse]
        self.val_accuracy.update(better, worse, batch.target)
        decided = float((batch.target != 0.5).sum())
        for name, value in self._metrics(judgement, batch).items():
            if name != "rewards/accuracies":
                self.val_means.update(f"val/{name}", value, decided)
        if batch_idx == 0:
            self._shown = self._comparison_table(batch, judgement.scores)

    def on_validation_epoch_end(self) -> None:
        # the metrics have been summed over ranks already; sync_dist then averages equal numbers
        shown = {"val/loss", "val/rewards/accuracies"}
        accuracy = {"val/rewards/accuracies": self.val_accuracy.compute()}
        self.val_accuracy.reset()
        for name, value in {**self.val_means.compute(), **accuracy}.items():
            self.log(name, value, prog_bar=name in shown, sync_dist=True)

    test_step = validation_step
    on_test_epoch_end = on_validation_epoch_end

    def sample_table(self) -> list[dict[str, Any]] | None:
        """The first validation comparisons with their scores."""
        return self._shown or None

    def _metrics(self, judgement: Judgement, batch: ResponseTrees) -> dict[str, Tensor]:
        """Means over the batch's decided comparisons, under TRL's names; a target under 1/2 swaps the two."""
        decided = batch.target != 0.5
        chosen = torch.where(batch.target > 0.5, batch.better, batch.worse)[decided]
        rejected = torch.where(batch.target > 0.5, batch.worse, batch.better)[decided]
        if chosen.numel() == 0:
            return {}
        scores = judgement.scores.detach()
        metrics = {
            "rewards/chosen": scores[chosen].mean(),
            "rewards/rejected": scores[rejected].mean(),
            "rewards/margins": (scores[chosen] - scores[rejected]).mean(),
            "rewards/accuracies": (scores[chosen] > scores[rejected]).float().mean(),
        }
        if judgement.logprobs is not None:
            logprobs = judgement.logprobs.detach()
            metrics["logps/chosen"] = logprobs[chosen].mean()
            metrics["logps/rejected"] = logprobs[rejected].mean()
        return metrics

    def _comparison_table(self, batch: ResponseTrees, scores: Tensor) -> list[dict[str, Any]]:
        segments = [self.encoder.decode(ids.tolist()) for ids in batch.input_ids.split(batch.segment_lengths)]
        # segments run prompt, its responses, prompt, ...: response n of tree t is behind t + 1 prompts
        trees = batch.tree_index.tolist()
        response = [segments[number + tree + 1] for number, tree in enumerate(trees)]
        prompt = [segments[trees.index(tree) + tree] for tree in trees]
        pairs = zip(batch.better.tolist(), batch.worse.tolist(), strict=True)
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

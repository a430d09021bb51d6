"""Reward models: learn from comparisons and rankings which response people prefer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from lit_rlhf.data.datamodules import read_reference_trees
from lit_rlhf.data.trees import pack_trees
from lit_rlhf.losses.reward import bradley_terry_loss
from lit_rlhf.models.export import export_scorer
from lit_rlhf.models.loading import disable_dropout
from lit_rlhf.models.lora import add_lora
from lit_rlhf.models.lora_settings import Lora, lora_settings
from lit_rlhf.models.modes import evaluating
from lit_rlhf.models.reading import Attention
from lit_rlhf.models.scorer import Link, ScorerNetwork, load_scorer
from lit_rlhf.modules.base import default_optimizer
from lit_rlhf.modules.comparison_phase import ComparisonPhase, Judgement
from lit_rlhf.records import ResponseTrees, Tree

MAX_REFERENCES = 512
"""Reference responses that the mean is taken over, at most; the first ones."""


class RewardModule(ComparisonPhase):
    """One score for a response, from what people said of responses to the same prompt.

    L = mean over prompts of the mean over a prompt's comparisons of −log σ(r_w − r_l − margin). K responses
    are scored once and give all their comparisons; with K = 2 this is the Bradley-Terry loss on pairs.
    Dropout is off (Huang et al. 2024, detail 7).

    Args:
        model: folder of a causal language model, whose language-model head is replaced by a new regression
            head (weights N(0, 1/(D+1)), bias 0); or a reward export, which keeps its head and bias; or (from
            Python) a causal language model already built.
        link: ``bradley_terry``: the head gives the score. ``luce``: the response's strength is softplus of
            the head, P(w ≻ l) = s_w/(s_w+s_l), and the score is the strength's logarithm. Null: a new head
            is ``bradley_terry``, and an export keeps its own.
        center: after training, take off every score what makes the reference responses average 0.
        references: demonstrations file whose responses shall average 0; null = the preferred responses of
            the training data. At most 512 are scored, before each validation
            and at the end of an epoch.
        lora: low-rank adapters in place of full weights: peft's fields, such as ``{r: 8, target_modules: all-linear}``
            (``--model.lora.help LoraConfig`` lists them; targets are peft's for the model's family, else
            all-linear); null = full weights. The head
            is trained in full. Without dropout, since it is off.
        optimizer: makes the optimizer from parameters.
        scheduler: makes the learning-rate schedule from the optimizer; stepped once an update.
        tokenizer: the tokenizer of a model already built; a folder brings its own.
        chat_template: for conversations where the tokenizer has none: ``chatml``, a .jinja file, or the text.
        attention: ``trees`` computes each prompt once for all its responses; ``padded`` gives every response a
            row of its own; ``auto`` takes trees where the model lets its attention be replaced.
    """

    network: ScorerNetwork

    def __init__(
        self,
        model: str | nn.Module,
        link: Link | None = None,
        center: bool = True,
        references: str | None = None,
        lora: Lora | None = None,
        optimizer: OptimizerCallable = default_optimizer,
        scheduler: LRSchedulerCallable | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        chat_template: str | None = None,
        attention: Attention = "auto",
    ) -> None:
        super().__init__(model, optimizer, scheduler, tokenizer, chat_template)
        lora = lora_settings(lora, dropout=False)
        self.remember_arguments(model)
        self.center = center
        self.references = references
        self.network = disable_dropout(load_scorer(model, link, attention))
        self.adapter = add_lora(self.network, self.network.trunk, lora)
        self.set_up_validation()
        self._centered_at: int | None = None

    def score(self, batch: ResponseTrees) -> Tensor:
        """Scores ``[N]``. Meant to be overridden."""
        return self.network(batch)

    def judge(self, batch: ResponseTrees) -> Judgement:
        """Every response scored once, every comparison of the prompt from those scores."""
        scores = self.score(batch)
        better, worse = scores[batch.better], scores[batch.worse]
        return Judgement(bradley_terry_loss(better, worse, batch.target, batch.margin), scores)

    def predict_step(self, batch: ResponseTrees, batch_idx: int) -> list[dict[str, Any]]:
        """The scores of each row's responses."""
        counts = torch.bincount(batch.tree_index, minlength=batch.num_trees).tolist()
        if 0 in counts:
            raise ValueError(f"{batch.row_ids[counts.index(0)]}: expected responses to score, found none.")
        per_row = self.score(batch).split(counts)
        return [
            {"id": name, "reward_scores": scores.tolist()}
            for name, scores in zip(batch.row_ids, per_row, strict=True)
        ]

    def on_validation_start(self) -> None:
        super().on_validation_start()
        # before a checkpoint that is written at the end of validation, so that its bias is the centred one
        if self.trainer.state.fn == "fit" and not self.trainer.sanity_checking:
            self._center_scores()

    def on_train_epoch_end(self) -> None:
        self._center_scores()

    @torch.no_grad()
    def _center_scores(self) -> None:
        """Shift all scores so that the reference responses average 0; no comparison's loss changes."""
        if not self.center or self._centered_at == self.trainer.global_step:
            return
        trees = self._reference_trees()
        if not trees:
            rank_zero_warn(
                "RewardModule: no reference responses were found to set the mean score to 0 with. Give "
                "model.references, or set model.center to false."
            )
            self._centered_at = self.trainer.global_step
            return
        with evaluating(self.network):
            mean = self._mean_score(trees)
        self.network.shift(mean)
        self._centered_at = self.trainer.global_step
        rank_zero_info(
            f"Scores shifted by {-mean.item():+.4f}: {len(trees)} reference responses now average 0."
        )

    def _mean_score(self, trees: list[Tree]) -> Tensor:
        """Mean score over all ranks, each looking at its share in batches of the same number."""
        rank, world = self.global_rank, self.trainer.world_size
        total = torch.zeros(2, dtype=torch.float64, device=self.device)
        for start in range(0, len(trees), 32 * world):
            share = trees[start + rank : start + 32 * world : world]
            scores = self.network(pack_trees(share or trees[:1]).to(self.device))  # every rank takes part
            if share:
                total += torch.stack([scores.double().sum(), total.new_tensor(float(len(scores)))])
        if world > 1:
            total = self.trainer.strategy.reduce(total, reduce_op="sum")
        return (total[0] / total[1]).float()

    def _reference_trees(self) -> list[Tree]:
        if self.references is not None:
            return read_reference_trees(self.references, self.encoder)[:MAX_REFERENCES]
        trees = self.datamodule.trees("train") if hasattr(self.datamodule, "trees") else []
        return [single for tree in trees[:MAX_REFERENCES] if (single := _preferred_only(tree))]

    def export(self, directory: str | Path) -> None:
        """Write the model as ``AutoModelForSequenceClassification`` with one label loads it.

        With LoRA it is merged, and the adapter with the head stands beside it.
        """
        export_scorer(self.network, self.tokenizer_to_export(), directory, self.adapter)


def _preferred_only(tree: Tree) -> Tree | None:
    """The tree with its most preferred response alone: never the worse one of a comparison, if there is one."""
    losers = {c.worse for c in tree.comparisons if c.target > 0.5}
    winners = [c.better for c in tree.comparisons if c.target > 0.5 and c.better not in losers]
    if not winners:
        return None
    best = winners[0]
    return Tree(tree.prompt_ids, [tree.response_ids[best]], [tree.response_masks[best]], id=tree.id)

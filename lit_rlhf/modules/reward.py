"""Reward models: learn from comparisons, rankings, votes and ratings which response people prefer."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerBase

from lit_rlhf.data.seed import settled_seed
from lit_rlhf.data.sources import Split
from lit_rlhf.data.streaming.streamed import looked_at
from lit_rlhf.data.trees import pack_trees, plant_tree
from lit_rlhf.metrics.agreement import describe_agreement
from lit_rlhf.models.components import Components
from lit_rlhf.models.execution import Execution, set_execution
from lit_rlhf.models.export import export_scorer
from lit_rlhf.models.loading import disable_dropout, has_dropout
from lit_rlhf.models.lora import LoraAdapter, add_lora
from lit_rlhf.models.lora_settings import Lora, lora_settings
from lit_rlhf.models.modes import evaluating
from lit_rlhf.models.reading import Attention
from lit_rlhf.models.scorer import Link, Reading, ScorerNetwork, load_scorer
from lit_rlhf.modules.base import checked_settings, default_optimizer
from lit_rlhf.modules.comparison_phase import ComparisonPhase, Judgement
from lit_rlhf.modules.contrastive import Contrastive, ContrastiveTerm
from lit_rlhf.modules.heads import domain_numbers, participation
from lit_rlhf.modules.meta_learning import LookAhead, MetaLearning
from lit_rlhf.modules.preference_objective import Items, Loss, PreferenceObjective, Ties
from lit_rlhf.modules.rating_scales import Scale, annotator_scales, rescaled_ratings
from lit_rlhf.modules.score_normalization import ScoreNormalization
from lit_rlhf.ops.noise import drawing_from
from lit_rlhf.records import Prompt, Response, ResponseTrees, Row, Tree


class RewardModule(ComparisonPhase):
    """One score for a response, from what people said of responses to the same prompt.

    L = mean over prompts of the mean over a prompt's comparisons of −log σ(r_w − r_l − margin). K responses
    are scored once and give all their comparisons; with K = 2 this is the Bradley-Terry loss on pairs.
    Dropout is off (Huang et al. 2024, detail 7), but for a contrastive term.

    Args:
        model: folder of a causal language model, whose language-model head is replaced by a new regression
            head (weights N(0, 1/(D+1)), bias 0); or a reward export, which keeps its head and bias; or (from
            Python) a causal language model already built.
        loss: ``pairs``: every comparison of a prompt, their mean. ``plackett_luce``: the likelihood of the whole
            ranking, divided by its K − 1 choices. ``best_of_k``: that of the best response alone. ``ratings``:
            squared error to ratings in each annotator's own scale, the baseline that comparisons are held against.
            Measured (as all figures here, in benchmarks/results/reward_studies.md): Plackett-Luce is as accurate as
            pairs; best-of-K has the worse log-loss, by 0.06 on the demo world.
        link: ``bradley_terry``: the head gives the score. ``luce``: the response's strength is softplus of
            the head, P(w ≻ l) = s_w/(s_w+s_l), and the score is the strength's logarithm. Null: a new head
            is ``bradley_terry``, and an export keeps its own.
        ties: what a tie says. ``half``: either is as likely to be better. ``drop``: nothing. ``rao_kupper``: the two
            differ by less than a width that is learned. Dropping cost 0.016 of log-loss, the width is no better than
            half.
        margin: by how much the better response should win, in units of the score; null = what the data says.
        label_smoothing: share of labels assumed wrong: the target is 1 − α in place of 1. No gain seen with a quarter
            of the labels wrong.
        flip_rate: known share of flipped labels, which the loss is corrected for without bias (rDPO's form); its
            losses are not bounded below, so stop early. With a quarter wrong +0.06 accuracy on one of two data sets.
        uniform_error: share of answers assumed to be given blindly (Christiano et al. 2017): pairs that the model is
            sure about lose their pull. No gain seen.
        center_coef: weight of (r_w + r_l)², which keeps scores near 0 during training; TRL takes 0.01.
        contrastive: an unsupervised term beside the loss; null = none: no gain was seen. ``method`` (simcse, swav),
            ``on`` (responses, differences), ``weight``, ``temperature``, ``dropout``, ``prototypes``, ``projection``:
            see `Contrastive`.
        meta: a look ahead on unlabelled samples of the policy before each update (MetaRM); null = none: no gain was
            seen. ``samples``, ``step``, ``batch_size``: see `MetaLearning`.
        components: several heads on one trunk, and how they are combined; null = one head. ``domains`` (one head
            each) or ``members`` (a bootstrap ensemble), ``combine`` (mean, min, mean_minus_std, gate), ``k``: see
            `Components`. For domains of opposite tastes with few-shot weights at export: +0.20 accuracy on a new
            mixture; where tastes agree one head is better by 0.03.
        center: after training, take off every score what makes the reference responses average 0.
        unit_variance: after training, divide every score by the reference responses' standard deviation.
            Components are always standardised.
        references: demonstrations file whose responses shall average 0; null = the preferred responses of
            the training data. At most 512 are scored, before each validation
            and at the end of an epoch.
        lora: low-rank adapters in place of full weights: peft's fields, such as ``{r: 8, target_modules: all-linear}``
            (``--model.lora.help LoraConfig`` lists them; targets are peft's for the model's family, else
            all-linear), and ``base_weights: nf4`` for frozen weights in 4 bits; null = full weights. The head
            is trained in full. Without dropout, since it is off.
        execution: how layers are run in training: ``{activation_checkpointing, offload_activations, compile}``, each
            true or false; null = none of it.
        optimizer: makes the optimizer from parameters.
        scheduler: makes the learning-rate schedule from the optimizer; stepped once an update.
        tokenizer: the tokenizer of a model already built; a folder brings its own.
        chat_template: for conversations where the tokenizer has none: ``chatml``, a .jinja file, or the text.
        attention: ``trees`` computes each prompt once for all its responses; ``padded`` gives every response a
            row of its own; ``auto`` takes trees where the model lets its attention be replaced.
        seed: of bootstrap weights, contrastive views and the samples that are looked ahead on; null = that of
            ``seed_everything``.
    """

    network: ScorerNetwork

    def __init__(
        self,
        model: str | nn.Module,
        loss: Loss = "pairs",
        link: Link | None = None,
        ties: Ties = "half",
        margin: float | None = None,
        label_smoothing: float = 0.0,
        flip_rate: float = 0.0,
        uniform_error: float = 0.0,
        center_coef: float = 0.0,
        contrastive: Contrastive | None = None,
        meta: MetaLearning | None = None,
        components: Components | None = None,
        center: bool = True,
        unit_variance: bool = False,
        references: str | None = None,
        lora: Lora | None = None,
        execution: Execution | None = None,
        optimizer: OptimizerCallable = default_optimizer,
        scheduler: LRSchedulerCallable | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        chat_template: str | None = None,
        attention: Attention = "auto",
        seed: int | None = None,
    ) -> None:
        super().__init__(model, optimizer, scheduler, tokenizer, chat_template)
        lora = lora_settings(lora, dropout=False)
        views = checked_settings(Contrastive, "contrastive", contrastive)
        ahead = checked_settings(MetaLearning, "meta", meta)
        heads = Components.of(components)
        self.execution = checked_settings(Execution, "execution", execution)
        # as plain values, which a checkpoint can hold
        contrastive, meta, components = (s and s.plain() for s in (views, ahead, heads))  # type: ignore[assignment]
        execution = self.execution and asdict(self.execution)  # type: ignore[assignment]
        self.remember_arguments(model)
        self.seed = settled_seed(seed)
        self.ties: Ties = ties
        self.network = load_scorer(model, link, attention, heads)
        # a contrastive term takes its two views from the trunk's own dropout where it has one
        self._trunk_makes_views = views is not None and has_dropout(self.network)
        if not self._trunk_makes_views:
            disable_dropout(self.network)
        self.adapter = add_lora(self.network, self.network.trunk, lora)
        set_execution(self.network, self.execution)
        self.objective = PreferenceObjective(
            loss, ties, margin, label_smoothing, flip_rate, uniform_error, center_coef
        )
        self.needs_comparisons = loss != "ratings"
        self.contrastive_term = (
            None if views is None else ContrastiveTerm(views, self.network.head.in_features)
        )
        self._look_ahead = None if ahead is None else LookAhead(ahead, self.raw_scores, self._mean_over_ranks)
        if unit_variance and self.network.num_components > 1:
            raise ValueError("model.unit_variance: components are standardised anyway; leave it false.")
        if type(self).score is not RewardModule.score and (views or unit_variance or self.network.components):
            raise ValueError(
                f"{type(self).__name__} overrides `score`, which model.contrastive, model.components and "
                "model.unit_variance go past: they work on the heads themselves. Leave them out."
            )
        self._normalization = ScoreNormalization(self, center, unit_variance, references)
        self._rating_scales: dict[str, Scale] = {}
        self.set_up_validation()

    def score(self, batch: ResponseTrees) -> Tensor:
        """Scores ``[N]``, components combined. Meant to be overridden; training then sees what it gives."""
        return self.network(batch)

    def raw_scores(self, batch: ResponseTrees) -> Tensor:
        """What each head says, before gain and offset, ``[N, C]``."""
        return self.network.raw(self.network.read(batch).states)

    @torch.no_grad()
    def prefer(self, prompt: Prompt, a: Response, b: Response) -> float:
        """P(a ≻ b | prompt), a tie counted half; ``prefer(x, a, b) + prefer(x, b, a)`` is 1.

        Args:
            prompt: text or messages.
            a: one response.
            b: the other.
        """
        trees, _ = plant_tree(Row(prompt, [a, b]), self.encoder)
        batch = pack_trees(trees).to(self.device)
        with evaluating(self.network):
            reading = self.network.read(batch)
            raw = self.network.raw(reading.states)
            gates = None if self.network.gate is None else self.network.gate_logits(reading)
            weights = None if gates is None else gates.softmax(-1)
            return self.network.preference(raw[:1], raw[1:], weights, self._tie_width).item()

    def judge(self, batch: ResponseTrees) -> Judgement:
        """Every response scored once, every comparison of the prompt from those scores."""
        if self.network.num_components == 1 and self.contrastive_term is None:
            scores = self.score(batch)
            raw = (scores[:, None] + self.network.score_offset) / self.network.gain
            return self._judgement(batch, raw, scores, self._items(raw, batch))
        reading = self.network.read(batch)
        raw, extra = self.network.raw(reading.states), None
        gates = None if self.network.gate is None else self.network.gate_logits(reading)
        if self.contrastive_term is None or not self.training:
            items = self._items(raw, batch)
        else:
            views = self._views(reading, batch)
            items, other = (self._items(self.network.raw(view), batch) for view in views)
            items = items._replace(losses=(items.losses + other.losses) / 2)
            extra = self.contrastive_term(*views, batch)
        if gates is not None and self.training:
            routing = cross_entropy(gates, domain_numbers(self.network.components, batch))
            extra = routing if extra is None else extra + routing
        of_response = None if gates is None else gates[batch.tree_index]
        scores = self.network.combined(raw, of_response)
        return self._judgement(batch, raw, scores, items, extra, of_response)

    def _items(self, raw: Tensor, batch: ResponseTrees) -> Items:
        """What the loss is a mean of, over all heads."""
        ratings = rescaled_ratings(batch, self._rating_scales) if self._rating_scales else None
        shares = participation(self.network.components, batch, self.seed if self.training else None)
        parts = []
        for column, share in zip(raw.unbind(1), shares.to(raw).unbind(1), strict=True):
            items = self.objective(column, batch, ratings)
            parts.append(items._replace(weights=items.weights * share[items.trees]))
        return Items(*(torch.cat(field) for field in zip(*parts, strict=True)))

    def _views(self, reading: Reading, batch: ResponseTrees) -> tuple[Tensor, Tensor]:
        assert self.contrastive_term is not None
        if self._trunk_makes_views:
            return reading.states, self.network.read(batch).states
        return self.contrastive_term.views(reading.states)

    def _judgement(
        self,
        batch: ResponseTrees,
        raw: Tensor,
        scores: Tensor,
        items: Items,
        extra: Tensor | None = None,
        gates: Tensor | None = None,
    ) -> Judgement:
        weights = None if gates is None else gates[batch.better].softmax(-1)
        raw = raw.detach()
        probability = self.network.preference(raw[batch.better], raw[batch.worse], weights, self._tie_width)
        disagreement = self.network.normalized(raw).std(1, correction=0)
        return Judgement(items.losses, items.weights, scores, probability.detach(), disagreement, extra)

    @property
    def _tie_width(self) -> Tensor | float:
        width = self.objective.tie_width
        return 0.0 if width is None else width.detach()

    def training_step(self, batch: ResponseTrees, batch_idx: int) -> Tensor:
        seed, difference = self.dropout_seed(batch_idx), None
        try:
            with drawing_from(seed, self.device) if self.contrastive_term is not None else nullcontext():
                if self._look_ahead is not None:
                    difference = self._look_ahead.move(self._trained(), seed, device=self.device)
                output = self.compute_loss(batch)
            loss = self.mean_loss(output, batch.row_ids)
            if difference is not None:
                output.metrics["meta/difference"] = difference
            self.log_training(output)
        except BaseException:
            self._put_back()
            raise
        return loss

    def backward(self, loss: Tensor, *arguments: Any, **named: Any) -> None:
        """Lightning's own; after it, or after what went wrong in it, the weights are where they were."""
        try:
            super().backward(loss, *arguments, **named)
        finally:
            self._put_back()

    def _put_back(self) -> None:
        if self._look_ahead is not None:
            self._look_ahead.put_back()

    def predict_step(self, batch: ResponseTrees, batch_idx: int) -> list[dict[str, Any]]:
        """The scores of each row's responses; of several components also how far they disagree."""
        counts = torch.bincount(batch.tree_index, minlength=batch.num_trees).tolist()
        if 0 in counts:
            raise ValueError(f"{batch.row_ids[counts.index(0)]}: expected responses to score, found none.")
        columns = {"reward_scores": self.score(batch)}
        if self.network.num_components > 1:
            columns["reward_disagreement"] = self.network.forward_with_disagreement(batch)[1]
        per_row = {name: values.split(counts) for name, values in columns.items()}
        return [
            {"id": row_id, **{name: values[place].tolist() for name, values in per_row.items()}}
            for place, row_id in enumerate(batch.row_ids)
        ]

    def on_fit_start(self) -> None:
        super().on_fit_start()
        votes = self.datamodule.votes("train") if hasattr(self.datamodule, "votes") else []
        for line in describe_agreement(votes) if votes else []:
            rank_zero_info(line)
        self._normalization.start()
        ties = [comparison.tie for tree in looked_at(self._trees("train")) for comparison in tree.comparisons]
        if ties and self.trainer.ckpt_path is None:
            self.objective.start_tie_width(sum(ties) / len(ties))
        if self.objective.loss == "ratings":
            self._rating_scales = annotator_scales(self._trees("train"))
        if self._look_ahead is not None:
            self._start_looking_ahead(self._look_ahead)

    def _start_looking_ahead(self, look_ahead: LookAhead) -> None:
        if not isinstance(self.trainer.strategy, DDPStrategy | SingleDeviceStrategy):
            raise ValueError(
                "model.meta moves whole weights: it runs on one device or under ddp, not under "
                f"{type(self.trainer.strategy).__name__}."
            )
        limits = ("max_prompt_tokens", "max_response_tokens")
        look_ahead.read(self.encoder, *(getattr(self.datamodule, limit, None) for limit in limits))

    def on_validation_start(self) -> None:
        super().on_validation_start()
        # before a checkpoint that is written at the end of validation, so that its bias is the centred one
        if self.trainer.state.fn == "fit" and not self.trainer.sanity_checking:
            self._normalization.settle()
        self._settle_scales("val")

    def on_test_start(self) -> None:
        super().on_test_start()
        self._settle_scales("test")

    def on_train_epoch_end(self) -> None:
        self._normalization.settle()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["rating_scales"] = {name: list(scale) for name, scale in self._rating_scales.items()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        stored = checkpoint.get("rating_scales", {})
        self._rating_scales = {name: (mean, deviation) for name, (mean, deviation) in stored.items()}

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The network, and in a group of its own what the loss learns beside it."""
        beside = self.parameters_beside()
        return [*super().parameter_groups(), *([{"params": beside}] if beside else [])]

    def write_export(self, network: ScorerNetwork, adapter: LoraAdapter | None, directory: Path) -> None:
        """As ``AutoModelForSequenceClassification`` with one label loads it; the head is with the adapter too."""
        export_scorer(network, self.tokenizer_to_export(), directory, adapter)

    def _trained(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def _settle_scales(self, split: Split) -> None:
        """Ratings are compared on the annotators' own scales: those of the training, else of what is evaluated."""
        if self.objective.loss == "ratings" and not self._rating_scales:
            self._rating_scales = annotator_scales(self._trees(split))
            rank_zero_info(
                f"Annotators' scales are those of the {split} data: the model's own come with --ckpt_path."
            )

    def _trees(self, split: Split) -> Sequence[Tree]:
        return self.datamodule.trees(split) if hasattr(self.datamodule, "trees") else []

    def _mean_over_ranks(self, value: Tensor) -> Tensor:
        return self._sum_over_ranks(value) / self.trainer.world_size

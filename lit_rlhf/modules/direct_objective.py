"""What DPOModule minimises: a method's losses on comparisons or rankings, with the fields that it takes."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from lit_rlhf.losses.divergences import (
    Divergence,
    alpha_divergence,
    forward_kl,
    jensen_shannon,
    reverse_kl,
)
from lit_rlhf.losses.lengths import per_token_logprobs, sft_term
from lit_rlhf.losses.preference import implicit_reward, pair_rewards, plackett_luce_dpo_loss
from lit_rlhf.losses.targets import loss_under_target
from lit_rlhf.modules.direct_checks import check_fields
from lit_rlhf.modules.direct_labels import label_items
from lit_rlhf.modules.direct_methods import METHODS, QUANTILES, DivergenceName, Loss, Margin, Pairs, Ties
from lit_rlhf.modules.direct_tokens import Tokens, desensitized_pairs, on_policy_weights
from lit_rlhf.modules.preference_objective import ranking_weights, told_apart
from lit_rlhf.modules.reward_shift import RewardShift
from lit_rlhf.ops.masking import masked_mean
from lit_rlhf.records import ResponseTrees

DIVERGENCES: dict[str, Divergence] = {
    "reverse_kl": reverse_kl,
    "forward_kl": forward_kl,
    "jensen_shannon": jensen_shannon,
}
"""Those without a number of their own."""
EXO_SMOOTHING = 1e-3
"""Without any the loss of a certain label is infinite."""


class DirectItems(NamedTuple):
    """What the loss is a mean of: comparisons, labelled responses, prompts (``plackett_luce``), quantiles (``aot``)."""

    losses: Tensor
    """``[M]``."""
    weights: Tensor
    """What each adds to the mean, ``[M]``."""
    metrics: dict[str, Tensor]
    """What the method shows of itself, by its logged name."""


class DirectObjective:
    """From log-probabilities of responses to losses; the fields of :class:`DPOModule` of the same names.

    Raises:
        ValueError: fields that make no sense, or not together, by their config keys.
    """

    def __init__(
        self,
        loss: Loss,
        beta: float | None,
        ties: Ties,
        label_smoothing: float,
        flip_rate: float,
        margin: Margin,
        sft_coef: float | None,
        divergence: DivergenceName,
        alpha: float | None,
        desirable_weight: float,
        undesirable_weight: float,
        odds_coef: float | None,
        length_desensitization: float | None = None,
        wpo: bool = False,
    ) -> None:
        given = {name: value for name, value in locals().items() if name != "self"}
        check_fields(given)
        self.loss: Loss = loss
        self.method = METHODS[loss]
        self.ties: Ties = ties
        self.beta = self.method.beta if beta is None else beta
        self.price = 1.0 if self.beta is None else self.beta
        """β, and 1 for methods without."""
        self.label_smoothing = label_smoothing or (EXO_SMOOTHING if loss == "exo" else 0.0)
        self.flip_rate = flip_rate
        self.margin = self.method.margin(self.price) if margin is None else margin
        self.sft_coef = self.method.sft_coef if sft_coef is None else sft_coef
        self.divergence: Divergence = DIVERGENCES.get(divergence) or partial(
            alpha_divergence, alpha=alpha or 1.0
        )
        self.desirable_weight = desirable_weight
        self.undesirable_weight = undesirable_weight
        self.odds_coef = 0.1 if odds_coef is None else odds_coef
        self.length_desensitization = length_desensitization
        self.wpo = wpo
        self.reward_shift = RewardShift()
        """BCO's δ; whoever trains calls its `end_update` before each step, and keeps its state."""

    @property
    def loss_at_start(self) -> float | None:
        """The loss where the policy is its reference; None where it depends on the policy or on the data."""
        moved = self.sft_coef or self.margin or self.wpo
        return None if moved or self.method.start is None else self.method.start(self)

    @property
    def needs_tokens(self) -> bool:
        """Whether the losses are of single tokens' log-probabilities."""
        return self.length_desensitization is not None or self.wpo

    def scores(self, logprobs: Tensor, reference: Tensor | None, batch: ResponseTrees) -> Tensor:
        """The rewards ``[N]`` that the method compares.

        β·f'(π/π_ref), of means over tokens for the methods named ``…_norm``, SimPO and ORPO (whose odds have the order
        of the means), and of π alone where there is no reference. Under `length_desensitization` too they are of whole
        responses: what a tail is, only a comparison says.

        Args:
            logprobs: log π(y|x), ``[N]``.
            reference: log π_ref(y|x), ``[N]``; None = no reference.
            batch: the responses.
        """
        reference = torch.zeros_like(logprobs) if reference is None else reference
        if self.method.per_token:
            lengths = counted_tokens(batch)
            logprobs = per_token_logprobs(logprobs, lengths)
            reference = per_token_logprobs(reference, lengths)
        return implicit_reward(logprobs, reference, self.price, self.divergence)

    def __call__(
        self,
        logprobs: Tensor,
        reference: Tensor | None,
        batch: ResponseTrees,
        reference_point: Tensor | None = None,
        tokens: Tokens | None = None,
        learning: bool = False,
    ) -> DirectItems:
        """The losses of a batch.

        Args:
            logprobs: log π(y|x), ``[N]``, with gradient.
            reference: log π_ref(y|x), ``[N]``; None = no reference.
            batch: what people said of the responses.
            reference_point: KTO's z₀, a scalar.
            tokens: of single tokens, where the objective :attr:`needs_tokens`.
            learning: whether the batch is trained on, so that it moves BCO's δ.

        Raises:
            ValueError: the batch does not hold what the method asks for; the row is named.
        """
        reference = torch.zeros_like(logprobs) if reference is None else reference
        alone = None
        if not batch.desirable.isnan().all():
            alone = DirectItems(*label_items(self, logprobs, reference, batch, reference_point, learning))
        if alone is not None and batch.better.numel() == 0:
            items = alone
        elif self.method.losses is None:
            items = self._rankings(logprobs, reference, batch)
        else:
            items = self._comparisons(logprobs, reference, batch, reference_point, tokens, learning)
            if alone is not None:
                items = _together(items, alone)
        if reference_point is not None:
            items.metrics["kto/reference_point"] = reference_point.detach()
        return items

    def _comparisons(
        self,
        logprobs: Tensor,
        reference: Tensor,
        batch: ResponseTrees,
        reference_point: Tensor | None,
        tokens: Tokens | None,
        learning: bool,
    ) -> DirectItems:
        assert self.method.losses is not None
        better, worse, target = batch.better, batch.worse, batch.target
        margin = batch.margin if self.margin == "data" else torch.full_like(batch.margin, self.margin)
        weights = batch.comparison_weights(without_ties=self.ties == "drop")
        if self.loss in QUANTILES:
            kept = weights > 0
            better, worse, target = self._certain(batch, kept)
            margin, weights = margin[kept], torch.ones_like(weights[kept])
        lengths = counted_tokens(batch)
        sides = logprobs[better], logprobs[worse], reference[better], reference[worse]
        if self.length_desensitization is not None:
            assert tokens is not None
            sides = desensitized_pairs(tokens, batch, better, worse, self.length_desensitization)
        pairs = Pairs(
            *sides,
            lengths[better],
            lengths[worse],
            target,
            margin,
            logprobs.new_zeros(()) if reference_point is None else reference_point,
        )
        losses = self.method.losses(self, pairs)
        shown: dict[str, Tensor] = {}
        if self.loss == "bco":
            shown["bco/reward_shift"] = logprobs.new_tensor(self.reward_shift.value)
            if learning:
                self.reward_shift.watch(*pair_rewards(*pairs.logprobs, self.price), weights)
        if self.wpo:
            assert tokens is not None
            on_policy = on_policy_weights(tokens, batch, better, worse)
            shown["wpo/weight"] = _mean(on_policy, weights)
            losses = losses * on_policy
        if not (self.sft_coef or self.loss == "orpo"):
            return DirectItems(losses, weights, shown)
        nll = loss_under_target(
            sft_term(logprobs[better], pairs.better_lengths),
            sft_term(logprobs[worse], pairs.worse_lengths),
            target,
        )
        shown["nll"] = _mean(nll, weights)
        return DirectItems(losses + self.sft_coef * nll, weights, shown)

    def _certain(self, batch: ResponseTrees, kept: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Winner, loser and 1 of each comparison that counts: quantiles have no place for less."""
        uncertain = kept & (batch.target != 0) & (batch.target != 1)
        _refuse_rows(
            batch, uncertain, f"a winner and a loser for model.loss {self.loss}, found a tie or divided votes",
            "Leave these rows out (for ties: model.ties drop), or take another loss.",
        )  # fmt: skip
        _refuse_rows(
            batch, kept & (batch.weight != 1), f"no weights for model.loss {self.loss}, found one",
            "It orders the batch's responses, so that no comparison can count more: take another loss.",
        )  # fmt: skip
        as_said = batch.target[kept] == 1
        first, second = batch.better[kept], batch.worse[kept]
        winner, loser = torch.where(as_said, first, second), torch.where(as_said, second, first)
        return winner, loser, torch.ones_like(batch.target[kept])

    def _rankings(self, logprobs: Tensor, reference: Tensor, batch: ResponseTrees) -> DirectItems:
        judged = ~batch.ranks.isnan()
        counts = torch.bincount(batch.tree_index[judged], minlength=batch.num_trees)
        if (counts < 2).any():
            row = batch.row_ids[int((counts < 2).nonzero()[0])]
            raise ValueError(
                f"{row}: expected ranks for model.loss plackett_luce, found none. Use a RankingDataModule, or loss: "
                "sigmoid, which takes every pair."
            )
        losses = plackett_luce_dpo_loss(
            logprobs, reference, batch.ranks, batch.tree_index, self.price, self.ties
        )
        losses = losses / (counts - 1)  # its K - 1 choices, so that prompts weigh the same whatever their K
        weights = ranking_weights(batch)
        if self.ties == "drop":
            weights = weights * told_apart(batch, judged)
        if not self.sft_coef:
            return DirectItems(losses, weights, {})
        nll = _mean_of_best(sft_term(logprobs, counted_tokens(batch)), batch)
        return DirectItems(losses + self.sft_coef * nll, weights, {"nll": _mean(nll, weights)})


def _together(pairs: DirectItems, labels: DirectItems) -> DirectItems:
    """The items of both; where both have a number to show, that of the pairs."""
    return DirectItems(
        torch.cat([pairs.losses, labels.losses]),
        torch.cat([pairs.weights, labels.weights]),
        {**labels.metrics, **pairs.metrics},
    )


def counted_tokens(batch: ResponseTrees) -> Tensor:
    """|y| of each response: its counted tokens, Long ``[N]``."""
    return batch.response_grid_mask().sum(1)


def _mean(values: Tensor, weights: Tensor) -> Tensor:
    """As the loss is a mean, without gradient; 0 where nothing counts."""
    return (weights * values.detach()).sum() / weights.sum().clamp(min=1e-12)


def _mean_of_best(values: Tensor, batch: ResponseTrees) -> Tensor:
    """Of each prompt the mean over its best-ranked responses, ``[B]``."""
    ranks = batch.ranks.nan_to_num(torch.inf)
    best = ranks.new_full((batch.num_trees,), torch.inf).scatter_reduce(0, batch.tree_index, ranks, "amin")
    of_prompt = batch.tree_index == torch.arange(batch.num_trees, device=values.device)[:, None]
    return masked_mean(values.expand(batch.num_trees, -1), of_prompt & (ranks == best[:, None]), dim=1)


def _refuse_rows(batch: ResponseTrees, wrong: Tensor, expected: str, remedy: str) -> None:
    """Name the row of the first comparison that is wrong, bool ``[C]``."""
    if wrong.any():
        row = batch.row_ids[int(batch.tree_index[batch.better[wrong.nonzero()[0]]])]
        raise ValueError(f"{row}: expected {expected}. {remedy}")

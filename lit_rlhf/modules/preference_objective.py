"""What a reward model's scores are trained for: which published loss, over which items of the batch."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from lit_rlhf.losses.rankings import best_of_k_loss, plackett_luce_loss
from lit_rlhf.losses.reward import (
    bradley_terry_loss,
    centering_penalty,
    rao_kupper_loss,
    rating_loss,
    robust_bradley_terry_loss,
    uniform_error_loss,
)
from lit_rlhf.modules.base import check_argument
from lit_rlhf.records import ResponseTrees

Loss = Literal["pairs", "plackett_luce", "best_of_k", "ratings"]
Ties = Literal["half", "drop", "rao_kupper"]

TIE_PACE = 10.0
"""How much faster than other parameters the width of ties is learned: it has to move by its own size."""


class Items(NamedTuple):
    """What the loss is a mean of: comparisons, prompts, or rated responses."""

    losses: Tensor
    """Of each item, ``[M]``, in nats (of a rating its squared error)."""
    weights: Tensor
    """What each adds to a mean over prompts of per-prompt means, ``[M]``."""
    trees: Tensor
    """Long ``[M]``: the prompt of each item."""


class PreferenceObjective(nn.Module):
    """From scores of responses to losses; the fields of :class:`RewardModule` of the same names.

    Raises:
        ValueError: fields that do not go together, by their config keys.
    """

    def __init__(
        self,
        loss: Loss,
        ties: Ties,
        margin: float | None,
        label_smoothing: float,
        flip_rate: float,
        uniform_error: float,
        center_coef: float,
    ) -> None:
        super().__init__()
        for name, value, kind in (("loss", loss, Loss), ("ties", ties, Ties)):
            if value not in get_args(kind):
                raise ValueError(
                    f"model.{name}: expected one of {', '.join(get_args(kind))}, found {value!r}."
                )
        check_argument("margin", margin, margin is None or margin >= 0, "0 or more, or null")
        check_argument("label_smoothing", label_smoothing, 0 <= label_smoothing < 0.5, "0 to less than 0.5")
        check_argument("flip_rate", flip_rate, 0 <= flip_rate < 0.5, "0 to less than 0.5")
        check_argument("uniform_error", uniform_error, 0 <= uniform_error < 1, "0 to less than 1")
        check_argument("center_coef", center_coef, center_coef >= 0, "0 or more")
        noise = {
            "label_smoothing": label_smoothing,
            "flip_rate": flip_rate,
            "uniform_error": uniform_error,
        }
        _refuse_together(loss, ties, margin, {name: value for name, value in noise.items() if value})
        if center_coef and loss == "ratings":
            raise ValueError("model.center_coef: ratings say themselves where the scores lie; set it to 0.")
        self.loss: Loss = loss
        self.ties: Ties = ties
        self.margin = margin
        self.label_smoothing = label_smoothing
        self.flip_rate = flip_rate
        self.uniform_error = uniform_error
        self.center_coef = center_coef
        self.raw_tie_width = nn.Parameter(torch.zeros(())) if ties == "rao_kupper" else None
        self.start_tie_width(0.05)

    @property
    def tie_width(self) -> Tensor | None:
        """θ of Rao and Kupper, in units of the score; None where ties have no term."""
        return None if self.raw_tie_width is None else softplus(TIE_PACE * self.raw_tie_width)

    @torch.no_grad()
    def start_tie_width(self, share: float) -> None:
        """Start with the width at which two equal responses are called a tie so often: P(tie) = tanh(θ/2)."""
        if self.raw_tie_width is not None:
            width = 2 * math.atanh(min(max(share, 0.01), 0.99))
            self.raw_tie_width.fill_(math.log(math.expm1(width)) / TIE_PACE)

    def forward(self, scores: Tensor, batch: ResponseTrees, ratings: Tensor | None = None) -> Items:
        """The items of one head.

        Args:
            scores: of the batch's responses, ``[N]``, before gain and offset.
            batch: what people said of them.
            ratings: of each response on one scale for all annotators, ``[N]``, NaN = not rated; for ``ratings``.

        Raises:
            ValueError: the batch does not hold what the loss asks for; the row is named.
        """
        if self.loss == "pairs":
            return self._comparisons(scores, batch)
        if self.loss == "ratings":
            assert ratings is not None
            return self._ratings(scores, batch, ratings)
        return self._rankings(scores, batch)

    def _comparisons(self, scores: Tensor, batch: ResponseTrees) -> Items:
        better, worse = scores[batch.better], scores[batch.worse]
        target, margin = self._targets(batch), self._margins(batch)
        if self.tie_width is not None:
            losses = rao_kupper_loss(better, worse + margin, self.tie_width, target, batch.tie)
        elif self.flip_rate:
            losses = robust_bradley_terry_loss(better, worse, self.flip_rate, target, margin)
        elif self.uniform_error:
            losses = uniform_error_loss(better, worse, self.uniform_error, target, margin)
        else:
            losses = bradley_terry_loss(better, worse, target, margin)
        if self.center_coef:
            losses = losses + self.center_coef * centering_penalty(better, worse)
        weights = batch.comparison_weights(without_ties=self.ties == "drop")
        return Items(losses, weights, batch.tree_index[batch.better])

    def _targets(self, batch: ResponseTrees) -> Tensor:
        return (1 - 2 * self.label_smoothing) * batch.target + self.label_smoothing

    def _margins(self, batch: ResponseTrees) -> Tensor:
        if self.margin is None:
            return batch.margin
        return self.margin * (batch.target - 0.5).sign()

    def _rankings(self, scores: Tensor, batch: ResponseTrees) -> Items:
        judged = ~batch.ranks.isnan()
        counts = torch.bincount(batch.tree_index[judged], minlength=batch.num_trees)
        self._refuse_rows(batch, counts < 2, "ranks", "Use a RankingDataModule, or loss: pairs.")
        ties: Literal["half", "drop"] = "drop" if self.ties == "drop" else "half"
        weights = ranking_weights(batch)
        if self.loss == "plackett_luce":
            losses = plackett_luce_loss(scores, batch.ranks, batch.tree_index, ties)
            losses = losses / (
                counts - 1
            )  # its K - 1 choices, so that prompts weigh the same whatever their K
        else:
            losses = best_of_k_loss(scores, batch.ranks, batch.tree_index, ties)
        if self.ties == "drop":
            weights = weights * told_apart(batch, judged)
        if self.center_coef:
            losses = losses + self.center_coef * self._centering_of_prompts(scores, batch)
        return Items(losses, weights, torch.arange(batch.num_trees, device=scores.device))

    def _centering_of_prompts(self, scores: Tensor, batch: ResponseTrees) -> Tensor:
        trees = batch.tree_index[batch.better]
        penalties = centering_penalty(scores[batch.better], scores[batch.worse])
        penalties = penalties / torch.bincount(trees, minlength=batch.num_trees)[trees]
        return penalties.new_zeros(batch.num_trees).index_add(0, trees, penalties)

    def _ratings(self, scores: Tensor, batch: ResponseTrees, ratings: Tensor) -> Items:
        rated = ~ratings.isnan()
        trees = batch.tree_index[rated]
        counts = torch.bincount(trees, minlength=batch.num_trees)
        self._refuse_rows(batch, counts == 0, "ratings", "Give `scores` in a ranking file.")
        weights = (ranking_weights(batch) / counts)[trees]
        return Items(rating_loss(scores[rated], ratings[rated]), weights, trees)

    def _refuse_rows(self, batch: ResponseTrees, lacking: Tensor, what: str, remedy: str) -> None:
        if lacking.any():
            row = batch.row_ids[int(lacking.nonzero()[0])]
            raise ValueError(f"{row}: expected {what} for model.loss {self.loss}, found none. {remedy}")


def ranking_weights(batch: ResponseTrees) -> Tensor:
    """How much each prompt's ranking counts, ``[B]``: the one weight of its comparisons; 1 where it has none.

    Raises:
        ValueError: comparisons of one prompt weigh differently, which a loss on its whole ranking has no place for;
            the row is named.
    """
    trees = batch.tree_index[batch.better]
    least, most = (
        batch.weight.new_ones(batch.num_trees).scatter_reduce(0, trees, batch.weight, by, include_self=False)
        for by in ("amin", "amax")
    )
    if (least < most).any():
        tree = int((least < most).nonzero()[0])
        raise ValueError(
            f"{batch.row_ids[tree]}: expected one weight for a whole ranking, found {least[tree]:g} and {most[tree]:g} "
            "on its comparisons. A loss on pairs takes a weight for each."
        )
    return most


def told_apart(batch: ResponseTrees, judged: Tensor) -> Tensor:
    """Bool ``[B]``: whether a prompt's judged responses are not all tied."""
    ranks, trees = batch.ranks[judged], batch.tree_index[judged]
    best = ranks.new_full((batch.num_trees,), torch.inf).scatter_reduce(0, trees, ranks, "amin")
    last = ranks.new_full((batch.num_trees,), -torch.inf).scatter_reduce(0, trees, ranks, "amax")
    return last > best


def _refuse_together(loss: Loss, ties: Ties, margin: float | None, noise: dict[str, float]) -> None:
    if len(noise) > 1:
        raise ValueError(
            f"model.{' and model.'.join(noise)}: expected one account of wrong labels, found {len(noise)}; "
            "set the others to 0."
        )
    if noise and ties == "rao_kupper":
        raise ValueError(f"model.{next(iter(noise))}: not together with ties: rao_kupper; use half or drop.")
    if loss == "pairs":
        return
    if noise:
        raise ValueError(f"model.{next(iter(noise))}: for loss: pairs; {loss} has no such term.")
    if margin is not None:
        raise ValueError(f"model.margin: for loss: pairs; {loss} has no margin. Set it to null.")
    if ties == "rao_kupper":
        raise ValueError(f"model.ties: rao_kupper is a term of loss: pairs; use half or drop with {loss}.")

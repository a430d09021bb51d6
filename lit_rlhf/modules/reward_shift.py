"""BCO's δ: the mean of the rewards that training has seen, from which good responses are told apart from bad ones."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class RewardShift:
    """The running mean of (r̂_w + r̂_l)/2, or of labelled responses' r̂, over all updates until now.

    Half-way between what good and bad responses are given, where the bound on DPO's loss is tightest. Everything
    ever trained on counts, weighed as in the loss; so does TRL's ``BCOTrainer``, which takes the batch itself in
    before its loss. Here an update reads what came before it, and does not depend on how its batch is cut or shared
    out.

    Source:
        Jung et al. 2024, arXiv 2404.04656.

    Example:
        >>> shift = RewardShift()
        >>> shift.watch(torch.tensor([2.0]), torch.tensor([0.0]), torch.tensor([1.0]))
        >>> shift.value
        0.0
        >>> shift.end_update(lambda sums: sums)
        >>> shift.value
        1.0
    """

    def __init__(self) -> None:
        self._total, self._weight = 0.0, 0.0
        self._watched: Tensor | None = None

    @property
    def value(self) -> float:
        """δ, in units of the implicit reward; 0 before the first update."""
        return self._total / self._weight if self._weight else 0.0

    def watch(self, better: Tensor, worse: Tensor, weights: Tensor) -> None:
        """Remember a micro-batch's rewards until the update is over.

        Args:
            better: r̂_w of each comparison, ``[C]``; of labelled responses r̂, twice.
            worse: r̂_l, ``[C]``.
            weights: what each adds to the loss, ``[C]``.
        """
        middle = (better.detach() + worse.detach()) / 2
        sums = torch.stack([(weights * middle).sum(), weights.sum()])
        self._watched = sums if self._watched is None else self._watched + sums

    def end_update(self, sum_over_ranks: Callable[[Tensor], Tensor]) -> None:
        """Take in what was watched since the last update, of all ranks; every rank calls it."""
        if self._watched is None:
            return
        total, weight = sum_over_ranks(self._watched).tolist()
        self._total, self._weight, self._watched = self._total + total, self._weight + weight, None

    def forget_watched(self) -> None:
        """Leave out what was watched for an update that never came."""
        self._watched = None

    def state_dict(self) -> dict[str, float]:
        """Plain numbers, the same on every rank."""
        return {"total": self._total, "weight": self._weight}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self._total, self._weight, self._watched = state["total"], state["weight"], None

"""BCO's δ: the mean of the rewards that training has seen, from which good responses are told apart from bad ones."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class RewardShift:
    """Half-way between the running means of the rewards of better and of worse responses, over all updates until now.

    δ = (E[r̂_w] + E[r̂_l]) / 2, where the bound on DPO's loss is tightest; of labelled responses, desirable ones are the
    better, whatever their number. Everything ever trained on counts, weighed as in the loss; so does TRL's
    ``BCOTrainer``, which takes the batch itself in before its loss, and one mean over both kinds. Here an update reads
    what came before it, and does not depend on how its batch is cut or shared out.

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
        self._sums = [0.0, 0.0, 0.0, 0.0]  # rewards of the better, their weight; of the worse, their weight
        self._watched: Tensor | None = None

    @property
    def value(self) -> float:
        """δ, in units of the implicit reward; 0 before the first update; of one kind alone its mean."""
        better, better_weight, worse, worse_weight = self._sums
        means = [
            total / weight for total, weight in ((better, better_weight), (worse, worse_weight)) if weight
        ]
        return sum(means) / len(means) if means else 0.0

    def watch(self, better: Tensor, worse: Tensor, weights: Tensor) -> None:
        """Remember a micro-batch's comparisons until the update is over.

        Args:
            better: r̂_w, ``[C]``.
            worse: r̂_l, ``[C]``.
            weights: what each adds to the loss, ``[C]``.
        """
        total = weights.sum()
        self._remember((weights * better).sum(), total, (weights * worse).sum(), total)

    def watch_labels(self, rewards: Tensor, desirable: Tensor, weights: Tensor) -> None:
        """Remember a micro-batch's labelled responses until the update is over.

        Args:
            rewards: r̂, ``[L]``.
            desirable: bool ``[L]``.
            weights: what each adds to the loss, ``[L]``.
        """
        good, bad = weights * desirable, weights * ~desirable
        self._remember((good * rewards).sum(), good.sum(), (bad * rewards).sum(), bad.sum())

    def _remember(self, *sums: Tensor) -> None:
        stacked = torch.stack(sums).detach()
        self._watched = stacked if self._watched is None else self._watched + stacked

    def end_update(self, sum_over_ranks: Callable[[Tensor], Tensor]) -> None:
        """Take in what was watched since the last update, of all ranks; every rank calls it."""
        if self._watched is None:
            return
        seen = sum_over_ranks(self._watched).tolist()
        self._sums = [old + new for old, new in zip(self._sums, seen, strict=True)]
        self._watched = None

    def forget_watched(self) -> None:
        """Leave out what was watched for an update that never came."""
        self._watched = None

    def state_dict(self) -> dict[str, list[float]]:
        """Plain numbers, the same on every rank."""
        return {"sums": list(self._sums)}

    def load_state_dict(self, state: dict[str, list[float]]) -> None:
        self._sums, self._watched = list(state["sums"]), None

"""How often a model prefers the response that people prefer."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric

from lit_rlhf.ops.shapes import check_same_shape


class PairAccuracy(Metric):
    """Share of the strict comparisons in which the better response has the higher score.

    Counted pair by pair, never as a mean of batches or prompts. Equal scores are wrong; a comparison
    with target 1/2, a tie, is no pair; one with a target below 1/2 counts the other way round. NaN
    where no strict comparison was seen.

    Example:
        >>> accuracy = PairAccuracy()
        >>> better, worse = torch.tensor([2.0, 1.0, 0.0]), torch.tensor([1.0, 1.0, 9.0])
        >>> accuracy.update(better, worse, target=torch.tensor([1.0, 1.0, 0.5]))  # right, wrong, no pair
        >>> accuracy.compute()
        tensor(0.5000)
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    correct: Tensor
    total: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("correct", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("total", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, better_scores: Tensor, worse_scores: Tensor, target: Tensor) -> None:
        """Counts a batch of comparisons.

        Args:
            better_scores: Shape ``[C]``.
            worse_scores: Shape ``[C]``.
            target: probability that `better` is better. Shape ``[C]``.

        Raises:
            ValueError: the shapes differ.
        """
        check_same_shape(better_scores=better_scores, worse_scores=worse_scores, target=target)
        preferred = (target - 0.5).sign()
        right = (better_scores - worse_scores).sign() == preferred
        self.correct += (right & (preferred != 0)).sum()
        self.total += (preferred != 0).sum()

    def compute(self) -> Tensor:
        """The share, a scalar in [0, 1], or NaN."""
        return self.correct / self.total

"""Whether a score is a matter of length."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric

from lit_rlhf.ops.shapes import check_same_shape


def pearson(moments: Tensor) -> Tensor:
    """Pearson's correlation from the sums of squares of one, of the other, and of products, each centred.

    Args:
        moments: Σa², Σb², Σab. Shape ``[3]``.

    Returns:
        A scalar in [-1, 1]; NaN where one of the two does not vary.
    """
    scores, lengths, products = moments
    # roots apart: the product of two sums of squares leaves the range of float32 sooner
    return (products / (scores.sqrt() * lengths.sqrt())).clamp(-1, 1)


def moments_within(scores: Tensor, lengths: Tensor, prompt: Tensor) -> Tensor:
    """Sums over all responses of s², l² and s·l, with s and l less their prompt's mean.

    Args:
        scores: s. Shape ``[N]``.
        lengths: l. Shape ``[N]``.
        prompt: number of each response's prompt. Long ``[N]``.

    Returns:
        Shape ``[3]``, in the dtype of the scores.

    Raises:
        ValueError: the shapes differ.
    """
    check_same_shape(scores=scores, lengths=lengths, prompt=prompt)
    _, group, counts = prompt.unique(return_inverse=True, return_counts=True)
    both = torch.stack([scores, lengths.to(scores.dtype)])
    zeros = both.new_zeros(2, len(counts))
    # the least value goes first, so that equal ones leave exact zeros and no rounding to correlate with
    least = zeros.scatter_reduce(1, group.expand_as(both), both, "amin", include_self=False)
    above = both - least[:, group]
    centred = above - (zeros.index_add(1, group, above) / counts)[:, group]
    return torch.stack([*centred.square().sum(1), centred.prod(0).sum()])


class LengthCorrelation(Metric):
    """Pearson's correlation of score with tokens among the responses of a prompt.

    Both are taken less their prompt's mean: that some prompts ask for longer answers, and get better ones, is no
    bias. Prompts with one response say nothing. NaN where scores or lengths do not vary.

    Example:
        >>> correlation = LengthCorrelation()
        >>> lengths, scores = torch.tensor([10, 20, 900, 910]), torch.tensor([0.0, 1.0, -5.0, -4.0])
        >>> correlation.update(scores, lengths, tree_index=torch.tensor([0, 0, 1, 1]))
        >>> correlation.compute()
        tensor(1.)
    """

    is_differentiable = False
    full_state_update = False
    moments: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("moments", torch.zeros(3), dist_reduce_fx="sum")

    def update(self, scores: Tensor, lengths: Tensor, tree_index: Tensor) -> None:
        """Counts a batch of prompts, each of them whole.

        Args:
            scores: Shape ``[N]``.
            lengths: in tokens. Shape ``[N]``.
            tree_index: prompt of each response. Long ``[N]``.

        Raises:
            ValueError: the shapes differ.
        """
        self.moments += moments_within(scores.float(), lengths, tree_index)

    def compute(self) -> Tensor:
        """A scalar in [-1, 1], or NaN."""
        return pearson(self.moments)

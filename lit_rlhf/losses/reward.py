"""Reward models: the cross-entropy of what people preferred under the Bradley-Terry model."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import logsigmoid

from lit_rlhf.ops.shapes import check_same_shape


def bradley_terry_loss(
    better_scores: Tensor, worse_scores: Tensor, target: Tensor | float = 1.0, margin: Tensor | float = 0.0
) -> Tensor:
    """Cross-entropy of each comparison under the Bradley-Terry model.

    -p·log σ(d) - (1-p)·log σ(-d), with d = r(x, y_w) - r(x, y_l) - m.

    With p = 1 as in the source. p = 1/2 is a tie, p = 1 - ε label smoothing, a share of votes
    disagreeing annotators. The margin of Llama 2 stands inside σ; with p < 1 it belongs to both terms, so
    that σ(d) stays one probability. A Luce model is this loss on the logarithms of its strengths.

    Args:
        better_scores: r(x, y_w), the preferred responses' scores. Shape ``[C]``.
        worse_scores: r(x, y_l). Shape ``[C]``.
        target: p in [0, 1], the probability that `better` is better. Shape ``[C]``, or one number.
        margin: m, by how much it should be better, in units of the score. Shape ``[C]``, or one number.

    Returns:
        Losses in nats, unreduced, ``[C]``. log 2 where the scores are equal without a margin.
        Gradient flows to both scores.

    Raises:
        ValueError: tensors of different shapes, or a number `target` outside [0, 1].

    Source:
        Stiennon et al. 2020, arXiv 2009.01325, section 3.4; margin: Touvron et al. 2023, arXiv
        2307.09288, eq. 2.

    Example:
        >>> import torch
        >>> better, worse = torch.tensor([3.0]).log(), torch.tensor([1.0]).log()  # σ(d) = 3/4
        >>> bradley_terry_loss(better, worse).neg().exp()
        tensor([0.7500])
        >>> bradley_terry_loss(better, worse, target=0.0).neg().exp()
        tensor([0.2500])
    """
    check_same_shape(better_scores=better_scores, worse_scores=worse_scores)
    if isinstance(target, Tensor):
        check_same_shape(better_scores=better_scores, target=target)
    elif not 0 <= target <= 1:
        raise ValueError(f"expected target, a probability, within [0, 1], found {target}")
    if isinstance(margin, Tensor):
        check_same_shape(better_scores=better_scores, margin=margin)
    difference = better_scores - worse_scores - margin
    return -target * logsigmoid(difference) - (1 - target) * logsigmoid(-difference)

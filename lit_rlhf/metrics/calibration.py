"""Whether a model is right as often as it says."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric

from lit_rlhf.ops.shapes import check_same_shape

BINS = 10
"""Of equal width, from a confidence of 1/2 to 1."""


def bin_by_confidence(probability: Tensor, target: Tensor, bins: int = BINS) -> Tensor:
    """Comparisons sorted by how sure the model is, summed bin by bin.

    A comparison's confidence is max(p, 1 - p), and it is right by the share of the judgements that are on the side
    which the model prefers: t where p > 1/2, 1 - t where p < 1/2, 1/2 where p = 1/2. So it does not matter which
    of the two responses is called the better one.

    Args:
        probability: p, that `better` is better. Shape ``[C]``.
        target: t, what people made of it; a tie has 1/2. Shape ``[C]``.
        bins: of equal width over [1/2, 1]; 1 is in the last.

    Returns:
        Sums of confidence and of right, and counts. Float ``[3, bins]``.

    Raises:
        ValueError: the shapes differ.

    Example:
        >>> bin_by_confidence(torch.tensor([0.25, 1.0]), torch.tensor([0.0, 0.75]), bins=2)
        tensor([[0.0000, 1.7500],
                [0.0000, 1.7500],
                [0.0000, 2.0000]])
    """
    check_same_shape(probability=probability, target=target)
    probability, target = probability.float(), target.float()
    confidence = torch.maximum(probability, 1 - probability)
    right = torch.where(probability > 0.5, target, 1 - target)
    right = torch.where(probability == 0.5, 0.5, right)
    inner_edges = torch.linspace(0.5, 1, bins + 1, device=probability.device)[1:-1]
    place = torch.bucketize(confidence, inner_edges, right=True)
    rows = torch.stack([confidence, right, torch.ones_like(confidence)])
    return rows.new_zeros(3, bins).index_add_(1, place, rows)


def calibration_error(binned: Tensor) -> Tensor:
    """Mean over the comparisons of |share right - mean confidence| of their bin.

    Args:
        binned: what :func:`bin_by_confidence` gives. Shape ``[3, bins]``.

    Returns:
        A scalar in [0, 1]; NaN where there is no comparison.

    Source:
        Naeini, Cooper and Hauskrecht 2015, "Obtaining Well Calibrated Probabilities Using Bayesian Binning"; here
        the shares are of judgements, which need not agree.
    """
    confidence, right, count = binned
    return (right - confidence).abs().sum() / count.sum()


class CalibrationError(Metric):
    """Expected calibration error of preference probabilities; see :func:`bin_by_confidence`.

    With targets of 0 and 1 it is torchmetrics' ``BinaryCalibrationError`` of max(p, 1 - p), with twice the bins over
    [0, 1], except that a confidence of exactly 1 has no bin of its own.

    Args:
        bins: of equal width over [1/2, 1].

    Example:
        >>> error = CalibrationError()
        >>> error.update(torch.tensor([0.75, 0.25]), target=torch.tensor([1.0, 0.5]))
        >>> error.compute()  # says 0.75, and is right in 0.75
        tensor(0.)
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False
    binned: Tensor

    def __init__(self, bins: int = BINS) -> None:
        super().__init__()
        self.add_state("binned", torch.zeros(3, bins), dist_reduce_fx="sum")

    def update(self, probability: Tensor, target: Tensor) -> None:
        """Counts a batch of comparisons.

        Args:
            probability: that `better` is better. Shape ``[C]``.
            target: what people made of it. Shape ``[C]``.

        Raises:
            ValueError: the shapes differ.
        """
        self.binned += bin_by_confidence(probability, target, self.binned.shape[1])

    def compute(self) -> Tensor:
        """A scalar in [0, 1], or NaN."""
        return calibration_error(self.binned)

"""What a model's probabilities cost, in nats."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric

from lit_rlhf.ops.shapes import check_same_shape

LEAST_PROBABILITY = 2.0**-24
"""Probabilities are held so far from 0 and 1, the rounding of float32: nothing costs more than 16.6 nats."""


def preference_log_loss(probability: Tensor, target: Tensor) -> Tensor:
    """What each comparison costs: -(t log p + (1 - t) log(1 - p)).

    Args:
        probability: p, that `better` is better, in [0, 1]. Shape ``[C]``.
        target: t, what people made of it, in [0, 1]. Shape ``[C]``.

    Returns:
        Nats, not below the target's own entropy. Float64 ``[C]``.

    Raises:
        ValueError: the shapes differ.

    Example:
        >>> preference_log_loss(torch.tensor([0.25, 0.5]), torch.tensor([1.0, 0.5]))
        tensor([1.3863, 0.6931], dtype=torch.float64)
    """
    check_same_shape(probability=probability, target=target)
    p = probability.double().clamp(LEAST_PROBABILITY, 1 - LEAST_PROBABILITY)
    return -(target * p.log() + (1 - target) * (-p).log1p())


def target_entropy(target: Tensor) -> Tensor:
    """Entropy of each target: the log-loss of a model that says the target itself.

    The mean is the noise floor of the log-loss, as far as the targets are known. It is a plug-in estimate: the
    share of a few votes lies on average nearer to 0 or 1 than the probability that the votes were drawn with, so
    that the floor comes out low, by about 1/(2m) nats for m votes (Miller 1955).

    Args:
        target: in [0, 1]. Shape ``[C]``.

    Returns:
        Nats, 0 for 0 and 1, log 2 for 1/2. Float64 ``[C]``.

    Example:
        >>> target_entropy(torch.tensor([1.0, 0.5]))
        tensor([0.0000, 0.6931], dtype=torch.float64)
    """
    target = target.double()
    return torch.special.entr(target) + torch.special.entr(1 - target)


class PreferenceLogLoss(Metric):
    """Mean of :func:`preference_log_loss` over all comparisons, weighing the same, NaN where none was seen.

    Example:
        >>> log_loss = PreferenceLogLoss()
        >>> log_loss.update(torch.tensor([0.5, 0.5]), target=torch.tensor([1.0, 0.0]))
        >>> log_loss.compute()
        tensor(0.6931)
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False
    nats: Tensor
    total: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("nats", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("total", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, probability: Tensor, target: Tensor) -> None:
        """Counts a batch of comparisons.

        Args:
            probability: that `better` is better. Shape ``[C]``.
            target: what people made of it. Shape ``[C]``.

        Raises:
            ValueError: the shapes differ.
        """
        self.nats += preference_log_loss(probability, target).sum().to(self.nats.dtype)
        self.total += target.numel()

    def compute(self) -> Tensor:
        """Nats a comparison, a scalar."""
        return self.nats / self.total

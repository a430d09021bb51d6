"""Soft targets: what votes and ties do to a loss on pairs that its source wrote for a winner and a loser."""

from __future__ import annotations

from torch import Tensor

from lit_rlhf.ops.shapes import check_same_shape


def loss_under_target(as_said: Tensor, other_way: Tensor, target: Tensor | float) -> Tensor:
    """The mean of a pair's loss over who wins: a share p of judgements one way, the rest the other.

    p·L(y_w, y_l) + (1-p)·L(y_l, y_w).

    The same as one comparison for every vote, so every loss on pairs has it, also where its source knows
    winners only. Of the sigmoid loss it is the cross-entropy.

    Args:
        as_said: L(y_w, y_l). Shape ``[C]``.
        other_way: L(y_l, y_w), the loss with the two exchanged. Shape ``[C]``.
        target: p in [0, 1], the probability that `better` is better. Shape ``[C]``, or one number.

    Returns:
        Losses, ``[C]``, in the unit of the two. Gradient flows to both.

    Raises:
        ValueError: tensors of different shapes, or a number `target` outside [0, 1].

    Example:
        >>> import torch
        >>> loss_under_target(torch.tensor([1.0]), torch.tensor([3.0]), target=0.75)
        tensor([1.5000])
    """
    check_same_shape(as_said=as_said, other_way=other_way)
    check_target(target, as_said)
    return target * as_said + (1 - target) * other_way


def check_target(target: Tensor | float, losses: Tensor) -> None:
    """Returns nothing; a tensor `target` has the shape of the losses, a number is a probability.

    Raises:
        ValueError: it is not.
    """
    if isinstance(target, Tensor):
        check_same_shape(losses=losses, target=target)
    else:
        _check_probability(target)


def smoothed_target(target: Tensor | float, label_smoothing: float) -> Tensor | float:
    """The target, once a share of comparisons is believed to be the wrong way round.

    (1-ε)·p + ε·(1-p).

    Args:
        target: p in [0, 1]. Shape ``[C]``, or one number.
        label_smoothing: ε in [0, 1/2).

    Returns:
        The smoothed target, within [ε, 1-ε]; what was given.

    Raises:
        ValueError: a number `target` outside [0, 1], or `label_smoothing` outside [0, 1/2).

    Source:
        Mitchell 2023, "A note on DPO with noisy preferences", https://ericmitchell.ai/cdpo.pdf, eq. 3.

    Example:
        >>> smoothed_target(1.0, label_smoothing=0.25)
        0.75
    """
    if not 0 <= label_smoothing < 0.5:
        raise ValueError(f"expected label_smoothing within [0, 0.5), found {label_smoothing}")
    if not isinstance(target, Tensor):
        _check_probability(target)  # smoothing would hide it
    return (1 - label_smoothing) * target + label_smoothing * (1 - target)


def _check_probability(target: float) -> None:
    if not 0 <= target <= 1:
        raise ValueError(f"expected target, a probability, within [0, 1], found {target}")

"""The scale of scores: comparisons fix it only by how sure people were, a KL price needs it known."""

from __future__ import annotations

from torch import Tensor


def gain_and_bias(
    old_mean: Tensor, old_std: Tensor, target_mean: float = 0.0, target_std: float = 1.0
) -> tuple[Tensor, Tensor]:
    """The line g·r + b that gives scores another mean and standard deviation.

    g = σ_T / σ and b = μ_T - g·μ.

    As in the source, on samples of the reference policy. The order of responses stays; the size of
    differences, which losses and probabilities are made of, does not: train on r, reward with g·r + b.

    Args:
        old_mean: μ of the scores. Any shape, such as ``[C]`` for that many components.
        old_std: σ > 0. The same shape.
        target_mean: μ_T.
        target_std: σ_T > 0.

    Returns:
        The gain g and the bias b, in the shape given.

    Raises:
        ValueError: a standard deviation is not positive: equal scores cannot be spread.

    Source:
        Ziegler et al. 2019, arXiv 1909.08593, section 2; ``set_reward_norm`` of openai/lm-human-preferences.

    Example:
        >>> import torch
        >>> gain, bias = gain_and_bias(torch.tensor(3.0), torch.tensor(2.0))
        >>> gain * torch.tensor([1.0, 3.0, 5.0]) + bias
        tensor([-1.,  0.,  1.])
    """
    if target_std <= 0:
        raise ValueError(f"expected target_std above 0, found {target_std}")
    if not bool((old_std > 0).all()):  # NaN, the deviation of nothing, is not either
        raise ValueError(f"expected old_std above 0, found {old_std.tolist()}")
    gain = target_std / old_std
    return gain, target_mean - gain * old_mean

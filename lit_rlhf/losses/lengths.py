"""What length does to a response's log-probability: means over tokens, and tails that count less.

Lengths are counts of the response's counted tokens, its EOS among them.
"""

from __future__ import annotations

from torch import Tensor

from lit_rlhf.ops.masking import masked_sum
from lit_rlhf.ops.shapes import check_same_shape


def per_token_logprobs(logprobs: Tensor, lengths: Tensor) -> Tensor:
    """Mean log-probability of a response's tokens.

    log π(y|x) / |y|.

    Args:
        logprobs: log π(y|x), summed over the response. Shape ``[C]`` or ``[N]``.
        lengths: |y|, counted tokens; one of 0 tokens is taken as 1. The same shape, long.

    Returns:
        Nats per token, the shape given. Gradient flows to `logprobs`.

    Raises:
        ValueError: the shapes differ.

    Example:
        >>> import torch
        >>> per_token_logprobs(torch.tensor([-6.0]), torch.tensor([4]))
        tensor([-1.5000])
    """
    check_same_shape(logprobs=logprobs, lengths=lengths)
    return logprobs / lengths.clamp(min=1)


def sft_term(policy_logprobs: Tensor, lengths: Tensor) -> Tensor:
    """Negative log-likelihood per token of a response, to be added to a direct loss with a weight.

    -log π(y_w|x) / |y_w|, of the better response.

    As in the source. A mean over tokens first and responses after, unlike
    :func:`~lit_rlhf.losses.sft.sft_loss`, whose mean is taken elsewhere.

    Helps when the better response's own log-probability falls in training, which a loss on differences alone
    allows; weights of 0.1 to 1 are usual. On noisy pairs it imitates wrong winners too.

    Args:
        policy_logprobs: log π(y_w|x), summed over the response. Shape ``[C]``.
        lengths: |y_w|, counted tokens. Shape ``[C]``, long.

    Returns:
        Nats per token, unreduced, ``[C]``. Gradient flows to `policy_logprobs`.

    Raises:
        ValueError: the shapes differ.

    Source:
        Pang et al. 2024, arXiv 2404.19733, section 2, eq. 1; unnormalised in Xu et al. 2024, arXiv 2401.08417, eq. 5.

    Example:
        >>> import torch
        >>> sft_term(torch.tensor([-6.0]), torch.tensor([4]))
        tensor([1.5000])
    """
    return -per_token_logprobs(policy_logprobs, lengths)


def length_desensitized_logprobs(
    logprobs: Tensor, response_mask: Tensor, shared_lengths: Tensor, alpha: float
) -> Tensor:
    """Log-probability of a response in which what is longer than the other one of its pair counts less.

    Σ_{t ≤ m} log π(y_t) + α·Σ_{t > m} log π(y_t), with m = min(|y_w|, |y_l|).

    As in the source. Taken of both responses, under the policy and the reference, and given to a loss on
    pairs in the place of the sums.

    Helps when DPO makes answers longer while length was not what people preferred; it costs evidence where
    the preference was about the end of the longer response.

    Args:
        logprobs: log π of each response token, of one side of the pairs. Shape ``[C, R]``.
        response_mask: True = counted, bool. Shape ``[C, R]``.
        shared_lengths: m, counted tokens of the shorter response of each pair. Shape ``[C]``, long.
        alpha: α in [0, 1], what a token beyond m counts; 1 is the plain sum, 0 cuts the tail off.

    Returns:
        Nats, ``[C]``. Gradient flows to `logprobs`.

    Raises:
        ValueError: the shapes differ, or `alpha` outside [0, 1].

    Source:
        Liu et al. 2024, arXiv 2409.06411 (LD-DPO).

    Example:
        >>> import torch
        >>> mask = torch.ones(1, 3, dtype=torch.bool)
        >>> length_desensitized_logprobs(torch.tensor([[-1.0, -2.0, -4.0]]), mask, torch.tensor([2]), alpha=0.5)
        tensor([-5.])
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"expected alpha within [0, 1], found {alpha}")
    whole = masked_sum(logprobs, response_mask, dim=1)
    check_same_shape(responses=whole, shared_lengths=shared_lengths)
    shared = response_mask & (response_mask.cumsum(dim=1) <= shared_lengths[:, None])
    return alpha * whole + (1 - alpha) * masked_sum(logprobs, shared, dim=1)

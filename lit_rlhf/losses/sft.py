"""Supervised fine-tuning: the negative log-likelihood of the response tokens."""

from __future__ import annotations

from torch import Tensor

from lit_rlhf.ops.shapes import check_same_shape


def sft_loss(logprobs: Tensor, response_mask: Tensor) -> Tensor:
    """Negative log-likelihood of each counted token.

    -m_t · log π(y_t | x, y_<t).

    Args:
        logprobs: log π of each response token, in nats. Shape ``[N, R]``.
        response_mask: True = counted, bool. Shape ``[N, R]``.

    Returns:
        Losses in nats, unreduced, ``[N, R]``, 0 where the mask is False. The mean is taken elsewhere,
        over the counted tokens of the whole optimizer batch. Gradient flows to `logprobs`.

    Raises:
        ValueError: the shapes differ.

    Source:
        Ouyang et al. 2022, arXiv 2203.02155, section 3.5 (step 1).

    Example:
        >>> import torch
        >>> sft_loss(torch.tensor([[-1.0, -3.0]]), torch.tensor([[True, False]])).tolist()
        [[1.0, 0.0]]
    """
    check_same_shape(logprobs=logprobs, response_mask=response_mask)
    return (-logprobs).masked_fill(~response_mask, 0)

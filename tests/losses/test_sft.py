"""The negative log-likelihood counts what the mask counts."""

import pytest
import torch

from lit_rlhf.losses.sft import sft_loss


def test_negative_where_counted_and_zero_elsewhere() -> None:
    logprobs = torch.tensor([[-1.0, -2.0, float("-inf")]], requires_grad=True)
    loss = sft_loss(logprobs, torch.tensor([[True, False, False]]))
    assert loss.tolist() == [[1, 0, 0]]
    loss.sum().backward()
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == [[-1, 0, 0]]


def test_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"response_mask \[2, 3\]"):
        sft_loss(torch.zeros(1, 3), torch.ones(2, 3, dtype=torch.bool))

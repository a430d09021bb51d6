"""log softplus at its ends, and the Luce ratio that it serves."""

import math

import pytest
import torch

from lit_rlhf.losses.reward import bradley_terry_loss
from lit_rlhf.ops.links import log_softplus


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extremes_and_the_middle(dtype: torch.dtype) -> None:
    x = torch.tensor([-1e6, -1000.0, 0.0, 1000.0, 1e6], dtype=dtype, requires_grad=True)
    value = log_softplus(x)
    expected = [-1e6, -1000.0, math.log(math.log(2)), math.log(1000), math.log(1e6)]
    assert value.tolist() == pytest.approx(expected, rel=1e-6)
    assert value.dtype == dtype
    (slope,) = torch.autograd.grad(value.sum(), x)
    # sigmoid / softplus: 1 far below, 0.5 / log 2 in the middle, 1 / x far above
    assert slope.tolist() == pytest.approx([1, 1, 0.5 / math.log(2), 1e-3, 1e-6], rel=1e-6)


def test_the_two_forms_meet_where_one_takes_over() -> None:
    for x in (-19.0, -19.999, -20.0, -20.001, -21.0):
        exact = math.log(math.log1p(math.exp(x)))
        leaf = torch.tensor(x, dtype=torch.float64, requires_grad=True)
        value = log_softplus(leaf)
        value.backward()
        assert value.item() == pytest.approx(exact, rel=1e-15)
        assert leaf.grad is not None
        slope = 1 / (1 + math.exp(-x)) / math.log1p(math.exp(x))
        assert leaf.grad.item() == pytest.approx(slope, rel=1e-14)


def test_double_precision_is_exact_beyond_where_torch_switches_to_x() -> None:
    x = 20.5  # F.softplus gives x itself above 20
    value = log_softplus(torch.tensor(x, dtype=torch.float64)).item()
    assert value == pytest.approx(math.log(x + math.log1p(math.exp(-x))), rel=1e-15)


def test_bradley_terry_on_log_strengths_is_the_luce_ratio() -> None:
    heads = torch.tensor([[-3.0, 0.5], [4.0, 1.0]], dtype=torch.float64)
    better, worse = (torch.log1p(heads.exp())[:, side] for side in (0, 1))  # strengths
    ratio = better / (better + worse)
    loss = bradley_terry_loss(log_softplus(heads[:, 0]), log_softplus(heads[:, 1]))
    torch.testing.assert_close(loss, -ratio.log(), rtol=0, atol=1e-12)

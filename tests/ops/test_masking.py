"""Sums, means and variances under a mask: by hand, and against tensors without the uncounted part."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_rlhf.ops.masking import masked_mean, masked_sum, masked_variance, masked_whiten

NAN = float("nan")
VALUES = torch.tensor([[1.0, 2.0, NAN], [6.0, NAN, float("inf")]])
MASK = torch.tensor([[True, True, False], [True, False, False]])


def test_what_does_not_count_does_not_matter_even_if_it_is_nan() -> None:
    assert masked_sum(VALUES, MASK).item() == 9
    assert masked_sum(VALUES, MASK, dim=1).tolist() == [3, 6]
    assert masked_mean(VALUES, MASK).item() == 3
    assert masked_mean(VALUES, MASK, dim=1).tolist() == [1.5, 6]
    assert masked_mean(VALUES, MASK, dim=0).tolist() == [3.5, 2, 0]
    assert masked_variance(VALUES, MASK).item() == pytest.approx(14 / 3)  # (4 + 1 + 9) / 3
    assert masked_variance(VALUES, MASK, unbiased=True).item() == 7
    whitened = masked_whiten(VALUES, MASK)
    assert whitened[~MASK].tolist() == [0, 0, 0]
    assert whitened[MASK].tolist() == pytest.approx([each / (14 / 3) ** 0.5 for each in (-2, -1, 3)])


def test_gradient_is_zero_where_nothing_counts_and_never_nan() -> None:
    values = VALUES.clone().requires_grad_()
    (masked_mean(values, MASK) + masked_whiten(values, MASK).square().sum()).backward()
    assert values.grad is not None
    assert values.grad[~MASK].tolist() == [0, 0, 0]
    assert values.grad.isfinite().all()


def test_nothing_counted_gives_zero() -> None:
    none = torch.zeros_like(MASK)
    assert masked_mean(VALUES, none).item() == 0
    assert masked_variance(VALUES, none).item() == 0
    assert masked_variance(VALUES, none, unbiased=True).item() == 0
    assert masked_whiten(VALUES, none).tolist() == [[0, 0, 0], [0, 0, 0]]


def test_whitening_equal_values_gives_zero_and_one_value_is_no_trouble() -> None:
    equal = torch.full((2, 3), 5.0)
    assert masked_whiten(equal, MASK).abs().max().item() == 0
    one = torch.tensor([True, False, False])
    assert masked_whiten(torch.tensor([4.0, 1.0, 1.0]), one, unbiased=True).tolist() == [0, 0, 0]


def test_whitening_keeps_the_mean_when_told_to() -> None:
    kept = masked_whiten(torch.tensor([2.0, 6.0, 50.0]), torch.tensor([True, True, False]), shift_mean=False)
    assert kept.tolist() == pytest.approx([3, 5, 0])  # mean 4 ± 1


@pytest.mark.parametrize("function", [masked_sum, masked_mean, masked_variance, masked_whiten])
def test_masks_that_would_be_misread_are_refused(function) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=r"values \[2, 3\], mask \[2, 1\]"):
        function(VALUES, MASK[:, :1])
    with pytest.raises(ValueError, match=r"bool mask .*float32"):
        function(VALUES, MASK.float())


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 5), st.integers(1, 5), st.integers(0, 4))
def test_same_numbers_as_without_padding_and_in_any_order(seed: int, rows: int, width: int, pad: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(rows, width, generator=generator, dtype=torch.float64)
    mask = torch.rand(rows, width, generator=generator) < 0.7
    counted = values[mask]
    if len(counted) < 2:
        return
    order = torch.randperm(rows, generator=generator)
    padded = torch.nn.functional.pad(values, (0, pad), value=1e30)[order]
    longer = torch.nn.functional.pad(mask, (0, pad))[order]
    torch.testing.assert_close(masked_mean(padded, longer), counted.mean())
    torch.testing.assert_close(masked_variance(padded, longer), counted.var(unbiased=False))
    torch.testing.assert_close(masked_variance(padded, longer, unbiased=True), counted.var())
    whitened = masked_whiten(padded, longer)
    torch.testing.assert_close(whitened[:, :width], masked_whiten(values, mask)[order])
    assert abs(whitened.sum().item()) < 1e-6


def test_double_stays_double() -> None:
    values, mask = torch.ones(3, dtype=torch.float64), torch.ones(3, dtype=torch.bool)
    for function in (masked_sum, masked_mean, masked_variance, masked_whiten):
        assert function(values, mask).dtype == torch.float64

"""Merged moments are those of all values at once, whatever the batches."""

import statistics

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_rlhf.ops.moments import Moments, merge_moments


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.floats(-100, 100), max_size=6), min_size=1, max_size=5))
def test_batches_of_any_size_give_the_moments_of_all(batches: list[list[float]]) -> None:
    moments = None
    for batch in batches:
        moments = merge_moments(moments, torch.tensor(batch, dtype=torch.float64))
    everything = [value for batch in batches for value in batch]
    assert moments is not None
    assert moments.count == len(everything)
    if everything:
        assert moments.mean == pytest.approx(statistics.fmean(everything), abs=1e-9)
    if len(everything) > 1:
        assert moments.std == pytest.approx(statistics.stdev(everything), abs=1e-6)


def test_a_small_spread_far_from_zero_is_not_lost() -> None:
    moments = merge_moments(None, torch.tensor([1e8, 1e8 + 2], dtype=torch.float64))
    moments = merge_moments(moments, torch.tensor([1e8 + 1], dtype=torch.float64))
    assert moments == Moments(3.0, 1e8 + 1, 2.0)
    assert moments.std == 1


def test_they_are_plain_numbers_that_make_themselves_anew() -> None:
    moments = merge_moments(None, torch.tensor([1.0, 2.0], requires_grad=True))
    assert [type(each) for each in moments] == [float] * 3
    assert Moments(*list(moments)) == moments


def test_fewer_than_two_values_have_no_spread() -> None:
    assert merge_moments(None, torch.tensor([3.0])).std == 0
    assert merge_moments(None, torch.zeros(0)) == Moments(0.0, 0.0, 0.0)


def test_what_is_no_number_and_no_list_is_refused() -> None:
    with pytest.raises(ValueError, match=r"finite values, found \[nan, inf\]"):
        merge_moments(None, torch.tensor([1.0, float("nan"), float("inf")]))
    with pytest.raises(ValueError, match=r"shape \[N\], found \[2, 1\]"):
        merge_moments(None, torch.zeros(2, 1))

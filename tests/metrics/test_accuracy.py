"""Accuracy over strict comparisons, by hand."""

import math

import pytest
import torch

from lit_rlhf.metrics import PairAccuracy


def test_pair_accuracy_counts_ties_reversals_and_equal_scores() -> None:
    accuracy = PairAccuracy()
    better, worse = torch.tensor([2.0, 1.0, 5.0, 5.0, 0.0, 3.0]), torch.tensor([1.0, 1.0, 5.0, 0.0, 4.0, 1.0])
    # right; equal scores: wrong; no pair, twice; right; wrong
    target = torch.tensor([1.0, 0.8, 0.5, 0.5, 0.3, 0.0])
    accuracy.update(better, worse, target)
    assert accuracy.compute().item() == 0.5


def test_pair_accuracy_is_over_pairs_and_not_over_batches() -> None:
    accuracy = PairAccuracy()
    one = torch.ones(1)
    accuracy.update(one, 0 * one, one)
    accuracy.update(torch.zeros(3), torch.ones(3), torch.ones(3))
    assert accuracy.compute().item() == 0.25


def test_pair_accuracy_adds_up_the_counts_of_all_ranks() -> None:
    accuracy = PairAccuracy()
    accuracy.update(torch.ones(4), torch.tensor([0.0, 0.0, 2.0, 0.0]), torch.tensor([1.0, 1.0, 1.0, 0.5]))
    for name, of_two_ranks in (("correct", [2, 1]), ("total", [3, 5])):
        reduce = accuracy._reductions[name]
        assert callable(reduce)
        assert reduce(torch.tensor(of_two_ranks)) == sum(of_two_ranks)
        assert getattr(accuracy, name).item() == of_two_ranks[0]


def test_pair_accuracy_of_ties_alone_is_nobodys_zero() -> None:
    accuracy = PairAccuracy()
    accuracy.update(torch.zeros(2), torch.ones(2), torch.full((2,), 0.5))
    assert math.isnan(accuracy.compute().item())


def test_pair_accuracy_refuses_another_shape() -> None:
    with pytest.raises(ValueError, match=r"target \[1\]"):
        PairAccuracy().update(torch.zeros(2), torch.zeros(2), torch.ones(1))

"""The baselines: what they see, and the optimum of the regression by its own equations."""

import math

import pytest
import torch

from lit_rlhf.metrics import baselines
from lit_rlhf.metrics.baselines import TextComparison, bag_of_words, longer_wins

FILLERS = ["one two three", "four", "five six", "seven eight nine ten"]
GOOD_AND_BAD = [TextComparison(f"good {a}", f"bad {b}") for a in FILLERS for b in FILLERS]


def test_longer_wins_counts_characters() -> None:
    pairs = [TextComparison("long", "no"), TextComparison("a", "longer"), TextComparison("ab", "cd")]
    assert longer_wins(pairs).tolist() == [2.0, -5.0, 0.0]


def test_bag_of_words_learns_a_word_whatever_the_length() -> None:
    held_out = [
        TextComparison("a good thing", "a bad thing"),
        TextComparison("bad", "good"),
        TextComparison("unknown", "stranger"),
        TextComparison("GOOD, good!", "!good good ,"),  # other pairs of words, which are too rare to count
    ]
    margins = bag_of_words(GOOD_AND_BAD, GOOD_AND_BAD, held_out)
    assert margins.sign().tolist() == [1.0, -1.0, 0.0, 0.0]


def test_bag_of_words_hears_two_words_in_their_order() -> None:
    pairs = [TextComparison("not bad but good", "not good but bad")] * 2
    margins = bag_of_words(
        pairs, pairs, [TextComparison("not bad", "not good"), TextComparison("bad", "good")]
    )
    assert margins[0] > 0
    assert margins[1] == 0


def test_words_of_a_single_answer_do_not_count() -> None:
    pairs = [TextComparison("rare good", "bad"), TextComparison("good", "bad")]
    margins = bag_of_words(pairs, pairs, [TextComparison("rare", "x"), TextComparison("good", "x")])
    assert margins[0] == 0
    assert margins[1] > 0


def solve(log_count: float, target: float, rows: int, strength: float) -> float:
    """w of one feature, from 0 = Σ(σ(wd) - t)d + w/C, by bisection."""
    low, high = -50.0, 50.0
    for _ in range(200):
        middle = (low + high) / 2
        slope = rows * (1 / (1 + math.exp(-middle * log_count)) - target) * log_count + middle / strength
        low, high = (middle, high) if slope < 0 else (low, middle)
    return low


@pytest.mark.parametrize("target", [1.0, 0.8])
def test_the_weights_are_those_of_the_regularised_regression(monkeypatch, target: float) -> None:
    monkeypatch.setattr(baselines, "STRENGTHS", (0.5,))
    training = [TextComparison("yes", "x", target), TextComparison("yes", "z", target)]
    margin = bag_of_words(training, training, [TextComparison("yes yes", "zz")]).item()
    # the one word of two answers; x and z have one answer each
    weight = solve(math.log(2), target, rows=2, strength=0.5)
    assert margin == pytest.approx(weight * math.log(3), rel=1e-4)


def test_development_comparisons_choose_the_weakest_of_equally_good_regularisations() -> None:
    # trained on yes only: every strength is right on yes, none on no
    training = [TextComparison("yes", "no")] * 4
    held_out = [TextComparison("yes", "no")]
    least = bag_of_words(training, training, held_out).item()
    weight = solve(2**0.5 * math.log(2), 1.0, rows=4, strength=0.001) * 2**0.5 * math.log(2)
    assert least == pytest.approx(weight, rel=1e-3)


def test_development_comparisons_choose_the_regularisation(monkeypatch) -> None:
    # `w` wins six times and loses four, so it is good where weights are held near 0; where they are not, `good`
    # and `v` account for the six and `w` is bad
    monkeypatch.setattr(baselines, "STRENGTHS", (0.001, 1000.0))
    training = [TextComparison("good w", "v")] * 6 + [TextComparison("good", "w")] * 4
    for development in (TextComparison("w", "other"), TextComparison("other", "w")):
        margin = bag_of_words(training, [development], [TextComparison("w", "other")]).item()
        assert (margin > 0) == (development.better == "w")


def test_targets_below_a_half_prefer_the_other() -> None:
    turned = [TextComparison(pair.worse, pair.better, 0.0) for pair in GOOD_AND_BAD]
    held_out = [TextComparison("good", "bad")]
    one, other = (bag_of_words(pairs, pairs, held_out) for pairs in (turned, GOOD_AND_BAD))
    torch.testing.assert_close(one, other)


def test_nothing_to_learn_from() -> None:
    with pytest.raises(ValueError, match="found 0 and 16"):
        bag_of_words([], GOOD_AND_BAD, [])
    with pytest.raises(ValueError, match="no ties, found 16 and 0"):
        bag_of_words(GOOD_AND_BAD, [TextComparison("a", "b", 0.5)], [])
    nothing_shared = [TextComparison("a", "b"), TextComparison("c", "d")]
    assert bag_of_words(nothing_shared, GOOD_AND_BAD, [TextComparison("a", "b")]).tolist() == [0.0]

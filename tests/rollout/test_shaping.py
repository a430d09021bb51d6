"""What is made of scores before training, in its order, against sums done by hand."""

import math

import pytest
import torch

from lit_rlhf.ops.moments import Moments
from lit_rlhf.rollout.shaping import ScoreShaping, shape_scores

SCORES = torch.tensor([2.0, -1.0, 0.5, 3.0])
TRUNCATED = torch.tensor([False, True, False, True])
LENGTHS = torch.tensor([4, 10, 9, 10])


def shape(scores=SCORES, truncated=TRUNCATED, lengths=LENGTHS, moments=None, **settings):
    return shape_scores(scores, truncated, lengths, ScoreShaping(**settings), 10, moments)


def test_nothing_is_done_unless_asked_for():
    shaped, moments = shape()
    assert torch.equal(shaped, SCORES) and moments is None
    assert torch.equal(shape(moments=Moments(3.0, 1.0, 2.0))[0], SCORES)


def test_a_missing_eos_has_its_own_score():
    assert shape(missing_eos_score=-1.5)[0].tolist() == [2.0, -1.5, 0.5, -1.5]
    assert shape(missing_eos_score=0.0)[0].tolist() == [2.0, 0.0, 0.5, 0.0]


def test_a_missing_eos_has_its_price():
    assert shape(missing_eos_penalty=2.0)[0].tolist() == [2.0, -3.0, 0.5, 1.0]


def test_the_last_tokens_cost_more_and_more():
    """DAPO, eq. 13, with L_max = 10 and a buffer of 4: free up to 6, then (6 - length)/4."""
    lengths = torch.tensor([1, 6, 7, 8, 9, 10])
    no, zeros = torch.zeros(6, dtype=torch.bool), torch.zeros(6)
    shaped, _ = shape(zeros, no, lengths, overlong_buffer=4)
    assert shaped.tolist() == [0.0, 0.0, -0.25, -0.5, -0.75, -1.0]
    assert shape(zeros, no, lengths, overlong_buffer=4, overlong_penalty=8.0)[0].tolist() == [
        0,
        0,
        -2,
        -4,
        -6,
        -8,
    ]
    assert shape(zeros, no, lengths, overlong_buffer=10)[0].tolist() == pytest.approx(
        [-0.1, -0.6, -0.7, -0.8, -0.9, -1.0]
    )
    assert shape(zeros, no, lengths, overlong_buffer=4, overlong_penalty=0.0)[0].tolist() == [0.0] * 6


def test_the_scale_is_that_of_all_scores_until_now():
    """1, 3 and then 5: deviation √2 at first, then 2 about a mean of 3."""
    whole, lengths = torch.zeros(2, dtype=torch.bool), torch.ones(2)
    first, moments = shape(torch.tensor([1.0, 3.0]), whole, lengths, scale="std")
    assert first.tolist() == pytest.approx([1 / math.sqrt(2), 3 / math.sqrt(2)])
    second, later = shape(torch.tensor([5.0]), whole[:1], lengths[:1], moments, scale="std")
    assert second.tolist() == pytest.approx([2.5])
    centred, same = shape(torch.tensor([5.0]), whole[:1], lengths[:1], moments, scale="mean_std")
    assert centred.tolist() == pytest.approx([1.0])
    assert later == same == Moments(3.0, 3.0, 8.0)
    assert moments == Moments(2.0, 2.0, 2.0)


def test_scores_that_are_all_the_same_are_not_blown_up():
    same, whole, lengths = torch.full((3,), 0.1), torch.zeros(3, dtype=torch.bool), torch.ones(3)
    assert shape(same, whole, lengths, scale="std")[0].tolist() == pytest.approx([0.1] * 3)
    assert shape(same, whole, lengths, scale="mean_std")[0].abs().max().item() < 1e-6
    assert shape(same[:1], whole[:1], lengths[:1], scale="std")[0].tolist() == pytest.approx([0.1])


def test_the_clip_comes_last_and_keeps_within_both_sides():
    assert shape(clip=1.0)[0].tolist() == [1.0, -1.0, 0.5, 1.0]
    whole, lengths = torch.zeros(3, dtype=torch.bool), torch.ones(3)
    shaped, moments = shape(torch.tensor([0.0, 0.0, 30.0]), whole, lengths, scale="mean_std", clip=0.8)
    assert shaped.tolist() == pytest.approx([-10 / math.sqrt(300), -10 / math.sqrt(300), 0.8])
    assert moments.mean == pytest.approx(10.0)  # the clip stays out of what it is scaled by


def test_the_order():
    """Of the response without an EOS: 4 for that in place of 9, less 1 for its length, then scaled, then cut."""
    scores, truncated = torch.tensor([1.0, 9.0]), torch.tensor([False, True])
    lengths = torch.tensor([2, 10])
    shaped, moments = shape(
        scores, truncated, lengths, missing_eos_score=4.0, overlong_buffer=5, scale="std", clip=1.0
    )
    assert moments == Moments(2.0, 2.0, 2.0)  # of 1 and 4 - 1
    assert shaped.tolist() == pytest.approx([1 / math.sqrt(2), 1.0])


@pytest.mark.parametrize(
    "settings",
    [{"missing_eos_score": -1.0}, {"missing_eos_penalty": 1.0}, {"overlong_buffer": 4}, {"clip": 1.0}],
)
def test_a_failed_response_stays_without_a_score_and_enters_nothing(settings):
    failed = torch.tensor([2.0, math.nan, 0.5, math.nan])
    shaped, _ = shape(failed, **settings)
    assert shaped.isnan().tolist() == [False, True, False, True]
    scaled, moments = shape(failed, scale="mean_std", **settings)
    alone, expected = shape(failed[::2], TRUNCATED[::2], LENGTHS[::2], scale="mean_std", **settings)
    assert moments == expected and moments.count == 2
    assert torch.equal(scaled[::2], alone) and scaled[1::2].isnan().all()


def test_a_rollout_without_any_score_changes_no_moments():
    before = Moments(3.0, 1.0, 2.0)
    shaped, after = shape(torch.full((4,), math.nan), scale="std", moments=before)
    assert shaped.isnan().all() and after == before


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"missing_eos_penalty": -1.0}, r"model\.shaping\.missing_eos_penalty: expected 0 or more, found -1\.0"),
        ({"overlong_buffer": -1}, r"model\.shaping\.overlong_buffer: expected 0 or more"),
        ({"overlong_penalty": math.nan}, r"model\.shaping\.overlong_penalty: expected 0 or more, found nan"),
        ({"clip": 0.0}, r"model\.shaping\.clip: expected more than 0"),
        ({"scale": "mean"}, r"model\.shaping\.scale: expected one of none, std, mean_std, found 'mean'"),
        ({"missing_eos_score": 0.0, "missing_eos_penalty": 1.0}, r"missing_eos_penalty: missing_eos_score replaces"),
    ],
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        ScoreShaping(**settings)


def test_a_buffer_longer_than_any_response_is_refused():
    with pytest.raises(
        ValueError, match=r"overlong_buffer: expected at most model\.max_new_tokens \(10\), found 11"
    ):
        shape(overlong_buffer=11)  # fmt: skip

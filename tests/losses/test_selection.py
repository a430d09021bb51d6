"""Which responses of a prompt are learnt, and how much of each."""

from __future__ import annotations

import pytest
import torch

from lit_rlhf.losses.selection import best_of, imitation_loss

NAN = float("nan")


def test_the_best_of_each_prompt_in_any_order() -> None:
    scores = torch.tensor([3.0, -1.0, 5.0, -2.0, 4.0, 5.5])
    prompts = torch.tensor([2, 0, 2, 0, 2, 0])
    assert best_of(scores, prompts).tolist() == [False, False, True, False, False, True]
    assert best_of(scores, prompts, 2).tolist() == [False, True, True, False, True, True]


def test_of_equal_scores_the_first_is_kept() -> None:
    scores, prompts = torch.tensor([1.0, 2.0, 2.0, 2.0]), torch.zeros(4, dtype=torch.long)
    assert best_of(scores, prompts).tolist() == [False, True, False, False]
    assert best_of(scores, prompts, 2).tolist() == [False, True, True, False]


def test_what_failed_is_never_kept() -> None:
    scores = torch.tensor([NAN, -9.0, NAN, NAN])
    prompts = torch.tensor([0, 0, 1, 1])
    assert best_of(scores, prompts).tolist() == [False, True, False, False]
    assert best_of(scores, prompts, 2).tolist() == [False, True, False, False]


def test_best_of_nothing_is_nothing() -> None:
    assert best_of(torch.zeros(0), torch.zeros(0, dtype=torch.long)).tolist() == []


def test_many_prompts_as_one_by_one() -> None:
    torch.manual_seed(0)
    scores, prompts = torch.randint(5, (300,)).float(), torch.randint(40, (300,))
    kept = best_of(scores, prompts, 3)
    for prompt in range(40):
        places = (prompts == prompt).nonzero().flatten().tolist()
        expected = sorted(places, key=lambda place: (-scores[place].item(), place))[:3]
        assert [place for place in places if kept[place]] == sorted(expected)


@pytest.mark.parametrize(("keep", "prompts"), [(0, torch.zeros(2)), (1, torch.zeros(3))])
def test_what_makes_no_sense_is_refused(keep: int, prompts: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="expected"):
        best_of(torch.zeros(2), prompts.long(), keep)


def test_the_loss_is_a_sum_over_counted_tokens_times_the_weight() -> None:
    logprobs = torch.tensor([[-1.0, -2.0, NAN], [-4.0, -8.0, -16.0]], requires_grad=True)
    mask = torch.tensor([[True, True, False], [True, True, True]])
    losses = imitation_loss(logprobs, mask, torch.tensor([0.5, 2.0]))
    assert losses.tolist() == [1.5, 56.0]
    losses.sum().backward()
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == [[-0.5, -0.5, 0.0], [-2.0, -2.0, -2.0]]


def test_a_weight_for_each_response_is_expected() -> None:
    with pytest.raises(ValueError, match=r"weights \[2, 1\]"):
        imitation_loss(torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.bool), torch.ones(2, 1))

"""How much of what was drawn has a part in what is learnt."""

from __future__ import annotations

import pytest
import torch

from lit_rlhf.metrics.selection import effective_responses, prompts_with_spread


def test_equal_weights_are_worth_all_responses_and_one_weight_is_worth_one() -> None:
    prompts = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    assert effective_responses(torch.full((8,), 0.3), prompts).item() == pytest.approx(4)
    alone = torch.tensor([0.0, 4.0, 0.0, 0.0, 0.0, 0.0, 0.0, 4.0])
    assert effective_responses(alone, prompts).item() == pytest.approx(1)


def test_effective_responses_are_a_mean_over_prompts_that_are_there() -> None:
    """(3 + 1)² / (9 + 1) = 1.6 and 1, the scale of a prompt's weights whatever it is; prompt 1 has none."""
    weights, prompts = torch.tensor([3.0, 10.0, 1.0]), torch.tensor([2, 0, 2])
    assert effective_responses(weights, prompts).item() == pytest.approx(1.3)


def test_the_share_of_prompts_with_different_scores() -> None:
    scores = torch.tensor([-1.0, -2.0, -1.0, -2.0, -3.0])
    prompts = torch.tensor([0, 3, 0, 3, 4])
    assert prompts_with_spread(scores, prompts).item() == 0.0
    scores[2] = -1.5
    assert prompts_with_spread(scores, prompts).item() == pytest.approx(1 / 3)


def test_one_weight_and_one_score_a_response() -> None:
    for measure in (effective_responses, prompts_with_spread):
        with pytest.raises(ValueError, match="one shape"):
            measure(torch.ones(3), torch.zeros(2, dtype=torch.long))

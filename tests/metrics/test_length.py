"""Correlation of score with length, by hand."""

import math

import pytest
import torch
from torchmetrics.functional import pearson_corrcoef

from lit_rlhf.metrics import LengthCorrelation


def correlate(scores: list[float], lengths: list[int], tree_index: list[int]) -> float:
    correlation = LengthCorrelation()
    correlation.update(torch.tensor(scores), torch.tensor(lengths), torch.tensor(tree_index))
    return correlation.compute().item()


def test_it_is_within_prompts() -> None:
    # within each prompt the longer one scores less, though the prompt of long answers scores more
    assert correlate([1.0, 0.0, 10.0, 9.0], [5, 6, 100, 101], [0, 0, 1, 1]) == pytest.approx(-1)
    # centred lengths ±1 and ±2, scores ±1 and ∓1: (2·1 - 2·2) / sqrt((2 + 8)·4)
    assert correlate([2.0, 0.0, 0.0, 2.0], [3, 1, 5, 1], [0, 0, 1, 1]) == pytest.approx(-2 / 40**0.5)


def test_of_one_prompt_it_is_pearsons() -> None:
    generator = torch.Generator().manual_seed(0)
    scores, lengths = torch.randn(50, generator=generator), torch.randint(300, (50,), generator=generator)
    expected = pearson_corrcoef(scores, lengths.float())
    correlation = LengthCorrelation()
    correlation.update(scores, lengths, torch.zeros(50).long())
    torch.testing.assert_close(correlation.compute(), expected, atol=1e-5, rtol=0)


def test_batches_add_up_to_the_whole() -> None:
    generator = torch.Generator().manual_seed(1)
    scores, lengths = torch.randn(60, generator=generator), torch.randint(300, (60,), generator=generator)
    tree_index = torch.arange(60) // 3
    whole, parts = LengthCorrelation(), LengthCorrelation()
    whole.update(scores, lengths, tree_index)
    for start, end in ((0, 6), (6, 60)):
        parts.update(scores[start:end], lengths[start:end], tree_index[start:end])
    torch.testing.assert_close(parts.compute(), whole.compute())


@pytest.mark.parametrize(("scores", "lengths"), [([0.3] * 7, [*range(7)]), ([0.0, 0.1, 0.2], [7] * 3)])
def test_what_does_not_vary_correlates_with_nothing(scores: list[float], lengths: list[int]) -> None:
    # in float32 the sum of seven times 0.3 is not seven times 0.3, so their mean leaves something to correlate with
    assert math.isnan(correlate(scores, lengths, [0] * len(scores)))


def test_single_responses_say_nothing() -> None:
    assert correlate([1.0, 0.0, 5.0], [2, 1, 500], [0, 0, 1]) == pytest.approx(1)

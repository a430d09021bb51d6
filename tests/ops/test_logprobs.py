"""Token log-probabilities and entropies against probabilities written out by hand."""

import math

import pytest
import torch

from lit_rlhf.ops.logprobs import token_entropy, token_logprobs

ODDS = torch.tensor([[[1.0, 2.0, 5.0], [3.0, 0.5, 0.5]]]).log()  # of eight, of four


def test_probability_of_the_token() -> None:
    probability = token_logprobs(ODDS, torch.tensor([[2, 1]])).exp()
    assert probability.tolist() == [pytest.approx([5 / 8, 1 / 8])]


def test_temperature_divides_the_logits() -> None:
    probability = token_logprobs(ODDS, torch.tensor([[2, 1]]), temperature=0.5).exp()
    assert probability.tolist() == [pytest.approx([25 / 30, 0.25 / 9.5])]  # odds squared
    assert token_entropy(ODDS, temperature=1e6)[0, 0].item() == pytest.approx(math.log(3))


def test_entropy() -> None:
    expected = -(1 / 8 * math.log(1 / 8) + 2 / 8 * math.log(2 / 8) + 5 / 8 * math.log(5 / 8))
    assert token_entropy(ODDS)[0, 0].item() == pytest.approx(expected)


def test_a_token_that_cannot_be_drawn_adds_nothing_and_breaks_no_gradient() -> None:
    logits = torch.tensor([0.0, 0.0, -math.inf], requires_grad=True)
    entropy = token_entropy(logits)
    entropy.backward()
    assert entropy.item() == pytest.approx(math.log(2))
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_half_precision_is_widened_before_the_softmax_and_double_is_kept() -> None:
    logits = torch.zeros(4, 1000, dtype=torch.bfloat16)
    logprobs = token_logprobs(logits, torch.zeros(4, dtype=torch.long), temperature=0.7)
    assert logprobs.dtype == torch.float32
    assert logprobs[0].item() == pytest.approx(-math.log(1000), abs=1e-5)
    assert token_entropy(logits).dtype == torch.float32
    assert token_logprobs(ODDS.double(), torch.tensor([[0, 0]])).dtype == torch.float64
    assert token_entropy(ODDS.double()).dtype == torch.float64


def test_logits_far_from_zero_keep_their_digits() -> None:
    near = token_logprobs(torch.tensor([0.0, 1.0]), torch.tensor(1))
    far = token_logprobs(torch.tensor([65536.0, 65537.0]), torch.tensor(1))
    assert far.item() == near.item()


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_a_temperature_that_is_not_positive_is_refused(temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature above 0"):
        token_logprobs(ODDS, torch.tensor([[0, 0]]), temperature)
    with pytest.raises(ValueError, match="temperature above 0"):
        token_entropy(ODDS, temperature)


def test_tokens_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"for tokens \[2\], found \[1, 2, 3\]"):
        token_logprobs(ODDS, torch.tensor([0, 0]))

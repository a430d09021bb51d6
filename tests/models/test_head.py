"""The language-model head: entropies and their gradient, without what a softmax would keep."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from lit_rlhf.models import head
from lit_rlhf.models.head import head_logprobs, head_logprobs_and_collision, head_logprobs_and_entropy

M = 7


def drawn(model: LlamaForCausalLM) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """States and tokens, and weights that make a loss of log-probabilities and entropies."""
    generator = torch.Generator().manual_seed(2)
    states = torch.randn(M, model.config.hidden_size, generator=generator, dtype=model.dtype)
    tokens = torch.randint(0, model.config.vocab_size, (M,), generator=generator)
    weights = torch.randn(2, M, generator=generator, dtype=model.dtype)
    return states.requires_grad_(), tokens, weights[0], weights[1]


def gradients(model: LlamaForCausalLM, states: Tensor, loss: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, [states, model.lm_head.weight]))


def plain_softmax(logits: Tensor, tokens: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """What autograd differentiates by itself."""
    logprobs = (logits / temperature).log_softmax(-1)
    return logprobs[torch.arange(M), tokens], -(logprobs.exp() * logprobs).sum(-1)


@pytest.mark.parametrize("rows", [M, 3, 1])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_log_probabilities_entropies_and_gradients_are_those_of_a_plain_softmax(
    tiny_llama: LlamaForCausalLM, temperature: float, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In fp64, where nothing hides behind rounding; at most `rows` of the seven at a time."""
    model = tiny_llama.double()
    monkeypatch.setattr(head, "MAX_LOGITS", rows * model.config.vocab_size)
    monkeypatch.setattr(head, "CACHED_LOGITS", max(1, rows // 2) * model.config.vocab_size)
    states, tokens, of_logprobs, of_entropy = drawn(model)
    expected = plain_softmax(model.lm_head(states), tokens, temperature)
    found = head_logprobs_and_entropy(model, states, tokens, temperature)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    for weights in ((of_logprobs, of_entropy), (of_logprobs * 0, of_entropy), (of_logprobs, of_entropy * 0)):
        losses = [(a * weights[0] + b * weights[1]).sum() for a, b in (found, expected)]
        ours = torch.autograd.grad(losses[0], states, retain_graph=True)[0]
        theirs = torch.autograd.grad(losses[1], states, retain_graph=True)[0]
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    (weight,) = torch.autograd.grad((found[1] * of_entropy).sum(), model.lm_head.weight)
    (exact,) = torch.autograd.grad((expected[1] * of_entropy).sum(), model.lm_head.weight)
    torch.testing.assert_close(weight, exact, rtol=1e-10, atol=1e-12)


def test_one_of_the_two_alone_may_be_in_the_loss(tiny_llama: LlamaForCausalLM) -> None:
    states, tokens, of_logprobs, of_entropy = drawn(tiny_llama)
    for index, weights in enumerate((of_logprobs, of_entropy)):
        found = head_logprobs_and_entropy(tiny_llama, states, tokens, 1.0)[index]
        expected = plain_softmax(tiny_llama.lm_head(states), tokens, 1.0)[index]
        ours = gradients(tiny_llama, states, (found * weights).sum())
        theirs = gradients(tiny_llama, states, (expected * weights).sum())
        for our, their in zip(ours, theirs, strict=True):
            torch.testing.assert_close(our, their, rtol=1e-4, atol=1e-5)


def test_log_probabilities_are_the_same_bits_with_entropy_and_without(tiny_llama: LlamaForCausalLM) -> None:
    """The rollout asks for both and the update for one: their ratio has to be 1."""
    states, tokens, _, _ = drawn(tiny_llama)
    for temperature in (1.0, 0.7):
        alone = head_logprobs(tiny_llama, states, tokens, temperature)
        assert torch.equal(alone, head_logprobs_and_entropy(tiny_llama, states, tokens, temperature)[0])


@pytest.mark.parametrize("rows", [M, 3, 1])
def test_collisions_are_those_of_a_plain_softmax_and_leave_the_log_probabilities_alone(
    tiny_llama: LlamaForCausalLM, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head, "MAX_LOGITS", rows * tiny_llama.config.vocab_size)
    monkeypatch.setattr(head, "CACHED_LOGITS", max(1, rows // 2) * tiny_llama.config.vocab_size)
    states, tokens, of_logprobs, _ = drawn(tiny_llama)
    for temperature in (1.0, 0.7):
        logprobs, collision = head_logprobs_and_collision(tiny_llama, states, tokens, temperature)
        alone = head_logprobs(tiny_llama, states, tokens, temperature)
        chances = (tiny_llama.lm_head(states) / temperature).softmax(-1)
        torch.testing.assert_close(collision.exp(), chances.square().sum(-1).detach())
        assert torch.equal(logprobs, alone) and not collision.requires_grad
        ours, theirs = (
            gradients(tiny_llama, states, (found * of_logprobs).sum()) for found in (logprobs, alone)
        )
        assert all(torch.equal(our, their) for our, their in zip(ours, theirs, strict=True))


def test_a_token_that_cannot_be_drawn_adds_nothing_and_has_no_gradient(
    tiny_llama: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    states, tokens, _, _ = drawn(tiny_llama)
    tokens = tokens.clamp(min=10)
    bias = torch.zeros(tiny_llama.config.vocab_size).index_fill(0, torch.arange(10), -torch.inf)
    monkeypatch.setattr(head, "output_logits", lambda model, part: model.lm_head(part) + bias)
    logprobs, entropy = head_logprobs_and_entropy(tiny_llama, states, tokens, 1.0)
    (1e3 * (logprobs + 5 * entropy)).sum().backward()
    expected = torch.distributions.Categorical(logits=tiny_llama.lm_head(states)[:, 10:]).entropy()
    torch.testing.assert_close(entropy, expected, rtol=1e-5, atol=1e-5)
    assert states.grad is not None and states.grad.isfinite().all()
    assert (tiny_llama.lm_head.weight.grad[:10] == 0).all()


def test_nothing_over_the_vocabulary_is_kept_for_the_entropys_gradient(tiny_llama: LlamaForCausalLM) -> None:
    states, tokens, _, _ = drawn(tiny_llama)
    kept: list[Any] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.shape) or t, lambda t: t):
        head_logprobs_and_entropy(tiny_llama, states, tokens, 1.0)
    assert kept and (M, tiny_llama.config.vocab_size) not in [tuple(shape) for shape in kept]


def test_without_gradients_none_are_made(tiny_llama: LlamaForCausalLM) -> None:
    states, tokens, _, _ = drawn(tiny_llama)
    with torch.no_grad():
        logprobs, entropy = head_logprobs_and_entropy(tiny_llama, states, tokens, 1.0)
    assert not logprobs.requires_grad and not entropy.requires_grad

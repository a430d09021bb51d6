"""Responses of one prompt stay together, and a sampler that comes apart from the update stops the run."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from lit_rlhf.records import ExperienceBatch, LossOutput
from lit_rlhf.rollout import collect
from tests.conftest import make_llama
from tests.modules.ppo_runs import TOKENIZER, Watched, fit, make_module, share_of_small_ids


class Trees(Watched):
    """Keeps how many trees and responses each training step saw."""

    def compute_loss(self, batch: ExperienceBatch) -> LossOutput:
        self.seen = [*getattr(self, "seen", []), (batch.trees.num_trees, batch.trees.num_responses)]
        return super().compute_loss(batch)


def test_a_prompt_is_packed_once_for_all_of_its_responses() -> None:
    """Eight prompts with three responses each, in minibatches of two prompts, each in two steps."""
    module = Trees(
        make_llama(TOKENIZER), share_of_small_ids, tokenizer=TOKENIZER, samples_per_prompt=3, minibatch_size=6,
        epochs=2, max_new_tokens=4, seed=0,
    )  # fmt: skip
    fit(module, accumulate_grad_batches=2)
    assert module.seen == [(1, 3)] * 16


def drifting(after: int) -> Any:
    """The sampler, saying something else of its tokens than what they were drawn with once it ran `after` times."""
    true_sampler, calls = collect.sample_responses, []

    def sampler(*given: Any, **named: Any) -> Any:
        sampled = true_sampler(*given, **named)
        calls.append(sampled)
        off = 0.5 if len(calls) > after else 0.0
        return replace(sampled, logprobs=torch.where(sampled.logprobs == 0, 0.0, sampled.logprobs + off))

    return sampler


def test_a_sampler_that_comes_apart_stops_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collect, "sample_responses", drifting(after=1))
    module = make_module()
    with pytest.raises(
        ValueError, match=r"sampled and recomputed log-probabilities agree; they are 0\.5 nats"
    ):
        fit(module, max_epochs=3)
    assert len(module.rollouts) == 1


def test_a_small_difference_is_logged_and_not_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Less than what stops a run, and more than rounding: the update's own forward is taken."""
    sampler = collect.sample_responses

    def rounded(*given: Any, **named: Any) -> Any:
        sampled = sampler(*given, **named)
        return replace(sampled, logprobs=torch.where(sampled.logprobs == 0, 0.0, sampled.logprobs + 5e-4))

    monkeypatch.setattr(collect, "sample_responses", rounded)
    module = make_module(epochs=1, minibatch_size=16)
    fit(module, max_epochs=2)
    assert module.ratios == pytest.approx([1.0, 1.0], abs=1e-5)
    for numbers in module.numbers:
        assert numbers["rollout/logprob_difference"] == pytest.approx(5e-4, rel=0.05)


def test_a_budget_of_cached_tokens_changes_no_response() -> None:
    """Fourteen tokens hold two of sixteen rows: the others wait."""
    rollouts = []
    for budget in (None, 2 * 14):
        module = make_module(max_cached_tokens=budget, samples_per_prompt=2)
        fit(module)
        rollouts.append(module.rollouts[0])
    assert rollouts[0].response_ids == rollouts[1].response_ids
    assert module.sampling.max_cached_tokens == 28
    with pytest.raises(ValueError, match=r"model\.max_cached_tokens: expected more than 0"):
        make_module(max_cached_tokens=0)

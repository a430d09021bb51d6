"""Each truth of the first rollout holds of an ordinary run, and is provoked by the mistake that it is there for."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from lit_rlhf.data.tokenization import TextEncoder
from lit_rlhf.models.policy import PolicyNetwork
from lit_rlhf.models.reference import Frozen
from lit_rlhf.records import Experience, Tree
from lit_rlhf.rollout import collect
from lit_rlhf.rollout.credit import Credit
from lit_rlhf.rollout.experience import training_batch
from lit_rlhf.rollout.token_truths import eos_counts, masks_come_from_lengths, one_bos, text_has_one_bos
from lit_rlhf.rollout.truth import Truth, agreement
from lit_rlhf.rollout.truths import (
    first_rollout_truths,
    kl_is_zero,
    numbers_are_finite,
    ratio_is_one,
    sampler_agrees,
    score_sits_on_the_eos,
    tolerance_of,
)
from tests.conftest import make_llama, make_tokenizer
from tests.modules.ppo_runs import ROWS, Prompts, Watched, make_module
from tests.modules.training import quiet_trainer

KL_COEF = 0.3


def likely_to_end(module: Watched) -> Watched:
    """With an EOS that comes now and then: its row of the head points where states do."""
    head = module.network.policy.causal_lm.get_output_embeddings()
    with torch.no_grad():
        head.weight[module.tokenizer.eos_token_id] = 1.8 * head.weight[40:60].mean(0).sign() * 0.2
    return module


def rollout(module: Watched) -> Experience:
    """The first rollout of a fit that is not run."""
    trainer, data = quiet_trainer(), Prompts()
    trainer.strategy.connect(module)
    module.trainer = data.trainer = trainer
    trainer.datamodule = data  # type: ignore[attr-defined]
    return module.collect(ROWS * 2, 0)


def truths(experience: Experience, module: Watched) -> dict[str, Truth]:
    found = first_rollout_truths(experience, module.encoder, module.credit, module.kl_coef, True)
    return {truth.name: truth for truth in found}


@pytest.fixture(scope="module")
def ordinary() -> tuple[Experience, Watched]:
    module = likely_to_end(make_module(kl_coef=KL_COEF, max_new_tokens=8))
    module._reference = Frozen.copy_of(module.network.policy)
    experience = rollout(module)
    assert 0 < int(experience.truncated.sum()) < len(experience)  # some ended, some were cut off
    return experience, module


def test_all_hold_of_an_ordinary_run(ordinary: tuple[Experience, Watched]) -> None:
    found = truths(*ordinary)
    assert len(found) == 6
    assert [truth for truth in found.values() if not truth.holds] == []


@pytest.mark.parametrize(
    "changes",
    [
        {"kl_in": "loss", "kl_estimator": "k3"},
        {"whiten_rewards": True},
        {"advantage": "rloo"},
        {"advantage": "reinforce", "level": "sequence"},
        {"shaping": {"missing_eos_score": -3.0}},
    ],
)
@pytest.mark.parametrize("moved", [False, True])
def test_they_hold_under_each_way_to_give_credit(changes: dict[str, Any], moved: bool) -> None:
    module = make_module(kl_coef=KL_COEF, **changes)
    if moved:
        other = make_llama(make_tokenizer(), seed=5)
        module._reference = Frozen(PolicyNetwork(other))
    experience = rollout(module)
    assert bool((experience.old_logprobs != experience.reference_logprobs).any()) is moved
    found = first_rollout_truths(experience, module.encoder, module.credit, module.kl_coef, not moved)
    assert [truth for truth in found if not truth.holds] == []


def test_a_reward_that_failed_is_no_broken_truth() -> None:
    def sometimes(prompts: list[str], **columns: Any) -> list[float | None]:
        return [None if "lamp" in prompt else 1.0 for prompt in prompts]

    module = make_module(reward=sometimes, failed_rewards="skip")
    experience = rollout(module)
    assert experience.failed.any()
    assert all(truth.holds for truth in truths(experience, module).values())


def test_a_sampler_at_another_temperature(monkeypatch: pytest.MonkeyPatch) -> None:
    true_sampler = collect.sample_responses

    def cooler(network: Any, prompts: Any, settings: Any, *rest: Any, **named: Any) -> Any:
        return true_sampler(network, prompts, replace(settings, temperature=0.8), *rest, **named)

    monkeypatch.setattr(collect, "sample_responses", cooler)
    module = make_module()
    found = truths(rollout(module), module)
    wrong = [truth for truth in found.values() if not truth.holds]
    assert [truth.name for truth in wrong] == ["sampled and recomputed log-probabilities agree"]
    assert "temperature" in wrong[0].explanation and "nats a token apart" in wrong[0].explanation


def test_one_token_far_off_is_seen_among_many(ordinary: tuple[Experience, Watched]) -> None:
    experience = copy.deepcopy(ordinary[0])
    experience.sampled_logprobs[0, 0] += 0.2
    mean = 0.2 / experience.response_mask.sum().item()
    assert mean < 0.01
    assert not sampler_agrees(experience, tolerance=1.01 * mean / 3).holds  # in the mean
    assert sampler_agrees(experience, tolerance=0.01).holds
    assert not sampler_agrees(experience, tolerance=0.0035).holds  # one token, beyond 50 times that


def test_a_reference_that_is_another_model() -> None:
    module = make_module()
    module._reference = Frozen(PolicyNetwork(make_llama(make_tokenizer(), seed=5)))
    experience = rollout(module)
    truth = truths(experience, module)["the KL to the reference is 0"]
    assert not truth.holds
    assert "model.reference" in truth.explanation
    assert not kl_is_zero(experience).holds


def test_a_training_forward_that_drops_out(ordinary: tuple[Experience, Watched]) -> None:
    experience, module = ordinary
    batch = training_batch(experience, range(len(experience)))
    mask = batch.trees.response_grid_mask()

    def forward() -> Truth:
        with torch.no_grad():
            logprobs = module.network(batch.trees, module.sampling.temperature).logprobs
        return ratio_is_one(logprobs, batch.old_logprobs, mask)

    module.network.train()
    assert forward().holds
    layer = module.network.policy.causal_lm.base_model.layers[0]
    handle = layer.register_forward_hook(
        lambda _, __, output: torch.nn.functional.dropout(output, 0.1, layer.training)
    )
    try:
        truth = forward()
        module.network.eval()
        assert forward().holds
    finally:
        handle.remove()
    assert not truth.holds
    assert "drop out" in truth.explanation


@pytest.mark.parametrize(("part", "blamed"), [("critic", "critic's"), ("policy", "policy's")])
def test_weights_that_are_no_numbers(part: str, blamed: str) -> None:
    module = make_module()
    if part == "critic":
        torch.nn.init.constant_(module.network.critic.head.weight, torch.nan)
        truth = numbers_are_finite(rollout(module))
    else:  # a policy of NaN draws nothing
        experience = rollout(module)
        truth = numbers_are_finite(replace(experience, entropy=experience.entropy / 0.0))
        assert truth.holds is False and "entropy" in truth.explanation
        truth = numbers_are_finite(replace(experience, old_logprobs=experience.old_logprobs * torch.inf))
    assert not truth.holds
    assert blamed in truth.explanation


def test_gold_that_there_is_not_is_no_broken_number(ordinary: tuple[Experience, Watched]) -> None:
    assert ordinary[0].gold_scores.isnan().all()
    assert numbers_are_finite(ordinary[0]).holds


def pad_is_eos() -> PreTrainedTokenizerFast:
    tokenizer = make_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def test_masks_by_length_count_the_eos_where_pad_is_the_same_token() -> None:
    tokenizer = pad_is_eos()
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    torch.manual_seed(0)
    module = likely_to_end(
        Watched(make_llama(tokenizer), make_module().reward, tokenizer=tokenizer, max_new_tokens=8)
    )
    experience = rollout(module)
    assert not experience.truncated.all()
    assert masks_come_from_lengths(experience, module.encoder).holds
    # What padding by the EOS and comparing with it makes of the same responses:
    width = experience.response_mask.shape[1]
    padded = [ids + [tokenizer.pad_token_id] * (width - len(ids)) for ids in experience.response_ids]
    by_id = torch.tensor(padded) != tokenizer.pad_token_id
    truth = masks_come_from_lengths(replace(experience, response_mask=by_id), module.encoder)
    assert not truth.holds
    assert "loses the EOS" in truth.explanation
    trees = [Tree([0], [ids], [mask.tolist()]) for ids, mask in zip(padded, by_id)]
    assert not eos_counts(trees, module.encoder).holds
    assert eos_counts([Tree([0], [[5, 1]], [[True, True]]), Tree([0], [[5]], [[True]])], module.encoder).holds


def test_responses_that_go_on_behind_an_eos(ordinary: tuple[Experience, Watched]) -> None:
    experience, module = ordinary
    eos = module.encoder.eos_token_id
    for wrong in (
        replace(experience, truncated=~experience.truncated),
        replace(experience, response_ids=[[eos, *ids[1:]] for ids in experience.response_ids]),
    ):
        truth = masks_come_from_lengths(wrong, module.encoder)
        assert not truth.holds
        assert "another token than the tokenizer's EOS '<|eos|>'" in truth.explanation


@pytest.mark.parametrize(
    "misplace",
    [
        lambda rewards: rewards.roll(1, dims=1),  # at the padded grid's own end, or the next response's
        lambda rewards: rewards.flip(1),
        lambda rewards: rewards + 0.01,
        lambda rewards: rewards * 2,
    ],
)
def test_a_score_that_stands_elsewhere(
    misplace: Callable[[torch.Tensor], torch.Tensor], ordinary: tuple[Experience, Watched]
) -> None:
    experience, module = ordinary
    wrong = replace(experience, rewards=misplace(experience.rewards))
    truth = score_sits_on_the_eos(wrong, module.credit, KL_COEF)
    assert not truth.holds
    assert "last token" in truth.explanation


def test_whitened_rewards_may_differ_by_scale_and_shift_only(ordinary: tuple[Experience, Watched]) -> None:
    experience, whitens = ordinary[0], Credit(whiten_rewards=True)
    moved = (experience.rewards * 2 + 0.1).masked_fill(~experience.response_mask, 0.0)
    assert score_sits_on_the_eos(replace(experience, rewards=moved), whitens, KL_COEF).holds
    for wrong in (-experience.rewards, experience.rewards.flip(1), experience.rewards * torch.nan):
        assert not score_sits_on_the_eos(replace(experience, rewards=wrong), whitens, KL_COEF).holds


ENCODER = TextEncoder(make_tokenizer())


@pytest.mark.parametrize(
    ("ids", "holds"),
    [
        ([0, 5, 6], True),
        ([5, 6], True),  # this tokenizer adds none by itself, so a template may do without
        ([0, 0, 5], False),
        ([0, 5, 0, 6], False),
        ([0, 5, 1, 0, 6], True),  # a turn that was closed
        ([0, 5, 1, 0, 0, 6], False),
    ],
)
def test_one_bos_in_each_prompt(ids: list[int], holds: bool) -> None:
    truth = one_bos([[0, 7], ids], ENCODER)
    assert truth.holds is holds
    assert holds or "1 of 2 prompts have a second one" in truth.explanation


def test_a_template_without_the_bos_that_the_tokenizer_adds() -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer = make_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|bos|> $A", special_tokens=[("<|bos|>", 0)]
    )
    encoder = TextEncoder(tokenizer)
    talk = [{"role": "user", "content": "hi"}]
    assert not one_bos([encoder.prompt_ids(talk)], encoder).holds
    assert one_bos([encoder.prompt_ids("hi"), []], encoder).holds


def test_a_template_that_doubles_the_bos() -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = "{{ bos_token }}" + tokenizer.chat_template
    talk = [{"role": "user", "content": "hi"}]
    once = TextEncoder(tokenizer)
    assert text_has_one_bos([talk, "hi"], once).holds
    tokenizer.chat_template = "{{ bos_token }}" + tokenizer.chat_template
    truth = text_has_one_bos([talk, "hi"], TextEncoder(tokenizer))
    assert not truth.holds
    assert "1 of 2 have two" in truth.explanation


def test_where_bos_and_eos_are_one_there_is_nothing_to_look_for() -> None:
    tokenizer = make_tokenizer()
    tokenizer.bos_token = tokenizer.eos_token
    assert one_bos([[1, 1, 5]], TextEncoder(tokenizer)).holds


@pytest.mark.parametrize(
    ("precision", "expected"),
    [("32-true", 1e-3), ("64-true", 1e-3), ("bf16-mixed", 0.05), ("16-mixed", 0.05), ("bf16-true", 0.05)],
)
def test_rounded_precisions_have_a_wider_tolerance(precision: str, expected: float) -> None:
    assert tolerance_of(precision) == expected


def test_agreement_is_relative_to_large_numbers_and_counts_what_only_one_has() -> None:
    def agree(one: list[float], other: list[float]) -> bool:
        return agreement("", torch.tensor(one), torch.tensor(other), 0.1, "").holds

    assert agree([100.0, 0.0], [109.0, 0.0]) and not agree([100.0, 0.0], [111.0, 0.0])
    assert agree([0.01], [0.1]) and not agree([0.01], [0.2])
    assert agree([torch.nan], [torch.nan]) and not agree([torch.nan], [0.0])

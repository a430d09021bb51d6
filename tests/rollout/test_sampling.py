"""The sampler at the edges of what it takes, and what it says behind them."""

import pytest
import torch

from lit_rlhf.rollout.settings import SamplingSettings
from tests.rollout.engine import EOS, POSITIONS, PROMPTS, keys_for, network_of, sample, small_llama


def test_no_prompts_give_no_responses():
    found = sample(network_of(), [])
    assert found.response_ids == []
    assert found.logprobs.shape == found.entropy.shape == (0, 0)
    assert found.truncated.shape == (0,) and found.values is None


def test_an_empty_prompt_is_refused():
    with pytest.raises(ValueError, match="Prompt 1 is empty"):
        sample(network_of(), [[5], []])


def test_a_prompt_longer_than_the_model_is_refused():
    long = list(range(100, 101 + POSITIONS))
    with pytest.raises(
        ValueError, match=f"Prompt 2: expected at most {POSITIONS} tokens.*found {POSITIONS + 1}"
    ):
        sample(network_of("gpt2"), [[5], [6], long])


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("budget", [None, 60])
def test_an_eos_at_once_is_a_response_of_one_token(samples: int, budget: int | None):
    prompts = [prompt for prompt in PROMPTS for _ in range(samples)]
    found = sample(network_of(), prompts, logit_bias={EOS: 1e4}, max_cached_tokens=budget)
    assert found.response_ids == [[EOS]] * len(prompts)
    assert found.logprobs.tolist() == [[0.0]] * len(prompts)
    assert not found.truncated.any()


@pytest.mark.parametrize("samples", [1, 3])
def test_all_rows_may_end_in_one_step(samples: int):
    prompts = [prompt for prompt in PROMPTS[:2] for _ in range(samples)]
    found = sample(network_of(), prompts, logit_bias={EOS: 1e4}, min_new_tokens=4, max_cached_tokens=60)
    assert {len(response) for response in found.response_ids} == {5}
    assert not found.truncated.any()
    found = sample(network_of(), prompts, logit_bias={EOS: -1e4}, max_new_tokens=3)
    assert {len(response) for response in found.response_ids} == {3}
    assert found.truncated.all()


def test_the_eos_ends_a_response_and_is_part_of_it():
    """With the head pushed towards the EOS some rows end early and others run to the limit."""
    network = small_llama()
    with torch.no_grad():
        network.causal_lm.lm_head.weight[EOS] *= 6
    prompts = PROMPTS[:4] * 16
    found = sample(network, prompts, keys_for(64, seed=3), max_new_tokens=8)
    ended = [response for response in found.response_ids if response[-1] == EOS]
    assert 0 < len(ended) < 64
    assert any(len(response) < 8 for response in ended)
    assert all(EOS not in response[:-1] for response in found.response_ids)
    assert found.truncated.tolist() == [response[-1] != EOS for response in found.response_ids]
    cut = [response for response, truncated in zip(found.response_ids, found.truncated) if truncated]
    assert {len(response) for response in cut} == {8}


@pytest.mark.parametrize(
    ("name", "wrong"),
    [("logit_bias", {320: 1.0}), ("stop_token_ids", (-1,)), ("limits", [3]), ("limits", [3, 0])],
)
def test_what_does_not_go_with_the_model_or_the_prompts_is_named(name: str, wrong):
    with pytest.raises(ValueError, match=f"{name}: expected"):
        sample(network_of(), [[5], [6]], **{name: wrong})


def test_as_many_keys_as_prompts():
    with pytest.raises(ValueError, match="keys: expected one for each of 2 prompts, found 3"):
        sample(network_of(), [[5], [6]], keys_for(3))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_not_finite_are_an_error(temperature: float):
    network = small_llama()
    with torch.no_grad():
        network.causal_lm.model.norm.weight.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match=r"Token 0 of response 0: .*found nan.*diverged"):
        sample(network, PROMPTS, temperature=temperature)


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_new_tokens": 0},
        {"min_new_tokens": -1},
        {"min_new_tokens": 70},
        {"temperature": -1.0},
        {"top_k": 0},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"min_p": -0.1},
        {"repetition_penalty": 0.0},
        {"max_cached_tokens": 0},
        {"stop_strings": ("a", "")},
    ],
    ids=str,
)
def test_settings_out_of_range_name_the_field(wrong: dict):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}: expected"):
        SamplingSettings(**wrong)


def test_only_settings_that_change_the_distribution_are_not_plain():
    plain = [{}, {"temperature": 0.7}, {"stop_token_ids": (3,)}, {"top_p": 1.0}, {"min_p": 0.0}]
    changed = [
        {"temperature": 0.0},
        {"top_k": 4},
        {"top_p": 0.9},
        {"min_p": 0.1},
        {"min_new_tokens": 1},
        {"repetition_penalty": 1.1},
        {"logit_bias": {3: 1.0}},
    ]
    assert [SamplingSettings(**given).is_plain for given in plain] == [True] * len(plain)
    assert [SamplingSettings(**given).is_plain for given in changed] == [False] * len(changed)


@pytest.mark.parametrize("wrong", [-1, 320])
def test_an_id_that_the_model_has_not_is_refused(wrong: int):
    with pytest.raises(ValueError, match=f"Prompt 1: expected ids from 0 to 319, found {wrong}"):
        sample(network_of(), [[5], [6, wrong]])

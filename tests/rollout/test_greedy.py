"""Greedy tokens are those of transformers' generate, however prompts are packed, shared and kept waiting."""

from functools import cache

import pytest
import torch

from lit_rlhf.models.policy import PolicyNetwork
from lit_rlhf.models.reading import choose_attention
from tests.models.families import FAMILIES
from tests.rollout.engine import (
    ENGINE_FAMILIES,
    EOS,
    POSITIONS,
    PROMPTS,
    TOKENIZER,
    generated,
    model_of,
    sample,
    small_llama,
)

LONGEST = 12
TIGHT = 3 * (POSITIONS + LONGEST)
"""Tokens for two or three rows: the others wait."""


@cache
def greedy(family: str) -> list[list[int]]:
    return [generated(model_of(family), prompt, LONGEST) for prompt in PROMPTS]


@pytest.mark.parametrize("budget", [None, TIGHT], ids=["all at once", "most wait"])
@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("family", ENGINE_FAMILIES)
def test_greedy_tokens_are_those_of_generate(family: str, samples: int, budget: int | None):
    network = PolicyNetwork(model_of(family))
    usual = network.causal_lm.config._attn_implementation
    prompts = [prompt for prompt in PROMPTS for _ in range(samples)]
    found = sample(network, prompts, max_new_tokens=LONGEST, temperature=0.0, max_cached_tokens=budget)
    assert found.response_ids == [response for response in greedy(family) for _ in range(samples)]
    assert network.causal_lm.config._attn_implementation == usual


def test_the_responses_differ_and_a_table_of_positions_ends_them():
    """What the other tests compare is worth comparing."""
    for family in ENGINE_FAMILIES:
        responses = greedy(family)
        assert len({tuple(response) for response in responses}) >= 5
        if family == "gpt2":  # whose table of positions ends; rotary ones go on
            assert len(responses[2]) == 1 and len(responses[4]) <= 2
        assert any(len(response) == LONGEST for response in responses)


@pytest.mark.parametrize("attention", ["eager", "sdpa", "padded", "trees"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3, sliding window"])
def test_the_attention_that_a_model_has_is_given_back(family: str, attention: str):
    model = FAMILIES[family]().eval()
    if attention in ("padded", "trees"):
        choose_attention(model, attention)
    else:
        model.set_attn_implementation(attention)
    usual = model.config._attn_implementation
    prompts = PROMPTS[:2] + PROMPTS[:1]
    expected = [generated(model, prompt, 5) for prompt in prompts]
    assert sample(PolicyNetwork(model), prompts, max_new_tokens=5, temperature=0.0).response_ids == expected
    assert model.config._attn_implementation == usual
    assert [generated(model, prompt, 5) for prompt in prompts] == expected


def test_the_attention_is_given_back_after_an_error():
    network = small_llama()
    network.causal_lm.set_attn_implementation("sdpa")
    network.train()

    def fail(numbers: list[int], tokens: list[int]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sample(network, PROMPTS[:2], on_tokens=fail)
    assert network.causal_lm.config._attn_implementation == "sdpa"
    assert network.training and not any("forward" in vars(part) for part in network.modules())


RULES = {
    "an EOS": ({}, {}),
    "no EOS before": ({"min_new_tokens": 6}, {"min_new_tokens": 6}),
    "two stop ids": ({"stop_token_ids": (50, 77)}, {"eos_token_id": [EOS, 50, 77]}),
    "two stop ids, but not before": (
        {"stop_token_ids": (50, 77), "min_new_tokens": 5},
        {"eos_token_id": [EOS, 50, 77], "min_new_tokens": 5},
    ),
    "a penalty": ({"repetition_penalty": 1.7}, {"repetition_penalty": 1.7}),
    "a bias": (
        {"logit_bias": {60: 4.0, EOS: -3.0}},
        {"sequence_bias": [[[60], 4.0], [[EOS], -3.0]]},
    ),
    "everything": (
        {
            "stop_token_ids": (50,),
            "min_new_tokens": 3,
            "repetition_penalty": 1.3,
            "logit_bias": {61: 2.0, EOS: 1.0},
        },
        {
            "eos_token_id": [EOS, 50],
            "min_new_tokens": 3,
            "repetition_penalty": 1.3,
            "sequence_bias": [[[61], 2.0], [[EOS], 1.0]],
        },
    ),
}


@cache
def often_ending() -> PolicyNetwork:
    """A Llama that is fond of its EOS and of two other tokens."""
    network = small_llama(max_position_embeddings=POSITIONS)
    with torch.no_grad():
        network.causal_lm.lm_head.weight[[EOS, 50, 77]] *= 3
    return network


@pytest.mark.parametrize("samples", [1, 2])
@pytest.mark.parametrize("rule", RULES)
def test_every_rule_ends_responses_as_in_generate(rule: str, samples: int):
    network = often_ending()
    ours, theirs = RULES[rule]
    prompts = [[number, number + 3, 30] for number in range(100, 108)] + PROMPTS
    rows = [prompt for prompt in prompts for _ in range(samples)]
    found = sample(network, rows, max_new_tokens=9, temperature=0.0, max_cached_tokens=200, **ours)
    expected = [generated(network.causal_lm, prompt, 9, **theirs) for prompt in prompts]
    expected = [response for response in expected for _ in range(samples)]
    assert found.response_ids == expected
    stops = theirs.get("eos_token_id", [EOS])
    assert found.truncated.tolist() == [response[-1] not in stops for response in expected]
    # the bias keeps the EOS away
    assert len({len(response) for response in expected}) > (0 if rule == "a bias" else 1)


def test_a_stop_string_ends_a_response_once_its_text_holds_it():
    network = small_llama()
    prompts = [[number, number + 3] for number in range(100, 112)]
    free = sample(network, prompts, max_new_tokens=12, temperature=0.0).response_ids
    text = TOKENIZER.decode(free[0][3:6])
    crossing = text[1:3]  # begins within a token
    stopped = sample(network, prompts, max_new_tokens=12, temperature=0.0, stop_strings=(crossing, "e"))
    for whole, response, cut in zip(free, stopped.response_ids, stopped.truncated.tolist(), strict=True):
        holds = [
            any(stop in TOKENIZER.decode(whole[:length]) for stop in (crossing, "e"))
            for length in range(1, len(whole) + 1)
        ]
        length = holds.index(True) + 1 if any(holds) else len(whole)
        assert response == whole[:length]
        assert cut == (not any(holds) and whole[-1] != EOS)
    assert not stopped.truncated[0]


def test_each_response_may_have_a_limit_of_its_own():
    network = small_llama()
    prompts = [[number % 3 + 100, 30] for number in range(9)]
    limits = [1, 5, 2, 9, 1, 7, 3, 12, 40]
    found = sample(network, prompts, max_new_tokens=12, temperature=0.0, limits=limits)
    whole = sample(network, prompts, max_new_tokens=12, temperature=0.0).response_ids
    assert found.response_ids == [row[:limit] for row, limit in zip(whole, limits, strict=True)]
    assert found.logprobs.shape == (9, 12)


def test_no_step_feeds_a_response_that_is_over(monkeypatch: pytest.MonkeyPatch):
    network, fed = often_ending(), []
    plain = network.next_token_logits
    monkeypatch.setattr(
        network, "next_token_logits", lambda feed: (fed.append(feed), plain(feed))[1], raising=False
    )
    prompts = [[number, 30] for number in range(100, 116)]
    found = sample(network, prompts, max_new_tokens=9)
    assert fed[0].prompt_lengths == [2] * 16
    lengths = [len(response) for response in found.response_ids]
    expected = [sum(length > step for length in lengths) for step in range(1, max(lengths))]
    assert [feed.input_ids.numel() for feed in fed[1:]] == expected

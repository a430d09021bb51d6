"""A seed gives the same response to a prompt whatever else is in the batch, and whichever engine samples it."""

import logging

import pytest
import torch

from lit_rlhf.rollout import decoding, sampling
from tests.rollout.engine import PROMPTS, keys_for, network_of, sample, small_llama

ROWS = [prompt for prompt in PROMPTS for _ in range(3)]
OPTIONS = [
    {},
    {
        "temperature": 0.7,
        "top_p": 0.9,
        "repetition_penalty": 1.4,
        "min_new_tokens": 3,
        "stop_token_ids": (60, 61),
    },
]


@pytest.mark.parametrize("options", OPTIONS, ids=["plain", "options"])
@pytest.mark.parametrize("family", ["llama", "gemma3, sliding window"])
def test_a_response_follows_from_its_prompt_and_its_key_alone(family: str, options: dict):
    network, keys = network_of(family), keys_for(len(ROWS))
    together = sample(network, ROWS, keys, **options)
    assert len({tuple(response) for response in together.response_ids}) > 12

    def check(order: list[int], **settings: int) -> None:
        found = sample(network, [ROWS[number] for number in order], keys[order], **options, **settings)
        assert found.response_ids == [together.response_ids[number] for number in order]
        width = found.logprobs.shape[1]
        assert torch.allclose(found.logprobs, together.logprobs[order, :width], atol=1e-5)

    every = list(range(len(ROWS)))
    for number in every[::4]:
        check([number])
    check(every[::-1])
    check(every[::3])  # no prompt is shared
    check(torch.randperm(len(ROWS)).tolist(), max_cached_tokens=120)
    check(every, max_cached_tokens=36)  # one row at a time
    check(every[::3], max_cached_tokens=80)


def test_prompts_in_many_forwards_give_what_they_give_in_one(monkeypatch: pytest.MonkeyPatch):
    network = network_of()
    together = sample(network, ROWS).response_ids
    monkeypatch.setattr(decoding, "PROMPT_TOKENS", 25)
    assert sample(network, ROWS).response_ids == together
    assert sample(network, ROWS[::3], keys_for(len(ROWS))[::3]).response_ids == together[::3]


def test_another_key_gives_another_response_and_equal_keys_equal_ones():
    network = network_of()
    found = sample(network, [PROMPTS[0]] * 4, torch.tensor([5, 6, 5, 7])).response_ids
    assert found[0] == found[2] and len({tuple(response) for response in found}) == 3


@pytest.mark.parametrize("budget", [None, 80])
@pytest.mark.parametrize("options", OPTIONS, ids=["plain", "options"])
def test_generate_draws_what_the_engine_draws(options: dict, budget: int | None, monkeypatch, caplog):
    network = network_of()
    limits = [1 + number % 12 for number in range(len(ROWS))]
    told: list[tuple[int, int]] = []
    settings = {**options, "limits": limits, "max_cached_tokens": budget}
    ours = sample(network, ROWS, progress=lambda done, of: told.append((done, of)), **settings)
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert told[-1] == (len(ROWS), len(ROWS))
    monkeypatch.setattr(sampling, "why_not_decoding", lambda model: "a test says so")
    monkeypatch.setattr(sampling, "_told", set())
    told.clear()
    with caplog.at_level(logging.INFO, "lit_rlhf"):
        theirs = sample(network, ROWS, progress=lambda done, of: told.append((done, of)), **settings)
        assert [done for done, _ in told] == sorted(done for done, _ in told)
        assert told[-1] == (len(ROWS), len(ROWS))
        sample(network, ROWS[:1])
    assert [record.message for record in caplog.records if record.name.startswith("lit_rlhf")] == [
        "LlamaForCausalLM samples with generate: a test says so."
    ]
    assert theirs.response_ids == ours.response_ids
    assert torch.allclose(theirs.logprobs, ours.logprobs, atol=1e-5)
    assert torch.allclose(theirs.entropy, ours.entropy, atol=1e-4)
    assert torch.equal(theirs.truncated, ours.truncated)


def test_both_engines_tell_every_token(monkeypatch):
    network = small_llama()

    def streamed() -> list[list[int]]:
        texts: list[list[int]] = [[] for _ in PROMPTS]

        def hear(numbers: list[int], tokens: list[int]) -> None:
            for number, token in zip(numbers, tokens, strict=True):
                texts[number].append(token)

        assert sample(network, PROMPTS, on_tokens=hear, max_cached_tokens=80).response_ids == texts
        return texts

    ours = streamed()
    monkeypatch.setattr(sampling, "why_not_decoding", lambda model: "a test says so")
    assert streamed() == ours

"""Models whose attention is not ours sample through transformers' generate, with the same rules."""

import logging
from functools import cache

import pytest
import torch
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GenerationConfig,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    PreTrainedModel,
    RecurrentGemmaConfig,
    RecurrentGemmaForCausalLM,
)

from lit_rlhf.models.policy import PolicyNetwork
from lit_rlhf.rollout import sampling
from lit_rlhf.rollout.generate import left_padded
from lit_rlhf.rollout.settings import SamplingSettings
from tests.models.families import SIZES
from tests.rollout.engine import EOS, POSITIONS, PROMPTS, fresh_logprobs, generated, has_table, sample
from tests.tabular import TablePolicy, prefixes

IDS = {"bos_token_id": 0, "eos_token_id": EOS, "pad_token_id": 2}
OTHERS = {
    "gemma2": lambda: Gemma2ForCausalLM(
        Gemma2Config(
            **{**SIZES, **IDS}, head_dim=16, max_position_embeddings=POSITIONS, attn_logit_softcapping=5.0
        )
    ),
    "mamba": lambda: MambaForCausalLM(
        MambaConfig(
            vocab_size=320, hidden_size=32, num_hidden_layers=2, state_size=8, initializer_range=0.2, **IDS
        )
    ),
    "bloom": lambda: BloomForCausalLM(
        BloomConfig(vocab_size=320, hidden_size=32, n_layer=2, n_head=2, initializer_range=0.2, **IDS)
    ),
    "gpt neo": lambda: GPTNeoForCausalLM(
        GPTNeoConfig(
            vocab_size=320,
            hidden_size=32,
            num_layers=2,
            num_heads=2,
            attention_types=[[["global", "local"], 1]],
            window_size=6,
            max_position_embeddings=POSITIONS,
            initializer_range=0.2,
            **IDS,
        )
    ),
    "recurrent gemma": lambda: RecurrentGemmaForCausalLM(
        RecurrentGemmaConfig(
            **{**SIZES, **IDS, "num_hidden_layers": 3}, lru_width=32, attention_window_size=64
        )
    ),
}


@cache
def other(name: str) -> PreTrainedModel:
    torch.manual_seed(0)
    return OTHERS[name]().eval()


@pytest.mark.parametrize("name", OTHERS)
def test_greedy_tokens_and_logprobs_are_generates_own(name: str, caplog, monkeypatch):
    monkeypatch.setattr(sampling, "_told", set())
    model = other(name)
    with caplog.at_level(logging.INFO, "lit_rlhf"):
        found = sample(PolicyNetwork(model), PROMPTS, temperature=0.0)
        sample(PolicyNetwork(model), PROMPTS[:1], max_new_tokens=1)
    told = [record.message for record in caplog.records if record.name.startswith("lit_rlhf")]
    said = [line for line in told if "may have fewer than" not in line]
    assert len(said) == 1 and said[0].startswith(f"{type(model).__name__} samples with generate: ")
    few_positions = has_table(model)
    assert (len(told) > 1) == few_positions  # rows that the table cuts short are counted
    for number, (prompt, response) in enumerate(zip(PROMPTS, found.response_ids, strict=True)):
        longest = min(12, POSITIONS - len(prompt) + 1) if few_positions else 12
        config = GenerationConfig(max_new_tokens=longest, do_sample=False, eos_token_id=EOS, pad_token_id=2)
        ids = torch.tensor([prompt])
        row = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)
        assert response == row[0, len(prompt) :].tolist()
        expected = fresh_logprobs(model, prompt, response, SamplingSettings(12))
        expected = expected.gather(1, torch.tensor(response)[:, None]).squeeze(1)
        assert (found.logprobs[number, : len(response)] - expected).abs().max() < 1e-4


def test_the_models_own_generation_settings_change_nothing_and_are_given_back():
    model = other("gemma2")
    plain = sample(PolicyNetwork(model), PROMPTS)
    model.generation_config = GenerationConfig(
        repetition_penalty=5.0, eos_token_id=77, max_new_tokens=2, suppress_tokens=[5, 6], min_length=9
    )
    usual = model.generation_config
    try:
        found = sample(PolicyNetwork(model), PROMPTS)
        assert model.generation_config is usual
    finally:
        model.generation_config = GenerationConfig()
    assert found.response_ids == plain.response_ids
    assert torch.equal(found.logprobs, plain.logprobs)


def test_the_budget_holds_there_too(monkeypatch: pytest.MonkeyPatch):
    model, shapes = other("gemma2"), []
    plain = model.generate

    def watched(input_ids, max_new_tokens, **others):
        shapes.append((len(input_ids), input_ids.shape[1] + max_new_tokens))
        return plain(input_ids, max_new_tokens=max_new_tokens, **others)

    monkeypatch.setattr(model, "generate", watched, raising=False)
    free = sample(PolicyNetwork(model), PROMPTS * 3)
    shapes.clear()
    found = sample(PolicyNetwork(model), PROMPTS * 3, max_cached_tokens=80)
    assert found.response_ids == free.response_ids
    assert all(rows * columns <= 80 for rows, columns in shapes)
    assert max(rows for rows, _ in shapes) > 1
    with pytest.raises(ValueError, match=r"max_cached_tokens: expected at least 25, .* found 24"):
        sample(PolicyNetwork(model), PROMPTS, max_cached_tokens=24)


def test_a_row_that_is_over_runs_past_no_table_of_positions(monkeypatch: pytest.MonkeyPatch):
    """GPT-Neo would look up a position that it does not have, for a row that nobody reads any more."""
    model = other("gpt neo")
    prompts = [[5], list(range(40, 40 + POSITIONS)), [6, 7]]
    found = sample(PolicyNetwork(model), prompts, max_new_tokens=POSITIONS, temperature=0.0)
    assert found.response_ids == [generated(model, prompt, POSITIONS) for prompt in prompts]


def test_a_table_policy_samples_its_table():
    words = prefixes(3, 2)
    logits = torch.tensor([[0.0, 1.0, 0.5], [2.0, 0.0, 1.0], [0.0, 0.0, 3.0]])
    policy = TablePolicy(logits, longest=2)
    assert policy.table.shape == (len(words), 3)
    found = sampling.sample_responses(
        PolicyNetwork(policy), [[0]] * 300, SamplingSettings(2), torch.arange(300) * 7919, eos_token_id=2
    )
    for number, response in enumerate(found.response_ids):
        assert (len(response) == 1) == (response[0] == 2)
        rows = [policy.table[words.index(tuple(response[:step]))] for step in range(len(response))]
        expected = torch.stack([row[token] for row, token in zip(rows, response, strict=True)]).float()
        assert torch.allclose(found.logprobs[number, : len(response)], expected, atol=1e-6)
    assert {tuple(response) for response in found.response_ids} >= {(2,), (0, 0), (1, 2), (0, 2)}


def test_prompts_are_padded_on_the_left():
    ids, mask = left_padded([[5, 6, 7], [8]], torch.device("cpu"))
    assert ids.tolist() == [[5, 6, 7], [0, 0, 8]]
    assert mask.tolist() == [[True, True, True], [False, False, True]]

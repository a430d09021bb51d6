"""Log-probabilities, entropies and values of a rollout are those of a fresh forward, under every option."""

import pytest
import torch

from lit_rlhf.data.trees import pack_trees
from lit_rlhf.models.actor_critic import ActorCritic
from lit_rlhf.models.lora import add_lora
from lit_rlhf.models.lora_settings import lora_settings
from lit_rlhf.models.policy import PolicyNetwork
from lit_rlhf.models.reading import choose_attention
from lit_rlhf.models.value_head import ValueHead
from lit_rlhf.records import Tree
from lit_rlhf.rollout.drawing import draw
from lit_rlhf.rollout.settings import SamplingSettings
from tests.models.families import FAMILIES
from tests.rollout.engine import (
    ENGINE_FAMILIES,
    EOS,
    PROMPTS,
    fresh_logprobs,
    keys_for,
    network_of,
    sample,
    small_llama,
)

OPTIONS = {
    "plain": {},
    "temperature": {"temperature": 0.6},
    "top-k": {"top_k": 5},
    "top-p": {"top_p": 0.7},
    "min-p": {"min_p": 0.1},
    "repetition penalty": {"repetition_penalty": 1.5},
    "bias": {"logit_bias": {7: 5.0, 60: 3.0, EOS: -1.5}},
    "least length": {"min_new_tokens": 6, "stop_token_ids": (60, 61), "logit_bias": {60: 4.0, EOS: 4.0}},
    "all": {
        "temperature": 1.4,
        "top_k": 40,
        "top_p": 0.9,
        "min_p": 0.02,
        "repetition_penalty": 1.2,
        "logit_bias": {7: 3.0, EOS: 2.0},
        "min_new_tokens": 4,
        "stop_token_ids": (60,),
    },
    "greedy": {"temperature": 0.0, "repetition_penalty": 1.2, "min_new_tokens": 3},
}


def check_against_fresh(model, prompts, sampled, settings, tolerance=1e-5):
    for number, (prompt, response) in enumerate(zip(prompts, sampled.response_ids, strict=True)):
        every = fresh_logprobs(model, prompt, response, settings)
        expected = every.gather(1, torch.tensor(response)[:, None]).squeeze(1)
        found = sampled.logprobs[number, : len(response)]
        assert (found - expected).abs().max() < tolerance
        entropy = torch.distributions.Categorical(logits=every.clamp(min=-1e9)).entropy()
        assert (sampled.entropy[number, : len(response)] - entropy).abs().max() < 10 * tolerance
        assert not sampled.logprobs[number, len(response) :].any()
        assert not sampled.entropy[number, len(response) :].any()


@pytest.mark.parametrize("option", OPTIONS)
def test_logprobs_and_entropy_are_those_of_the_distribution_that_transformers_makes(option: str):
    network = network_of()
    prompts = [prompt for prompt in PROMPTS for _ in range(4)]
    sampled = sample(network, prompts, max_cached_tokens=250, **OPTIONS[option])
    assert sampled.logprobs.dtype == sampled.entropy.dtype == torch.float32
    check_against_fresh(network.causal_lm, prompts, sampled, SamplingSettings(12, **OPTIONS[option]))


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("family", ENGINE_FAMILIES)
def test_every_family_samples_with_its_own_numbers(family: str, samples: int):
    network = network_of(family)
    prompts = [prompt for prompt in PROMPTS for _ in range(samples)]
    sampled = sample(network, prompts, max_cached_tokens=150, temperature=0.9)
    check_against_fresh(network.causal_lm, prompts, sampled, SamplingSettings(12, temperature=0.9))


@pytest.mark.parametrize("attention", ["trees", "padded"])
def test_values_and_logprobs_are_those_of_the_training_forward(attention: str):
    network = small_llama()
    choose_attention(network.causal_lm, attention)
    head = ValueHead(32)
    torch.nn.init.normal_(head.weight)
    actor_critic = ActorCritic(network, head)
    prompts = [prompt for prompt in PROMPTS for _ in range(2)]
    sampled = sample(actor_critic, prompts, temperature=0.8, max_cached_tokens=250)
    trees = [
        Tree(prompt, pair, [[True] * len(response) for response in pair])
        for prompt, *pair in zip(PROMPTS, sampled.response_ids[::2], sampled.response_ids[1::2], strict=True)
    ]
    with torch.no_grad():
        seen = actor_critic(pack_trees(trees), temperature=0.8, with_entropy=True)
    assert sampled.values is not None and sampled.values.abs().max() > 0.1
    assert torch.allclose(sampled.values, seen.values, atol=2e-5)
    assert torch.allclose(sampled.logprobs, seen.logprobs, atol=1e-5)
    assert torch.allclose(sampled.entropy, seen.entropy, atol=1e-4)


def test_a_policy_without_a_value_head_has_no_values():
    assert sample(ActorCritic(small_llama(), None), PROMPTS[:2]).values is None


@pytest.mark.parametrize(
    "lora", [{"r": 4, "lora_dropout": 0.5}, {"r": 4, "use_dora": True}], ids=["lora", "dora"]
)
def test_adapters_sample_as_the_merged_model(lora: dict):
    network = small_llama()
    adapter = add_lora(network, network.causal_lm, lora_settings(lora))
    for name, weight in network.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.2)
    merged = PolicyNetwork(adapter.merged().eval())
    wanted = [weight.requires_grad for weight in network.parameters()]
    network.train()
    ours, theirs = sample(network, PROMPTS), sample(merged, PROMPTS)
    assert ours.response_ids == theirs.response_ids != sample(small_llama(), PROMPTS).response_ids
    assert torch.allclose(ours.logprobs, theirs.logprobs, atol=1e-5)
    assert [weight.requires_grad for weight in network.parameters()] == wanted
    with adapter.off():
        assert sample(network, PROMPTS).response_ids == sample(small_llama(), PROMPTS).response_ids


def test_large_maps_from_their_own_layout_give_the_same_numbers():
    """Some of this Llama's maps are large enough to be laid out anew, and the head is."""
    network = small_llama(hidden_size=256, intermediate_size=512)
    prompts = [prompt for prompt in PROMPTS[:2] for _ in range(3)]
    sampled = sample(network, prompts, max_new_tokens=6)
    # 256 products are summed in another order
    check_against_fresh(network.causal_lm, prompts, sampled, SamplingSettings(6), tolerance=1e-4)


@pytest.mark.parametrize("precision", ["autocast", "true"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3, sliding window"])
def test_half_precision_gives_logprobs_and_entropy_in_fp32(family: str, precision: str):
    torch.manual_seed(0)
    model = FAMILIES[family]().eval()
    head = ValueHead(32)
    network = ActorCritic(PolicyNetwork(model), head)
    if precision == "true":
        network = network.to(torch.bfloat16)
    prompts = [prompt for prompt in PROMPTS[:4] for _ in range(3)]
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "autocast"):
        sampled = sample(network, prompts, max_cached_tokens=150)
        for number, (prompt, response) in enumerate(zip(prompts, sampled.response_ids, strict=True)):
            every = fresh_logprobs(model, prompt, response, SamplingSettings(12))
            expected = every.gather(1, torch.tensor(response)[:, None]).squeeze(1)
            assert (sampled.logprobs[number, : len(response)] - expected).abs().max() < 0.3
            entropy = -(every.exp() * every).sum(-1)
            assert (sampled.entropy[number, : len(response)] - entropy).abs().max() < 0.1
    for grid in (sampled.logprobs, sampled.entropy, sampled.values):
        assert grid.dtype == torch.float32


def test_entropy_is_taken_in_fp32_under_autocast():
    logits = torch.randn(5, 300)
    with torch.autocast("cpu", torch.bfloat16):
        _, logprobs, entropy = draw(logits, None, with_entropy=True)
    every = logits.log_softmax(-1)
    assert torch.allclose(entropy, -(every.exp() * every).sum(-1), atol=1e-5)
    assert torch.allclose(logprobs, every.amax(-1), atol=1e-6)


def test_nothing_else_is_touched():
    network = small_llama(attention_dropout=0.3).train()
    network.causal_lm.model.layers[0].eval()  # a part that is not in the network's own mode
    modes = [part.training for part in network.modules()]
    before = torch.get_rng_state()
    first, second = sample(network, [[5]] * 4), sample(network, [[5]] * 4)
    assert torch.equal(first.logprobs, second.logprobs)  # no dropout meanwhile
    assert [part.training for part in network.modules()] == modes
    assert torch.equal(torch.get_rng_state(), before)
    assert not first.logprobs.requires_grad
    assert all(weight.grad is None and weight.requires_grad for weight in network.parameters())
    network.causal_lm(torch.tensor([[5, 6]])).logits.sum().backward()  # and it trains on
    torch.manual_seed(99)
    assert sample(network, [[5]] * 4, keys_for(4)).response_ids == first.response_ids

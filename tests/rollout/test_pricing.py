"""Old log-probabilities are the sampler's where the update's forward gives the same, and that forward's elsewhere."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lit_rlhf.data.trees import join_branches
from lit_rlhf.models.actor_critic import ActorCritic
from lit_rlhf.models.policy import PolicyNetwork
from lit_rlhf.models.scorer import ScorerNetwork
from lit_rlhf.models.value_head import ValueHead
from lit_rlhf.ops.noise import counter_key
from lit_rlhf.records import Tree
from lit_rlhf.rollout.experience import sampled_trees
from lit_rlhf.rollout.pricing import look_at
from lit_rlhf.rollout.responses import SampledResponses
from lit_rlhf.rollout.sampling import sample_responses
from lit_rlhf.rollout.settings import SamplingSettings
from tests.conftest import make_llama, make_tokenizer

PROMPTS = [[5, 6, 7]] * 3 + [[9, 10]] * 2 + [[40, 41, 42, 43]] * 3
TOKENIZER = make_tokenizer()


def network(critic: Any = None) -> ActorCritic:
    return ActorCritic(PolicyNetwork(make_llama(TOKENIZER)), critic)


def draw(of: ActorCritic) -> SampledResponses:
    keys = counter_key(0, torch.arange(len(PROMPTS)))
    return sample_responses(of, PROMPTS, SamplingSettings(6), keys, TOKENIZER.eos_token_id)


def look(of: ActorCritic, sampled: SampledResponses, recompute: bool = False) -> Any:
    def reference(trees: Any, temperature: float) -> Any:
        return SimpleNamespace(logprobs=of(trees, temperature).logprobs)

    return look_at(of, reference, PROMPTS, sampled, 1.0, 3, "cpu", recompute)


def test_the_samplers_own_are_taken_once_the_first_batch_agrees() -> None:
    policy = network()
    sampled = draw(policy)
    looks = look(policy, sampled)
    assert torch.equal(looks.old_logprobs, sampled.logprobs)
    assert not looks.recomputed_logprobs[:3].isnan().any()
    assert looks.recomputed_logprobs[3:].isnan().all()
    torch.testing.assert_close(looks.reference_logprobs, sampled.logprobs, rtol=0, atol=1e-5)


def test_all_are_computed_anew_where_the_first_batch_differs() -> None:
    policy = network()
    sampled = draw(policy)
    mask = sampled.logprobs != 0
    drifted = replace(sampled, logprobs=sampled.logprobs + 0.01 * mask)
    looks = look(policy, drifted)
    assert not looks.recomputed_logprobs.isnan().any()
    torch.testing.assert_close(looks.old_logprobs, sampled.logprobs, rtol=0, atol=1e-5)


def test_all_are_computed_anew_where_that_is_asked_for() -> None:
    policy = network()
    sampled = draw(policy)
    looks = look(policy, sampled, recompute=True)
    assert torch.equal(looks.old_logprobs, looks.recomputed_logprobs)


@pytest.mark.parametrize("recompute", [False, True])
def test_values_are_those_of_the_update(recompute: bool) -> None:
    """Of a head on the policy's states, and of a critic with a network of its own."""
    head = ValueHead(make_llama(TOKENIZER).config.hidden_size)
    own = ScorerNetwork(make_llama(TOKENIZER, seed=3).base_model)
    with torch.no_grad():
        head.weight.normal_(generator=torch.Generator().manual_seed(0))
    for critic in (head, own):
        policy = network(critic)
        sampled = draw(policy)
        with torch.no_grad():
            expected = policy(sampled_trees(PROMPTS, sampled.response_ids)).values
        looks = look(policy, sampled, recompute)
        torch.testing.assert_close(looks.values, expected, rtol=0, atol=1e-5)
        assert looks.values.abs().max() > 0.01


def test_neighbours_of_one_prompt_share_a_tree() -> None:
    one, two = Tree([5], [[6]], [[True]], id="a"), Tree([5], [[7, 8]], [[True, True]], id="a")
    other, far = Tree([5], [[9]], [[True]], id="b"), Tree([5], [[3]], [[True]], id="a")
    joined = join_branches([one, two, other, far])
    assert [(tree.id, tree.response_ids) for tree in joined] == [
        ("a", [[6], [7, 8]]),
        ("b", [[9]]),
        ("a", [[3]]),
    ]
    assert one.response_ids == [[6]]  # as they were
    assert sampled_trees(PROMPTS, [[7]] * 8).prompt_lengths == [3, 2, 4]


def test_values_of_a_shared_trunk_without_the_samplers() -> None:
    """As where transformers' generate draws."""
    policy = network(ValueHead(make_llama(TOKENIZER).config.hidden_size))
    with torch.no_grad():
        policy.critic.bias.fill_(0.5)  # type: ignore[union-attr]
    sampled = replace(draw(policy), values=None)
    looks = look(policy, sampled)
    assert (looks.values[sampled.logprobs != 0] == 0.5).all()

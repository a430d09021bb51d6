"""Policy and critic in one network: what each reads, and whom the losses move."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from lit_rlhf.data.trees import pack_trees
from lit_rlhf.models.actor_critic import ActorCritic
from lit_rlhf.models.loading import load_causal_lm
from lit_rlhf.models.policy import PolicyNetwork
from lit_rlhf.models.reading import Attention
from lit_rlhf.models.scorer import ScorerNetwork
from lit_rlhf.models.value_head import ValueHead
from lit_rlhf.records import Tree
from tests.conftest import make_llama, make_tokenizer

TOKENIZER = make_tokenizer()


def one_tree(prompt: list[int], *responses: list[int]) -> Tree:
    return Tree(prompt, list(responses), [[True] * len(r) for r in responses])


TREES = [one_tree([5, 6, 7], [9, 10, 1], [11, 1]), one_tree([12], [13])]
LONG = [one_tree(list(range(30, 70)), list(range(20, 60)), list(range(90, 130)), list(range(160, 180)))]


def shared(model: LlamaForCausalLM, attention: Attention = "auto") -> ActorCritic:
    """With a value head whose weights are not 0, so that values tell states apart."""
    network = ActorCritic(PolicyNetwork(load_causal_lm(model, attention)), ValueHead(32))
    assert isinstance(network.critic, ValueHead)
    with torch.no_grad():
        network.critic.weight.copy_(torch.linspace(-1, 1, 32))
        network.critic.bias.fill_(0.25)
    return network


def values_by_hand(network: ActorCritic, prompt: list[int], response: list[int]) -> Tensor:
    """From one unpadded row in a pass of its own: the state before each response token, times the head."""
    ids = torch.tensor([prompt + response])
    hidden = network.policy.causal_lm.base_model(input_ids=ids, use_cache=False).last_hidden_state[0]
    before = hidden[len(prompt) - 1 : -1]
    return before @ network.critic.weight[0] + network.critic.bias


@pytest.mark.parametrize(("trees", "attention"), [(TREES, "padded"), (LONG, "trees"), (LONG, "padded")])
def test_the_value_head_reads_the_state_before_each_token(trees: list[Tree], attention: Attention) -> None:
    network = shared(make_llama(TOKENIZER), attention)
    values = network(pack_trees(trees)).values
    number = 0
    for tree in trees:
        for response in tree.response_ids:
            expected = values_by_hand(network, tree.prompt_ids, response)
            assert torch.allclose(values[number, : len(response)], expected, atol=1e-4)
            assert (values[number, len(response) :] == 0).all()
            number += 1
    assert number == len(values)


def test_the_trunk_runs_once_for_log_probabilities_entropies_and_values(tiny_llama: LlamaForCausalLM) -> None:
    network = shared(tiny_llama)
    passes = []
    network.policy.causal_lm.base_model.register_forward_hook(lambda *_: passes.append(1))
    network(pack_trees(TREES), with_entropy=True)
    assert len(passes) == 1


def test_uncounted_tokens_have_no_value(tiny_llama: LlamaForCausalLM) -> None:
    network = shared(tiny_llama)
    tree = Tree([5, 6], [[9, 10, 11, 12]], [[True, False, False, True]])
    values = network(pack_trees([tree])).values[0]
    expected = values_by_hand(network, [5, 6], [9, 10, 11, 12])
    assert torch.allclose(values[[0, 3]], expected[[0, 3]], atol=1e-4)
    assert (values[[1, 2]] == 0).all()


def test_a_value_head_starts_at_zero_and_draws_nothing() -> None:
    before = torch.get_rng_state()
    head = ValueHead(8)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(head(torch.randn(5, 8)), torch.zeros(5))


def test_the_value_loss_reaches_the_trunk_of_a_shared_critic_and_not_the_policy_of_another() -> None:
    network = shared(make_llama(TOKENIZER))
    network(pack_trees(TREES)).values.square().sum().backward()
    trunk = [p.grad for p in network.policy.causal_lm.base_model.parameters()]
    assert all(grad is not None and grad.abs().max() > 0 for grad in trunk[:-1])
    assert network.policy.causal_lm.lm_head.weight.grad is None
    own = ActorCritic(
        PolicyNetwork(make_llama(TOKENIZER)), ScorerNetwork(make_llama(TOKENIZER, 1).base_model)
    )
    own(pack_trees(TREES)).values.square().sum().backward()
    assert all(p.grad is None for p in own.policy_parameters())
    assert all(p.grad is not None for p in own.critic_parameters())


def critic_of(kind: str, model: LlamaForCausalLM) -> ScorerNetwork | ValueHead | None:
    return {
        "own": lambda: ScorerNetwork(make_llama(TOKENIZER, 1).base_model),
        "shared": lambda: ValueHead(32),
        "none": lambda: None,
    }[kind]()


@pytest.mark.parametrize("kind", ["own", "shared", "none"])
def test_each_trained_parameter_is_the_policys_or_the_critics(
    kind: str, tiny_llama: LlamaForCausalLM
) -> None:
    critic = critic_of(kind, tiny_llama)
    network = ActorCritic(PolicyNetwork(tiny_llama), critic)
    frozen = network.policy.causal_lm.base_model.embed_tokens.weight.requires_grad_(False)
    policy, critics = network.policy_parameters(), network.critic_parameters()
    names = {id(p): name for name, p in network.named_parameters()}
    assert {names[id(p)].split(".")[0] for p in policy} == {"policy"}
    assert {names[id(p)].split(".")[0] for p in critics} == (set() if kind == "none" else {"critic"})
    assert len(policy) + len(critics) == len(names) - 1
    assert id(frozen) not in {id(p) for p in [*policy, *critics]}
    if kind == "shared":
        assert [p.shape for p in critics] == [(1, 32), (1,)]


def test_without_values_the_critic_is_not_asked(tiny_llama: LlamaForCausalLM) -> None:
    own = ActorCritic(PolicyNetwork(tiny_llama), ScorerNetwork(make_llama(TOKENIZER, 1).base_model))
    own.critic.register_forward_hook(lambda *_: pytest.fail("asked"))
    own.critic.trunk.register_forward_hook(lambda *_: pytest.fail("asked"))
    without = own(pack_trees(TREES), with_values=False)
    assert without.values is None and without.entropy is None
    assert torch.equal(without.logprobs, PolicyNetwork(tiny_llama)(pack_trees(TREES)).logprobs)
    assert shared(tiny_llama)(pack_trees(TREES), with_values=False).values is None
    assert ActorCritic(PolicyNetwork(tiny_llama), None)(pack_trees(TREES)).values is None


def test_entropy_carries_gradient_into_the_policy(tiny_llama: LlamaForCausalLM) -> None:
    """By the gradient of −Σ p log p, taken by autograd over a row of its own."""
    network = ActorCritic(PolicyNetwork(tiny_llama), None)
    network(pack_trees([one_tree([5, 6], [9, 1])]), 0.8, with_entropy=True).entropy.sum().backward()
    found = tiny_llama.model.layers[0].mlp.up_proj.weight.grad.clone()
    tiny_llama.zero_grad()
    logits = tiny_llama(torch.tensor([[5, 6, 9]])).logits[0, 1:] / 0.8
    torch.distributions.Categorical(logits=logits).entropy().sum().backward()
    expected = tiny_llama.model.layers[0].mlp.up_proj.weight.grad
    assert expected.abs().max() > 1e-3
    assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("critic", ["own", "shared"])
@pytest.mark.parametrize("how", ["autocast", "weights"])
def test_in_lower_precision_everything_comes_out_in_fp32(
    critic: str, how: str, tiny_llama: LlamaForCausalLM
) -> None:
    network = shared(tiny_llama) if critic == "shared" else ActorCritic(
        PolicyNetwork(tiny_llama), critic_of("own", tiny_llama)
    )  # fmt: skip
    if how == "weights":
        network = network.bfloat16()
    with torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"):
        output = network(pack_trees(TREES), with_entropy=True)
    assert {grid.dtype for grid in output} == {torch.float32}


def test_values_of_coarse_states_keep_the_digits_of_fp32() -> None:
    """100 + 1/8 is not a number of bf16, whose neighbours there are 1/2 apart."""
    head = ValueHead(2).bfloat16()
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[100.0, 0.125]]))
    with torch.autocast("cpu", torch.bfloat16):
        assert head(torch.ones(1, 2, dtype=torch.bfloat16)).tolist() == [100.125]

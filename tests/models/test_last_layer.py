"""The last feed-forward network at the positions that are read: the same states and gradients, and less work."""

import copy

import pytest
import torch

from lit_rlhf.data.trees import pack_trees
from lit_rlhf.models import reading
from lit_rlhf.models.last_layer import leave_out_unread
from lit_rlhf.models.reading import choose_attention, last_states, predicting_states
from tests.conftest import make_llama, make_tokenizer
from tests.models.families import FAMILIES
from tests.modules.training import random_trees

TOKENIZER = make_tokenizer()


@pytest.fixture(autouse=True)
def _short_segments_take_the_flat_row_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MIN_MEAN_SEGMENT", 0)


def last_network(model: torch.nn.Module) -> torch.nn.Module:
    trunk = model.base_model
    return (trunk.h if hasattr(trunk, "h") else trunk.layers)[-1].mlp


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_states_and_gradients_are_those_of_the_whole_row(family: str, checkpointing: bool):
    torch.manual_seed(0)
    model = FAMILIES[family]().train()
    choose_attention(model, "trees")
    whole = copy.deepcopy(model)
    for hooks in ("_forward_hooks", "_forward_pre_hooks"):
        getattr(last_network(whole), hooks).clear()
    if checkpointing:
        for network in (model, whole):
            network.activation_checkpointing_enable()
    batch = pack_trees(random_trees(5))
    for read in (predicting_states, last_states):
        results = []
        for network in (model, whole):
            network.zero_grad()
            states = read(network.base_model, batch)
            states.square().sum().backward()
            gradients = [p.grad for p in network.base_model.parameters() if p.grad is not None]
            results.append((states, torch.cat([gradient.flatten() for gradient in gradients])))
        (states, gradient), (expected, expected_gradient) = results
        assert torch.allclose(states, expected, atol=1e-5 * expected.abs().max().item())
        assert (gradient - expected_gradient).norm() < 1e-5 * expected_gradient.norm()


def test_only_what_is_read_goes_through_the_last_network():
    model = choose_attention(make_llama(TOKENIZER), "trees")
    batch = pack_trees(random_trees(5))
    seen = []
    last_network(model).down_proj.register_forward_pre_hook(
        lambda module, args: seen.append(args[0].shape[1])
    )
    last_states(model.base_model, batch)
    predicting_states(model.base_model, batch)
    model(input_ids=batch.input_ids[None, :30])
    ends_of_prompts, counted = batch.num_trees, int(batch.response_mask.sum())
    first_tokens = batch.num_responses  # one position, the end of its prompt, predicts those of a whole tree
    assert seen == [batch.num_responses, counted - first_tokens + ends_of_prompts, 30]


def test_a_model_that_chooses_twice_and_its_copies_read_once():
    model = choose_attention(choose_attention(make_llama(TOKENIZER), "trees"), "trees")
    copied = copy.deepcopy(model)
    batch = pack_trees(random_trees(5))
    assert torch.equal(last_states(model.base_model, batch), last_states(copied.base_model, batch))
    assert len(last_network(model)._forward_hooks) == len(last_network(copied)._forward_hooks) == 1


def test_a_network_that_mixes_or_routes_is_left_whole():
    model = make_llama(TOKENIZER)
    last_network(model).add_module("norm_over_positions", torch.nn.BatchNorm1d(4))
    leave_out_unread(model)
    assert not last_network(model)._forward_hooks

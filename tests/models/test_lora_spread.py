"""Adapters on weights that come later, or are spread over ranks: the same draws, the same checksum, the same state."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from lightning.fabric.strategies.model_parallel import _load_raw_module_state
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    set_model_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

from lit_rlhf.data.trees import pack_trees
from lit_rlhf.models.deferred_weights import deferred_weights, read_weights
from lit_rlhf.models.loading import load_causal_lm
from lit_rlhf.models.lora import add_lora, settle_checksum
from lit_rlhf.models.lora_state import CHECKSUM, checksum
from lit_rlhf.models.policy import PolicyNetwork
from lit_rlhf.models.sharding import shard
from tests.distributed import run_distributed
from tests.models.test_lora import MODELS, train_a_bit
from tests.modules.training import random_trees

LORA = {"use_dora": True, "target_modules": "all-linear"}
TREES = pack_trees(random_trees(3))


def adapted(folder: Path, deferred: bool, lora: dict[str, Any] = LORA) -> PolicyNetwork:
    torch.manual_seed(5)
    if deferred:
        with deferred_weights():
            network = PolicyNetwork(load_causal_lm(str(folder)))
            add_lora(network, network.causal_lm, lora)
        assert network.causal_lm.get_input_embeddings().weight.is_meta
    else:
        network = PolicyNetwork(load_causal_lm(str(folder)))
        add_lora(network, network.causal_lm, lora)
    return network.eval()


@pytest.fixture(params=list(MODELS))
def folder(request: Any, tmp_path: Path) -> Path:
    MODELS[request.param]().save_pretrained(tmp_path)
    return tmp_path


def state_of(network: nn.Module) -> dict[str, numpy.ndarray]:
    return {name: value.numpy().copy() for name, value in network.state_dict().items()}


def same(found: dict[str, numpy.ndarray], expected: dict[str, numpy.ndarray], close: float = 0) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert numpy.abs(found[name] - value).max() <= close, name


EMBEDDINGS = {"init_lora_weights": "gaussian", "target_modules": ["embed_tokens", "c_fc"]}


@pytest.mark.filterwarnings(
    "ignore:torch.distributed is disabled, unavailable or uninitialized",
    "ignore:Model has `tie_word_embeddings=True`",
)
@pytest.mark.parametrize("lora", [LORA, EMBEDDINGS], ids=str)
def test_adapters_are_the_same_before_their_weights_are_there(folder: Path, lora: dict[str, Any]) -> None:
    whole = adapted(folder, False, lora)
    following = torch.rand(())
    later = adapted(folder, True, lora)
    assert torch.rand(()) == following  # as much was drawn
    assert all(not weight.is_meta for name, weight in later.named_parameters() if "lora_" in name)
    read_weights(later, "cpu")
    settle_checksum(later)
    same(state_of(later), state_of(whole))
    train_a_bit(whole), train_a_bit(later)
    assert torch.equal(later(TREES).logprobs, whole(TREES).logprobs)


def _spread(folder: Path, state: dict[str, numpy.ndarray] | None, by_lightning: bool = False) -> Any:
    """Of a network that is spread over ranks: its own state; with one given, its numbers once that is loaded."""
    network = adapted(folder, deferred=True)
    shard(network, init_device_mesh("cpu", (2,)))
    read_weights(network, "cpu")
    settle_checksum(network)
    if state is not None:
        given = {name: torch.from_numpy(value) for name, value in state.items()}
        if by_lightning:
            _load_raw_module_state(given, network, world_size=2, strict=True)
            return network(TREES).logprobs.detach().numpy()
        options = StateDictOptions(full_state_dict=True, strict=False)
        missing = set_model_state_dict(network, given, options=options)
        assert not missing.missing_keys and not missing.unexpected_keys
        return network(TREES).logprobs.detach().numpy()
    gathered = get_model_state_dict(network, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    return {name: value.numpy() for name, value in gathered.items()}


def test_spread_over_ranks_the_state_is_what_it_is_on_one(folder: Path) -> None:
    whole = adapted(folder, deferred=False)
    first, second = run_distributed(_spread, 2, folder, None)
    same(first or second, state_of(whole))
    train_a_bit(whole)
    state = state_of(whole)
    wrong = {**state, CHECKSUM: numpy.asarray(state[CHECKSUM] + 1)}
    for by_lightning in (False, True):
        for logprobs in run_distributed(_spread, 2, folder, state, by_lightning):
            assert torch.allclose(torch.from_numpy(logprobs), whole(TREES).logprobs, atol=1e-5)
        with pytest.raises(RuntimeError, match="trained on another model than this one"):
            run_distributed(_spread, 2, folder, wrong, by_lightning)


def _checksums() -> list[int]:
    mesh = init_device_mesh("cpu", (2, 2))
    weights = [torch.arange(12.0).view(4, 3) + number for number in range(3)]
    over_both = distribute_tensor(weights[0], mesh, [Replicate(), Shard(0)])
    uneven = distribute_tensor(weights[1], mesh, [Shard(0), Shard(1)])
    everywhere = distribute_tensor(weights[2], mesh, [Replicate(), Replicate()])
    return [int(checksum(weights)), int(checksum([over_both, uneven, everywhere]))]


def test_copies_on_several_ranks_are_counted_once() -> None:
    for whole, spread in run_distributed(_checksums, 4):
        assert whole == spread

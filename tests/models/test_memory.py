"""The arithmetic of memory against autograd's own saved tensors, and against published numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from lit_rlhf.data.trees import pack_trees
from lit_rlhf.models.loading import load_causal_lm
from lit_rlhf.models.lora import add_lora
from lit_rlhf.models.memory import (
    NetworkSize,
    Trained,
    Widths,
    head_peak,
    kept_by_layer,
    kept_by_trunk,
    key_value_bytes,
    row_of_trees,
)
from lit_rlhf.models.memory_ranks import (
    Network,
    Spread,
    gradient_bytes,
    optimizer_bytes,
    root_bytes,
    weight_bytes,
)
from lit_rlhf.models.network_size import adapters_of, network_size, size_of, with_heads
from lit_rlhf.models.policy import PolicyNetwork
from lit_rlhf.models.reading import predicting_states
from lit_rlhf.records import ResponseTrees, Tree
from tests.config_plans import model_folder
from tests.conftest import make_llama

FP32, MIXED, BF16 = Widths(4, 4), Widths(4, 2), Widths(2, 2)
FULL = Trained(weights=True)
LAYER = {
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
}
PUBLISHED = {"Llama-3.2-1B": 1_235_814_400, "Llama-3.1-8B": 8_030_261_248, "Llama-3.1-70B": 70_553_706_496}
"""Parameters, tied ones once."""


def rows(prompt: int, response: int, branches: int) -> ResponseTrees:
    """Two trees of the same lengths."""
    numbers = torch.Generator().manual_seed(0)

    def draw(length: int) -> list[int]:
        return torch.randint(10, 300, (length,), generator=numbers).tolist()

    masks = [[True] * response] * branches
    return pack_trees(
        [Tree(draw(prompt), [draw(response) for _ in range(branches)], masks, id=str(n)) for n in range(2)]
    )


def kept(model: LlamaForCausalLM, trees: ResponseTrees, mixed: bool) -> int:
    """Bytes that the trunk's forward leaves with autograd, weights and their casts left out."""
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    matrices = {frozenset(weight.shape) for weight in model.parameters() if weight.dim() == 2}
    found: dict[int, int] = {}
    held = []  # so that no address is used again

    def note(tensor: torch.Tensor) -> torch.Tensor:
        held.append(tensor)
        storage = tensor.untyped_storage()
        whole = tensor._base if tensor._base is not None else tensor
        cast = mixed and whole.dim() == 2 and frozenset(whole.shape) in matrices
        if storage.data_ptr() not in weights and not cast:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    autocast = torch.autocast("cpu", torch.bfloat16, enabled=mixed, cache_enabled=False)
    with autocast, torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        states = predicting_states(model.base_model, trees)
    assert states.requires_grad
    return sum(found.values())


@pytest.mark.parametrize("widths", [FP32, MIXED, BF16], ids=["32-true", "bf16-mixed", "bf16-true"])
@pytest.mark.parametrize("targets", [None, "all-linear", ["q_proj", "v_proj"]], ids=["full", "all", "two"])
@pytest.mark.parametrize("branches", [1, 3])
def test_a_layer_keeps_what_the_formula_says(
    widths: Widths, targets: object, branches: int, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    """The difference between models of four and three layers is one layer, which is neither first nor last."""
    trees = rows(48, 40, branches)
    measured = []
    for layers in (4, 3):
        model = make_llama(tiny_tokenizer, **LAYER, num_hidden_layers=layers)
        model = model.bfloat16() if widths == BF16 else model
        load_causal_lm(model, "trees")
        if targets is not None:
            add_lora(PolicyNetwork(model), model, {"r": 4, "target_modules": targets})
        measured.append(kept(model, trees, widths == MIXED))
    names = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    adapted = names if targets == "all-linear" else set(targets or ())  # type: ignore[call-overload]
    trained = FULL if targets is None else Trained(False, frozenset(adapted), 4)
    size = network_size(make_llama(tiny_tokenizer, **LAYER))
    planned = kept_by_layer(
        size, widths, trained, row_of_trees(2, 48, 40, branches, scores=False), flex=False
    )
    # exact to the byte but under autocast, whose masks of branches are wider than what they mask
    assert planned == pytest.approx(measured[0] - measured[1], rel=0.04 if widths == MIXED else 1e-9)


def test_a_trunk_keeps_its_layers_the_last_one_in_part(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    model = load_causal_lm(make_llama(tiny_tokenizer, **LAYER, num_hidden_layers=3), "trees")
    planned = kept_by_trunk(
        network_size(model), FP32, FULL, row_of_trees(2, 96, 32, 1, scores=False), flex=False
    )
    assert planned == pytest.approx(kept(model, rows(96, 32, 1), False), rel=0.03)


def test_a_layer_by_hand() -> None:
    size = NetworkSize(8, 2, 2, 1, 4, 16, 100, True, 0, 0, 0, 0, False)
    row = row_of_trees(1, 4, 6, 1, scores=False)
    # 10 tokens: 6·8 states, 5·8 of attention, 4·16 of the network, two norms' and two heads' single numbers
    assert kept_by_layer(size, FP32, FULL, row, flex=False) == 4 * 10 * (48 + 40 + 64 + 2 + 2)
    # FlexAttention does not copy the one key head for the two that ask
    assert kept_by_layer(size, FP32, FULL, row, flex=True) == 4 * 10 * (48 + 40 - 8 + 64 + 2 + 2)


def test_branches_copy_the_keys_of_their_prompt_and_have_masks() -> None:
    row = row_of_trees(trees=2, prompt=5, response=3, branches=4, scores=False)
    assert (row.tokens, row.read) == (2 * (5 + 4 * 3), 2 * 4 * 3)
    assert row.keys == 34 + 2 * 4 * (5 + 3)
    assert row.masks == 2 * 4 * 3 * (5 + 3)
    assert row_of_trees(2, 5, 3, 4, scores=True).read == 8


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_config_alone_gives_the_published_number_of_parameters(name: str, tmp_path: Path) -> None:
    size = size_of(str(model_folder(tmp_path, name)))
    assert size.parameters == PUBLISHED[name]
    assert size.root_parameters + size.layers * size.layer_parameters == size.parameters
    assert size.tied == (name == "Llama-3.2-1B")


def test_adapters_are_counted_where_peft_puts_them(tmp_path: Path) -> None:
    trained, added = adapters_of(
        str(model_folder(tmp_path, "Llama-3.1-8B")),
        False,
        '{"r": 16, "target_modules": ["q_proj", "v_proj"]}',
    )
    assert trained == Trained(False, frozenset({"q_proj", "v_proj"}), 16)
    assert added == 32 * 16 * ((4096 + 4096) + (4096 + 1024))


def test_a_scorer_has_no_language_model_head(tmp_path: Path) -> None:
    trunk = size_of(str(model_folder(tmp_path, "Llama-3.1-8B")), scorer=True)
    assert trunk.parameters == 8_030_261_248 - 128256 * 4096
    assert with_heads(trunk, 1).parameters == trunk.parameters + 4097


def test_keys_and_values_of_a_token(tmp_path: Path) -> None:
    """128 KiB of a Llama 8B in bf16: 2 x 32 layers x 8 heads x 128 x 2 bytes."""
    size = size_of(str(model_folder(tmp_path, "Llama-3.1-8B")))
    assert key_value_bytes(size, BF16, 1) == 128 * 1024
    assert key_value_bytes(size, MIXED, 1) == 192 * 1024  # rotary embeddings leave keys in fp32
    assert key_value_bytes(size, BF16, 1, split=8) == 16 * 1024


@pytest.mark.parametrize(
    ("kind", "gigabytes"),
    [("ddp", 120.0), ("deepspeed_1", 31.4), ("deepspeed_2", 16.6), ("deepspeed_3", 1.9)],
)
def test_the_stages_of_zero_by_its_paper(kind: str, gigabytes: float) -> None:
    """Figure 1 of Rajbhandari et al. 2020: 7.5 B parameters, Adam in mixed precision, 64 ranks, GB of 10^9."""
    size = NetworkSize(1, 1, 1, 1, 1, 1, 1, True, 7_500_000_000, 0, 0, 0, False)
    network = Network("model", size, MIXED, FULL, size.parameters)
    spread = Spread(kind, 64)  # type: ignore[arg-type]
    held = (
        weight_bytes(network, spread)
        + gradient_bytes(network, spread)
        + optimizer_bytes(network, spread, 2.0)
    )
    assert held / 1e9 == pytest.approx(gigabytes, abs=0.1)


def test_frozen_networks_are_in_parts_under_fsdp2_alone() -> None:
    size = NetworkSize(1, 1, 1, 1, 1, 1, 1, True, 1000, 800, 800, 200, False)
    frozen = Network("reference", size, BF16)
    assert weight_bytes(frozen, Spread("fsdp2", 4)) == 500
    assert weight_bytes(frozen, Spread("deepspeed_3", 4)) == weight_bytes(frozen, Spread("ddp", 4)) == 2000
    # tensor parallelism cuts the layers; what is outside of them is whole on each of its ranks
    assert weight_bytes(frozen, Spread("fsdp2", 2, tensor_parallel=2)) == 2 * (200 // 2 + 800 // 4)
    assert root_bytes(frozen, Spread("fsdp2", 4)) == 400
    assert weight_bytes(frozen, replace(Spread("fsdp2", 4), offload=True)) == 0


def test_the_head_takes_a_chunk_of_logits(tmp_path: Path) -> None:
    """130 rows of 128256 logits are the most that 2^24 hold; the matrix's gradient is there twice, chunk and sum."""
    size = size_of(str(model_folder(tmp_path, "Llama-3.1-8B")))
    chunk, matrix = 130 * 128256, 128256 * 4096
    peak = head_peak(size, FP32, read=10_000, trained=True, logits=2**24, rest=2**18)
    assert peak.forward == 4 * (chunk + 2**18)
    assert peak.backward == 4 * (chunk + 2 * matrix)
    assert head_peak(size, FP32, 10_000, False, 2**24, 2**18).backward == 4 * chunk
    assert head_peak(size, FP32, 7, True, 2**24, 2**18).backward == 4 * (7 * 128256 + matrix)

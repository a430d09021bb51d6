"""Which models decode over our own keys and values, and the attention of one new token against plain attention."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import Gemma2Config, Gemma2ForCausalLM, MambaConfig, MambaForCausalLM

from lit_rlhf.models.decoding import attending_to_trees, most_positions, why_not_decoding
from lit_rlhf.models.key_value_store import Buffers, NextTokenAttention, Sharing
from lit_rlhf.models.sharding import is_sharded
from lit_rlhf.models.tree_attention import NAME
from tests.conftest import make_llama, make_tokenizer
from tests.models.families import FAMILIES, SIZES
from tests.tabular import TablePolicy


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_of_response_trees_decodes(family: str):
    model = FAMILIES[family]()
    assert why_not_decoding(model) is None
    assert not is_sharded(model)
    assert most_positions(model) == (model.config.n_positions if family == "gpt2" else None)


def test_others_say_why_not():
    gemma2 = Gemma2ForCausalLM(Gemma2Config(**SIZES, head_dim=16))
    mamba = MambaForCausalLM(MambaConfig(vocab_size=320, hidden_size=32, num_hidden_layers=1))
    assert why_not_decoding(gemma2) == "it caps attention logits"
    assert why_not_decoding(mamba) == "it carries a state from token to token"
    assert why_not_decoding(TablePolicy(torch.zeros(1, 3), 1)) == "it carries a state from token to token"
    assert most_positions(mamba) is None


@pytest.mark.parametrize("kind", ["longrope", "dynamic"])
def test_rotary_factors_that_follow_the_longest_sequence_of_a_batch_bound_the_positions(kind: str):
    """Beyond, a response would depend on what shares its batch."""
    model = make_llama(make_tokenizer())
    model.config.rope_parameters = {"rope_type": kind, "original_max_position_embeddings": 40}
    assert most_positions(model) == 40
    model.config.rope_parameters = {
        "full_attention": {"rope_type": kind},
        "sliding_attention": {"rope_type": "default"},
    }
    assert most_positions(model) == model.config.max_position_embeddings


def test_an_attention_of_the_models_own_is_not_replaced():
    model = FAMILIES["llama"]()
    model.set_attn_implementation("eager")
    assert why_not_decoding(model) == "it attends through an implementation of its own"


@pytest.mark.parametrize("numbers", [(0, 0), (None, 1)])
def test_layers_without_a_number_of_their_own_are_not_taken(numbers: tuple[int | None, int]):
    """They would write over one another's keys, or fail in the middle of a rollout."""
    model = FAMILIES["llama"]()
    for layer, number in zip(model.model.layers, numbers, strict=True):
        layer.self_attn.layer_idx = number
    assert why_not_decoding(model) == "its layers do not each have one attention with its number"


def test_shared_keys_are_not_taken():
    model = FAMILIES["llama"]()
    model.config.num_kv_shared_layers = 1
    assert why_not_decoding(model) == "its layers share keys and values"


def test_the_attention_is_ours_within_the_block():
    model = FAMILIES["llama"]()
    model.set_attn_implementation("eager")
    with pytest.raises(KeyError), attending_to_trees(model):
        assert model.config._attn_implementation == model.model.config._attn_implementation == NAME
        raise KeyError
    assert model.config._attn_implementation == "eager"


PROMPTS, OWN, SLOTS = (
    [3, 7],
    [4, 1, 6, 2],
    [0, 4, 3, 1],
)  # rows of prompts 0, 1, 1, 0; places of three a prompt
HEADS, KEY_HEADS, KEY_SIZE, VALUE_SIZE = 4, 2, 8, 6


@pytest.mark.parametrize("window", [None, 1, 3, 5])
@pytest.mark.parametrize("shared", [True, False])
def test_a_new_token_looks_at_its_prompt_and_its_own_response(shared: bool, window: int | None):
    """Rows of two prompts out of order, of different lengths; the newest token is among the keys."""
    torch.manual_seed(0)
    prompt_of = [slot // 3 for slot in SLOTS]

    def made(lengths: list[int], size: int) -> list[torch.Tensor]:
        return [torch.randn(length, KEY_HEADS, size) for length in lengths]

    prompt_keys, prompt_values = made(PROMPTS, KEY_SIZE), made(PROMPTS, VALUE_SIZE)
    own_keys, own_values = made(OWN, KEY_SIZE), made(OWN, VALUE_SIZE)

    def put(buffers: Buffers, row: int, first: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        columns = torch.arange(first, first + len(keys))
        buffers.write(5, keys, values, buffers.places(KEY_HEADS, torch.full_like(columns, row), columns))

    buffers, prompts = Buffers(6, 20), Buffers(3, 9)
    buffers.grow(20)
    prompts.grow(9)
    firsts = [0 if shared else PROMPTS[prompt] for prompt in prompt_of]
    for row, prompt in enumerate(prompt_of):
        if not shared:
            put(buffers, row, 0, prompt_keys[prompt], prompt_values[prompt])
        put(buffers, row, firsts[row], own_keys[row][:-1], own_values[row][:-1])
    for prompt in range(2):
        put(prompts, prompt, 0, prompt_keys[prompt], prompt_values[prompt])
    sharing = Sharing(prompts, torch.tensor(SLOTS), 3, torch.tensor(PROMPTS), 9, False) if shared else None
    columns = torch.tensor([first + length - 1 for first, length in zip(firsts, OWN, strict=True)])
    attention = NextTokenAttention(buffers, torch.arange(4), columns, sharing)
    query = torch.randn(1, HEADS, 4, KEY_SIZE)
    newest = (torch.stack([part[-1] for part in own], 1)[None] for own in (own_keys, own_values))
    module = torch.nn.Module()
    module.layer_idx = 5
    found = attention.attend(module, query, *newest, 0.3, window)
    assert found.shape == (1, 4, HEADS, VALUE_SIZE)
    for row, prompt in enumerate(prompt_of):
        keys = torch.cat([prompt_keys[prompt], own_keys[row]])[-(window or 99) :]
        values = torch.cat([prompt_values[prompt], own_values[row]])[-(window or 99) :]
        expected = scaled_dot_product_attention(
            query[0, :, row, None], keys.transpose(0, 1), values.transpose(0, 1), scale=0.3, enable_gqa=True
        )
        assert torch.allclose(found[0, row], expected[:, 0], atol=1e-5)

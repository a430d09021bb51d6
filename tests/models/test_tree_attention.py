"""Attention over trees by SDPA: its dropout."""

import pytest
import torch

from lit_rlhf import DPOModule, RewardModule, SFTModule
from lit_rlhf.data.trees import pack_trees
from lit_rlhf.models import reading
from lit_rlhf.models.flex_attention import Segment
from lit_rlhf.models.reading import choose_attention, predicting_states
from lit_rlhf.models.tree_attention import _branch_mask, tree_attention, tree_segments
from lit_rlhf.records import Tree
from tests.conftest import make_llama, make_tokenizer
from tests.models.families import FAMILIES
from tests.modules.training import random_trees

TOKENIZER = make_tokenizer()
SEGMENTS = [Segment(40, None), Segment(30, 0), Segment(50, 0)]
T = sum(segment.length for segment in SEGMENTS)


@pytest.fixture(autouse=True)
def _short_segments_take_the_flat_row_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MIN_MEAN_SEGMENT", 0)


def with_dropout(family: str) -> torch.nn.Module:
    if family == "llama":
        return make_llama(TOKENIZER, attention_dropout=0.5)
    model = FAMILIES["gpt2"]()
    for block in model.transformer.h:
        block.attn.attn_dropout.p = 0.5
    return model


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_dropout_is_on_in_training_and_off_in_evaluation(family: str):
    model = with_dropout(family).train()
    batch = pack_trees(random_trees(4))
    choose_attention(model, "trees")
    one, other = (predicting_states(model.base_model, batch) for _ in range(2))
    assert (one - other).norm() > 0.05 * one.norm()
    model.eval()
    flat = predicting_states(model.base_model, batch)
    assert torch.equal(flat, predicting_states(model.base_model, batch))
    model.set_attn_implementation("sdpa")
    padded = predicting_states(model.base_model, batch)
    assert torch.allclose(flat, padded, atol=1e-5 * padded.abs().max().item())


@pytest.mark.parametrize("window", [None, 16])
def test_dropout_drops_its_share_of_every_segments_weights_and_keeps_their_mean(window: int | None):
    """With values of one the output is the sum of the kept weights over (1 - p): 1 on average, 1 without dropout."""
    heads = 64
    query, key = torch.randn(2, 1, heads, T, 16)
    value = torch.ones(1, heads, T, 1)
    settings_of_call = {"tree_segments": SEGMENTS, "sliding_window": window}
    plain, _ = tree_attention(torch.nn.Identity(), query, key, value, None, **settings_of_call)
    assert torch.allclose(plain, torch.ones_like(plain))
    draws = [
        tree_attention(torch.nn.Identity(), query, key, value, None, dropout=0.25, **settings_of_call)[0]
        for _ in range(20)
    ]
    sums = torch.stack(draws).squeeze(-1)  # [draws, 1, T, heads]
    for segment in sums.split([segment.length for segment in SEGMENTS], 2):
        # a segment has at least 30 tokens x 64 heads x 20 draws of a spread under 1/√3 each: 0.003 is one sigma
        assert abs(segment.mean().item() - 1) < 0.015
    # the first token has one weight: it is dropped in a quarter of the draws, and else 4/3
    first = sums[:, 0, 0]
    assert abs((first == 0).float().mean().item() - 0.25) < 0.06  # 1280 draws, one sigma is 0.012
    assert torch.allclose(first[first > 0], torch.tensor(4 / 3))


@pytest.mark.parametrize("phase, drops", [(SFTModule, True), (RewardModule, False), (DPOModule, False)])
def test_supervised_fine_tuning_keeps_dropout_and_comparisons_do_not(phase, drops: bool):
    module = phase(with_dropout("llama"), tokenizer=TOKENIZER, attention="trees").train()
    batch = pack_trees(random_trees(3))
    one, other = (module.network(batch) for _ in range(2))
    if phase is not RewardModule:
        one, other = one.logprobs, other.logprobs
    assert torch.equal(one, other) != drops


def test_masks_made_in_inference_mode_serve_training_too():
    """Validation runs first, and the masks are kept."""
    _branch_mask.cache_clear()
    with torch.inference_mode():
        mask = _branch_mask(3, 4, None, torch.device("cpu"))
    assert not mask.is_inference()
    assert _branch_mask(3, 4, None, torch.device("cpu")) is mask


def test_a_prompt_with_one_response_is_one_segment():
    """Its tokens look at all before them; with two responses the branches part behind the prompt."""
    one = Tree([5, 6, 7], [[8, 9]], [[True] * 2])
    two = Tree([5, 6], [[8, 9, 10], [11]], [[True] * 3, [True]])
    assert tree_segments(pack_trees([one, two, one])) == [
        *(Segment(5, None), Segment(2, None), Segment(3, 1), Segment(1, 1), Segment(5, None))
    ]

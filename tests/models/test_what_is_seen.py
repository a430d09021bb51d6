"""A log-probability and a score depend on the prompt and on their own response alone, whatever else is packed."""

from dataclasses import replace
from itertools import product

import pytest
import torch
from torch.nn.attention import flex_attention as torch_flex

from lit_rlhf.data.trees import pack_trees
from lit_rlhf.models import flex_attention, reading
from lit_rlhf.models.flex_attention import Kernel
from lit_rlhf.models.padded import unfold
from lit_rlhf.models.policy import PolicyNetwork
from lit_rlhf.models.reading import choose_attention, reads_flat
from lit_rlhf.models.scorer import ScorerNetwork
from lit_rlhf.records import ResponseTrees, Tree
from tests.models.families import FAMILIES

PROMPT, RESPONSE = [0, 21, 22, 23, 24, 25, 26], [31, 32, 33, 34, 35, 36, 37, 1]
WITH_FLEX = ["llama", "gemma3, sliding window", "mistral, sliding window"]  # it is slow in plain operations
PATHS = [*product(FAMILIES, ["trees", "padded"]), *product(WITH_FLEX, ["flex"])]


@pytest.fixture
def take(monkeypatch: pytest.MonkeyPatch):
    """Sets a model on a path."""

    def set_path(model: torch.nn.Module, path: str) -> None:
        monkeypatch.setattr(reading, "MIN_MEAN_SEGMENT", 0)
        choose_attention(model, "padded" if path == "padded" else "trees")
        if path == "flex":
            monkeypatch.setattr(flex_attention, "DEVICES", {"cpu"})
            monkeypatch.setattr(flex_attention, "KERNEL", Kernel(lambda: torch_flex.flex_attention))
            monkeypatch.setattr(torch_flex, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)

    return set_path


def tree(prompt: list[int], *responses: list[int]) -> Tree:
    return Tree(prompt, list(responses), [[True] * len(response) for response in responses])


def batches(
    prompt: list[int] = PROMPT, response: list[int] = RESPONSE
) -> dict[str, tuple[ResponseTrees, int]]:
    """One response in many surroundings, and its number among the batch's responses."""
    short, long = [40, 1], [*range(50, 90), 1]
    alone = pack_trees([tree(prompt, response)])
    return {
        "alone": (alone, 0),
        "a branch behind": (pack_trees([tree(prompt, response, long)]), 0),
        "another branch behind": (pack_trees([tree(prompt, response, short)]), 0),
        "branches before and behind": (pack_trees([tree(prompt, long, short, response, short)]), 2),
        "a branch of the same prefix": (pack_trees([tree(prompt, [*response[:-1], 99, 1], response)]), 1),
        "a tree behind": (pack_trees([tree(prompt, response), tree([0], long, short)]), 0),
        "another tree behind": (pack_trees([tree(prompt, response), tree([0, 9], short, long, long)]), 0),
        "a tree before": (pack_trees([tree(long, long, short), tree(prompt, response, short)]), 2),
    }


def read(
    policy: PolicyNetwork, scorer: ScorerNetwork, batch: ResponseTrees, number: int
) -> tuple[torch.Tensor, torch.Tensor]:
    length = batch.response_lengths[number]
    return policy(batch).logprobs[number, :length], scorer(batch)[number]


@pytest.mark.parametrize("family, path", PATHS)
@torch.no_grad()
def test_nothing_else_in_the_batch_is_seen(family: str, path: str, take):
    torch.manual_seed(0)
    model = FAMILIES[family]().double().eval()  # what is seen by mistake stands out from the rounding
    take(model, path)
    policy, scorer = PolicyNetwork(model), ScorerNetwork(model.base_model).double()
    surroundings = batches()
    assert reads_flat(model.base_model, surroundings["alone"][0]) == (path != "padded")
    logprobs, score = read(policy, scorer, *surroundings["alone"])
    for name, (batch, number) in surroundings.items():
        other_logprobs, other_score = read(policy, scorer, batch, number)
        assert (other_logprobs - logprobs).abs().max() < 1e-6, name
        assert (other_score - score).abs() < 1e-6, name
    # and the response itself is seen, up to where each token stands, and what is near in the prompt
    changed = batches(response=[*RESPONSE[:5], 77, *RESPONSE[6:]])["alone"]
    other_logprobs, other_score = read(policy, scorer, *changed)
    assert (other_logprobs[:5] - logprobs[:5]).abs().max() < 1e-6
    assert (other_logprobs[5:] - logprobs[5:]).abs().min() > 1e-4
    assert (other_score - score).abs() > 1e-4
    changed = batches(prompt=[*PROMPT[:-1], 77])["alone"]
    assert (read(policy, scorer, *changed)[0] - logprobs).abs().max() > 1e-4


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_what_stands_behind_the_last_token_of_a_padded_row_is_not_seen(family: str, take, monkeypatch):
    torch.manual_seed(0)
    model = FAMILIES[family]().double().eval()
    take(model, "padded")
    policy, scorer = PolicyNetwork(model), ScorerNetwork(model.base_model).double()
    batch, number = batches()["branches before and behind"]
    logprobs, score = read(policy, scorer, batch, number)

    def littered(trees: ResponseTrees):
        rows = unfold(trees)
        behind = torch.arange(rows.input_ids.shape[1]) > rows.last[:, None]
        assert behind[number].any()
        return replace(rows, input_ids=torch.where(behind, 123, rows.input_ids))

    monkeypatch.setattr(reading, "unfold", littered)
    other_logprobs, other_score = read(policy, scorer, batch, number)
    assert (other_logprobs - logprobs).abs().max() < 1e-6
    assert (other_score - score).abs() < 1e-6


@pytest.mark.parametrize("path", ["trees", "padded"])
@torch.no_grad()
def test_turns_behind_the_counted_ones_are_not_seen(path: str, take):
    """In a conversation a counted turn may have other turns behind it, not counted, in the same response."""
    model = FAMILIES["llama"]().double().eval()
    take(model, path)
    policy = PolicyNetwork(model)
    found = []
    for behind in ([60, 61, 1], [70] * 9):
        mask = [True] * len(RESPONSE) + [False] * len(behind)
        found.append(policy(pack_trees([Tree(PROMPT, [RESPONSE + behind], [mask])])).logprobs[0])
    assert (found[0][: len(RESPONSE)] - found[1][: len(RESPONSE)]).abs().max() < 1e-6
    assert not found[1][len(RESPONSE) :].any()

"""What has to be true of a reward, provoked by rewards that it is not true of."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lit_rlhf.models.export import export_scorer
from lit_rlhf.models.scorer import ScorerNetwork
from lit_rlhf.models.stored_weights import stored_names
from lit_rlhf.rewards.build import build_reward
from lit_rlhf.rewards.model import ModelReward
from lit_rlhf.rewards.protocol import Completions
from lit_rlhf.rollout.reward_truths import head_is_stored, model_folders, reward_truths
from lit_rlhf.rollout.truth import Truth
from tests.conftest import make_llama, make_tokenizer

TOKENIZER = make_tokenizer()
IDS = [[40, 41, 42, 1], [50, 51], [60, 61, 62, 63, 64, 1], [70, 1], [80, 81, 82], [1]]
COMPLETIONS = Completions(
    prompts=["p"] * 6,
    texts=["x" * len(ids) for ids in IDS],
    prompt_ids=[[0, 30 + n] for n in range(6)],
    response_ids=IDS,
    finished=[ids[-1] == 1 for ids in IDS],
    prompt_names=[str(n) for n in range(6)],
    columns={"number": list(range(6))},
)

BATCH = "scores do not depend on the batch size"
PADDING = "scores do not depend on padding"
REPEAT = "scores are the same when asked twice"


def lengths(completions: Completions) -> Tensor:
    return torch.tensor([float(len(ids)) for ids in completions.response_ids])


def broken(score: Callable[[Completions], Tensor], spec: object = None) -> list[Truth]:
    return [truth for truth in reward_truths(score, spec, COMPLETIONS) if not truth.holds]


def test_a_reward_of_each_response_by_itself() -> None:
    assert broken(lambda c: torch.tensor(c.columns["number"]) + lengths(c)) == []
    assert broken(lambda c: torch.full((len(c.texts),), torch.nan)) == []  # a reward that applies nowhere


def test_a_reward_that_whitens_within_the_call() -> None:
    found = broken(lambda c: lengths(c) - lengths(c).mean())
    assert [truth.name for truth in found] == [BATCH, PADDING]
    assert "compares the responses of a call with each other" in found[0].explanation


def test_a_reward_that_reads_the_padded_end() -> None:
    """Right alone and beside its like; wrong where the row is longer than the response."""

    def last_column(completions: Completions) -> Tensor:
        width = max(map(len, completions.response_ids))
        padded = torch.tensor([ids + [9] * (width - len(ids)) for ids in completions.response_ids])
        return padded[:, -1].float()

    assert PADDING in [truth.name for truth in broken(last_column)]


def test_a_reward_that_draws() -> None:
    calls = itertools.count()
    assert REPEAT in [truth.name for truth in broken(lambda c: lengths(c) + next(calls))]


def test_a_score_that_comes_and_goes() -> None:
    """None for a response by itself, a number beside others."""
    found = broken(lambda c: lengths(c) if len(c.texts) > 1 else torch.full((1,), torch.nan))
    assert BATCH in [truth.name for truth in found]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("reward") / "export"
    export_scorer(ScorerNetwork(make_llama(TOKENIZER, seed=2).base_model), TOKENIZER, target)
    return target


def test_a_reward_model(folder: Path) -> None:
    reward = build_reward(str(folder), TOKENIZER)
    found = reward_truths(reward.score, str(folder), COMPLETIONS)
    assert [truth.name for truth in found if not truth.holds] == []
    assert [truth.name for truth in found][:2] == [
        f"the head of {folder} was loaded",
        "scores differ between responses",
    ]


def test_a_folder_that_is_a_plain_causal_language_model(tiny_model_dir: Path) -> None:
    reward = build_reward(str(tiny_model_dir), TOKENIZER)
    found = broken(reward.score, str(tiny_model_dir))
    assert [truth.name for truth in found] == [f"the head of {tiny_model_dir} was loaded"]
    assert "causal language model without a head for scores" in found[0].explanation


def without_head(folder: Path, target: Path) -> Path:
    """The same reward model, whose head was left behind when its weights were written."""
    target.mkdir()
    for file in folder.iterdir():
        if file.name != "model.safetensors":
            (target / file.name).write_bytes(file.read_bytes())
    weights = load_file(folder / "model.safetensors")
    del weights["score.weight"]
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    return target


def test_a_folder_that_has_lost_its_head(folder: Path, tmp_path: Path) -> None:
    truth = head_is_stored(str(without_head(folder, tmp_path / "lost")))
    assert not truth.holds
    assert "no score.weight" in truth.explanation


def test_a_head_of_zeros_tells_nothing_apart(folder: Path) -> None:
    network = ScorerNetwork(make_llama(TOKENIZER, seed=2).base_model)
    network.zero_head()
    found = broken(ModelReward(network, TOKENIZER).score, str(folder))
    assert [truth.name for truth in found] == ["scores differ between responses"]


def test_every_folder_of_a_config_is_looked_at() -> None:
    spec = [
        {"reward": "./a", "weight": 2.0},
        {"reward": {"ensemble": ["./b", "hub/c"], "combine": "min"}},
        {"reward": "package.module.function"},
        {"reward": {"class_path": "package.Class", "init_args": {"model": "./not-ours-to-read"}}},
    ]
    assert model_folders(spec) == ["./a", "./b", "hub/c"]
    assert model_folders(None) == model_folders(len) == []


def test_names_of_tensors_are_read_in_every_layout(tmp_path: Path) -> None:
    model = make_llama(TOKENIZER)
    expected = set(model.state_dict())
    model.save_pretrained(tmp_path / "whole")
    model.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    (tmp_path / "old").mkdir()
    torch.save(model.state_dict(), tmp_path / "old" / "pytorch_model.bin")
    for layout in ("whole", "shards", "old"):
        assert stored_names(str(tmp_path / layout)) == expected
    (tmp_path / "none").mkdir()
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors"):
        stored_names(str(tmp_path / "none"))

"""``--best-of``: which of several responses are kept, in which order, and that `score` says the same of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from lit_rlhf.cli.main import main
from lit_rlhf.cli.sample_policy import Policy
from lit_rlhf.data.tokenization import TextEncoder
from lit_rlhf.data.trees import pack_trees, plant_tree
from lit_rlhf.models.export import export_scorer
from lit_rlhf.models.fingerprint import fingerprint_of_stored
from lit_rlhf.models.scorer import ScorerNetwork, load_scorer
from lit_rlhf.records import Row
from tests.cli.drawing import OneByOne
from tests.conftest import make_llama


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def export_reward(folder: Path, causal_lm: Any, tokenizer: PreTrainedTokenizerFast) -> Path:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        network = ScorerNetwork(causal_lm.base_model)
        torch.nn.init.normal_(network.head.weight)
    export_scorer(network, tokenizer, folder)
    return folder


def read(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(name).read_text().splitlines()]


def test_the_best_are_kept_best_first_and_score_says_the_same(
    tiny_model_dir: Path, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    reward = export_reward(tmp_path / "r", make_llama(tiny_tokenizer, seed=1), tiny_tokenizer)
    engine = OneByOne(tiny_model_dir, tiny_tokenizer)
    prompts = ["the soup", "a train", "my hotel"]
    Path("a.jsonl").write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))
    argv = ["sample", str(tiny_model_dir), "--prompts", "a.jsonl", "--max-new-tokens", "6", "--seed", "2"]
    best_of = ["--best-of", "5", "--reward", str(reward)]
    main([*argv, "--out", "o.jsonl", "-k", "3", *best_of])
    scorer, encoder = load_scorer(str(reward)).eval(), TextEncoder(tiny_tokenizer)
    for number, (prompt, row) in enumerate(zip(prompts, read("o.jsonl"), strict=True)):
        texts = [engine.text(engine.prompt(prompt), 2, number, j, max_new_tokens=6) for j in range(5)]
        scored = []
        for text in texts:
            (tree,), _ = plant_tree(Row(prompt, [text]), encoder)
            with torch.no_grad():
                scored.append((scorer(pack_trees([tree])).item(), text))
        scored.sort(reverse=True)
        assert row["responses"] == [text for _, text in scored[:3]]
        assert row["reward_scores"] == pytest.approx([score for score, _ in scored[:3]], abs=1e-5)
        assert row["sampling"]["best_of"] == 5 and row["sampling"]["reward"] == str(reward)
        assert row["sampling"]["reward_fingerprint"] == fingerprint_of_stored(str(reward))
    main([*argv, "--out", "one.jsonl", *best_of])
    assert [row["responses"] for row in read("one.jsonl")] == [
        row["responses"][:1] for row in read("o.jsonl")
    ]
    main(["score", str(reward), "o.jsonl", "--out", "s.jsonl"])
    for row, again in zip(read("o.jsonl"), read("s.jsonl"), strict=True):
        assert again["reward_scores"] == pytest.approx(row["reward_scores"], abs=1e-5)
        assert again["reward_ranks"] == [1, 2, 3]


def test_exactly_so_many_are_drawn(
    tiny_model_dir: Path, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Best of N is the best of N: where some are equal no others are drawn for them."""
    reward = export_reward(tmp_path / "r", make_llama(tiny_tokenizer, seed=1), tiny_tokenizer)
    Path("a.jsonl").write_text('{"prompt": "the soup"}\n')
    draw, asked = Policy.draw, []

    def noted(self: Policy, prompts: list[list[int]], *others: Any) -> Any:
        asked.append(len(prompts))
        return draw(self, prompts, *others)

    monkeypatch.setattr(Policy, "draw", noted)
    peaked = ["--max-new-tokens", "1", "--top-k", "2", "--temperature", "5"]
    argv = ["sample", str(tiny_model_dir), "--prompts", "a.jsonl", "--out", "o.jsonl", *peaked]
    main([*argv, "-k", "3", "--best-of", "3", "--reward", str(reward)])
    assert asked == [3]
    assert 1 <= len(read("o.jsonl")[0]["responses"]) <= 2
    assert "1 prompts got fewer than 3: 3 draws gave no more different ones" in capsys.readouterr().out


def test_what_is_too_long_for_the_reward_model_comes_last(
    tiny_model_dir: Path, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    config = GPT2Config(vocab_size=len(tiny_tokenizer), n_embd=32, n_layer=1, n_head=2, n_positions=12)
    reward = export_reward(tmp_path / "r", GPT2LMHeadModel(config), tiny_tokenizer)
    Path("a.jsonl").write_text('{"prompt": "a"}\n')
    argv = [
        "sample",
        str(tiny_model_dir),
        "--prompts",
        "a.jsonl",
        "--out",
        "o.jsonl",
        "--max-new-tokens",
        "30",
    ]
    often_over = ["--logit-bias", f"{tiny_tokenizer.eos_token_id}=4"]
    main([*argv, "-k", "8", "--best-of", "8", "--reward", str(reward), *often_over])
    (row,) = read("o.jsonl")
    scores = row["reward_scores"]
    scored = [score for score in scores if score is not None]
    assert 0 < len(scored) < len(scores) and scores[: len(scored)] == sorted(scored, reverse=True)
    said = capsys.readouterr().out
    assert f"{len(scores) - len(scored)} responses have no score: they are too long for {reward}" in said


def test_a_prompt_that_the_reward_model_cannot_read_stops_before_anything_is_drawn(
    tiny_model_dir: Path, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    bare = PreTrainedTokenizerFast(
        tokenizer_object=tiny_tokenizer.backend_tokenizer, eos_token="<|eos|>", pad_token="<|pad|>"
    )
    reward = export_reward(tmp_path / "r", make_llama(tiny_tokenizer, seed=1), bare)
    Path("a.jsonl").write_text('{"prompt": [{"role": "user", "content": "hi"}]}\n')
    with pytest.raises(SystemExit):
        main(["sample", str(tiny_model_dir), "--prompts", "a.jsonl", "--out", "o.jsonl", "--best-of", "2", "--reward",
              str(reward)])  # fmt: skip
    assert "a.jsonl:1" in capsys.readouterr().err
    assert not list(Path().glob("o.jsonl*"))

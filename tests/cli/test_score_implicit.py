"""``lit-rlhf score POLICY FILE --reference REF``: implicit rewards, their report, and what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from lit_rlhf.cli import score_files
from lit_rlhf.cli.main import main
from lit_rlhf.models.export import export_scorer
from lit_rlhf.models.scorer import ScorerNetwork
from tests.conftest import make_llama

ROWS = [
    {"prompt": "the soup", "responses": [" is tasty", " late", " is lovely and fresh"]},
    {"prompt": "a train", "chosen": " looks late", "rejected": " tasty"},
    {"prompt": "my hotel", "responses": [" a", " b c"], "ranks": [2, 1]},
]


@pytest.fixture(autouse=True)
def _folders(
    tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, seed in (("policy", 0), ("start", 9)):
        make_llama(tiny_tokenizer, seed=seed).save_pretrained(name)
        tiny_tokenizer.save_pretrained(name)
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))


def score(*argv: str) -> list[dict]:
    main(["score", "policy", "rows.jsonl", "--out", "o.jsonl", *argv])
    return [json.loads(line) for line in Path("o.jsonl").read_text().splitlines()]


def refusal(capsys: pytest.CaptureFixture[str], *argv: str, code: int) -> str:
    with pytest.raises(SystemExit) as stop:
        main(["score", *argv, "--out", "o.jsonl"])
    assert stop.value.code == code
    return capsys.readouterr().err


def logprob(folder: str, tokenizer: PreTrainedTokenizerFast, prompt: str, response: str) -> float:
    """log π(y|x) with the EOS, by plain transformers."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    given = [tokenizer.bos_token_id, *tokenizer(prompt, add_special_tokens=False).input_ids]
    said = [*tokenizer(response, add_special_tokens=False).input_ids, tokenizer.eos_token_id]
    with torch.no_grad():
        every = model(torch.tensor([given + said])).logits[0].log_softmax(-1)
    return sum(every[len(given) - 1 + k, token].item() for k, token in enumerate(said))


@pytest.mark.parametrize(("argv", "beta"), [((), 0.1), (("--beta", "0.5"), 0.5)])
def test_scores_are_the_log_ratios_times_beta(
    argv: tuple[str, ...], beta: float, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    written = score("--reference", "start", *argv)
    texts = [
        [("the soup", r) for r in ROWS[0]["responses"]],
        [("a train", " looks late"), ("a train", " tasty")],
    ]
    for row, pairs in zip(written, texts, strict=False):
        expected = [
            beta * (logprob("policy", tiny_tokenizer, *pair) - logprob("start", tiny_tokenizer, *pair))
            for pair in pairs
        ]
        assert row["reward_scores"] == pytest.approx(expected, abs=1e-4)
    assert written[0]["reward_ranks"] == [
        1 + sum(o > s for o in written[0]["reward_scores"]) for s in written[0]["reward_scores"]
    ]
    assert "reward_disagreement" not in written[0]


def test_a_policy_against_itself_scores_nothing() -> None:
    assert all(score == 0 for row in score("--reference", "policy") for score in row["reward_scores"])


def test_the_report_and_the_metrics_are_those_of_the_implicit_reward() -> None:
    written = score("--reference", "start", "--beta", "0.5")
    (first, second), (a, b) = written[1]["reward_scores"], written[2]["reward_scores"]
    numbers = json.loads(Path("o-report/metrics.json").read_text())
    gaps = [first - second, b - a]
    assert numbers["evaluation"]["accuracy"]["mean"] == pytest.approx(sum(gap > 0 for gap in gaps) / 2)
    page = Path("o-report/reward-report.html").read_text()
    assert "policy, its implicit reward against start (beta 0.5)" in page


def test_probabilities_are_those_of_bradley_and_terry(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = []
    monkeypatch.setattr(score_files, "report_on_rows", lambda *given: kept.append(given[2]))
    written = score("--reference", "start")
    first, second = written[1]["reward_scores"]
    assert kept[0][1].probability == pytest.approx([1 / (1 + math.exp(second - first))], abs=1e-6)


def test_a_part_of_another_reference_or_beta_is_not_gone_on_with(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = []

    def stop(network, trees, part, *rest):
        keys.append(part.name)
        raise KeyboardInterrupt

    monkeypatch.setattr(score_files, "score_rows", stop)
    for argv in (("start",), ("start", "--beta", "0.5"), ("policy",), ("start", "--beta", "0.1")):
        with pytest.raises(SystemExit):
            score("--reference", *argv)
    assert len(set(keys)) == 3 and keys[0] == keys[3]


def test_positions_are_those_of_the_shorter_model(
    tiny_tokenizer: PreTrainedTokenizerFast, capsys: pytest.CaptureFixture[str]
) -> None:
    """A table of positions cannot be read past its end: such a response has no score."""
    config = GPT2Config(
        vocab_size=len(tiny_tokenizer),
        n_positions=4,
        n_embd=32,
        n_layer=1,
        n_head=2,
        bos_token_id=0,
        eos_token_id=1,
    )
    GPT2LMHeadModel(config).save_pretrained("short")
    written = score("--reference", "short")
    assert written[2]["reward_scores"][0] is None or written[0]["reward_scores"][2] is None
    assert "run past the model's 4 positions" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (
            ["policy", "rows.jsonl", "--beta", "0.5"],
            "--beta: is of an implicit reward, and goes with --reference",
        ),
        (
            ["policy", "rows.jsonl", "--reference", "start", "--beta", "0"],
            "--beta: expected more than 0, found 0.",
        ),
        (
            ["policy", "rows.jsonl", "--reference", "r.ckpt"],
            "--reference r.ckpt: expected a Hugging Face folder",
        ),
    ],
)
def test_mistakes_are_said_first(argv: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"error: {said}" in refusal(capsys, *argv, code=2)


def test_models_that_do_not_go_together_are_refused(
    tiny_tokenizer: PreTrainedTokenizerFast, capsys: pytest.CaptureFixture[str]
) -> None:
    export_scorer(ScorerNetwork(make_llama(tiny_tokenizer).base_model), tiny_tokenizer, Path("reward"))
    said = refusal(capsys, "reward", "rows.jsonl", "--reference", "start", code=1)
    assert "MODEL reward is a reward model. With --reference a policy is scored" in said
    assert "--reference reward is a reward model" in refusal(
        capsys, "policy", "rows.jsonl", "--reference", "reward", code=1
    )
    assert "give --reference, the model it was trained from" in refusal(
        capsys, "policy", "rows.jsonl", code=1
    )
    make_llama(tiny_tokenizer, vocab_size=len(tiny_tokenizer) + 8).save_pretrained("wide")
    said = refusal(capsys, "policy", "rows.jsonl", "--reference", "wide", code=1)
    assert "wide: expected the policy's vocabulary of 320 tokens, found 328" in said

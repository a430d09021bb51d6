"""``check``: what it shows of the data, and that it trains nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import GPT2Config, PreTrainedTokenizerFast

from lit_rlhf.cli.check import example_text, judgements
from lit_rlhf.cli.configs import shipped
from lit_rlhf.cli.main import main
from lit_rlhf.records import Comparison, Tree, Vote


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")


def write(name: str, rows: list[dict[str, Any]]) -> str:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return name


def check(phase: str, model: Path, *flags: str) -> None:
    main(["check", "--config", str(shipped()[phase]), "--model.model", str(model), *flags])


def test_prompt_counted_and_eos_are_told_apart(
    tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"prompt": "Say [bold]soup[/bold]:\nnow", "response": " soup"}] * 2 + [
        {"prompt": "a", "response": "b"}
    ]
    check("sft", tiny_model_dir, "--data.path", write("d.jsonl", rows), "--data.val_fraction", "0")
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    place = lines.index("the first row of train:")
    assert lines[place + 1 : place + 5] == [
        "  prompt    │ <|bos|>Say [bold]soup[/bold]:",
        "            │ now",
        "  counted   │  soup",
        "  eos       │ <|eos|>",
    ]
    assert any(line.startswith("train: 3 rows") for line in lines)
    assert any("1 rows repeat an earlier one" in line for line in lines)
    assert lines[0].startswith(
        "tokenizer: 320 tokens, BOS '<|bos|>' (0), EOS '<|eos|>' (1), pad '<|pad|>' (2)"
    )
    assert list(Path().iterdir()) == [Path("d.jsonl")]  # no run folder, no model


def test_the_two_sides_of_a_pair_are_told_apart(
    tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"prompt": "a", "chosen": " soup", "rejected": " cake"}]
    check("dpo", tiny_model_dir, "--data.path", write("p.jsonl", rows), "--data.val_fraction", "0")
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    place = lines.index("the first row of train:")
    assert lines[place + 1 : place + 9] == [
        "  prompt    │ <|bos|>a",
        "  better    │",
        "  counted   │  soup",
        "  eos       │ <|eos|>",
        "  worse     │",
        "  counted   │  cake",
        "  eos       │ <|eos|>",
        "",
    ]


@pytest.mark.parametrize(
    ("comparisons", "ranks", "ratings", "expected"),
    [
        ([Comparison(better=1, worse=0)], None, None, ["worse", "better", ""]),
        ([Comparison(better=0, worse=1, target=0.5)], None, None, ["tied", "tied", ""]),
        ([Comparison(1, 0, target=0.8)], None, None, ["worse", "better, with probability 0.80", ""]),
        ([Comparison(better=1, worse=0)], [2.0, 1.0, None], None, ["rank 2", "rank 1", "unjudged"]),
        ([], [2.0, 1.0, None], [1.5, 4.0, None], ["rank 2, rated 1.5", "rank 1, rated 4", "unjudged"]),
        ([Comparison(1, 0)], None, [3.0, 4.0, None], ["worse, rated 3", "better, rated 4", ""]),
        ([], None, None, ["", "", ""]),
    ],
)
def test_what_is_said_of_each_response(
    comparisons: list[Comparison],
    ranks: list[float | None] | None,
    ratings: list[float | None] | None,
    expected: list[str],
) -> None:
    tree = Tree([1], [[2], [3], [4]], [[True]] * 3, comparisons, ranks, ratings)
    assert judgements(tree) == expected


def test_votes_are_counted_for_each_response() -> None:
    votes = [Vote("x", 1.0), Vote("y", 0.5), Vote("z", 0.0), Vote("w", 1.0)]
    tree = Tree([1], [[2], [3]], [[True]] * 2, [Comparison(0, 1, 0.625, tie=0.25)])
    assert judgements(tree, votes) == ["better, with probability 0.62, 2 of 4 votes", "worse, 1 of 4 votes"]
    tree.comparisons *= 2  # one a vote
    assert judgements(tree, votes) == ["judged, 2 of 4 votes", "judged, 1 of 4 votes"]


def test_a_label_is_shown_before_its_response(
    tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {"prompt": "a", "completion": " soup", "label": True},
        {"prompt": "a", "completion": " cake", "label": False},
        {"prompt": "b", "completion": " cake", "label": False},
    ]
    flags = ["--data.path", write("p.jsonl", rows), "--data.val_fraction", "0", "--model.loss", "kto"]
    check("dpo", tiny_model_dir, *flags)
    said = capsys.readouterr().out
    assert "  2 rows have labels, 1 responses desirable and 2 not" in said.splitlines()
    lines = [line.rstrip() for line in said.splitlines()]
    place = lines.index("the first row of train:")
    assert lines[place + 1 : place + 8] == [
        "  prompt    │ <|bos|>a",
        "  label     │ desirable",
        "  counted   │  soup",
        "  eos       │ <|eos|>",
        "  label     │ undesirable",
        "  counted   │  cake",
        "  eos       │ <|eos|>",
    ]


@pytest.mark.parametrize("ties", ["half", "drop"])
def test_ties_are_taken_as_the_module_takes_them(
    tiny_model_dir: Path, capsys: pytest.CaptureFixture[str], ties: str
) -> None:
    labels = [{"labeler": name, "choice": choice} for name, choice in (("x", "a"), ("y", "tie"))]
    rows = [
        {"prompt": "p", "response_a": "good", "response_b": "bad", "labels": labels},
        {"prompt": "q", "response_a": "good", "response_b": "bad", "labels": labels[1:]},
    ]
    path = write("v.jsonl", rows)
    check("reward", tiny_model_dir, "--data.path", path, "--data.val_fraction", "0", "--model.ties", ties)
    said = capsys.readouterr().out
    assert "3 votes of 2 annotators on 2 rows, 2 of them ties" in said
    taken = {"half": "kept", "drop": "left out"}[ties]
    assert f"1 rows are nothing but ties or even votes, {taken} (first: v.jsonl:2)" in said
    details = {"half": "with probability 0.75, 1 of 2 votes", "drop": "1 of 2 votes"}[ties]
    lines = [line.strip() for line in said.splitlines()]
    assert f"better    │ {details}" in lines
    assert "worse     │ 0 of 2 votes" in lines


def test_bad_rows_are_named(tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write("p.jsonl", [{"prompt": "a", "chosen": "b", "rejected": "c"}, {"prompt": "a", "chosen": "b"}])
    with pytest.raises(SystemExit) as stop:
        check("dpo", tiny_model_dir, "--data.path", path)
    assert stop.value.code == 1
    said = capsys.readouterr().err
    assert "p.jsonl:2" in said
    assert "Traceback" not in said


def test_a_sequence_longer_than_a_rotary_model_was_trained_on_is_warned_of(
    tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write("d.jsonl", [{"prompt": "a", "response": "xyz " * 200}] * 2)
    with pytest.warns(
        UserWarning, match=r"the model has 256 positions, too few for 2 of 2 rows: d\.jsonl:1 "
    ):
        check("sft", tiny_model_dir, "--data.path", path, "--data.val_fraction", "0")
    assert "longest sequence: 514 tokens of 256 positions" in capsys.readouterr().out


def test_missing_model_folder_names_what_is_near(
    tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write("d.jsonl", [{"prompt": "a", "response": "b"}])
    Path("models/gpt").mkdir(parents=True)
    with pytest.raises(SystemExit) as stop:
        check("sft", Path("./models/gtp").absolute(), "--data.path", path)
    assert stop.value.code == 1
    assert "gpt" in capsys.readouterr().err


def test_uncounted_turns_are_shown() -> None:
    text = example_text(
        [("q", "prompt"), ("a", "counted"), ("<e>", "eos"), ("user: more", "uncounted")]
    ).plain
    assert "  uncounted │ user: more\n" in text


def test_a_long_part_is_cut_and_says_so() -> None:
    assert "… (5 more characters)" in example_text([("x" * 4005, "prompt")]).plain


def test_positions_are_found_under_the_architectures_own_name(
    tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = GPT2Config(vocab_size=len(tiny_tokenizer), n_positions=48, n_embd=8, n_layer=1, n_head=2)
    config.save_pretrained(tmp_path / "gpt2")
    tiny_tokenizer.save_pretrained(tmp_path / "gpt2")
    path = write("d.jsonl", [{"prompt": "a", "response": "xyz " * 200}] * 2)
    with pytest.raises(SystemExit) as stop:
        check("sft", tmp_path / "gpt2", "--data.path", path, "--data.val_fraction", "0")
    assert stop.value.code == 1
    assert "the model has 48 positions, too few for 2 of 2 rows: d.jsonl:1 (" in capsys.readouterr().err

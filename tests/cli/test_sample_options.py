"""Mistakes in the arguments of ``sample`` and ``chat``: said before anything is loaded, or with the model's name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from lit_rlhf.cli.main import main
from lit_rlhf.cli.sample import check_arguments, parse
from lit_rlhf.rollout.settings import SamplingSettings
from tests.conftest import make_llama


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.jsonl").write_text('{"prompt": "a"}\n')


def refusal(capsys: pytest.CaptureFixture[str], *argv: str, code: int = 2) -> str:
    with pytest.raises(SystemExit) as stop:
        main(argv)
    assert stop.value.code == code
    return capsys.readouterr().err


def settings(*options: str) -> SamplingSettings:
    return check_arguments(parse(["m", "--prompts", "a.jsonl", "--out", "o.jsonl", *options]))


def test_every_setting_has_an_option() -> None:
    assert settings() == SamplingSettings()
    found = settings(
        "--max-new-tokens", "9", "--min-new-tokens", "2", "--temperature", "0.5", "--top-k", "7", "--top-p", "0.9",
        "--min-p", "0.1", "--repetition-penalty", "1.2", "--logit-bias", "5=-1.5", "--logit-bias", "6=2", "--stop", "x",
        "--stop", "x", "--stop", "\n", "--stop-id", "9", "--stop-id", "4", "--max-cached-tokens", "77",
    )  # fmt: skip
    assert found == SamplingSettings(9, 2, 0.5, 7, 0.9, 0.1, 1.2, {5: -1.5, 6: 2.0}, (4, 9), ("x", "\n"), 77)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["-k", "0"], "-k: expected 1 or more, found 0."),
        (["--limit", "0"], "--limit: expected 1 or more, found 0."),
        (["--out", "o.csv"], "--out o.csv: expected a name that ends in .jsonl."),
        (["--out", "a.jsonl"], "--out a.jsonl: is there already."),
        (["--prompts", "b.jsonl"], "--prompts b.jsonl: no such file.\nNear it: a.jsonl"),
        (["-k", "2", "--temperature", "0"], "-k 2: with --temperature 0 there is only one response to a prompt."),
        (["--temperature", "-1"], "--temperature: expected 0 or more, found -1.0."),
        (["--temperature", "nan"], "--temperature: expected a finite number, found nan."),
        (["--repetition-penalty", "inf"], "--repetition-penalty: expected a finite number, found inf."),
        (["--top-p", "0"], "--top-p: expected more than 0 and at most 1, found 0.0."),
        (["--top-k", "0"], "--top-k: expected 1 or more, found 0."),
        (["--min-new-tokens", "65"], "--min-new-tokens: expected at most --max-new-tokens (64), found 65."),
        (["--stop", ""], "--stop: expected texts, found an empty one"),
        (["--logit-bias", "5"], "--logit-bias 5: expected ID=X, a token id and a number, such as 15=-2.5."),
        (
            ["--logit-bias", "5=inf"],
            "--logit-bias 5=inf: expected an id of 0 or more, and a number from -1e+09 to 1e+09, or -inf.",
        ),
        (["--logit-bias", "5=nan"], "--logit-bias 5=nan: expected an id of 0 or more, and a number from"),
        (["--logit-bias", "5=-1e39"], "--logit-bias 5=-1e39: expected an id of 0 or more, and a number from"),
        (["--logit-bias=-1=2"], "--logit-bias -1=2: expected an id of 0 or more"),
        (["--seed", "-1"], "--seed: expected 0 to "),
        (["--best-of", "4"], "--best-of: nothing says which is best.\nGive --reward DIR too"),
        (["--reward", "r"], "--reward: is there to choose with, and nothing says among how many."),
        (["--best-of", "1", "--reward", "r"], "--best-of: expected 2 or more, found 1."),
        (["--best-of", "2", "--reward", "r", "-k", "3"], "--best-of: expected at least -k (3), found 2."),
        (
            ["--best-of", "2", "--reward", "r", "--temperature", "0"],
            "--best-of: with --temperature 0 all responses are the same.",
        ),
        (["--best-of", "2", "--reward", "r.ckpt"], "--reward r.ckpt: expected a Hugging Face folder, found a check"),
    ],
)  # fmt: skip
def test_mistakes_are_said_before_anything_is_loaded(
    options: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    # of an option that is given twice the last one counts
    argv = ["sample", "no-such-model", "--prompts", "a.jsonl", "--out", "o.jsonl", *options]
    assert refusal(capsys, *argv).startswith(f"error: {expected}")


@pytest.mark.parametrize("command", [["sample", "--prompts", "a.jsonl", "--out", "o.jsonl"], ["chat"]])
def test_a_checkpoint_is_no_model(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    said = refusal(capsys, *command, "runs/sft/checkpoints/last.ckpt")
    assert "runs/sft/checkpoints/last.ckpt: expected a Hugging Face folder, found a checkpoint" in said
    assert "`lit-rlhf export runs/sft/checkpoints/last.ckpt DIR` makes a folder of it" in said


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--logit-bias", "9999=1"], "--logit-bias 9999: expected an id from 0 to "),
        (["--stop-id", "9999"], "--stop-id 9999: expected an id from 0 to "),
        (["--device", "nowhere"], "--device nowhere: "),
        (["--chat-template", "nowhere"], "chat_template: expected 'chatml', a .jinja file or a template"),
        (["--best-of", "2", "--reward", "MODEL"], "is no reward model: its config.json names no Sequence"),
    ],
)
def test_what_only_the_model_can_tell(
    options: list[str], expected: str, tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(tiny_model_dir)
    words = [model if word == "MODEL" else word for word in options]
    argv = ["sample", model, "--prompts", "a.jsonl", "--out", "o.jsonl", *words]
    assert expected in refusal(capsys, *argv, code=1)
    assert not list(Path().glob("o.jsonl*"))


def test_some_token_has_to_be_left(
    tiny_model_dir: Path, tiny_tokenizer: PreTrainedTokenizerFast, capsys: pytest.CaptureFixture[str]
) -> None:
    size, end = len(tiny_tokenizer), tiny_tokenizer.eos_token_id
    argv = [
        "sample",
        str(tiny_model_dir),
        "--prompts",
        "a.jsonl",
        "--out",
        "o.jsonl",
        "--max-new-tokens",
        "2",
    ]
    no_word = [f"--logit-bias={number}=-inf" for number in range(size) if number != end]
    forbidden = (
        f"--logit-bias: expected at least one token that can be drawn, found all {size} of the model's"
    )
    assert forbidden in refusal(capsys, *argv, *no_word, f"--logit-bias={end}=-inf", code=1)
    said = refusal(capsys, *argv, *no_word, "--min-new-tokens", "1", code=1)
    assert forbidden in said and "forbidden by -inf or --min-new-tokens." in said
    main([*argv, *no_word])
    assert json.loads(Path("o.jsonl").read_text())["responses"] == [""]


def test_rows_that_cannot_be_read_are_named(
    tiny_model_dir: Path, tiny_tokenizer: PreTrainedTokenizerFast, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["sample", str(tiny_model_dir), "--prompts", "b.jsonl", "--out", "o.jsonl"]
    Path("b.jsonl").write_text('{"prompt": "a"}\n{"text": "b"}\n{"prompt": "\\ud83d"}\n')
    said = refusal(capsys, *argv, code=1)
    assert (
        "2 bad of 3 rows:\n  b.jsonl:2: expected `prompt`, found fields `text`\n  b.jsonl:3: expected" in said
    )
    assert "Mend or remove them: no row is skipped here." in said
    chat = {"prompt": [{"role": "user", "content": "hi"}]}
    Path("b.jsonl").write_text('{"prompt": "a"}\n' + json.dumps(chat))
    refusing = "{{ raise_exception('no roles here') }}"
    said = refusal(capsys, *argv, "--chat-template", refusing, code=1)
    assert "error: b.jsonl:2: the chat template refuses the prompt: no roles here" in said
    make_llama(tiny_tokenizer).save_pretrained("plain")
    bare = PreTrainedTokenizerFast(
        tokenizer_object=tiny_tokenizer.backend_tokenizer, eos_token="<|eos|>", pad_token="<|pad|>"
    )
    bare.save_pretrained("plain")
    said = refusal(capsys, "sample", "plain", *argv[2:], code=1)
    assert "b.jsonl:2: the data holds conversations" in said and "add --chat-template chatml" in said

"""``lit-rlhf sample``: what is written, that it depends on seed and row alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GenerationConfig, PreTrainedTokenizerFast

from lit_rlhf import __version__
from lit_rlhf.cli.main import main
from lit_rlhf.cli.row_progress import RowProgress
from lit_rlhf.data.files import read_rows
from lit_rlhf.models.fingerprint import fingerprint_of_stored
from tests.cli.drawing import OneByOne, save_policy, save_policy_with_table

ROWS: list[dict[str, Any]] = [
    {"prompt": "the soup", "id": "first", "topic": "ü", "level": 3},
    {"prompt": [{"role": "user", "content": "hi"}], "response": "kept"},
    {"prompt": "the soup"},
    {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
]
CHATS = {1: "user: hi\nassistant: ", 3: "user: a\nassistant: "}


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def engine(tiny_model_dir: Path, tiny_tokenizer: PreTrainedTokenizerFast) -> OneByOne:
    return OneByOne(tiny_model_dir, tiny_tokenizer)


def write(name: str, rows: list[dict[str, Any]]) -> str:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return name


def read(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(name).read_text().splitlines()]


def refusal(capsys: pytest.CaptureFixture[str], *argv: str, code: int = 2) -> str:
    with pytest.raises(SystemExit) as stop:
        main(["sample", *argv])
    assert stop.value.code == code
    return capsys.readouterr().err


def test_every_row_as_it_was_with_its_responses(
    tiny_model_dir: Path, engine: OneByOne, capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(tiny_model_dir)
    write("a.jsonl", ROWS[:3])
    write("b.jsonl", ROWS[3:])
    options = ["--max-new-tokens", "9", "--temperature", "0.8", "--top-k", "40", "--seed", "5"]
    main(["sample", model, "--prompts", "a.jsonl", "b.jsonl", "-k", "2", "--out", "o.jsonl", *options])
    written = read("o.jsonl")
    assert [row["id"] for row in written] == ["first", "a.jsonl:2", "a.jsonl:3", "b.jsonl:1"]
    for number, (row, given) in enumerate(zip(written, ROWS, strict=True)):
        assert row["prompt"] == given.get("prompt", given.get("messages", [None])[:1])
        assert all(row[name] == value for name, value in given.items())
        plain = engine.prompt("the soup")
        chat = engine.tokenizer(CHATS.get(number, ""), add_special_tokens=False)["input_ids"]
        ids = [
            engine.ids(chat or plain, 5, number, sample, max_new_tokens=9, temperature=0.8, top_k=40)
            for sample in range(2)
        ]
        decoded = [engine.tokenizer.decode([i for i in some if i not in engine.hidden]) for some in ids]
        assert row["responses"] == decoded
        assert row["finished"] == [some[-1] == engine.tokenizer.eos_token_id for some in ids]
        assert row["source"] == model
        assert row["sampling"] == {
            "fingerprint": fingerprint_of_stored(model), "seed": 5, "version": __version__, "max_new_tokens": 9,
            "min_new_tokens": 0, "temperature": 0.8, "top_k": 40, "top_p": None, "min_p": None,
            "repetition_penalty": 1.0, "logit_bias": None, "stop_token_ids": [], "stop_strings": [],
        }  # fmt: skip
    assert "o.jsonl: 4 rows, 8 responses\n" in capsys.readouterr().out
    assert not list(Path().glob("*.part*"))


def test_equal_responses_are_drawn_again_up_to_a_limit(
    tiny_model_dir: Path, engine: OneByOne, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = write("a.jsonl", [{"prompt": text} for text in ("the soup", "a train", "my hotel")])
    peaked = ["--max-new-tokens", "1", "--top-k", "3", "--temperature", "4"]
    argv = [str(tiny_model_dir), "--prompts", prompts, *peaked]
    main(["sample", *argv, "-k", "3", "--out", "o.jsonl"])
    repeated = 0
    for number, row in enumerate(read("o.jsonl")):
        prompt = engine.prompt(row["prompt"])
        drawn = [
            engine.text(prompt, 0, number, j, max_new_tokens=1, top_k=3, temperature=4.0) for j in range(12)
        ]
        assert row["responses"] == list(dict.fromkeys(drawn))[:3]
        repeated += len(set(drawn[:3])) < len(row["responses"])
    assert repeated
    main(["sample", *argv, "-k", "4", "--out", "p.jsonl"])
    assert "  3 prompts got fewer than 4: 16 draws gave no more different ones\n" in capsys.readouterr().out


def test_what_stops_a_response(
    tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = save_policy(tmp_path / "m", tiny_tokenizer)
    end, own, letter = 70, 80, tiny_tokenizer.convert_tokens_to_ids("a")
    GenerationConfig(eos_token_id=[tiny_tokenizer.eos_token_id, own]).save_pretrained(folder)
    engine = OneByOne(folder, tiny_tokenizer)
    prompt = engine.prompt("the soup")
    write("a.jsonl", [{"prompt": "the soup"}])

    def drawn(*options: str) -> dict[str, Any]:
        out = f"o{len(list(tmp_path.iterdir()))}.jsonl"
        main(["sample", "m", "--prompts", "a.jsonl", "--out", out, "--max-new-tokens", "6", *options])
        return read(out)[0]

    def surely(token: int) -> tuple[str, str]:
        return "--logit-bias", f"{token}=50"

    expected = engine.ids(prompt, 0, 0, 0, max_new_tokens=6, stop_token_ids=(own,), logit_bias={own: 50.0})
    assert expected == [own]
    assert drawn(*surely(own))["finished"] == [True]
    assert drawn(*surely(own))["sampling"]["stop_token_ids"] == [own]
    assert drawn(*surely(end))["finished"] == [False]
    assert drawn(*surely(end), "--stop-id", str(end))["finished"] == [True]
    row = drawn(*surely(letter), "--stop", "aaa", "--stop", "zz")
    assert (row["responses"], row["finished"]) == (["aaa"], [True])
    assert row["sampling"]["stop_strings"] == ["aaa", "zz"] and row["sampling"]["logit_bias"] == {
        str(letter): 50.0
    }
    row = drawn(*surely(letter), "--logit-bias", f"{letter}=-inf", "--min-new-tokens", "6")
    assert row["sampling"]["logit_bias"] == {str(letter): "-inf"}  # JSON has no infinity
    assert "a" not in row["responses"][0]
    assert "1 responses were cut off before an end (--max-new-tokens 6)" in capsys.readouterr().out


def test_judgements_of_other_responses_are_not_kept(
    tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {"prompt": "a", "responses": ["b", "c"], "ranks": [1, 2], "source": "flan", "sampling": {}},
        {"prompt": "a", "scores": [1.0, 2.0], "responses": ["b", "c"], "finished": [True], "domain": "x"},
        {"prompt": "a", "source": "flan", "chosen": "b", "rejected": "c"},
        {"prompt": "a", "response": "b", "helpfulness": 4, "correctness": 4, "coherence": 4, "complexity": 1,
         "verbosity": 1},
    ]  # fmt: skip
    argv = ["--prompts", write("a.jsonl", rows), "-k", "2", "--out", "o.jsonl", "--max-new-tokens", "3"]
    main(["sample", str(tiny_model_dir), *argv])
    written = read("o.jsonl")
    found = read_rows("o.jsonl", "candidates").rows
    for row, out in zip(found, written, strict=True):
        assert row.responses == out["responses"] and len(out["responses"]) == len(out["finished"]) == 2
        assert row.ranks is None and row.ratings is None and not row.comparisons
        assert out["source"] == str(tiny_model_dir)
    assert written[1]["domain"] == "x" and written[2]["prompt_source"] == "flan"
    assert (
        "prompt_source" not in written[0] and written[2]["chosen"] == "b" and written[3]["helpfulness"] == 4
    )
    said = capsys.readouterr().out
    assert (
        "left out, because they speak of other responses: finished (1 rows), ranks (1 rows), response (1 rows), "
        "responses (2 rows), scores (1 rows)\n"
    ) in said
    assert "`source` of 1 rows is kept as `prompt_source`" in said


def test_prompts_are_refused_or_named_by_their_length(
    tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"prompt": "q" * length} for length in (10, 255, 256, 247, 248)]  # and a BOS
    write("a.jsonl", rows)
    model = str(save_policy_with_table(tmp_path / "m", tiny_tokenizer, 256))
    options = ["--prompts", "a.jsonl", "--out", "o.jsonl", "--max-new-tokens", "9"]
    assert (
        "error: 1 of 5 prompts are longer than the model's 256 positions (a.jsonl:3): shorten them or take them out"
        in refusal(capsys, model, *options, code=1)
    )
    write("a.jsonl", [row for row in rows if len(row["prompt"]) != 256])
    main(["sample", model, *options, "--min-new-tokens", "9"])
    said = capsys.readouterr()
    assert (
        "2 of 4 prompts leave room for fewer than 9 tokens in the model's 256 positions (a.jsonl:2, a.jsonl:4)"
        in said.out
    )
    assert "trained on" not in said.out and "may have fewer" not in said.err  # it is said once
    assert "expected at least 265, the longest prompt with its response, found 264." in refusal(
        capsys, model, *options[:2], "--out", "p.jsonl", *options[4:], "--max-cached-tokens", "264", code=1
    )


def test_rotary_positions_go_on_with_a_warning(
    tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = save_policy(tmp_path / "m", tiny_tokenizer, max_position_embeddings=32)
    write("a.jsonl", [{"prompt": "q" * length} for length in (10, 31, 32, 23, 24)])  # and a BOS
    argv = ["sample", str(folder), "--prompts", "a.jsonl", "--max-new-tokens", "9", "--min-new-tokens", "9"]
    main([*argv, "--out", "o.jsonl"])
    said = capsys.readouterr().out
    assert said.count("warning") == 1
    assert (
        "warning: 3 of 5 prompts, 1 of them by themselves, may run with 9 new tokens past the 32 positions that the "
        "model was trained on (a.jsonl:2, a.jsonl:3, a.jsonl:5): they are rotary, so it goes on there\n"
    ) in said
    engine = OneByOne(folder, tiny_tokenizer)
    for number, row in enumerate(read("o.jsonl")):
        ids = engine.ids(engine.prompt(row["prompt"]), 0, number, 0, max_new_tokens=9, min_new_tokens=9)
        assert len(ids) == 9
        assert row["responses"] == [tiny_tokenizer.decode([i for i in ids if i not in engine.hidden])]
    main([*argv, "--out", "p.jsonl", "--limit", "1"])
    assert "warning" not in capsys.readouterr().out


def test_limit_takes_the_first_prompts(tiny_model_dir: Path) -> None:
    write("a.jsonl", [{"prompt": str(number)} for number in range(5)])
    argv = ["sample", str(tiny_model_dir), "--prompts", "a.jsonl", "--max-new-tokens", "3"]
    main([*argv, "--out", "whole.jsonl"])
    main([*argv, "--out", "o.jsonl", "--limit", "2"])
    assert read("o.jsonl") == read("whole.jsonl")[:2]


def test_progress_counts_responses() -> None:
    progress = RowProgress("sampling", 40, 10, unit="response")
    progress.advance(10)
    assert progress.line(60.0) == "sampling: response 20/40, about 2 min left"


def test_greedy_responses_are_generates(tiny_model_dir: Path, tiny_llama: Any, tiny_tokenizer: Any) -> None:
    write("a.jsonl", [{"prompt": "the soup"}])
    argv = ["--prompts", "a.jsonl", "--out", "o.jsonl", "--max-new-tokens", "12", "--temperature", "0"]
    main(["sample", str(tiny_model_dir), *argv])
    ids = torch.tensor([[tiny_tokenizer.bos_token_id, *tiny_tokenizer("the soup")["input_ids"]]])
    found = tiny_llama.eval().generate(ids, max_new_tokens=12, do_sample=False)[0, ids.shape[1] :]
    assert read("o.jsonl")[0]["responses"] == [tiny_tokenizer.decode(found, skip_special_tokens=True)]

"""``init``: a tokenizer that loses nothing, a model that loads anywhere, nothing overwritten."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from lit_rlhf.cli.init import SIZES, Size, random_llama
from lit_rlhf.cli.init_texts import strings_in
from lit_rlhf.cli.main import main

SMALL = ["--hidden", "16", "--layers", "1", "--heads", "2", "--vocab", "270"]


def refusal(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    with pytest.raises(SystemExit) as stop:
        main(["init", *argv])
    assert stop.value.code == 2
    return capsys.readouterr().err


@pytest.fixture
def text(tmp_path: Path) -> Path:
    file = tmp_path / "text.txt"
    file.write_text("the soup is tasty and the cake is fresh .\n" * 20)
    return file


@pytest.fixture
def made(tmp_path: Path, text: Path) -> Path:
    folder = tmp_path / "model"
    main(["init", str(folder), "--text", str(text), *SMALL, "--max-positions", "77"])
    return folder


def test_the_folder_loads_with_transformers_alone(made: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(made)
    model = AutoModelForCausalLM.from_pretrained(made)
    assert model.config.architectures == ["LlamaForCausalLM"]
    assert model.config.vocab_size == len(tokenizer) <= 270
    assert model.config.max_position_embeddings == 77
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == (
        "<|bos|>",
        "<|eos|>",
        "<|pad|>",
    )
    for name, number in (("bos", 0), ("eos", 1), ("pad", 2)):
        assert getattr(tokenizer, f"{name}_token_id") == number
        assert getattr(model.config, f"{name}_token_id") == number
        assert getattr(model.generation_config, f"{name}_token_id") == number


@pytest.mark.parametrize("said", ["plain", "  two  spaces\n\ttab\n", "é ü 日本 🙂", "<not a tag>", ""])
def test_any_text_comes_back(made: Path, said: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(made)
    ids = tokenizer(said).input_ids
    assert ids[0] == tokenizer.bos_token_id and ids.count(tokenizer.bos_token_id) == 1
    assert tokenizer.eos_token_id not in ids
    assert tokenizer.decode(ids[1:]) == said


def test_the_chat_template_closes_assistant_turns_alone(made: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(made)
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Yo"},
    ]
    assert tokenizer.apply_chat_template(turns, tokenize=False) == (
        "<|bos|><|system|>\nBe brief.<|user|>\nHi<|assistant|>\nYo<|eos|>"
    )
    prompt = tokenizer.apply_chat_template(turns[:2], tokenize=False, add_generation_prompt=True)
    assert prompt == "<|bos|><|system|>\nBe brief.<|user|>\nHi<|assistant|>\n"
    ids = tokenizer(prompt, add_special_tokens=False).input_ids
    assert len([number for number in ids if number < 6]) == 4  # each role is one token, and the BOS
    with pytest.raises(Exception, match="unknown role tool"):
        tokenizer.apply_chat_template([{"role": "tool", "content": "x"}], tokenize=False)


def test_the_seed_decides_the_weights(tmp_path: Path, text: Path, made: Path) -> None:
    def weights(name: str, seed: str) -> torch.Tensor:
        main(["init", str(tmp_path / name), "--text", str(text), *SMALL, "--seed", seed])
        return AutoModelForCausalLM.from_pretrained(tmp_path / name).model.layers[0].mlp.up_proj.weight

    assert torch.equal(weights("a", "5"), weights("b", "5"))
    assert not torch.equal(weights("c", "6"), weights("d", "5"))


@pytest.mark.parametrize(("name", "low", "high"), [("tiny", 0.9e6, 1.2e6), ("small", 4.5e6, 5.5e6)])
def test_sizes_are_what_they_say(name: str, low: float, high: float) -> None:
    class FullVocabulary:
        bos_token_id, eos_token_id, pad_token_id = 0, 1, 2

        def __len__(self) -> int:
            return SIZES[name].vocab

    with torch.device("meta"):
        model = random_llama(FullVocabulary(), SIZES[name], 1024, 0)
    assert low < sum(parameter.numel() for parameter in model.parameters()) < high


def test_the_parameter_count_is_printed(
    tmp_path: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["init", str(tmp_path / "m"), "--text", str(text), *SMALL])
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "m")
    assert f"{sum(p.numel() for p in model.parameters()):,} random parameters" in capsys.readouterr().out


def test_a_small_text_says_that_its_vocabulary_is_smaller(
    tmp_path: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["init", str(tmp_path / "m"), "--text", str(text), *SMALL[:-1], "400"])
    tokens = len(AutoTokenizer.from_pretrained(tmp_path / "m"))
    assert tokens < 400
    assert (
        f"the text gives {tokens} different tokens, fewer than the 400 asked for" in capsys.readouterr().out
    )


def test_jsonl_and_gz_are_read_by_their_text_fields(tmp_path: Path) -> None:
    row = {"prompt": "zqzqzq " * 30, "responses": ["wkwkwk " * 30], "domain": "xjxjxj " * 30, "score": 2}
    with gzip.open(tmp_path / "rows.jsonl.gz", "wt") as file:
        file.write(json.dumps(row) + "\n\n")
    main(["init", str(tmp_path / "m"), "--text", str(tmp_path / "rows.jsonl.gz"), *SMALL[:-1], "280"])
    vocabulary = AutoTokenizer.from_pretrained(tmp_path / "m").get_vocab()
    assert "Ġzqzqzq" in vocabulary and "Ġwkwkwk" in vocabulary
    assert not any("xj" in token for token in vocabulary)


def test_strings_in_a_conversation_leave_the_roles_out() -> None:
    row = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    assert list(strings_in(row)) == ["a", "b"]


def test_a_broken_line_names_its_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\nnot json\n')
    said = refusal(capsys, str(tmp_path / "m"), "--text", str(tmp_path / "a.jsonl"))
    assert f"error: {tmp_path}/a.jsonl:2: expected a JSON object, found 'not json" in said
    assert not (tmp_path / "m").exists()


def test_only_its_own_folder_is_overwritten(
    tmp_path: Path, text: Path, made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refusal(capsys, str(made), "--text", str(text), *SMALL)
    assert "is not empty" in said and "--force overwrites it" in said
    main(["init", str(made), "--text", str(text), *SMALL, "--force", "--seed", "9"])
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("mine")
    assert "is not empty" in refusal(capsys, str(foreign), "--text", str(text), "--force")
    assert [entry.name for entry in foreign.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (
            ["--hidden", "30", "--heads", "4"],
            "--hidden 30 --heads 4: expected --hidden to be a multiple of 2 x --heads",
        ),
        (["--vocab", "100"], "--vocab 100: expected 262 or more"),
        (["--layers", "-1"], "--layers -1: expected a positive number"),
    ],
)
def test_shapes_that_cannot_be(
    flags: list[str], said: str, tmp_path: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in refusal(capsys, str(tmp_path / "m"), "--text", str(text), *flags)


def test_missing_text_names_what_is_near(
    tmp_path: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refusal(capsys, str(tmp_path / "m"), "--text", str(tmp_path / "txt.txt"))
    assert "no such file" in said and str(text) in said


def test_a_size_is_a_shape() -> None:
    assert all(size.hidden % (2 * size.heads) == 0 for size in SIZES.values())
    assert isinstance(SIZES["tiny"], Size)


@pytest.mark.parametrize("there_before", [False, True])
def test_an_init_that_fails_half_way_leaves_what_was_there(
    there_before: bool, tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "deeper" / "model"
    if there_before:
        main(["init", str(folder), "--text", str(text), *SMALL])
    before = {file.name: file.read_bytes() for file in folder.iterdir()} if there_before else {}

    def fail(*_: object, **__: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(LlamaForCausalLM, "save_pretrained", fail)
    with pytest.raises(OSError, match="disk full"):
        main(["init", str(folder), "--text", str(text), *SMALL[:-1], "280", "--seed", "9", "--force"])
    assert {file.name: file.read_bytes() for file in folder.parent.rglob("*") if file.is_file()} == before
    assert [entry.name for entry in folder.parent.iterdir()] == ["model"] * there_before


def test_force_keeps_files_of_others(made: Path, text: Path) -> None:
    (made / "notes.txt").write_text("mine")
    weights = (made / "model.safetensors").read_bytes()
    main(["init", str(made), "--text", str(text), *SMALL, "--force", "--seed", "9"])
    assert (made / "notes.txt").read_text() == "mine"
    assert (made / "model.safetensors").read_bytes() != weights


def test_the_current_folder_can_be_filled(
    tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    main(["init", ".", "--text", str(text), *SMALL])
    assert Path("config.json").is_file()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["here", "text.txt"]

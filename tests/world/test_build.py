"""Tokenizer, model and data files that a demo run starts from."""

import json
from pathlib import Path
from random import Random

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lit_rlhf.data.tokenization import TextEncoder
from lit_rlhf.world.build import (
    build_model,
    build_tokenizer,
    demonstration_rows,
    prompt_rows,
    text_rows,
    write_data,
    write_model,
    write_rows,
)
from lit_rlhf.world.grammar import VOCABULARY, grammatical, parse_prompt


def test_tokenizer_gives_a_token_a_word_and_the_same_text_back() -> None:
    tokenizer = build_tokenizer()
    assert len(tokenizer) == 88
    for row in text_rows(Random(0), 300):
        ids = tokenizer(row["text"])["input_ids"]
        assert [VOCABULARY[token] for token in ids] == row["text"].split()
        assert tokenizer.decode(ids) == row["text"]


def test_tokenizer_hides_specials_and_never_the_separator() -> None:
    tokenizer = build_tokenizer()
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1, 2)
    ids = tokenizer("<bos> food soup | the soup is tasty . <eos> <pad>")["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "food soup | the soup is tasty ."


def test_tokenizer_refuses_an_unknown_word() -> None:
    with pytest.raises(Exception, match="UNK"):
        build_tokenizer()("the zebra is tasty .")


def test_prompts_are_four_tokens_and_responses_end_with_eos() -> None:
    encoder = TextEncoder(build_tokenizer())
    assert [VOCABULARY[token] for token in encoder.prompt_ids("food soup |")] == [
        "<bos>",
        "food",
        "soup",
        "|",
    ]
    ids, mask = encoder.response_ids("food soup |", "the soup is tasty .")
    assert [VOCABULARY[token] for token in ids] == ["the", "soup", "is", "tasty", ".", "<eos>"]
    assert mask == [True] * 6
    assert encoder.decode(ids) == "the soup is tasty ."


# Embedding 88 D; per layer 4 D² attention, 3 D F gated layer (F = 176, 352), 2 D norms; D final norm.
@pytest.mark.parametrize(
    ("hidden", "layers", "parameters"),
    [
        (64, 2, 88 * 64 + 2 * (4 * 64**2 + 3 * 64 * 176 + 2 * 64) + 64),
        (128, 4, 88 * 128 + 4 * (4 * 128**2 + 3 * 128 * 352 + 2 * 128) + 128),
    ],
)
def test_model_size_with_tied_embeddings(hidden: int, layers: int, parameters: int) -> None:
    model = build_model(hidden=hidden, layers=layers)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert (model.config.pad_token_id, model.config.bos_token_id, model.config.eos_token_id) == (0, 1, 2)


def test_model_depends_on_its_seed_alone_and_leaves_the_global_state() -> None:
    torch.manual_seed(123)
    expected_draw = torch.rand(3)
    torch.manual_seed(123)
    first = build_model(seed=1).state_dict()
    assert torch.equal(torch.rand(3), expected_draw)
    again, other = build_model(seed=1).state_dict(), build_model(seed=2).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["model.embed_tokens.weight"], other["model.embed_tokens.weight"])


def test_written_model_loads_with_plain_transformers(tmp_path: Path) -> None:
    write_model(tmp_path / "start", seed=4)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "start")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "start")
    assert torch.equal(model.get_input_embeddings().weight, build_model(seed=4).get_input_embeddings().weight)
    ids = tokenizer("food soup | the soup is tasty .")["input_ids"]
    assert ids[:3] == [4, 5, 3]
    assert tokenizer.decode(ids) == "food soup | the soup is tasty ."
    assert [path.name for path in tmp_path.iterdir()] == ["start"]


def test_written_model_does_not_replace_a_folder(tmp_path: Path) -> None:
    with pytest.raises(FileExistsError, match="exists already"):
        write_model(tmp_path)


def test_text_rows_have_a_heading_half_of_the_time() -> None:
    texts = [row["text"] for row in text_rows(Random(0), 1000)]
    headed = [text for text in texts if "|" in text]
    assert 430 < len(headed) < 570
    for text in texts:
        heading, _, sentence = text.rpartition("| ")
        assert grammatical(sentence.split())
        assert not heading or parse_prompt(heading + "|")


def test_demonstrations_answer_their_prompt() -> None:
    for row in demonstration_rows(Random(0), 200):
        domain, _ = parse_prompt(row["prompt"])
        assert row["domain"] == domain
        assert grammatical(row["response"].split())


def test_prompts_are_all_sixteen() -> None:
    assert len({row["prompt"] for row in prompt_rows(Random(0), 400)}) == 16


def lines(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_data_files_have_the_asked_counts_and_depend_on_the_seed(tmp_path: Path) -> None:
    counts = {"texts": 12, "demonstrations": 8, "prompts": 5, "validation": 3}
    paths = write_data(tmp_path / "one", seed=0, **counts)
    assert {name: len(lines(path)) for name, path in paths.items()} == {
        "texts": 12,
        "validation_texts": 3,
        "demonstrations": 8,
        "validation_demonstrations": 3,
        "prompts": 5,
        "validation_prompts": 3,
    }
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == sorted(
        f"{name}.jsonl" for name in paths
    )
    again = write_data(tmp_path / "two", seed=0, **(counts | {"texts": 20}))
    other = write_data(tmp_path / "three", seed=1, **counts)
    assert lines(again["demonstrations"]) == lines(paths["demonstrations"])
    assert lines(again["texts"])[:12] == lines(paths["texts"])
    assert lines(other["texts"]) != lines(paths["texts"])
    assert lines(paths["validation_texts"]) != lines(paths["texts"])[:3]


def test_a_file_that_fails_halfway_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    assert write_rows(path, [{"prompt": "food soup |"}]) == 1

    def broken():
        yield {"prompt": "trip train |"}
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        write_rows(path, broken())
    assert lines(path) == [{"prompt": "food soup |"}]

"""Rows of every kind as items, and nothing dropped without a word."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lit_rlhf.labelling.candidates import read_items, stated_verdict
from lit_rlhf.labelling.schema import StoreError
from lit_rlhf.labelling.verdicts import Verdict


def written(tmp_path: Path, *rows: dict[str, Any]) -> list[str]:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [str(path)]


def test_the_number_of_different_responses_decides_the_mode(tmp_path: Path) -> None:
    read = read_items(
        written(
            tmp_path,
            {"prompt": "p", "responses": ["a"]},
            {"prompt": "p", "responses": ["a", "b"]},
            {"prompt": "p", "responses": ["a", "b", "c"]},
            {"prompt": "p", "responses": ["a", "b", "a"]},
            {"prompt": "p", "response": "c"},
        )
    )
    assert [item.mode for item in read.items] == ["rating", "pairwise", "ranking", "pairwise", "rating"]
    assert read.notes == ["1 rows have identical responses, which are shown once"]
    assert read.judged == []


def test_a_sampled_and_scored_row_keeps_what_it_has(tmp_path: Path) -> None:
    row = {
        "prompt": [{"role": "user", "content": "p"}],
        "responses": ["a", "b", "c"],
        "id": "7",
        "domain": "d",
        "source": "runs/sft/export",
        "sampling": {"seed": 1},
        "answer": "42",
        "reward_scores": [0.5, 2.0, 0.75],
    }
    (item,) = read_items(written(tmp_path, row)).items
    assert (item.row_id, item.domain, item.models) == ("7", "d", ("runs/sft/export",) * 3)
    assert item.columns == {"sampling": {"seed": 1}, "answer": "42"}
    assert item.priority == -0.25
    (item,) = read_items(written(tmp_path, {**row, "reward_disagreement": [0.1, 0.3, None]})).items
    assert item.priority == 0.3


def test_what_cannot_be_judged_is_said(tmp_path: Path) -> None:
    files = written(
        tmp_path,
        {"prompt": "p", "responses": ["a", "a"]},
        {"prompt": "p", "responses": [str(number) for number in range(10)]},
        {"prompt": "p"},
        {"prompt": "p", "responses": ["a", "b"]},
    )
    read = read_items(files)
    assert len(read.items) == 1
    assert [note.split(":")[0] for note in read.notes] == ["left out 1 of 4 rows"] * 3
    assert "rows.jsonl:1" in read.notes[0] and "nothing to compare" in read.notes[0]
    assert "up to 9 different responses, found 10" in read.notes[1]
    assert "lit-rlhf sample" in read.notes[2]
    with pytest.raises(StoreError, match=r"no row of .* can be judged"):
        read_items(written(tmp_path, {"prompt": "p", "responses": ["a", "a"]}))


def test_a_mode_that_was_asked_for_is_kept_or_refused(tmp_path: Path) -> None:
    files = written(
        tmp_path, {"prompt": "p", "responses": ["a", "b", "c"]}, {"prompt": "p", "responses": ["a", "b"]}
    )
    assert [item.mode for item in read_items(files, "rating").items] == ["rating", "rating"]
    assert [item.mode for item in read_items(files, "rewrite").items] == ["rewrite", "rewrite"]
    assert [item.mode for item in read_items(files, "ranking").items] == ["ranking", "ranking"]
    read = read_items(files, "pairwise")
    assert len(read.items) == 1 and "two different responses, found 3" in read.notes[0]


def test_annotators_who_disagree_on_a_pair_judged_one_item(tmp_path: Path) -> None:
    read = read_items(
        written(
            tmp_path,
            {"prompt": "p", "chosen": "a", "rejected": "b", "annotator": "ann", "models": ["of a", "of b"]},
            {"prompt": "p", "chosen": "b", "rejected": "a", "annotator": "bob", "models": ["of b", "of a"]},
        )
    )
    assert [dict(zip(item.responses, item.models, strict=True)) for item in read.items] == [
        {"a": "of a", "b": "of b"}
    ] * 2
    assert read.items[0].key == read.items[1].key
    best = []
    for place, row in read.judged:
        verdict = stated_verdict(row, "pairwise")
        best.append((row.annotator, read.items[place].responses[verdict.ranking[0][0]]))
    assert best == [("ann", "a"), ("bob", "b")]


def test_tests_bring_their_answer(tmp_path: Path) -> None:
    (first, second) = read_items(
        written(
            tmp_path,
            {"prompt": "p", "responses": ["a", "b", "c"], "ranks": [2, 1, 2], "explanation": "because"},
            {"prompt": "p", "chosen": "x", "rejected": "y", "strength": "slightly"},
        ),
        gold=True,
    ).items
    assert first.gold == Verdict(ranking=((1,), (0, 2))) and first.explanation == "because"
    assert second.gold.strength == "slightly"
    assert second.responses[second.gold.ranking[0][0]] == "x"
    with pytest.raises(StoreError, match=r"rows.jsonl:1: expected a test with its answer"):
        read_items(written(tmp_path, {"prompt": "p", "responses": ["a", "b"]}), gold=True)


def test_a_ranking_that_is_not_whole_is_no_verdict(tmp_path: Path) -> None:
    rows = {"prompt": "p", "responses": ["a", "b", "c"], "ranks": [1, None, 2]}
    read = read_items(written(tmp_path, rows))
    assert len(read.items) == 1 and read.judged == []
    assert "only some of their responses" in read.notes[0] and "rows.jsonl:1" in read.notes[0]


def test_rows_that_ask_the_same_are_said(tmp_path: Path) -> None:
    first, second = {"prompt": "p", "responses": ["a", "b"]}, {"prompt": "p", "responses": ["b", "a"]}
    read = read_items(written(tmp_path, first, second))
    assert read.items[0].key == read.items[1].key
    assert "1 rows ask what an earlier row asks" in read.notes[0] and "rows.jsonl:2" in read.notes[0]


def test_a_test_that_nobody_can_pass_is_refused(tmp_path: Path) -> None:
    files = written(tmp_path, {"prompt": "p", "responses": ["a"], "scores": [9]})
    with pytest.raises(
        StoreError, match=r"rows.jsonl:1: nobody can give this answer; ratings: expected 1 numbers"
    ):
        read_items(files, gold=True)


def test_text_that_no_file_can_hold_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "p", "responses": ["a", "\\ud800"]}\n')
    with pytest.raises(
        StoreError, match=r"rows.jsonl:1: expected `responses` to be text that UTF-8 can hold"
    ):
        read_items([str(path)])


def test_a_row_that_cannot_be_read_stops_all(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"rows.jsonl:1: expected .*\n.*nothing was added\.$") as error:
        read_items(
            written(tmp_path, {"prompt": "p", "responses": "a"}, {"prompt": "p", "responses": ["a", "b"]})
        )
    assert "--data." not in str(error.value)


def test_fields_are_kept_as_json_can_spell_them(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "p", "responses": ["a", "b"], "loss": NaN}\n')
    read = read_items([str(path)])
    assert read.items[0].columns == {"loss": None}
    assert read.notes == ["1 numbers that are NaN or infinite are kept as null"]


def test_slightly_is_kept_where_responses_are_the_same(tmp_path: Path) -> None:
    row = {"prompt": "p", "responses": ["a", "b", "a"], "ranking": [[0, 2], [1]], "strength": "slightly"}
    ((_, read),) = read_items(written(tmp_path, row)).judged
    assert stated_verdict(read, "pairwise").strength == "slightly"


def test_answers_of_several_turns_are_shown_with_their_roles(tmp_path: Path) -> None:
    turns = [
        {"role": "assistant", "content": "one"},
        {"role": "user", "content": "two"},
        {"role": "assistant", "content": "three"},
    ]
    prompt = [{"role": "user", "content": "p"}]
    (item,) = read_items(written(tmp_path, {"prompt": prompt, "responses": [turns, turns[:1]]})).items
    assert item.responses == ("assistant: one\n\nuser: two\n\nassistant: three", "one")
    assert item.written(0) == turns and item.written(1) == turns[:1]

"""The validation split keeps prompts apart."""

from __future__ import annotations

import pytest

from lit_rlhf.data.split import shared_prompts, split_rows
from lit_rlhf.records import Row


def rows(prompts: int, each: int = 3) -> list[Row]:
    return [Row(f"p{k % prompts}", [f"r{k}"]) for k in range(prompts * each)]


def test_no_prompt_stands_on_both_sides() -> None:
    data = rows(40)
    train, val, note = split_rows(data, 0.25)
    assert sorted(train + val) == list(range(120))
    assert len({data[k].prompt for k in val}) == 10
    assert not {data[k].prompt for k in val} & {data[k].prompt for k in train}
    assert note == "validation split by prompt: 10 of 40 prompts, 30 of 120 rows"


def test_split_does_not_depend_on_the_order_of_rows_but_on_the_seed() -> None:
    data = rows(40)
    chosen = {data[k].prompt for k in split_rows(data, 0.25)[1]}
    backwards = data[::-1]
    assert {backwards[k].prompt for k in split_rows(backwards, 0.25)[1]} == chosen
    assert {data[k].prompt for k in split_rows(data, 0.25, seed=1)[1]} != chosen


def test_few_prompts_are_split_by_row_and_it_is_said() -> None:
    train, val, note = split_rows(rows(19), 0.25)
    assert (len(train), len(val)) == (43, 14)
    assert "too few (found 19, a split by prompt needs 20)" in note
    assert "by prompt" in split_rows(rows(20), 0.25)[2]


def test_twenty_texts_are_twenty_prompts() -> None:
    texts = [Row("", [f"t{k}"], is_text=True) for k in range(20)]
    assert "by prompt: 5 of 20" in split_rows(texts, 0.25)[2]


def test_both_sides_get_something() -> None:
    assert [len(side) for side in split_rows(rows(1, 2), 0.01)[:2]] == [1, 1]
    assert [len(side) for side in split_rows(rows(1, 2), 0.99)[:2]] == [1, 1]


def test_fraction_out_of_range() -> None:
    with pytest.raises(ValueError, match="val_fraction: expected a share above 0 and below 1, found 1"):
        split_rows(rows(2), 1)
    with pytest.raises(ValueError, match="two rows or more"):
        split_rows(rows(1, 1), 0.5)


def test_shared_prompts_are_distinct_ones() -> None:
    assert shared_prompts(rows(5), rows(3, 4)) == 3


def test_the_same_responses_never_stand_on_both_sides_of_a_split_by_row() -> None:
    data = [Row(f"p{k % 3}", [f"r{k % 12}", "other"][:: 1 if k < 12 else -1]) for k in range(24)]
    for seed in range(5):
        train, val, note = split_rows(data, 0.25, seed)
        sides = [
            {(data[k].prompt, frozenset(map(str, data[k].responses))) for k in side} for side in (train, val)
        ]
        assert (len(sides[0]), len(sides[1]), len(val)) == (9, 3, 6)
        assert not sides[0] & sides[1]
        assert "the same prompt can stand on both sides, with other responses" in note


def test_one_pair_many_times_cannot_be_split() -> None:
    with pytest.raises(
        ValueError, match=r"differ in prompt or responses, found 3 of the same: give data\.val_path"
    ):
        split_rows([Row("p", ["a", "b"]), Row("p", ["b", "a"]), Row("p", ["a", "b"])], 0.5)

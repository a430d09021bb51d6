"""Rows too long for a budget or a model: named, counted, with what to do."""

from __future__ import annotations

import warnings

import pytest
from transformers import GPT2Config, LlamaConfig, MptConfig

from lit_rlhf.data.lengths import check_budget, check_cached, check_positions, sequence_tokens
from lit_rlhf.records import Tree

GPT2 = GPT2Config(n_positions=8)
LLAMA = LlamaConfig(max_position_embeddings=8)


def tree(prompt: int, *responses: int, name: str = "q") -> Tree:
    return Tree(
        [1] * prompt, [[2] * size for size in responses], [[True] * size for size in responses], id=name
    )


def test_a_tree_at_the_budget_passes() -> None:
    check_budget([tree(3, 2, 4)], 9)
    with pytest.raises(ValueError, match=r"1 of 1 rows: q \(prompt 3, responses 2\+4\)\. Raise .* to 9,"):
        check_budget([tree(3, 2, 4)], 8)


def test_the_first_five_are_named_with_their_places_and_all_are_counted() -> None:
    trees = [tree(1, 1)] + [tree(2, size, name=f"id-{size}") for size in range(10, 17)]
    with pytest.raises(ValueError) as caught:
        check_budget(trees, 9, [f"d.jsonl:{line}" for line in range(1, 9)])
    said = str(caught.value)
    assert said.startswith("data.max_tokens: a batch of 9 tokens cannot hold 7 of 8 rows: ")
    assert "d.jsonl:2 with id id-10 (prompt 2, response 10), " in said
    assert "d.jsonl:6 with id id-14 (prompt 2, response 14) and 2 more. Raise data.max_tokens to 18" in said
    assert "id-15" not in said


def test_a_tree_named_by_its_place_is_named_once() -> None:
    with pytest.raises(ValueError, match=r"rows: d\.jsonl:7#2 \(prompt 9, "):
        check_budget([tree(9, 1, name="d.jsonl:7#2")], 3, ["d.jsonl:7"])


def test_a_sequence_is_a_prompt_with_one_response() -> None:
    assert sequence_tokens(tree(3, 2, 5)) == 8
    assert sequence_tokens(tree(3), new_tokens=4) == 7
    check_positions([tree(3, 2, 5, 5, 5)], GPT2)


def test_past_a_table_of_positions_is_refused() -> None:
    with pytest.raises(ValueError) as caught:
        check_positions([tree(3, 5), tree(3, 2, 6)], GPT2, ["d.jsonl:1", "d.jsonl:2"])
    assert str(caught.value) == (
        "the model has 8 positions, too few for 1 of 2 rows: d.jsonl:2 with id q (prompt 3, responses 2+6); "
        "the longest sequence has 9. Lower data.max_prompt_tokens or data.max_response_tokens"
    )


def test_past_rotary_positions_is_warned_of_once() -> None:
    with pytest.warns(UserWarning, match=r"2 of 2 rows: q .*longest sequence has 13\..*rotary") as said:
        check_positions([tree(3, 6), tree(3, 10)], LLAMA)
    assert len(said) == 1


def test_prompts_are_counted_with_what_is_drawn_to_them() -> None:
    check_positions([tree(3)], GPT2, new_tokens=5)
    with pytest.raises(
        ValueError,
        match=r"\(prompt 3, and 6 to be drawn\).* data\.max_prompt_tokens or model\.max_new_tokens$",
    ):
        check_positions([tree(3)], GPT2, new_tokens=6)


def test_a_model_without_positions_has_no_limit() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_positions([tree(3, 9000)], MptConfig())


def test_a_prompt_has_to_fit_into_the_cached_tokens_with_what_is_drawn_to_it() -> None:
    check_cached([tree(5), tree(30, 2)], 9, 4)  # a response that is given is not drawn
    with pytest.raises(ValueError) as caught:
        check_cached([tree(5), tree(6, name="long")], 9, 4, ["d.jsonl:1", "d.jsonl:2"])
    said = str(caught.value)
    assert said.startswith("model.max_cached_tokens: 9 cannot hold 1 of 2 rows: d.jsonl:2 with id long")
    assert "Raise it to 10, or lower data.max_prompt_tokens or model.max_new_tokens" in said

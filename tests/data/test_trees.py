"""Rows to trees: limits, windows, and the flat row."""

from __future__ import annotations

import math

import pytest
from transformers import PreTrainedTokenizerFast

from lit_rlhf.data.tokenization import TextEncoder, TokenizationError
from lit_rlhf.data.trees import pack_trees, plant_tree
from lit_rlhf.records import Comparison, Row, Tree
from tests.data.test_tokenization import QUESTION, TEMPLATE, TWO_ANSWERS, llama, make, spelled

PLAIN = TextEncoder(llama())
CHAT = TextEncoder(llama(TEMPLATE))


def test_pair_in_tokens() -> None:
    row = Row("a", ["b", "c"], [Comparison(0, 1)], domain="x", annotator="y", place="f:1")
    (tree,), lost = plant_tree(row, PLAIN)
    assert tree.prompt_ids == [0, 3]
    assert tree.response_ids == [[4, 1], [5, 1]]
    assert (tree.domain, tree.annotator, tree.id) == ("x", "y", "f:1")
    assert not any(vars(lost).values())


def test_prompt_is_cut_left_behind_its_bos() -> None:
    (tree,), lost = plant_tree(Row("a b c d", ["b"]), PLAIN, max_prompt_tokens=3)
    assert tree.prompt_ids == [0, 5, 6]
    assert lost.prompts == 1


def test_prompt_at_the_limit_is_not_cut() -> None:
    (tree,), lost = plant_tree(Row("a b", ["b"]), PLAIN, max_prompt_tokens=3)
    assert tree.prompt_ids == [0, 3, 4]
    assert lost.prompts == 0


def test_response_is_cut_right_and_loses_its_eos() -> None:
    (tree,), lost = plant_tree(Row("a", ["b c d", "b c"]), PLAIN, max_response_tokens=3)
    assert tree.response_ids == [[4, 5, 6], [4, 5, 1]]
    assert tree.response_masks == [[True] * 3] * 2
    assert lost.responses == 1


def test_comparison_of_what_became_identical_is_dropped_and_counted() -> None:
    row = Row("a", ["b c", "b d", "d"], [Comparison(0, 1), Comparison(0, 2)])
    (tree,), lost = plant_tree(row, PLAIN, max_response_tokens=1)
    assert tree.comparisons == [Comparison(0, 2)]
    assert lost.identical == 1


def test_conversation_loses_whole_turns_and_keeps_its_system_turn() -> None:
    prompt = [
        {"role": "system", "content": "d"},
        *QUESTION,
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    (tree,), lost = plant_tree(Row(prompt, ["b"]), CHAT, max_prompt_tokens=7)
    assert spelled(CHAT.tokenizer, tree.prompt_ids) == ["system:", "d", "user:", "c", "assistant:"]
    assert (lost.prompts, lost.messages) == (1, 2)


def test_demonstration_with_last_turn_only_has_the_others_in_its_prompt() -> None:
    (tree,), _ = plant_tree(Row(QUESTION, [TWO_ANSWERS]), CHAT, assistant_turns="last")
    shown = ["user:", "a", "assistant:", "b", "</s>", "user:", "c", "assistant:"]
    assert spelled(CHAT.tokenizer, tree.prompt_ids) == shown
    assert spelled(CHAT.tokenizer, tree.response_ids[0]) == ["d", "</s>"]


def test_turns_behind_the_last_answer_are_left_out_and_counted() -> None:
    turns = [*TWO_ANSWERS, {"role": "user", "content": "a"}]
    (tree,), lost = plant_tree(Row(QUESTION, [turns]), CHAT)
    assert spelled(CHAT.tokenizer, tree.response_ids[0])[-2:] == ["d", "</s>"]
    assert lost.unanswered == 1


def test_all_zero_mask_is_refused_with_the_rows_place() -> None:
    with pytest.raises(TokenizationError, match=r"^f\.jsonl:7: no token of the response would count"):
        plant_tree(Row(QUESTION, [[{"role": "user", "content": "b"}]], place="f.jsonl:7"), CHAT)


def test_missing_chat_template_is_refused_with_the_rows_place() -> None:
    with pytest.raises(TokenizationError, match=r"^f\.jsonl:7: the data holds conversations"):
        plant_tree(Row(QUESTION, ["b"], place="f.jsonl:7"), PLAIN)


def test_double_bos_is_counted_by_row() -> None:
    assert plant_tree(Row("<s> <s> a", ["b"]), PLAIN)[1].doubled_bos == 1
    assert plant_tree(Row("a", ["b"]), PLAIN)[1].doubled_bos == 0


def test_empty_prompt_without_bos_is_refused() -> None:
    with pytest.raises(TokenizationError, match="the prompt is empty"):
        plant_tree(Row("", ["b"]), TextEncoder(make(eos_token="</s>")))


def test_text_is_cut_into_windows_behind_the_bos() -> None:
    trees, lost = plant_tree(Row("", ["a b c d a"], is_text=True, id="t"), PLAIN, max_response_tokens=4)
    assert [tree.prompt_ids for tree in trees] == [[0], [0]]
    assert [tree.response_ids for tree in trees] == [[[3, 4, 5, 6]], [[3, 1]]]
    assert [tree.id for tree in trees] == ["t", "t#1"]
    assert lost.responses == 0


def test_text_without_bos_predicts_every_token_but_the_first_once() -> None:
    encoder = TextEncoder(make(eos_token="</s>"))
    trees, _ = plant_tree(Row("", ["a b c d"], is_text=True), encoder, max_response_tokens=2)
    assert [tree.prompt_ids for tree in trees] == [[3], [5]]
    assert [tree.response_ids for tree in trees] == [[[4, 5]], [[6, 1]]]


def test_packed_row_by_hand() -> None:
    trees = [
        Tree([10, 11], [[1, 2], [3]], [[False, True], [True]], [Comparison(1, 0, 0.5, 2.0, 3.0)], [2, 1]),
        Tree([12], [[4, 5, 6]], [[True] * 3], domain="d", annotator="a", id="x"),
    ]
    packed = pack_trees(trees, [7, 3])
    assert packed.input_ids.tolist() == [10, 11, 1, 2, 3, 12, 4, 5, 6]
    assert packed.position_ids.tolist() == [0, 1, 2, 3, 2, 0, 1, 2, 3]
    assert packed.response_index.tolist() == [-1, -1, 0, 0, 1, -1, 2, 2, 2]
    assert packed.response_mask.tolist() == [False, False, False, True, True, False, True, True, True]
    assert (packed.prompt_lengths, packed.response_lengths) == ([2, 1], [2, 1, 3])
    assert packed.segment_lengths == [2, 2, 1, 1, 3]
    assert packed.tree_index.tolist() == [0, 0, 1]
    assert (packed.better.tolist(), packed.worse.tolist()) == ([1], [0])
    assert (packed.target.tolist(), packed.margin.tolist(), packed.weight.tolist()) == ([0.5], [2.0], [3.0])
    assert packed.ranks[:2].tolist() == [2.0, 1.0]
    assert math.isnan(packed.ranks[2])
    assert (packed.domains, packed.annotators, packed.row_ids) == ([None, "d"], [None, "a"], ["", "x"])
    assert packed.row_indices.tolist() == [7, 3]


def test_comparisons_of_later_trees_point_behind_the_earlier_ones() -> None:
    tree = Tree([1], [[2], [3]], [[True], [True]], [Comparison(0, 1)])
    packed = pack_trees([tree, tree])
    assert (packed.better.tolist(), packed.worse.tolist()) == ([0, 2], [1, 3])
    assert packed.row_indices.tolist() == [-1, -1]


def test_prompts_alone_can_be_packed() -> None:
    packed = pack_trees([Tree([1, 2]), Tree([3])])
    assert packed.input_ids.tolist() == [1, 2, 3]
    assert (packed.num_trees, packed.num_responses, packed.segment_lengths) == (2, 0, [2, 1])
    assert packed.better.dtype == packed.tree_index.dtype == packed.input_ids.dtype


def test_empty_batch_and_empty_response_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one tree"):
        pack_trees([])
    with pytest.raises(ValueError, match="f:3: expected a token in the prompt and in every response"):
        pack_trees([Tree([1], [[]], [[]], id="f:3")])


def test_prompt_rows_give_trees_without_responses(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    (tree,), _ = plant_tree(Row("the soup"), TextEncoder(tiny_tokenizer))
    assert tree.response_ids == []
    assert tree.prompt_ids[0] == tiny_tokenizer.bos_token_id

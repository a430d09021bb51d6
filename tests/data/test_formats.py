"""Every layout as a row, and what is said of rows that are none."""

from __future__ import annotations

from typing import Any

import pytest

from lit_rlhf.data.formats import RowError, parse_row
from lit_rlhf.records import Comparison


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


# --- demonstrations ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": "p", "response": "r"},
        {"prompt": "p", "completion": "r"},
        {"instruction": "p", "input": "", "output": "r"},
        {"prompt": "p", "response": "r", "messages": [user("x"), assistant("y")], "text": "t"},
    ],
)
def test_plain_demonstrations(fields: dict[str, Any]) -> None:
    row = parse_row(fields, "demonstrations", "f:1")
    assert (row.prompt, row.responses, row.place) == ("p", ["r"], "f:1")


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": [user("p"), assistant("r")]},
        {"conversations": [{"from": "human", "value": "p"}, {"from": "gpt", "value": "r"}]},
        {"prompt": [user("p")], "completion": [assistant("r")]},
        {"prompt": "p", "completion": [assistant("r")]},
        {"prompt": "p", "completion": [user("p"), assistant("r")]},
        {"prompt": [user("p")], "completion": [user("p"), assistant("r")]},
        {"messages": [{**user("p"), "tool_calls": None}, assistant("r")], "text": None},
    ],
)
def test_demonstrations_as_conversations(fields: dict[str, Any]) -> None:
    row = parse_row(fields, "demonstrations", "f:1")
    assert (row.prompt, row.responses) == ([user("p")], [[assistant("r")]])


def test_messages_split_before_the_first_answer() -> None:
    turns = [user("1"), assistant("2"), user("3"), assistant("4")]
    row = parse_row({"messages": turns}, "demonstrations", "f:1")
    assert (row.prompt, row.responses) == (turns[:1], [turns[1:]])


def test_alpaca_input_system_and_history() -> None:
    row = parse_row({"instruction": "a", "input": "b", "output": "c"}, "demonstrations", "f:1")
    assert row.prompt == "a\nb"
    fields = {"instruction": "a", "output": "c", "system": "s", "history": [["h", "i"]]}
    row = parse_row(fields, "demonstrations", "f:1")
    assert row.prompt == [{"role": "system", "content": "s"}, user("h"), assistant("i"), user("a")]
    assert row.responses == ["c"]


def test_sharegpt_system_field() -> None:
    fields = {
        "system": "s",
        "conversations": [{"from": "human", "value": "p"}, {"from": "gpt", "value": "r"}],
    }
    row = parse_row(fields, "demonstrations", "f:1")
    assert row.prompt == [{"role": "system", "content": "s"}, user("p")]


def test_text_row() -> None:
    row = parse_row({"text": "long", "id": 4}, "demonstrations", "f:1")
    assert (row.prompt, row.responses, row.is_text, row.id) == ("", ["long"], True, "4")


# --- pairs ------------------------------------------------------------------------------------------


def test_pair_with_everything() -> None:
    fields = {
        **{"prompt": "p", "chosen": "c", "rejected": "r", "margin": 2, "weight": 0.5},
        **{"annotator": "ann", "domain": "d", "id": "i", "extra": 1},
    }
    row = parse_row(fields, "pairs", "f:1")
    assert row.comparisons == [Comparison(0, 1, 1.0, 2.0, 0.5)]
    assert (row.annotator, row.domain, row.id) == ("ann", "d", "i")
    assert (row.columns["extra"], row.ranks) == (1, None)


def test_tie_has_target_one_half() -> None:
    row = parse_row({"prompt": "p", "chosen": "c", "rejected": "r", "tie": True}, "pairs", "f:1")
    assert row.comparisons == [Comparison(0, 1, 0.5, tie=1.0)]


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"target": 0.8}, Comparison(0, 1, 0.8)),
        ({"target": 0.8, "margin": 2}, Comparison(0, 1, 0.8, margin=2.0)),
        ({"target": 0.25, "weight": 3}, Comparison(1, 0, 0.75, weight=3.0)),
        ({"target": 0.5}, Comparison(0, 1, 0.5)),
        ({"target": 0.5, "tie": True}, Comparison(0, 1, 0.5, tie=1.0)),
        ({"target": 1, "tie": False}, Comparison(0, 1)),
    ],
)
def test_target_of_a_pair(said: dict[str, Any], expected: Comparison) -> None:
    """The better one is the one that is likelier better: below 1/2 that is the rejected one."""
    row = parse_row({"prompt": "p", "chosen": "c", "rejected": "r", **said}, "pairs", "f:1")
    assert row.comparisons == [expected]


HH = "\n\nHuman: hi\n\nAssistant: yes\n\nHuman: more\n\nAssistant:"


@pytest.mark.parametrize(
    ("fields", "prompt", "responses"),
    [
        ({"chosen": HH + " good", "rejected": HH + " gone"}, HH, [" good", " gone"]),
        (
            {"chosen": [user("p"), assistant("c")], "rejected": [user("p"), assistant("r")]},
            [user("p")],
            [[assistant("c")], [assistant("r")]],
        ),
        (
            {"prompt": "p", "chosen": [user("p"), assistant("c")], "rejected": [user("p"), assistant("r")]},
            [user("p")],
            [[assistant("c")], [assistant("r")]],
        ),
        (
            {"prompt": [user("p")], "chosen": [assistant("c")], "rejected": [assistant("r")]},
            [user("p")],
            [[assistant("c")], [assistant("r")]],
        ),
        (
            {
                "conversations": [{"from": "human", "value": "p"}],
                "chosen": {"from": "gpt", "value": "c"},
                "rejected": {"from": "gpt", "value": "r"},
            },
            [user("p")],
            [[assistant("c")], [assistant("r")]],
        ),
        ({"instruction": "p", "chosen_response": "c", "rejected_response": "r"}, "p", ["c", "r"]),
        ({"question": "p", "chosen": "c", "rejected": "r"}, "p", ["c", "r"]),
    ],
)
def test_pair_layouts(fields: dict[str, Any], prompt: Any, responses: list[Any]) -> None:
    row = parse_row(fields, "pairs", "f:1")
    assert (row.prompt, row.responses) == (prompt, responses)
    assert row.comparisons == [Comparison(0, 1)]


# --- rankings ---------------------------------------------------------------------------------------


def ranking(**judgement: Any) -> dict[str, Any]:
    return {"prompt": "p", "responses": ["a", "b", "c"], **judgement}


@pytest.mark.parametrize(
    ("judgement", "ranks", "pairs"),
    [
        ({"ranks": [2, 1, 3]}, [2, 1, 3], {(0, 2), (1, 0), (1, 2)}),
        ({"ranks": [1, 1, 2]}, [1, 1, 2], {(0, 2), (1, 2)}),
        ({"ranks": [2, None, 1]}, [2, None, 1], {(2, 0)}),
        ({"scores": [0.1, 0.9, 0.1]}, [2, 1, 2], {(1, 0), (1, 2)}),
        ({"scores": [0.1, None, 0.3]}, [2, None, 1], {(2, 0)}),
        ({"ranking": [[2], [0, 1]]}, [2, 2, 1], {(2, 0), (2, 1)}),
        ({"ranking": [[0, 1], [2]]}, [1, 1, 3], {(0, 2), (1, 2)}),
        ({"ranking": [1, 0]}, [2, 1, None], {(1, 0)}),
        ({"ranking": [[0], [1]], "ranks": [1, 2, 3]}, [1, 2, None], {(0, 1)}),
        ({"ranks": [1, 1, 2], "scores": [3.0, 2.9, 1]}, [1, 1, 2], {(0, 2), (1, 2)}),
        ({"ranks": [1, 1, 1]}, [1, 1, 1], set()),
    ],
)
def test_rankings(judgement: dict[str, Any], ranks: list[float | None], pairs: set[tuple[int, int]]) -> None:
    row = parse_row(ranking(**judgement), "rankings", "f:1")
    assert row.ranks == ranks
    strict = [c for c in row.comparisons if not c.tie]
    assert {(c.better, c.worse) for c in strict} == pairs
    assert len(strict) == len(pairs)
    assert all((c.target, c.weight) == (1.0, 1.0) for c in strict)
    judged = sum(rank is not None for rank in ranks)
    assert len(row.comparisons) == judged * (judged - 1) // 2
    assert row.ratings == judgement.get("scores")


def test_a_rankings_weight_is_that_of_each_of_its_comparisons() -> None:
    row = parse_row(ranking(ranks=[1, 1, 2], weight=0.5), "rankings", "f:1")
    assert len(row.comparisons) == 3
    assert {c.weight for c in row.comparisons} == {0.5}


@pytest.mark.parametrize(
    ("ranks", "ties"),
    [
        ([1, 1, 2], {(0, 1)}),
        ([2, None, 2], {(0, 2)}),
        ([1, 1, 1], {(0, 1), (0, 2), (1, 2)}),
        ([1, None, 2], set()),
    ],
)
def test_tied_responses_are_compared_half_and_half(
    ranks: list[float | None], ties: set[tuple[int, int]]
) -> None:
    row = parse_row(ranking(ranks=ranks), "rankings", "f:1")
    tied = [c for c in row.comparisons if c.tie]
    assert {(c.better, c.worse) for c in tied} == ties
    assert all((c.target, c.tie, c.weight) == (0.5, 1.0, 1.0) for c in tied)


def test_one_rated_response_is_a_rating_and_one_ranked_response_is_nothing() -> None:
    row = parse_row({"prompt": "p", "responses": ["a"], "scores": [3]}, "rankings", "f:1")
    assert (row.ratings, row.comparisons) == ([3.0], [])


def test_nectar() -> None:
    answers = [{"answer": "a", "rank": 2.0, "model": "m"}, {"answer": "b", "rank": 1.0, "model": "n"}]
    row = parse_row({"prompt": "p", "answers": answers}, "rankings", "f:1")
    assert (row.responses, row.ranks, row.comparisons) == (["a", "b"], [2, 1], [Comparison(1, 0)])


def test_ultrafeedback_takes_the_mean_rating_before_the_overall_score() -> None:
    def completion(text: str, first: str, second: str, overall: float) -> dict[str, Any]:
        annotations = {"honesty": {"Rating": first}, "helpfulness": {"Rating": second}}
        return {"response": text, "annotations": annotations, "overall_score": overall}

    completions = [
        completion("a", "1", "2", 10),
        completion("b", "4", "N/A", 5),
        completion("c", "3", "5", 6),
    ]
    row = parse_row({"instruction": "p", "completions": completions}, "rankings", "f:1")
    assert (row.prompt, row.ranks, row.ratings) == ("p", [3, 1, 1], [1.5, 4.0, 4.0])
    for item in completions:
        del item["annotations"]
    row = parse_row({"instruction": "p", "completions": completions}, "rankings", "f:1")
    assert row.ranks == [1, 3, 2]


# --- prompts, candidates ----------------------------------------------------------------------------


def test_prompt_row_keeps_every_other_field() -> None:
    fields = {"prompt": "p", "gold": {"x": 1}, "domain": "d", "none": None}
    row = parse_row(fields, "prompts", "f:1")
    assert (row.prompt, row.responses) == ("p", [])
    assert row.columns == {"gold": {"x": 1}, "domain": "d", "none": None}


def test_prompt_of_a_conversation_ends_before_the_answer() -> None:
    row = parse_row({"messages": [user("p"), assistant("r")]}, "prompts", "f:1")
    assert row.prompt == [user("p")]


@pytest.mark.parametrize(
    ("fields", "responses"),
    [
        ({"prompt": "p"}, []),
        ({"prompt": "p", "response": "a"}, ["a"]),
        ({"prompt": "p", "chosen": "a", "rejected": "b"}, ["a", "b"]),
        ({"prompt": "p", "responses": ["a"]}, ["a"]),
        ({"prompt": "p", "responses": ["a", "b"], "ranks": [1, 2]}, ["a", "b"]),
    ],
)
def test_candidates_need_no_judgement(fields: dict[str, Any], responses: list[str]) -> None:
    assert parse_row(fields, "candidates", "f:1").responses == responses


# --- bad rows ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        ("pairs", [1], "f:3: expected an object with named fields, found [1]"),
        (
            "pairs",
            {"prompt": "p", "chosen": "c"},
            "`prompt`, `chosen` and `rejected`, or `prompt`, `response` and `label`, found fields `prompt`, `chosen`",
        ),
        (
            "pairs",
            {"prompt": "p", "chosen": "c", "rejected": 3},
            "`rejected` to be text or a list of messages, found 3",
        ),
        ("pairs", {"prompt": "p", "chosen": "c", "rejected": "c"}, "two different responses, found"),
        (
            "pairs",
            {"prompt": "p", "chosen": "c", "rejected": "r", "margin": "x"},
            "`margin` to be a number, found 'x'",
        ),
        (
            "pairs",
            {"prompt": "p", "chosen": "c", "rejected": "r", "margin": float("nan")},
            "`margin` to be a number",
        ),
        (
            "rankings",
            {"prompt": "p", "responses": ["a", "b"], "ranks": [1, 2], "weight": "x"},
            "`weight` to be a number, found 'x'",
        ),
        (
            "rankings",
            {"prompt": "p", "responses": ["a"], "scores": [1], "weight": 2},
            "no `weight` on one rated response, found 2.0",
        ),
        (
            "pairs",
            {"prompt": "p", "chosen": "c", "rejected": "r", "weight": -1},
            "`weight` of 0 or more, found -1",
        ),
        (
            "pairs",
            {"prompt": "p", "chosen": "c", "rejected": "r", "tie": 1},
            "`tie` to be true or false, found 1",
        ),
        (
            "pairs",
            {"prompt": "p", "chosen": "c", "rejected": "r", "tie": True, "margin": 1},
            "no `margin` in a tie",
        ),
        (
            "pairs",
            {"prompt": "p", "chosen": "c", "rejected": "r", "target": 1.2},
            "`target` to be a probability, from 0 to 1, found 1.2",
        ),
        (
            "pairs",
            {"prompt": "p", "chosen": "c", "rejected": "r", "target": 0.9, "tie": True},
            "`target` 0.5 or none in a tie, found 0.9",
        ),
        (
            "pairs",
            {"prompt": "p", "chosen": "c", "rejected": "r", "target": 0.3, "margin": 1},
            "no `margin` where `target` takes `rejected` for the better one, found 1.0 with 0.3",
        ),
        ("pairs", {"chosen": "abc", "rejected": "abd"}, "a `prompt`, or whole conversations"),
        (
            "pairs",
            {"chosen": [user("p"), assistant("c")], "rejected": [user("q"), assistant("r")]},
            "common beginning",
        ),
        (
            "pairs",
            {"prompt": "q", "chosen": [user("p"), assistant("c")], "rejected": [user("p"), assistant("r")]},
            "to repeat `prompt`",
        ),
        (
            "demonstrations",
            {"messages": [user("p")]},
            "an assistant turn in `messages`, found roles ['user']",
        ),
        (
            "demonstrations",
            {"messages": [{"role": "user"}]},
            "`messages[0]` to be {role, content}, both text",
        ),
        ("demonstrations", {"text": ""}, "some `text`, found an empty string"),
        (
            "demonstrations",
            {"prompt": "p", "text": "t"},
            "expected `prompt` with `response`, or `text` alone, found `text` beside `prompt`",
        ),
        ("demonstrations", {"completion": "r", "text": "t"}, "found `text` beside `response`"),
        (
            "demonstrations",
            {"prompt": "p"},
            "`prompt` and `response`, or `messages`, or `text`, found fields `prompt`",
        ),
        ("demonstrations", {"system": "s", "conversations": 3}, "found a layout that cannot be read"),
        ("rankings", ranking(), "one of `ranking`, `ranks`, `scores`, found fields `prompt`, `responses`"),
        ("rankings", ranking(ranks=[1, 2]), "`ranks` with 3 values, one a response, found 2 values"),
        ("rankings", ranking(ranks=[1, 2, "x"]), "`ranks` to hold numbers or null, found 'x'"),
        ("rankings", ranking(ranking=[[0], [0]]), "each once, found [[0], [0]]"),
        ("rankings", ranking(ranking=[[3]]), "response indices from 0 to 2"),
        ("rankings", ranking(ranking=[[-1]]), "response indices from 0 to 2"),
        (
            "rankings",
            ranking(ranks=[1, 2, 3], scores=[1, 2, 0]),
            "`ranks` and `scores` to agree, found response 0 before 1",
        ),
        ("rankings", ranking(ranking=[[0], [1]], ranks=[2, 1, 3]), "`ranking` and `ranks` to agree"),
        ("rankings", {"prompt": "p", "responses": ["a"], "ranks": [1]}, "two or more responses, found one"),
        (
            "rankings",
            {"prompt": "p", "responses": "a", "ranks": [1]},
            "`responses` to be a list of responses, found 'a'",
        ),
        ("prompts", {"question_text": "p"}, "`prompt`, found fields `question_text`"),
        ("prompts", {"prompt": "p", "domain": ["x"]}, "`domain` to be text, found ['x']"),
    ],
)
def test_bad_rows(kind: Any, fields: Any, message: str) -> None:
    with pytest.raises(RowError) as caught:
        parse_row(fields, kind, "f:3")
    assert str(caught.value).startswith("f:3: expected ")
    assert message in str(caught.value)

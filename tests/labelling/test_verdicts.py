"""What is a verdict and what is none, and one said of positions is said of the right responses."""

from __future__ import annotations

from itertools import permutations

import pytest

from lit_rlhf.labelling.items import Item, Task, shown_order
from lit_rlhf.labelling.verdicts import Verdict, VerdictError, parse_verdict, renumbered

GOOD = [
    ({"ranking": [[1], [0]], "strength": "slightly"}, "pairwise", 2),
    ({"ranking": [[0], [1]], "strength": "better"}, "pairwise", 2),
    ({"ranking": [[0, 1]]}, "pairwise", 2),
    ({"ranking": [[0, 1]], "both_bad": True}, "pairwise", 2),
    ({"ranking": [[2], [0, 1]]}, "ranking", 3),
    ({"ratings": [5, 1]}, "rating", 2),
    ({"rewrite": "better so", "rewrite_of": 0}, "rewrite", 2),
    ({"rewrite": "better so", "rewrite_of": 1}, "rewrite", 2),
    ({"skip": "no idea"}, "pairwise", 2),
    ({"skip": "no idea"}, "rewrite", 1),
]
BAD = [
    ([], "pairwise", 2, "expected an object"),
    ({"ranking": [[0], [1]]}, "pairwise", 2, "strength: expected better or slightly"),
    ({"ranking": [[0, 1]], "strength": "better"}, "pairwise", 2, "none in a tie"),
    ({"ranking": [[0], [1]], "strength": "better", "both_bad": True}, "pairwise", 2, "both_bad"),
    ({"ranking": [[0], [0]], "strength": "better"}, "pairwise", 2, "each once"),
    ({"ranking": [[0], [1], []]}, "ranking", 2, "each once"),
    ({"ranking": [[0], [1.0]]}, "ranking", 2, "each once"),
    ({"ranking": [[True], [0]]}, "ranking", 2, "each once"),
    ({"ranking": "01"}, "ranking", 2, "each once"),
    ({"ranking": [[0], [1]]}, "ranking", 3, "numbers 0 to 2"),
    ({"ranking": [[0], [1]], "strength": "better"}, "ranking", 2, "found 'strength'"),
    ({"ratings": [0, 3]}, "rating", 2, "from 1 to 5"),
    ({"ratings": [6, 3]}, "rating", 2, "from 1 to 5"),
    ({"ratings": [3]}, "rating", 2, "expected 2 numbers"),
    ({"ratings": [True, 3]}, "rating", 2, "from 1 to 5"),
    ({"rewrite": "  "}, "rewrite", 1, "expected some text"),
    ({"rewrite": "x" * 200_001}, "rewrite", 1, "at most 200,000"),
    ({"rewrite": "x", "rewrite_of": 1}, "rewrite", 1, "from 0 to 0"),
    ({"skip": ""}, "ranking", 2, "expected some text"),
    ({"skip": "x", "ranking": [[0], [1]]}, "ranking", 2, "nothing beside"),
    ({}, "rating", 1, "ratings"),
]


@pytest.mark.parametrize(("content", "mode", "responses"), GOOD)
def test_a_verdict_is_what_was_written(content, mode, responses):
    verdict = parse_verdict(content, mode, responses)
    assert verdict.to_json() == content
    assert parse_verdict(verdict.to_json(), mode, responses) == verdict


@pytest.mark.parametrize(("content", "mode", "responses", "message"), BAD)
def test_what_is_none_is_refused(content, mode, responses, message):
    with pytest.raises(VerdictError, match=message):
        parse_verdict(content, mode, responses)


def test_ranks_leave_room_behind_a_tie():
    assert Verdict(ranking=((3,), (0, 2), (1,))).ranks() == [2, 4, 2, 1]
    assert Verdict(ratings=(3, 5, 3, 1)).ranks() == [2, 1, 2, 4]
    assert Verdict(skip="?").ranks() is None


def test_choice_of_two():
    assert Verdict(ranking=((0,), (1,)), strength="better").choice() == 1.0
    assert Verdict(ranking=((1,), (0,)), strength="slightly").choice() == 0.0
    assert Verdict(ranking=((0, 1),)).choice() == 0.5
    assert Verdict(ranking=((0, 1, 2),)).choice() is None
    assert Verdict(skip="?").choice() is None


def test_renumbering_moves_every_part():
    said = Verdict(ranking=((2,), (0,), (1,)), ratings=(1, 2, 3), rewrite="x", rewrite_of=2)
    moved = renumbered(said, {0: [1], 1: [2], 2: [0]})
    assert moved == Verdict(ranking=((0,), (1,), (2,)), ratings=(3, 1, 2), rewrite="x", rewrite_of=0)


@pytest.mark.parametrize("order", list(permutations((0, 1, 3))))
def test_positions_and_indices_are_one_another_s_reverse(order):
    item = Item("ranking", "p", ("a", "b", "a", "c"))
    task = Task(1, item, "ann", "label", order)
    said = Verdict(ranking=((2,), (0, 1)))
    by_index = task.by_index(said)
    best = item.responses[order[2]]
    assert {item.responses[index] for index in by_index.ranking[0]} == {best}
    assert sorted(index for group in by_index.ranking for index in group) == [0, 1, 2, 3]
    assert task.by_position(by_index) == said
    ratings = task.by_index(Verdict(ratings=(1, 2, 3)))
    assert [ratings.ratings[index] for index in order] == [1, 2, 3]
    assert ratings.ratings[0] == ratings.ratings[2]  # identical responses
    assert task.by_position(ratings) == Verdict(ratings=(1, 2, 3))


def test_orders_are_fair_and_fixed():
    items = [Item("ranking", f"p{number}", ("a", "b", "c")) for number in range(600)]
    first = [shown_order(item, "ann", 0)[0] for item in items]
    assert all(150 < first.count(index) < 250 for index in range(3))
    assert [shown_order(item, "ann", 0)[0] for item in items] == first
    assert [shown_order(item, "bob", 0)[0] for item in items] != first
    assert [shown_order(item, "ann", 1)[0] for item in items] != first


def test_only_distinct_responses_are_shown():
    item = Item("ranking", "p", ("a", "b", "a", "c", "b"))
    assert sorted(shown_order(item, "ann", 0)) == [0, 1, 3]


def test_two_items_are_one_where_they_ask_the_same():
    item = Item("pairwise", "p", ("a", "b"), row_id="1", models=("x", "y"))
    assert item.key == Item("pairwise", "p", ("a", "b"), row_id="2").key
    others = [
        Item("ranking", "p", ("a", "b")),
        Item("pairwise", "q", ("a", "b")),
        Item("pairwise", "p", ("a", "b"), gold=Verdict(ranking=((0, 1),))),
    ]
    assert len({item.key, *(other.key for other in others)}) == 4
    assert item.key == Item("pairwise", "p", ("b", "a")).key
    assert item.key == Item("pairwise", [{"role": "user", "content": "p"}], ("a", "b")).key
    assert Item("ranking", "p", ("a", "a", "b")).key != Item("ranking", "p", ("a", "b", "b")).key


def test_a_known_answer_is_right_or_not():
    order = Item("ranking", "p", ("a", "b", "a", "c"), gold=Verdict(ranking=((0,), (1,), (2, 3))))
    said = Verdict(ranking=((0, 2), (1,), (3,)))  # the two that are the same cannot be told apart
    assert order.is_right(said)
    assert not order.is_right(Verdict(ranking=((0, 2), (1, 3))))
    assert not order.is_right(Verdict(skip="?"))
    pair = Item("pairwise", "p", ("a", "b"), gold=Verdict(ranking=((1,), (0,)), strength="better"))
    assert pair.is_right(Verdict(ranking=((1,), (0,)), strength="slightly"))
    assert not pair.is_right(Verdict(ranking=((0, 1),)))
    bad = Item("pairwise", "p", ("a", "b"), gold=Verdict(ranking=((0, 1),), both_bad=True))
    assert bad.is_right(Verdict(ranking=((0, 1),), both_bad=True))
    assert not bad.is_right(Verdict(ranking=((0, 1),)))
    rated = Item("rating", "p", ("a",), gold=Verdict(ratings=(4,)))
    assert rated.is_right(Verdict(ratings=(4,))) and not rated.is_right(Verdict(ratings=(5,)))

"""What decides beside the responses, annotators against themselves and the others, times, skips and flags."""

from dataclasses import replace

import pytest

from lit_rlhf.labelling import agreement
from lit_rlhf.labelling.agreement import describe_judgements
from lit_rlhf.labelling.items import Item
from lit_rlhf.labelling.verdicts import Verdict
from tests.labelling.agreement_cases import (
    LETTERS,
    by_name,
    pair,
    pairs_of,
    ranked,
    said,
    several,
    values,
)


def only_mode(judgements, machines=()):
    (mode,) = describe_judgements(judgements, dict.fromkeys(machines, "rule"))["modes"]
    return mode


def rows_of(mode):
    return {row["annotator"]: values(row["measures"]) for row in mode["by_annotator"]}


def test_share_of_what_is_shown_first_is_of_decided_pairs() -> None:
    # first by its position: yes, no, yes, a tie, no
    judgements = [
        said(pair(1), "A", shown=(0, 1)),
        said(pair(2), "a", shown=(1, 0)),
        said(pair(3), "B", shown=(1, 0)),
        said(pair(4), "=", shown=(0, 1)),
        said(pair(5), "b", shown=(0, 1)),
    ]
    found = by_name(only_mode(judgements)["bias"])["first_shown_wins"]
    assert (found["value"], found["count"], found["unit"]) == (0.5, 4, "judgements")
    # Wilson, of two in four
    assert (found["low"], found["high"]) == pytest.approx((0.1500389892858181, 0.8499610107141819))


def test_an_order_that_is_not_known_says_nothing_of_position() -> None:
    known = said(pair(1), "A", shown=(0, 1))
    unknown = [said(pair(2), "A", shown=()), said(pair(3), "A", shown=())]
    found = by_name(only_mode([known, *unknown])["bias"])
    assert (found["first_shown_wins"]["value"], found["first_shown_wins"]["count"]) == (1, 1)
    nothing = by_name(only_mode(unknown)["bias"])["first_shown_wins"]
    assert (nothing["value"], nothing["why"]) == (None, "no pair of a known order is decided")
    ranking = said(several(4, 3), ranked("123"), shown=())
    assert only_mode([ranking])["mean_ranks"] == []


def test_positions_of_rankings() -> None:
    # the responses at positions 1, 2, 3 have the ranks 1, 2.5, 2.5 and 3, 1, 2
    judgements = [
        said(several(1, 3), ranked("212"), shown=(1, 0, 2)),
        said(several(2, 3), ranked("231"), shown=(1, 2, 0)),
        said(several(3, 2), ranked("12"), shown=(0, 1)),
    ]
    mode = only_mode(judgements)
    assert mode["mean_ranks"] == [
        {"responses": 2, "judgements": 1, "by_position": [1.0, 2.0]},
        {"responses": 3, "judgements": 2, "by_position": [2.0, 1.75, 2.25]},
    ]
    found = by_name(mode["bias"])["first_shown_wins"]
    # won by the earlier one: 2 of 2 decided pairs, 1 of 3, 1 of 1
    assert (found["value"], found["count"], found["unit"]) == (pytest.approx(4 / 6), 6, "pairs of responses")


def test_share_of_the_longer_response_and_correlation_with_length() -> None:
    judgements = [
        said(pair(1, "long", "x"), "A"),
        said(pair(2, "long", "x"), "B"),
        said(pair(3, "x", "longer"), "b"),
        said(pair(4, "as", "so"), "A"),
        said(pair(5, "x", "longer"), "="),
    ]
    found = by_name(only_mode(judgements)["bias"])
    assert (found["longer_wins"]["value"], found["longer_wins"]["count"]) == (pytest.approx(2 / 3), 3)
    # half differences of quality: 1/2, -1/2, -1/2, 1/2, 0; of length: 3/2, 3/2, -5/2, 0, -5/2
    quality, length = [0.5, -0.5, -0.5, 0.5, 0], [1.5, 1.5, -2.5, 0, -2.5]
    products = sum(a * b for a, b in zip(quality, length, strict=True))
    norm = (sum(a * a for a in quality) * sum(b * b for b in length)) ** 0.5
    assert found["length_correlation"]["value"] == pytest.approx(products / norm)
    alike = by_name(only_mode(judgements[3:4])["bias"])
    assert alike["length_correlation"]["why"] == "quality or length does not vary"
    assert alike["longer_wins"]["why"] == "no pair of different lengths is decided"


def test_length_goes_with_rating_within_an_item_and_not_between_items() -> None:
    first = Item("rating", "p", ("x", "xxx", "xx"), number=1)
    second = Item("rating", "p", ("x" * 100, "x" * 102, "x" * 101), number=2)
    up = [said(first, Verdict(ratings=(3, 5, 4))), said(second, Verdict(ratings=(1, 3, 2)))]
    found = values(only_mode(up)["bias"])
    assert found["length_correlation"] == pytest.approx(1)
    assert found["longer_wins"] == 1
    down = [said(second, Verdict(ratings=(3, 1, 2)), "bob"), *up[:1]]
    assert values(only_mode(down)["bias"])["length_correlation"] == pytest.approx(0)


def test_asked_again_in_the_same_and_in_the_reverse_order() -> None:
    first = [said(pair(number), letter, shown=(0, 1)) for number, letter in enumerate("AAaB=A", 1)]
    again = [
        said(pair(1), "A", kind="repeat", shown=(0, 1)),
        said(pair(2), "a", kind="repeat", shown=(0, 1)),
        said(pair(3), "A", kind="swap", shown=(1, 0)),  # the same response, slightly or not
        said(pair(4), "A", kind="swap", shown=(1, 0)),  # second both times
        said(pair(5), "A", kind="swap", shown=(1, 0)),  # a tie before
        said(pair(6), "A", kind="swap", shown=(0, 1)),  # not in the reverse order
        said(pair(1), "B", "bob", kind="swap", shown=(1, 0)),  # he was never asked before
        said(pair(7), "A", shown=()),
        said(pair(7), "A", kind="swap", shown=()),  # an order that is not known
    ]
    found = by_name(only_mode(first + again)["checks"])
    assert (found["repeat_same"]["value"], found["repeat_same"]["count"]) == (0.5, 2)
    assert (found["swap_same"]["value"], found["swap_same"]["count"]) == (0.4, 5)
    assert (found["swap_same_response"]["value"], found["swap_same_response"]["count"]) == (0.5, 2)
    assert (found["swap_same_position"]["value"], found["swap_same_position"]["count"]) == (0.5, 2)
    nothing = by_name(only_mode(first)["checks"])
    assert nothing["swap_same_response"]["why"] == "no pair was decided in both orders"
    assert nothing["repeat_same"]["why"] == "nothing was asked again"


def test_rankings_asked_again_are_compared_pair_by_pair() -> None:
    item = several(1, 3)
    judgements = [
        said(item, ranked("123"), shown=(0, 1, 2)),
        said(item, ranked("132"), kind="swap", shown=(2, 1, 0)),
    ]
    found = by_name(only_mode(judgements)["checks"])
    assert found["swap_same"]["value"] == 0
    assert found["swap_same_response"]["value"] == pytest.approx(2 / 3)
    assert found["swap_same_position"]["value"] == pytest.approx(1 / 3)
    assert (found["swap_same_response"]["count"], found["swap_same_response"]["unit"]) == (
        3,
        "pairs of responses",
    )


def test_an_item_of_identical_responses_is_no_consistency_and_no_test() -> None:
    same = Item("pairwise", "p", ("text", "text"), number=1)
    gold = replace(same, number=2, gold=LETTERS["="])
    judgements = [said(same, "="), said(same, "=", kind="repeat"), said(gold, "=", kind="gold")]
    mode = only_mode(judgements)
    assert [one["count"] for one in mode["checks"]] == [0] * 5
    assert not any(one["value"] for one in mode["by_annotator"][0]["measures"])


def test_known_answers_are_order_and_ties_of_what_is_told_apart() -> None:
    judgements = [
        said(pair(1, gold=LETTERS["A"]), "a", kind="gold"),  # right, strength aside
        said(pair(2, gold=LETTERS["A"]), "B", kind="gold"),
        said(pair(3, gold=LETTERS["="]), "!", kind="gold"),  # a tie
        said(pair(4, gold=LETTERS["!"]), "=", kind="gold"),  # not said to be bad
        said(pair(5, gold=LETTERS["!"]), "!", kind="gold"),
        said(pair(6, gold=LETTERS["A"]), "A", kind="practice"),  # an exercise
        said(pair(7, gold=LETTERS["A"]), "?", kind="gold"),  # skipped
        said(pair(8, gold=Verdict(skip="broken")), "A", kind="gold"),  # no order to compare with
    ]
    found = by_name(only_mode(judgements)["checks"])["gold"]
    assert (found["value"], found["count"]) == (0.6, 5)
    # the file tells two identical responses apart, which nobody can see
    doubled = Item("ranking", "p", ("a", "b", "b"), number=9, gold=ranked("123"))
    assert values(only_mode([said(doubled, ranked("122"), kind="gold")])["checks"])["gold"] == 1
    rated = several(1, 2, "rating", gold=Verdict(ratings=(2, 4)))
    told = [said(rated, Verdict(ratings=(2, one)), name, "gold") for one, name in ((4, "ann"), (5, "bob"))]
    assert values(only_mode(told)["checks"])["gold"] == 0.5
    assert {name: row["gold"] for name, row in rows_of(only_mode(told)).items()} == {"ann": 1, "bob": 0}


def test_an_annotator_against_the_majority_of_the_others() -> None:
    # ann, bob, cid; each against the two others: ties of theirs are left out, a tie of hers is half right
    rows = rows_of(only_mode(pairs_of("AAA", "BAA", "=bb", "AB=")))
    # ann: right, wrong, half, (B and =: B leads) wrong
    assert rows["ann"]["with_others"] == pytest.approx(1.5 / 4)
    # bob: right, (B and A: none), (= and b) right, (A and =) wrong
    assert rows["bob"]["with_others"] == pytest.approx(2 / 3)
    # cid: right, (none), right, (none)
    assert rows["cid"]["with_others"] == 1
    alone = only_mode(pairs_of("A"))["by_annotator"][0]["measures"][0]
    assert (alone["value"], alone["why"]) == (None, "the others have no majority on her items")


def test_rankings_against_the_others_pair_by_pair() -> None:
    judgements = [said(several(1, 3), ranked(ranks), name) for ranks, name in
                  (("123", "ann"), ("132", "bob"), ("123", "cid"))]  # fmt: skip
    rows = rows_of(only_mode(judgements))
    # of ann's three pairs the others are of two minds about one; bob is against both there
    assert rows["ann"]["with_others"] == 1
    assert rows["bob"]["with_others"] == pytest.approx(2 / 3)


def test_ratings_against_the_mean_of_the_others() -> None:
    item = several(1, 2, "rating")
    given = {"ann": (5, 1), "bob": (3, 2), "rule": (1, 1)}
    judgements = [said(item, Verdict(ratings=ratings), name) for name, ratings in given.items()]
    rows = rows_of(only_mode(judgements, ["rule"]))
    assert (rows["ann"]["difference"], rows["ann"]["distance"]) == (0.5, 1.5)  # against bob: 2 and -1
    assert (rows["bob"]["difference"], rows["bob"]["distance"]) == (-0.5, 1.5)
    assert (rows["rule"]["difference"], rows["rule"]["distance"]) == (-1.75, 1.75)  # against 4 and 1.5
    alone = by_name(only_mode(judgements[:1])["by_annotator"][0]["measures"])
    assert alone["difference"]["why"] == alone["distance"]["why"] == "nobody else rated her items"


def test_each_annotator_has_biases_of_her_own() -> None:
    judgements = [
        said(pair(1, "long", "x"), "A", shown=(0, 1)),
        said(pair(2, "long", "x"), "B", "bob", shown=(0, 1)),
    ]
    rows = rows_of(only_mode(judgements))
    assert (rows["ann"]["first_shown_wins"], rows["ann"]["longer_wins"]) == (1, 1)
    assert (rows["bob"]["first_shown_wins"], rows["bob"]["longer_wins"]) == (0, 0)


def test_times_skips_and_ties_that_are_bad() -> None:
    judgements = [said(pair(n), "A", seconds=seconds) for n, seconds in enumerate((10, 20, 40, 80, None), 1)]
    judgements += [
        said(pair(6), "?", seconds=1),
        said(pair(7), "!", "bob", seconds=30, flag="cut off"),
        said(pair(7), "A", "bob", "repeat", seconds=500, flag="again"),
        said(pair(8), "A", "rule", seconds=0.1),
    ]
    described = describe_judgements(judgements, {"rule": "a rule"})
    (mode,) = described["modes"]
    # of 10, 20, 30, 40, 80
    assert mode["seconds"] == {"count": 5, "lower": 20, "median": 30, "upper": 40}
    assert (mode["judgements"], mode["skips"], mode["both_bad"]) == (6, 1, 1)
    ann, bob, rule = mode["by_annotator"]
    assert ann["seconds"] == {"count": 4, "lower": 17.5, "median": 30, "upper": 50}
    assert (ann["judgements"], ann["skips"], ann["flags"], ann["both_bad"]) == (5, 1, 0, 0)
    assert (bob["judgements"], bob["flags"], bob["both_bad"]) == (1, 2, 1)
    assert rule["seconds"]["median"] == pytest.approx(0.1)
    assert described["skips"] == [{"reason": "not my language", "count": 1}]
    assert described["flags"] == [{"item": 7, "annotator": "bob", "text": "cut off"}]


def test_what_is_not_listed_is_counted(monkeypatch) -> None:
    monkeypatch.setattr(agreement, "MOST_FLAGS", 2)
    monkeypatch.setattr(agreement, "MOST_REASONS", 1)
    judgements = [said(pair(number), "A", flag=f"flag {number}") for number in range(5)]
    judgements += [
        said(pair(number), Verdict(skip=why)) for number, why in enumerate(["a", "b", "b", "c"], 5)
    ]
    described = describe_judgements(judgements, {})
    assert [one["text"] for one in described["flags"]] == ["flag 0", "flag 1"]
    assert described["flags_left_out"] == 3
    assert described["skips"] == [{"reason": "b", "count": 2}]
    assert described["skips_left_out"] == 2


def test_who_only_skipped_has_a_row_and_nothing_is_agreed() -> None:
    mode = only_mode([said(pair(1), "?")])
    assert (mode["judgements"], mode["skips"], mode["agreement"], mode["seconds"]) == (0, 1, [], None)
    assert (mode["by_annotator"][0]["annotator"], mode["by_annotator"][0]["skips"]) == ("ann", 1)
    assert describe_judgements([replace(said(pair(1), "A"), verdict=None)], {})["modes"] == []


def of_a_fair_coin(kind="label", heads=34, tails=26, annotators=("ann", "bob", "cid", "dee")):
    """Items on which all are of one mind: in some the longer response wins, shown first, and in others the other."""
    gold = {} if kind == "label" else {"gold": LETTERS["A"]}
    return [
        said(pair(number, "long", "x", **gold), "A" if number < heads else "B", name, kind, shown=(0, 1))
        for number in range(heads + tails)
        for name in annotators
    ]


def test_what_several_say_of_one_item_is_no_more_evidence_than_the_item() -> None:
    mode = only_mode([*of_a_fair_coin(), *of_a_fair_coin("gold")])
    found = by_name([*mode["bias"], *mode["checks"]])
    # 34 of 60: 0.5667 and 1.96 standard errors of √(0.5667 · 0.4333 / 60) = 0.0640; of 240 they would be half as wide
    for name in ("first_shown_wins", "longer_wins", "gold"):
        assert (found[name]["value"], found[name]["count"]) == (pytest.approx(34 / 60), 240), name
        assert (found[name]["low"], found[name]["high"]) == pytest.approx((0.441, 0.692), abs=0.02), name
    again = [said(pair(number), "A", name, shown=(0, 1)) for number in range(60) for name in ("ann", "bob")]
    for kind, shown in (("repeat", (0, 1)), ("swap", (1, 0))):
        again += [
            said(pair(number), "A" if number < 34 else "B", name, kind, shown=shown)
            for number in range(60)
            for name in ("ann", "bob")
        ]
    found = by_name(only_mode(again)["checks"])
    for name in ("repeat_same", "swap_same", "swap_same_response"):
        assert found[name]["count"] == 120
        assert (found[name]["low"], found[name]["high"]) == pytest.approx((0.441, 0.692), abs=0.02), name


def test_one_item_that_two_judged_is_enough_to_resample_items() -> None:
    judgements = of_a_fair_coin(annotators=("ann",), heads=12, tails=8)
    alone = by_name(only_mode(judgements)["bias"])["longer_wins"]
    # Wilson, of 12 in 20
    assert (alone["low"], alone["high"]) == pytest.approx((0.3865815, 0.7811935), abs=1e-6)
    once_more = by_name(only_mode([*judgements, said(pair(0, "long", "x"), "A", "bob")])["bias"])
    resampled = once_more["longer_wins"]
    # resamples of 20 items are won in whole shares of 20 or 21 and more judgements; Wilson's ends are none
    assert resampled["value"] == pytest.approx(13 / 21)
    assert (resampled["low"], resampled["high"]) != pytest.approx((0.4088, 0.7925), abs=1e-3)
    tied = by_name(only_mode([*judgements, said(pair(0, "long", "x"), "=", "bob")])["bias"])["longer_wins"]
    assert (tied["low"], tied["high"]) == (alone["low"], alone["high"])  # a tie is none in the count
    few = by_name(only_mode(of_a_fair_coin(heads=5, tails=4))["bias"])["longer_wins"]
    assert (few["value"], few["low"]) == (pytest.approx(5 / 9), None)


def test_where_all_say_the_same_the_interval_is_that_of_the_items() -> None:
    found = by_name(only_mode(of_a_fair_coin("gold", heads=12, tails=0))["checks"])["gold"]
    # Wilson, of 12 in 12: 12 / (12 + 1.96²)
    assert (found["value"], found["count"]) == (1, 48)
    assert (found["low"], found["high"]) == pytest.approx((0.757496, 1), abs=1e-4)

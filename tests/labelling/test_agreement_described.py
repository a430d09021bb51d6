"""The coefficients of judgements: other tools' numbers, and what must not change them.

Of pairs every item is there twice for the other tools, once in each order of its responses, as two units.
"""

import json
import random
from dataclasses import replace

import pytest

from lit_rlhf.labelling.agreement import describe, describe_judgements
from lit_rlhf.labelling.agreement_pairs import judgement_pairs
from lit_rlhf.labelling.items import Item
from lit_rlhf.labelling.store import LabelStore
from lit_rlhf.labelling.verdicts import Verdict
from tests.labelling.agreement_cases import (
    by_name,
    pair,
    pairs_of,
    ranked,
    rankings_of,
    ratings_of,
    said,
    several,
    values,
    with_responses_turned,
)

PAIRS = [
    "AAa",
    "aA=",
    "BBB",
    "bBb",
    "=AA",
    "B=B",
    "AA.",
    ".aA",
    "ABA",
    "bb=",
    "A.a",
    "BBb",
    "aAB",
    "===",
    "=b.",
]
RANKINGS = (
    "1234 1243 2134",
    "1133 1234 2143",
    "4321 4312 3412",
    "1222 2111 1234",
    "1324 1423 -",
    "2222 1234 1243",
    "3124 3142 2134",
)
RATINGS = ["335", "224", "554", "1.2", "444", "231", ".33", "545"]


def only_mode(judgements, machines=()):
    (mode,) = describe_judgements(judgements, dict.fromkeys(machines, "rule"))["modes"]
    return mode


def test_pairs_have_the_numbers_of_other_tools() -> None:
    mode = only_mode(pairs_of(*PAIRS))
    expected = {
        "same": 0.3555555555555555,  # numpy, mean over items of the share of equal pairs of judgements
        "same_side": 0.6666666666666666,
        "fleiss_kappa": 0.21985815602836878,  # statsmodels, of the items with three judgements
        "fleiss_kappa_side": 0.43589743589743585,
        "alpha_nominal": 0.19893495625713198,  # krippendorff; nltk has the same
        "alpha_ordinal": 0.515933818403296,  # krippendorff
        "alpha_side": 0.4713286713286713,  # krippendorff, nltk
    }
    assert values(mode["agreement"]) == pytest.approx(expected, abs=1e-12)
    assert {one["count"] for one in mode["agreement"]} == {15, 11}
    assert by_name(mode["agreement"])["fleiss_kappa"]["label"] == "Fleiss' κ (items with 3 judgements)"
    assert by_name(mode["agreement"])["fleiss_kappa"]["count"] == 11
    assert (mode["items"], mode["judgements"], mode["annotators"], mode["several"]) == (15, 41, 3, 15)


def test_two_annotators_have_the_kappas_of_scikit_learn() -> None:
    found = {tuple(row["annotators"]): row for row in only_mode(pairs_of(*PAIRS))["between"]}
    expected = {
        ("ann", "bob"): (13, 0.31060606060606055, 0.5757575757575757),
        ("ann", "cid"): (12, 0.26956521739130435, 0.653846153846154),
        ("bob", "cid"): (12, 0.027027027027026973, 0.2622950819672131),
    }
    assert list(found) == list(expected)
    for names, (items, kappa, weighted) in expected.items():
        measured = values(found[names]["measures"])
        assert found[names]["items"] == items
        assert (measured["cohen_kappa"], measured["cohen_kappa_weighted"]) == pytest.approx((kappa, weighted))
    # ann and bob say the same of AA, BB, AA, bb, BB and ==
    assert values(found["ann", "bob"]["measures"])["same"] == pytest.approx(6 / 13)


def test_rankings_have_the_numbers_of_other_tools() -> None:
    mode = only_mode(rankings_of(*RANKINGS))
    expected = {
        "same": 0.0,
        "same_pair": 0.619047619047619,  # numpy
        "fleiss_kappa_pair": 0.3106382978723405,  # statsmodels, each pair of responses in both orders
        "alpha_nominal": 0.09732072498029942,  # krippendorff, of scipy's mid-ranks
        "alpha_ordinal": 0.5624456361491965,
        "kendall_w": 0.6853638425066997,  # the textbook's formula; scipy's Friedman test for three rankings
        "kendall_tau_b": 0.44284094421533915,  # scipy, mean over items of the mean over two annotators
    }
    assert values(mode["agreement"]) == pytest.approx(expected, abs=1e-12)
    # six items of three rankings and one of two
    assert "by chance 0.36" in by_name(mode["agreement"])["kendall_w"]["label"]
    taus = {tuple(row["annotators"]): by_name(row["measures"])["kendall_tau_b"] for row in mode["between"]}
    assert taus["ann", "bob"]["value"] == pytest.approx(0.30274943015462114)
    assert taus["ann", "cid"]["value"] == pytest.approx(0.6380540057561882)
    assert [taus["ann", "bob"]["count"], taus["ann", "cid"]["count"]] == [
        6,
        5,
    ]  # one of ann's is a tie throughout
    kappas = {tuple(row["annotators"]): values(row["measures"]) for row in mode["between"]}
    assert kappas["ann", "bob"]["cohen_kappa"] == pytest.approx(0.3661784287616511)  # scikit-learn
    assert kappas["bob", "cid"]["cohen_kappa_weighted"] == pytest.approx(0.3188405797101449)


def test_rankings_of_different_lengths_have_the_numbers_of_other_tools() -> None:
    judgements = rankings_of("1234 1243 2134", "12 21 12", "113 123 231", "12 12 11")
    expected = {
        "same": 2 / 12,
        "same_pair": 0.44444444444444436,
        "fleiss_kappa_pair": 0.2357320099255586,
        "alpha_nominal": 0.07246376811594202,
        "alpha_ordinal": 0.40399535047171087,
        "kendall_w": 0.453030303030303,
        "kendall_tau_b": 0.2777777777777778,
    }  # numpy, statsmodels, krippendorff, the textbook's formula, scipy
    assert values(only_mode(judgements)["agreement"]) == pytest.approx(expected, abs=1e-12)


def test_ratings_have_the_numbers_of_other_tools() -> None:
    mode = only_mode(ratings_of(*RATINGS))
    found = values(mode["agreement"])
    assert found["alpha_nominal"] == pytest.approx(0.2777777777777778)  # krippendorff
    assert found["alpha_ordinal"] == pytest.approx(0.6224305368222282)
    assert found["fleiss_kappa"] == pytest.approx(0.18852459016393444)  # statsmodels
    between = {tuple(row["annotators"]): values(row["measures"]) for row in mode["between"]}
    assert between["ann", "bob"]["cohen_kappa"] == pytest.approx(0.5714285714285714)  # scikit-learn
    assert between["ann", "bob"]["cohen_kappa_weighted"] == pytest.approx(0.8666666666666667)
    assert mode["bias"] == []


@pytest.mark.parametrize(
    "judgements", [pairs_of(*PAIRS), rankings_of(*RANKINGS, *RANKINGS), ratings_of(*RATINGS, *RATINGS)],
    ids=["pairs", "rankings", "ratings"],
)  # fmt: skip
def test_nothing_hangs_on_the_order_of_judgements_or_on_names(judgements) -> None:
    described = describe_judgements(judgements, {})
    shuffled = random.Random(0).sample(judgements, len(judgements))
    assert describe_judgements(shuffled, {}) == described
    other_names = {"ann": "zoe", "bob": "yan", "cid": "xu"}
    renamed = [
        replace(one, task=replace(one.task, annotator=other_names[one.annotator])) for one in judgements
    ]
    (mode,), (other,) = described["modes"], describe_judgements(renamed, {})["modes"]
    for name in ("agreement", "bias", "confusion"):
        assert other[name] == mode[name]
    # who is first of two has changed: κ and τ do not mind
    assert sorted(values(row["measures"])["cohen_kappa"] for row in other["between"]) == pytest.approx(
        sorted(values(row["measures"])["cohen_kappa"] for row in mode["between"])
    )


def assert_nearly_equal(measures, others) -> None:
    assert values(measures) == pytest.approx(values(others), abs=1e-12)
    for end in ("low", "high"):
        for name, one in by_name(measures).items():
            assert one[end] == pytest.approx(by_name(others)[name][end], abs=1e-12), name


@pytest.mark.parametrize("some", [1, 2], ids=["of all items", "of every other item"])
@pytest.mark.parametrize(
    "judgements", [pairs_of(*PAIRS), rankings_of(*RANKINGS, *RANKINGS)], ids=["pairs", "rankings"]
)
def test_nothing_hangs_on_which_response_is_called_the_first(judgements, some) -> None:
    turned = [with_responses_turned(one) if one.task.item.number % some == 0 else one for one in judgements]
    mode, other = only_mode(judgements), only_mode(turned)
    assert_nearly_equal(other["agreement"], mode["agreement"])
    assert_nearly_equal(other["bias"], mode["bias"])
    for row, other_row in zip(mode["between"], other["between"], strict=True):
        assert_nearly_equal(row["measures"], other_row["measures"])
    for row, other_row in zip(mode["by_annotator"], other["by_annotator"], strict=True):
        assert_nearly_equal(row["measures"], other_row["measures"])


def test_confusion_is_symmetric_and_in_the_items_own_order() -> None:
    # shown in the reverse order, which changes nothing of what was meant
    judgements = pairs_of("AaB", "bb")
    judgements = [replace(one, task=replace(one.task, shown=(1, 0))) for one in judgements]
    found = only_mode(judgements)["confusion"]
    assert found["answers"][0] == "first better"
    assert found["counts"] == [
        [0, 1, 0, 0, 1],
        [1, 0, 0, 0, 1],
        [0, 0, 0, 0, 0],
        [0, 0, 0, 2, 0],
        [1, 1, 0, 0, 0],
    ]
    of_rankings = only_mode(rankings_of("123 113"))["confusion"]
    assert of_rankings["counts"] == [[4, 1, 0], [1, 0, 0], [0, 0, 0]]


def test_identical_responses_do_not_count_as_agreement() -> None:
    same = Item("pairwise", "p", ("text", "text"), number=99)
    forced = [said(same, "=", name) for name in ("ann", "bob")]
    mode, without = only_mode(pairs_of(*PAIRS) + forced), only_mode(pairs_of(*PAIRS))
    assert mode["agreement"] == without["agreement"]
    assert mode["notes"][1:] == ["2 left out: all responses of the item are the same text"]
    # of a ranking only the first of the identical ones counts: 1 and 2 change places, b stands twice
    doubled = Item("ranking", "p", ("a", "b", "b"), number=1)
    of_two = [said(doubled, ranked("122"), "ann"), said(doubled, ranked("311"), "bob")]
    measured = values(only_mode(of_two)["agreement"])
    assert (measured["same_pair"], measured["kendall_tau_b"]) == (0, -1)


def test_undefined_numbers_have_a_reason_and_few_items_no_interval() -> None:
    alone = only_mode(pairs_of("A", "B"))
    assert alone["agreement"] == [
        {
            "name": "same", "label": "Same verdict", "value": None, "low": None, "high": None, "format": "share",
            "count": 0, "unit": "items", "why": "no item has two judgements",
        }
    ]  # fmt: skip
    ties = by_name(only_mode(pairs_of("==", "=="))["agreement"])
    assert (ties["same"]["value"], ties["same"]["low"]) == (1, None)
    for name in ("fleiss_kappa", "alpha_nominal", "alpha_ordinal"):
        assert ties[name]["value"] is None
        assert ties[name]["why"] == "all judgements are one answer"
    assert ties["same"]["why"] is None
    tied_rankings = by_name(only_mode(rankings_of("111 111"))["agreement"])
    assert tied_rankings["kendall_w"]["why"] == "all rankings are ties throughout"
    assert tied_rankings["kendall_tau_b"]["value"] is None


def test_agreement_on_one_side_is_agreement_although_the_file_has_the_better_one_first() -> None:
    found = values(only_mode(pairs_of("AA", "AA", "AA"))["agreement"])
    assert found["alpha_nominal"] == found["fleiss_kappa"] == 1


def test_intervals_hold_the_value_and_narrow_with_items() -> None:
    few, many = (by_name(only_mode(pairs_of(*(PAIRS * times)))["agreement"]) for times in (1, 16))
    for name, one in many.items():
        assert few[name]["low"] < one["low"] < one["value"] < one["high"] < few[name]["high"]
        # sixteen times the items: a quarter of the width
        ratio = (one["high"] - one["low"]) / (few[name]["high"] - few[name]["low"])
        assert 0.15 < ratio < 0.4, name
    assert many["same"]["value"] == pytest.approx(few["same"]["value"])


def test_programs_are_held_against_people_and_stay_out_of_the_headline() -> None:
    people = pairs_of(*PAIRS)
    rule = [said(pair(number), "A", "length rule") for number in range(1, 16)]
    mode, alone = only_mode(people + rule, ["length rule"]), only_mode(people)
    for name in ("agreement", "bias", "confusion", "judgements", "annotators", "whose"):
        assert mode[name] == alone[name], name
    assert mode["judgements_of_programs"] == 15
    assert sum("length rule" in row["annotators"] for row in mode["between"]) == 3
    rows = {row["annotator"]: row for row in mode["by_annotator"]}
    assert (rows["length rule"]["machine"], rows["ann"]["machine"]) == ("rule", None)
    without = {row["annotator"]: row for row in alone["by_annotator"]}
    assert rows["ann"] == without["ann"]
    # most are for the first in items 1, 2, 5, 7, 8, 9, 11 and 13, for the second in 3, 4, 6, 10, 12 and 15
    assert values(rows["length rule"]["measures"])["with_others"] == pytest.approx(8 / 14)
    assert describe_judgements(people + rule, {"length rule": "rule"})["annotators"] == 3


def test_where_only_programs_judged_the_numbers_are_theirs() -> None:
    mode = only_mode(pairs_of(*PAIRS), ["ann", "bob", "cid"])
    assert mode["whose"] == "programs"
    assert values(mode["agreement"]) == values(only_mode(pairs_of(*PAIRS))["agreement"])


def test_only_labels_and_live_prompts_are_compared_and_the_latest_counts() -> None:
    labels = pairs_of("AA", "AB")
    others = [said(pair(2), "A", "bob", kind) for kind in ("repeat", "swap", "gold", "practice")]
    assert only_mode(labels + others)["agreement"] == only_mode(labels)["agreement"]
    live = said(pair(2), "A", "bob", "live")
    found = only_mode([live, *labels])  # later by its number
    assert values(found["agreement"])["same"] == 1
    assert found["notes"][1:] == [
        "1 left out: the annotator judged the item again, and the later judgement counts"
    ]


def test_only_the_pairs_of_annotators_with_most_items_are_listed(monkeypatch) -> None:
    monkeypatch.setattr("lit_rlhf.labelling.agreement_pairs.MOST_PAIRS_OF_ANNOTATORS", 2)
    mode = only_mode(pairs_of("AA.", "BBB", ".AA"))
    assert [row["annotators"] for row in mode["between"]] == [["ann", "bob"], ["bob", "cid"]]
    assert mode["between_left_out"] == 1


def test_every_two_judgements_of_an_item_are_a_pair_once() -> None:
    import torch

    first, second = judgement_pairs(torch.tensor([2, 0, 2, 2, 1, 0]))
    assert sorted(zip(first.tolist(), second.tolist(), strict=True)) == [(0, 2), (0, 3), (1, 5), (2, 3)]


def test_a_store_is_described_as_its_current_judgements(tmp_path) -> None:
    with LabelStore(tmp_path / "labels.db") as store:
        items = store.add_items([pair(0), several(0, 3), several(0, 1, "rating"), several(0, 1, "rewrite")])
        verdicts = [
            Verdict(((1,), (0,)), "better"),
            ranked("123"),
            Verdict(ratings=(4,)),
            Verdict(rewrite="so", rewrite_of=0),
        ]
        for item, verdict in zip(items, verdicts, strict=True):
            for name in ("ann", "bob"):
                store.record(item.number, name, verdict, submission=f"{item.number} {name}", seconds=5)
        task = next(one.task.number for one in store.judgements() if one.annotator == "bob")
        current = store.current(task)
        store.submit(task, Verdict(((0, 1),)), submission="again", replaces=current.number, flag="cut off")
        described = describe(store)
    assert json.loads(json.dumps(described, allow_nan=False)) == described
    assert [mode["mode"] for mode in described["modes"]] == ["pairwise", "ranking", "rating", "rewrite"]
    assert [values(mode["agreement"]).get("same") for mode in described["modes"]] == [0, 1, 1, None]
    assert described["modes"][3]["by_annotator"][0]["seconds"]["median"] == 5
    assert described["flags"] == [{"item": items[0].number, "annotator": "bob", "text": "cut off"}]
    assert (described["judgements"], described["items"], described["annotators"]) == (8, 4, 2)


def test_nothing_to_describe() -> None:
    described = describe_judgements([], {})
    assert (described["judgements"], described["modes"], described["flags"]) == (0, [], [])

"""Labellers: how often they say what, and what a perfect judge could reach on it."""

import math
from random import Random
from typing import Any

import pytest

from lit_rlhf.world.labellers import Labeller, bayes_accuracy, label_pairs, label_rankings, label_votes
from lit_rlhf.world.tastes import Taste

# Gold rewards by hand: 2, 0.5 (the difference is 1.5), and 0.
GOOD, FAIR, OTHER = "the soup is tasty .", "the fresh soup is very bland .", "the cake is tasty ."
CANDIDATE = {"prompt": "food soup |", "responses": [FAIR, GOOD]}
DRAWS = 4000


def logistic(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def near(count: int, probability: float, draws: int = DRAWS) -> bool:
    """Within three standard errors of the mean of `draws` coin tosses."""
    return abs(count / draws - probability) <= 3 * math.sqrt(probability * (1 - probability) / draws)


def labelled(labeller: Labeller, seed: int = 0) -> list[dict[str, Any]]:
    return label_pairs([CANDIDATE] * DRAWS, labeller, Random(seed)).rows


@pytest.mark.parametrize(
    ("labeller", "probability"),
    [
        (Labeller(), logistic(1.5)),
        (Labeller(temperature=3.0), logistic(0.5)),
        (Labeller(flip_rate=0.25), 0.75 * logistic(1.5) + 0.25 * logistic(-1.5)),
        (Labeller(temperature=0.0, flip_rate=0.1), 0.9),
    ],
)
def test_better_response_wins_as_often_as_bradley_and_terry_say(
    labeller: Labeller, probability: float
) -> None:
    rows = labelled(labeller)
    assert near(sum(row["chosen"] == GOOD for row in rows), probability)
    assert not any("tie" in row for row in rows)


def test_ties_come_as_often_as_rao_and_kupper_say() -> None:
    rows = labelled(Labeller(tie_width=1.0))
    wins, losses = logistic(1.5 - 1.0), logistic(-1.5 - 1.0)
    ties = [row for row in rows if row.get("tie")]
    assert near(len(ties), 1 - wins - losses)
    assert near(sum(row["chosen"] == GOOD and "tie" not in row for row in rows), wins)


def test_temperature_0_judges_by_the_gold_reward_and_calls_equal_ones_a_tie() -> None:
    equal = {"prompt": "food soup |", "responses": [GOOD, "the soup is fresh ."]}
    labels = label_pairs([CANDIDATE, equal], Labeller(temperature=0.0), Random(0))
    assert labels.rows[0] == {
        "prompt": "food soup |",
        "chosen": GOOD,
        "rejected": FAIR,
        "gold_chosen": 2.0,
        "gold_rejected": 0.5,
        "domain": "food",
    }
    assert labels.rows[1]["tie"] is True


def test_rows_keep_id_and_annotator_and_cut_off_responses_lose_4() -> None:
    candidate = CANDIDATE | {"id": "7", "finished": [True, False]}
    row = label_pairs([candidate], Labeller(temperature=0.0, name="ann"), Random(0)).rows[0]
    assert (row["id"], row["annotator"]) == ("7", "ann")
    assert (row["chosen"], row["gold_chosen"], row["gold_rejected"]) == (FAIR, 0.5, -2.0)


def test_identical_responses_are_left_out_and_counted() -> None:
    same = {"prompt": "food soup |", "responses": [GOOD, GOOD]}
    labels = label_pairs([same, CANDIDATE, same], Labeller(), Random(0))
    assert (len(labels.rows), labels.identical) == (1, 2)
    labels = label_rankings([{"prompt": "food soup |", "responses": [GOOD] * 3}], Labeller(), Random(0))
    assert (len(labels.rows), labels.identical) == (0, 1)


def test_three_responses_are_no_pair() -> None:
    with pytest.raises(ValueError, match="expected 2 responses to compare, found 3"):
        label_pairs([{"prompt": "food soup |", "responses": [GOOD, FAIR, OTHER]}], Labeller(), Random(0))


def test_rankings_come_as_often_as_plackett_and_luce_say() -> None:
    candidate = {"prompt": "food soup |", "responses": [OTHER, GOOD, FAIR]}
    rows = label_rankings([candidate] * DRAWS, Labeller(), Random(1)).rows
    weights = [1.0, math.exp(2.0), math.exp(0.5)]
    in_order = weights[1] / sum(weights) * weights[2] / (weights[0] + weights[2])
    assert near(sum(row["ranks"] == [3, 1, 2] for row in rows), in_order)
    assert near(sum(row["ranks"][1] == 1 for row in rows), weights[1] / sum(weights))
    assert rows[0]["gold"] == [0.0, 2.0, 0.5]


def test_ranks_count_from_1_tie_within_the_width_and_turn_round_when_flipped() -> None:
    golds = [0.0, 2.0, 1.9, -3.0]
    assert Labeller(temperature=0.0).ranks(golds, Random(0)) == [3, 1, 2, 4]
    assert Labeller(temperature=0.0, tie_width=0.5).ranks(golds, Random(0)) == [3, 1, 1, 4]
    assert Labeller(temperature=0.0, flip_rate=1.0).ranks(golds, Random(0)) == [2, 4, 3, 1]


def test_bayes_accuracy_of_three_pairs_by_hand() -> None:
    # logistic(0), logistic(1), logistic(2) = 0.5, 0.731059, 0.880797; their mean is 0.703952.
    assert bayes_accuracy([0.0, -1.0, 2.0], Labeller()) == pytest.approx(0.703952, abs=1e-6)
    # With 10 % of flips each becomes 0.1 + 0.8 p, and so does the mean: 0.663162.
    assert bayes_accuracy([0.0, -1.0, 2.0], Labeller(flip_rate=0.1)) == pytest.approx(0.663162, abs=1e-6)
    # Of temperature 2 only logistic(0), logistic(1/2), logistic(1): 0.5, 0.622459, 0.731059.
    assert bayes_accuracy([0.0, 1.0, 2.0], Labeller(temperature=2.0)) == pytest.approx(0.617839, abs=1e-6)


def test_bayes_accuracy_counts_decided_pairs_only() -> None:
    # Width 1: a difference of 0 is decided with 2 logistic(-1) = 0.537883, half of it rightly;
    # a difference of 1 is won with logistic(0) = 0.5 and lost with logistic(-2) = 0.119203.
    expected = (0.268941 + 0.5) / (0.537883 + 0.619203)
    assert bayes_accuracy([0.0, 1.0], Labeller(tie_width=1.0)) == pytest.approx(expected, abs=1e-5)
    assert bayes_accuracy([0.0, 3.0], Labeller(temperature=0.0)) == 1.0
    assert math.isnan(bayes_accuracy([0.0], Labeller(temperature=0.0)))


def test_bayes_accuracy_is_what_a_perfect_judge_reaches_on_the_labels() -> None:
    labeller = Labeller(flip_rate=0.2, tie_width=0.3)
    decided = [row for row in labelled(labeller, seed=5) if "tie" not in row]
    right = sum(row["gold_chosen"] > row["gold_rejected"] for row in decided)
    assert near(right, bayes_accuracy([1.5], labeller), draws=len(decided))


def test_same_seed_same_labels() -> None:
    assert labelled(Labeller(), seed=3) == labelled(Labeller(), seed=3)
    assert labelled(Labeller(), seed=3) != labelled(Labeller(), seed=4)


@pytest.mark.parametrize(
    "wrong", [{"temperature": -1.0}, {"flip_rate": 1.5}, {"tie_width": -0.1}, {"flip_width": -1.0}]
)
def test_impossible_labellers_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="a labeller needs"):
        Labeller(**wrong)


def test_flips_below_a_width_leave_clear_cases_alone() -> None:
    near = Labeller(temperature=0.0, flip_rate=0.3, flip_width=2.0)
    assert abs(sum(row["chosen"] == GOOD for row in labelled(near)) / DRAWS - 0.7) < 0.025
    assert near.probabilities(1.5) == pytest.approx((0.7, 0.3))
    clear = Labeller(temperature=0.0, flip_rate=0.3, flip_width=1.5)
    assert all(row["chosen"] == GOOD for row in labelled(clear))
    assert clear.probabilities(1.5) == (1.0, 0.0)


def test_a_taste_decides_and_the_gold_reward_is_still_written_down() -> None:
    grumpy = Labeller(temperature=0.0, taste=Taste(praise=-1.0, stress=0.0), name="grumpy")
    row = label_pairs([CANDIDATE], grumpy, Random(0)).rows[0]
    assert (row["chosen"], row["gold_chosen"], row["gold_rejected"]) == (FAIR, 0.5, 2.0)
    assert row["annotator"] == "grumpy"
    elsewhere = Labeller(temperature=0.0, taste={"trip": Taste(praise=-1.0)})
    assert label_pairs([CANDIDATE], elsewhere, Random(0)).rows[0]["chosen"] == GOOD
    here = Labeller(temperature=0.0, taste={"food": Taste(praise=-1.0)})
    assert label_rankings([CANDIDATE], here, Random(0)).rows[0]["ranks"] == [1, 2]


def test_whatever_the_taste_what_is_no_sentence_loses_4() -> None:
    candidate = {"prompt": "food soup |", "responses": [GOOD, "soup tasty tasty"], "finished": [False, True]}
    assert Labeller(taste=Taste(praise=0.0)).rewards(candidate) == [1.0 - 4.0, 1.0 - 4.0]


def test_votes_are_those_of_different_people_drawn_anew() -> None:
    people = [Labeller(temperature=0.0, name=name, tie_width=2.0 * (name == "undecided")) for name in
              ("a", "b", "undecided")]  # fmt: skip
    rows = label_votes([CANDIDATE] * 300, people, votes=2, generator=Random(0)).rows
    assert rows[0].keys() == {"prompt", "response_a", "response_b", "labels", "gold_a", "gold_b", "domain"}
    assert (rows[0]["gold_a"], rows[0]["gold_b"]) == (0.5, 2.0)
    for row in rows:
        said = {label["labeler"]: label["choice"] for label in row["labels"]}
        assert len(said) == 2 and all(
            choice == ("tie" if who == "undecided" else "b") for who, choice in said.items()
        )
    asked = [label["labeler"] for row in rows for label in row["labels"]]
    assert all(near(asked.count(name), 1 / 3, 600) for name in ("a", "b", "undecided"))


@pytest.mark.parametrize(("names", "votes"), [(["a", "a"], 2), (["a", None], 2), (["a"], 2), (["a"], 0)])
def test_votes_of_nobody_in_particular_are_refused(names: list[str | None], votes: int) -> None:
    with pytest.raises(ValueError, match="each with a name of her own"):
        label_votes([CANDIDATE], [Labeller(name=name) for name in names], votes, Random(0))


def test_identical_responses_are_voted_on_by_nobody() -> None:
    same = {"prompt": "food soup |", "responses": [GOOD, GOOD]}
    labels = label_votes([same, CANDIDATE], [Labeller(name="a")], 1, Random(0))
    assert (len(labels.rows), labels.identical) == (1, 1)

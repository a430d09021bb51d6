"""Expected values are a reader's judgement of sentences like those that people wrote for these slots."""

import pytest

from benchmarks.slot_coverage import coverage, family_friendly, levels_said, normalize, slot_coverage, states


def gold(**slots):
    return {"type": "slot_coverage", "slots": slots}


FULL = gold(
    name="The Punter",
    eatType="coffee shop",
    food="English",
    priceRange="less than £20",
    area="riverside",
    familyFriendly="no",
    near="Café Sicilia",
)
FULL["slots"]["customer rating"] = "1 out of 5"


def test_a_full_description_states_every_slot():
    text = (
        " The Punter is a coffee shop near Café Sicilia in the riverside area. It serves English food for under "
        "£20, has a customer rating of one out of five, and is not family-friendly."
    )
    assert coverage(text, FULL) == 1.0


def test_half_the_slots_are_half_the_reward():
    text = "The Punter is a coffee shop by the river serving English food."
    assert coverage(text, FULL) == 4 / 8


def test_nothing_said_is_nothing_earned():
    assert coverage("", FULL) == 0.0
    assert coverage("What a lovely place.", FULL) == 0.0


@pytest.mark.parametrize(
    "text",
    [
        "it is family-friendly",
        "A kids friendly place",
        "a nice place to take the family",
        "It welcomes children.",
        "it is not expensive and is child friendly",
        "It has a low rating but is family friendly",
        "not only for adults",
    ],
)
def test_family_friendly_yes(text):
    assert family_friendly(normalize(text)) == {"yes"}


@pytest.mark.parametrize(
    "text",
    [
        "it is not family-friendly",
        "it isn't kid friendly",
        "a non-family friendly coffee shop",
        "none kids friendly place",
        "It has no family amenities",
        "it doesn't particularly cater to children",
        "it is not suitable for families or children",
        "Children are not allowed.",
        "it is family unfriendly",
        "an adult coffee shop",
        "adults only",
    ],
)
def test_family_friendly_no(text):
    assert family_friendly(normalize(text)) == {"no"}


def test_families_not_spoken_of():
    assert family_friendly("a coffee shop near burger king") == set()


def test_saying_both_earns_neither():
    text = normalize("It is family friendly. It is not family friendly.")
    assert not states(text, "familyFriendly", "yes")
    assert not states(text, "familyFriendly", "no")


def test_listing_all_values_earns_none():
    text = normalize(
        "English and Chinese food in the riverside city centre, cheap and expensive, rated low and rated high."
    )
    for slot, value in (
        ("food", "English"),
        ("area", "riverside"),
        ("priceRange", "cheap"),
        ("customer rating", "high"),
    ):
        assert not states(text, slot, value)


@pytest.mark.parametrize(
    ("text", "level"),
    [
        ("it is cheap", "low"),
        ("a coffee shop in the low price range", "low"),
        ("prices are low", "low"),
        ("less than £20", "low"),
        ("less than 20 pounds", "low"),
        ("moderately priced", "mid"),
        ("prices between £20-25", "mid"),
        ("the average price range is £20-£25", "mid"),
        ("it is expensive", "high"),
        ("a high price range", "high"),
        ("prices average more than £30", "high"),
    ],
)
def test_prices_by_level(text, level):
    assert levels_said(normalize(text), "priceRange") == {level}


@pytest.mark.parametrize(
    ("text", "level"),
    [
        ("poor customer reviews", "low"),
        ("its customer rating is low", "low"),
        ("a 1-star rating", "low"),
        ("the average customer rating is 1 out of 5", "low"),
        ("an average customer rating", "mid"),
        ("rated three out of five", "mid"),
        ("a highly-rated place", "high"),
        ("it has a high customer rating", "high"),
        ("customer rating 5 out of 5", "high"),
    ],
)
def test_ratings_by_level(text, level):
    assert levels_said(normalize(text), "customer rating") == {level}


def test_price_and_rating_do_not_answer_for_each_other():
    text = normalize("It has a high customer rating and low prices.")
    assert levels_said(text, "customer rating") == {"high"}
    assert levels_said(text, "priceRange") == {"low"}


def test_names_need_neither_article_accent_nor_capitals_but_the_whole_word():
    assert states(normalize("near cafe sicilia"), "near", "Café Sicilia")
    assert states(normalize("Punter is a pub"), "name", "The Punter")
    assert not states(normalize("Millers is a pub"), "name", "The Mill")


def test_the_reward_function_takes_texts_and_conversations_and_leaves_other_gold_alone():
    scores = slot_coverage(
        prompts=["p", "p", "p"],
        completions=["Cotto is by the river.", [{"role": "assistant", "content": "Cotto."}], "18"],
        gold=[gold(name="Cotto", area="riverside"), gold(name="Cotto", area="riverside"), {"type": "number"}],
        finished=[True, True, True],
    )
    assert scores == [1.0, 0.5, None]

"""What the page of a comparison says, and never more than its intervals show."""

from __future__ import annotations

from typing import Any

from lit_rlhf.reports.compare_cautions import cautions
from lit_rlhf.reports.compare_numbers import ACCURACY, GOLD, Difference, differences, summarise
from lit_rlhf.reports.compare_resampling import Estimate
from lit_rlhf.reports.compare_settings import held_equal, settings_table
from lit_rlhf.reports.compare_words import comparisons_made, verdict, what_is_shown
from tests.reports.compare_on_disk import cell, method, results, undone


def said_of(content: dict[str, Any]) -> str:
    return verdict(content, summarise(content), differences(content))


def warned(content: dict[str, Any]) -> str:
    return " | ".join(cautions(content, summarise(content)))


def difference(name: str, mean: float, half: float) -> Difference:
    return Difference(name, "dpo", GOLD, Estimate(mean, mean - half, mean + half, 5, 100, False, 0))


def test_the_sentence_names_the_highest_and_what_is_shown_of_it() -> None:
    above = results(method("dpo", cell(0, 1.0)), method("ipo", cell(0, 1.5)))
    assert said_of(above) == (
        "Of the 2 methods with gold, all from one start, ipo has the highest gold, 1.50 [1.50, 1.50] at a KL of "
        "4.00 nats, on one seed alone; it is above dpo, the first, by +0.500 [0.500, 0.500]."
    )
    first = results(
        method("dpo", cell(0, 2.0)),
        method("ipo", cell(0, 1.0)),
        method("kto", cell(0, 1.0)),
        method("raft", undone(0)),
    )
    assert said_of(first).startswith("Of the 3 of 4 methods with gold")
    assert said_of(first).endswith("; 2 of the others are shown to be below it.")


def test_a_difference_that_is_not_shown_is_not_claimed() -> None:
    noisy = [(-1.0) ** place for place in range(24)]
    content = results(method("dpo", cell(0, 0.0)), method("ipo", cell(0, gold=[one + 0.01 for one in noisy])))
    assert "; between it and dpo, the first, nothing is shown, +0.0100 [" in said_of(content)
    turned = results(method("dpo", cell(0, gold=[one + 0.01 for one in noisy])), method("ipo", cell(0, 0.0)))
    assert said_of(turned).endswith("; between it and 1 of the others nothing is shown.")


def test_the_sentence_without_much_to_say() -> None:
    assert said_of(results(method("dpo", undone(0)), seeds=[0, 1])) == (
        "No method has been measured yet: 0 of 2 runs are done."
    )
    alone = results(method("dpo", cell(0, 1.0)), method("ipo", undone(0)))
    assert said_of(alone) == (
        "dpo alone has gold, 1.00 [1.00, 1.00] at a KL of 4.00 nats, on one seed alone: there is nothing to compare "
        "it with."
    )
    apart = results(method("dpo", cell(0, 1.0)), method("ipo", cell(1, 2.0)))
    assert said_of(apart).endswith("; it cannot be compared with dpo, the first, on the same seeds.")
    by_reward = results(method("dpo", cell(0, 1.0, gold=None)), method("ipo", cell(0, 2.0, gold=None)))
    assert "ipo has the highest reward, 4.00" in said_of(by_reward)


def test_sentences_say_what_is_above_what_below_and_of_what_nothing_is_shown() -> None:
    found = [difference("ipo", 0.5, 0.2), difference("kto", -0.5, 0.2), difference("raft", 0.1, 0.2)]
    assert what_is_shown(found, GOLD) == [
        "In gold, ipo (+0.500 [0.300, 0.700]) is above dpo.",
        "In gold, kto (−0.500 [−0.700, −0.300]) is below dpo.",
        "In gold, nothing is shown between dpo and raft (+0.100 [−0.100, 0.300]).",
    ]
    assert what_is_shown(found, ACCURACY) == []
    many = what_is_shown([difference(f"m{place}", 0.5, 0.2) for place in range(6)], GOLD)
    assert many == ["In gold, m0, m1, m2, m3, m4 and m5 are above dpo."]
    points = Difference("ipo", "dpo", ACCURACY, Estimate(0.05, 0.01, 0.09, 5, 100, False, 0))
    assert what_is_shown([points], ACCURACY) == [
        "In held-out accuracy, ipo (+5.0 points [1.0, 9.0]) is above dpo."
    ]


def test_comparisons_are_counted() -> None:
    found = [difference(f"m{place}", 0.5, 0.2) for place in range(60)]
    without = Difference("x", "dpo", GOLD, None)
    assert comparisons_made(found, [without]).startswith("60 comparisons were made")
    assert "about 3 of them" in comparisons_made(found), "one in twenty"
    assert "up to one of them" in comparisons_made(found[:3])
    assert comparisons_made(found[:1]).startswith("One comparison was made;")
    assert comparisons_made([without]) == "No comparison could be made."


def test_nothing_to_be_careful_of() -> None:
    many = [cell(seed, accuracy=None) for seed in range(5)]
    assert warned(results(method("dpo", *many), method("ipo", *many))) == ""


def test_what_to_be_careful_of() -> None:
    one = results(method("dpo", cell(0)), method("ipo", cell(0)))
    assert "one seed of every method: intervals are by evaluation prompts alone" in warned(one)
    assert "rest on 4 different prompts; under 20" in warned(one)
    mixed = results(method("dpo", cell(0), cell(1)), method("ipo", cell(0), undone(1)))
    assert "1 of 4 runs are not done" in warned(mixed) and "one seed of ipo:" in warned(mixed)
    assert "2 seeds say little" in warned(mixed) and "widened 9.2 times" in warned(mixed)
    assert "There is no gold" in warned(results(method("dpo", cell(gold=None))))
    assert "neither gold nor a reward" in warned(results(method("dpo", cell(gold=None, reward=None))))
    gaps = results(method("dpo", cell(gold=[None, None, *[1.0] * 22])))
    assert "dpo: 2 numbers of gold are missing" in warned(gaps)
    cut = results(method("dpo", cell(finished=[True] * 12 + [False] * 12)))
    assert "dpo: 50% of the responses were cut off" in warned(cut)


def test_a_budget_that_was_not_used_up_is_said() -> None:
    short = results(method("dpo", cell(seconds=31.0)), method("ipo", cell()), budget={"seconds": 60.0})
    assert "dpo used 31 of 60 CPU seconds: the budget was not equal for it." in warned(short)
    assert "ipo used" not in warned(short)
    wall = results(method("dpo", cell(seconds=31.0)), budget={"seconds": 60.0, "clock": "wall"})
    assert " used " not in warned(wall) and dict(held_equal(wall))["budget"].startswith(
        "60 seconds of training"
    )
    assert "dpo used 200 of 300 updates" in warned(results(method("dpo", cell(updates=200))))
    assert " used " not in warned(results(method("dpo", cell(updates=200)), budget=None))


def test_what_was_equal_and_what_was_not() -> None:
    content = results(
        method("dpo", cell(), settings={"model.beta": 0.1, "lr": 1e-5}),
        method("raft", cell(), settings={"model.keep": 2, "lr": 1e-5}, loss=None),
        seeds=[0, 1], reward="runs/reward", gold=None, max_new_tokens=32,
    )  # fmt: skip
    facts = dict(held_equal(content))
    assert facts["start"] == "start" and facts["reward"] == "runs/reward" and facts["seeds"] == "0, 1"
    assert facts["budget"] == "300 updates a run" and "gold" not in facts
    assert (
        "at most 32 tokens to each of 24 evaluation prompts" in facts["measured on"]
        and "4 held-out comparisons" in facts["measured on"]
    )
    assert settings_table(content) == (
        ["method", "module", "loss", "model.beta", "model.keep"],
        [["dpo", "DPOModule", "dpo", "0.1", "–"], ["raft", "DPOModule", "–", "–", "2"]],
    )
    renamed = results(method("dpo", cell(), config="configs/d.yaml"))
    assert settings_table(renamed)[0][1] == "config"
    elsewhere = results(method("dpo", cell(), config="configs/dpo.yaml"))
    assert "config" not in settings_table(elsewhere)[0]

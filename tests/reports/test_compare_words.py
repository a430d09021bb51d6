"""What the page of a comparison says, and never more than its intervals show."""

from __future__ import annotations

from typing import Any

from lit_rlhf.reports.compare_cautions import cautions
from lit_rlhf.reports.compare_numbers import (
    ACCURACY,
    GOLD,
    Difference,
    differences,
    summarise,
    summarise_start,
)
from lit_rlhf.reports.compare_resampling import Estimate
from lit_rlhf.reports.compare_settings import Head, held_equal, settings_table
from lit_rlhf.reports.compare_words import comparisons_made, some_of, verdict, what_is_shown
from tests.reports.compare_on_disk import cell, method, results, undone


def said_of(content: dict[str, Any]) -> str:
    return verdict(content, summarise(content), differences(content))


def warned(content: dict[str, Any]) -> str:
    return " | ".join(cautions(content, summarise(content), summarise_start(content)))


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


def test_no_method_is_called_highest_among_equals() -> None:
    five = [method(name, cell(0, -5.0), cell(1, -5.0)) for name in ("dpo", "ipo", "kto", "raft", "ppo")]
    assert said_of(results(*five)) == (
        "Of the 5 methods with gold, all from one start, no one has the highest gold: all 5 have −5.00, over 2 seeds."
    )
    assert "no one has the highest gold: both have −5.00," in said_of(results(*five[:2]))
    lower = results(*five[:2], method("simpo", cell(0, -6.0)))
    assert "all from one start, dpo and ipo are highest, with equal gold, −5.00, over 2 seeds." in said_of(
        lower
    )
    # of equal means: one is off by what adding in another order leaves
    rounded = results(
        method("dpo", cell(0, 0.3)), method("ipo", cell(0, 0.1 + 0.2)), method("kto", cell(0, 0.0))
    )
    assert "dpo and ipo are highest" in said_of(rounded)
    close = results(method("dpo", cell(0, 0.3)), method("ipo", cell(0, 0.3001)))
    assert "ipo has the highest gold" in said_of(close)


def test_the_kl_of_the_sentence_has_two_decimals_at_most() -> None:
    content = results(
        method("dpo", cell(0, 1.0, kl=[-0.000273] * 24)), method("ipo", cell(0, kl=[12.345] * 24))
    )
    assert " at a KL of 0.00 nats, " in said_of(content)
    moved = results(method("dpo", cell(0, 1.0, kl=[0.12345] * 24)), method("ipo", cell(0)))
    assert " at a KL of 0.12 nats, " in said_of(moved)
    assert " at a KL of 12.3 nats" in said_of(results(method("dpo", cell(0, kl=[12.345] * 24))))


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
    assert "Responses were cut off at the length limit: dpo 50\u00a0%. Look at finished before" in warned(cut)


def test_whose_responses_were_cut_off_is_one_sentence() -> None:
    all_cut = [cell(finished=[False] * 24)]
    content = results(
        method("dpo", *all_cut),
        method("ipo", cell(finished=[True] * 6 + [False] * 18)),
        method("kto", cell()),
        start={"finished": [False] * 24},
    )
    assert "at the length limit: dpo 100\u00a0%, ipo 75\u00a0% and the start 100\u00a0%. Look" in warned(
        content
    )
    many = results(*(method(f"m{place}", *all_cut) for place in range(25)), start={"finished": [False] * 24})
    assert "m3 100\u00a0%, m4 100\u00a0%, 20 more and the start 100\u00a0%. Look" in warned(many)
    assert some_of(["a"]) == "a" and some_of([*"abcdefg"]) == "a, b, c, d, e and 2 more"


def test_the_notes_of_a_comparison_are_cautions() -> None:
    content = {**results(method("dpo", cell())), "notes": ["11 of 12 prompts stand in pairs.jsonl too."]}
    assert warned(content).endswith(" | 11 of 12 prompts stand in pairs.jsonl too.")


def test_equal_updates_that_were_not_equal_work_are_said() -> None:
    methods = [
        method("dpo", cell(seconds=0.2)),
        method("ppo", cell(seconds=0.36)),
        method("raft", cell(seconds=0.3)),
    ]
    content = results(*methods)
    said = "one of work: dpo took 0.2 CPU seconds a run, the least, and ppo 0.36, the most."
    assert f"A budget of updates is not {said}" in warned(content)
    assert "one of work" not in warned(results(methods[0], methods[2])), "1.5 times is no more"
    assert "one of work" not in warned(results(*methods, budget={"seconds": 60.0}))
    note = "the same updates are not the same work: ppo took 0.36 CPU seconds a fit, dpo 0.2"
    assert "one of work" not in warned({**content, "notes": [note]})


def test_a_budget_that_was_not_used_up_is_said() -> None:
    short = results(method("dpo", cell(seconds=31.0)), method("ipo", cell()), budget={"seconds": 60.0})
    assert "The budget of 60 CPU seconds was not equal for dpo (31 used)." in warned(short)
    many = [method(f"m{place}", cell(updates=150 + place)) for place in range(7)]
    assert (
        "for m0 (150 used), m1 (151 used), m2 (152 used), m3 (153 used), m4 (154 used) and 2 more."
        in warned(results(*many))
    )
    wall = results(method("dpo", cell(seconds=31.0)), budget={"seconds": 60.0, "clock": "wall"})
    assert "used)" not in warned(wall) and dict(held_equal(wall))["budget"].startswith(
        "60 seconds of training"
    )
    assert "300 updates was not equal for dpo (200 used)" in warned(results(method("dpo", cell(updates=200))))
    assert "used)" not in warned(results(method("dpo", cell(updates=200)), budget=None))


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
    table = settings_table(content)
    assert table.columns == [Head("setting"), Head("dpo", "1"), Head("raft", "2")]
    assert table.rows == [
        (Head("module"), ["DPOModule", "DPOModule"]),
        (Head("loss"), ["dpo", "–"]),
        (Head("model.beta"), ["0.1", "–"]),
        (Head("model.keep"), ["–", "2"]),
    ]
    renamed = results(method("dpo", cell(), config="configs/d.yaml"))
    assert settings_table(renamed).rows[0][0] == Head("config")
    elsewhere = results(method("dpo", cell(), config="configs/dpo.yaml"))
    assert Head("config") not in [head for head, _ in settings_table(elsewhere).rows]


def test_the_settings_of_many_methods_have_a_row_each() -> None:
    few = [method(f"m{place}", cell(), settings={"beta": place}, loss=None) for place in range(6)]
    assert len(settings_table(results(*few)).columns) == 7
    many = settings_table(results(*few, method("m6", cell(), settings={"beta": None}, loss=None)))
    assert many.columns == [Head("method"), Head("module"), Head("beta")]
    assert many.rows[0] == (Head("m0", "1"), ["DPOModule", "0"])
    assert many.rows[6] == (Head("m6", "7"), ["DPOModule", "default"])


def test_classes_stand_without_their_modules_unless_they_look_alike() -> None:
    def shown(*paths: str) -> list[str]:
        given = [
            method(f"m{place}", cell(), settings={"scheduler.class_path": path})
            for place, path in enumerate(paths)
        ]
        return dict(settings_table(results(*given)).rows)[Head("scheduler.class_path")]

    assert shown("torch.optim.lr_scheduler.LinearLR", "ConstantLR") == ["LinearLR", "ConstantLR"]
    assert shown("mine.LinearLR", "torch.LinearLR") == ["mine.LinearLR", "torch.LinearLR"]


def test_comparisons_that_accuracy_leaves_out_are_counted() -> None:
    def measured_on(**changes: int) -> str:
        accuracy = {"right": [1, 0], "prompts": ["a", "b"], **changes}
        first = method("dpo", cell(accuracy=None, tokens=None))
        return dict(held_equal(results(first, method("ipo", cell(accuracy=accuracy, tokens=None)))))[
            "measured on"
        ]

    assert measured_on(ties=2, unscored=1) == "2 held-out comparisons, 2 ties left out, 1 unscored"
    assert measured_on(ties=1, unscored=0) == "2 held-out comparisons, 1 tie left out"

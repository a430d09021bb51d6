"""A comparison in numbers, against values worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lit_rlhf.reports.compare_cells import asked_seeds, read_results
from lit_rlhf.reports.compare_cells import undone as undone_runs
from lit_rlhf.reports.compare_numbers import (
    ACCURACY,
    GOLD,
    KL,
    REWARD,
    SECONDS,
    TOKENS,
    UPDATES,
    Difference,
    column_decimals,
    differences,
    differences_to_start,
    leading_measure,
    summarise,
    summarise_start,
    written,
)
from lit_rlhf.reports.compare_resampling import Estimate
from tests.reports.compare_on_disk import cell, method, results, undone


def number(mean: float, low: float | None = None, high: float | None = None) -> Estimate:
    return Estimate(mean, low, high, 1, 30, False, 0)


def test_a_row_has_the_means_over_its_seeds() -> None:
    content = results(
        method("dpo", cell(0, 1.0), cell(1, 2.0, seconds=62.0, updates=310), undone(2)), seeds=[0, 1, 2]
    )
    (row,) = summarise(content)
    assert (row.method, row.seeds_done, row.seeds_asked) == ("dpo", 2, 3)
    assert row.gold is not None and row.gold.mean == 1.5 and row.gold.prompts == 24
    assert row.reward is not None and row.reward.mean == 3.0
    assert row.accuracy is not None and row.accuracy.mean == 0.75 and row.accuracy.by_row
    assert row.finished is not None and (row.finished.mean, row.finished.high) == (1.0, 1.0)
    assert row.updates is not None and (row.updates.mean, row.updates.low) == (
        305.0,
        pytest.approx(305 - 5 * 9.168, abs=0.01),
    )
    assert row.seconds is not None and row.seconds.mean == 61.0
    assert row.episodes is not None and row.episodes.mean == 0.0


def test_shares_and_times_stay_within_what_is_possible() -> None:
    shares = [cell(seed, finished=[bool(seed)] * 24, seconds=60.0 * seed) for seed in (0, 1)]
    (row,) = summarise(results(method("dpo", *shares)))
    assert row.finished is not None and (row.finished.low, row.finished.high) == (0.0, 1.0)
    assert row.seconds is not None and row.seconds.low == 0.0


def test_differences_of_shares_stay_within_100_points() -> None:
    def of(*shares: list[int]) -> list[dict[str, object]]:
        return [
            cell(seed, accuracy={"right": right, "prompts": list(range(4))})
            for seed, right in enumerate(shares)
        ]

    content = results(method("dpo", *of([1] * 4, [0] * 4)), method("ipo", *of([0] * 4, [1] * 4)))
    (found,) = [each.estimate for each in differences(content) if each.measure == ACCURACY]
    assert found is not None and (found.mean, found.low, found.high) == (0.0, -1.0, 1.0)
    bare = {"gold": None, "reward": None}
    apart = results(
        method("dpo", *({**each, **bare} for each in of([1] * 4, [0] * 4))),
        start={"accuracy": {"right": [1, 1, 0, 0], "prompts": list(range(4))}},
    )
    (to_start,) = [each.estimate for each in differences_to_start(apart)]
    assert to_start is not None and (to_start.mean, to_start.low, to_start.high) == (0.0, -1.0, 1.0)


def test_what_was_not_measured_is_none() -> None:
    empty = cell(0, gold=None, kl=None, accuracy=None, reward=None)
    del empty["updates"]
    content = results(method("dpo", empty), method("ipo", undone(0, "missing")))
    dpo, ipo = summarise(content)
    assert dpo.gold is dpo.kl is dpo.accuracy is dpo.reward is dpo.updates is None and dpo.tokens is not None
    assert ipo.seeds_done == 0 and ipo.tokens is None
    assert leading_measure(content) is None
    assert all(each.estimate is None for each in differences(content))
    assert summarise_start(content) is None
    one_has_it = results(method("dpo", cell(0, gold=None), cell(1, 3.0)))
    assert summarise(one_has_it)[0].gold.mean == 3.0  # type: ignore[union-attr]


def test_numbers_that_a_reward_did_not_give_are_left_out() -> None:
    (row,) = summarise(results(method("dpo", cell(0, gold=[1.0, None, 3.0, float("inf"), *[2.0] * 20]))))
    assert row.gold is not None and (row.gold.mean, row.gold.left_out) == (2.0, 2)


def test_differences_are_paired_by_seed_and_prompt() -> None:
    luck = [0.1 * place for place in range(24)]
    first = method(
        "dpo", cell(0, gold=luck), cell(1, gold=[one + 5 for one in luck]), cell(2, gold=[99.0] * 24)
    )
    other = method(
        "ipo", cell(1, gold=[one + 5.5 for one in luck]), cell(0, gold=[one + 0.5 for one in luck])
    )
    found = {each.measure: each for each in differences(results(first, other))}
    gold = found[GOLD].estimate
    assert gold is not None and gold.seeds == 2, "the third seed of the first has nobody to be paired with"
    # prompts and seeds differ widely, but the difference is the same on every one of them
    assert (gold.mean, gold.low, gold.high) == (pytest.approx(0.5), pytest.approx(0.5), pytest.approx(0.5))
    assert (found[GOLD].method, found[GOLD].against, found[GOLD].shown) == ("ipo", "dpo", "above")
    assert found[TOKENS].shown == "nothing", "10 tokens each"
    assert [each.measure for each in differences(results(first, other))] == [
        ACCURACY,
        GOLD,
        REWARD,
        KL,
        TOKENS,
    ]


def test_repeated_evaluation_prompts_are_resampled_together() -> None:
    gold = {"seed": 0, "state": "done", "gold": [1.0, 1.0, 0.0, 0.0] * 20}
    content = results(method("dpo", gold))
    (alone,) = summarise(content)
    (together,) = summarise({**content, "evaluation_prompts": [place // 2 for place in range(80)]})
    assert alone.gold is not None and together.gold is not None
    assert (alone.gold.prompts, together.gold.prompts) == (80, 40)
    # a standard error of 1/2 over the root of 80 and of 40: 95 % are 0.219 and 0.310 wide
    assert alone.gold.high - alone.gold.low == pytest.approx(0.219, abs=0.015)  # type: ignore[operator]
    assert together.gold.high - together.gold.low == pytest.approx(0.310, abs=0.02)  # type: ignore[operator]


def test_no_seed_in_common_is_no_comparison() -> None:
    found = differences(results(method("dpo", cell(0, 1.0)), method("ipo", cell(1, 2.0))))
    assert all(each.estimate is None and each.shown == "nothing" for each in found)


def test_differences_to_the_start_are_on_the_same_prompts() -> None:
    luck = [float(place) for place in range(24)]
    gained = [cell(seed, gold=[one + gain for one in luck]) for seed, gain in ((0, 1.0), (1, 1.0))]
    (found,) = differences_to_start(results(method("dpo", *gained), start={"gold": luck}))
    assert found.estimate is not None and found.estimate.mean == pytest.approx(1.0)
    assert found.estimate.low == pytest.approx(1.0) and found.against == "the start"
    start = summarise_start(results(method("dpo"), start={"gold": luck}))
    assert start is not None and start.gold is not None and start.gold.mean == 11.5


@pytest.mark.parametrize(
    ("estimate", "shown"),
    [
        (number(0.3, 0.1, 0.5), "above"),
        (number(-0.3, -0.5, -0.1), "below"),
        (number(0.3, 0.0, 0.6), "nothing"),
        (number(0.3), "nothing"),
        (None, "nothing"),
    ],
)
def test_an_interval_that_leaves_0_out_is_shown(estimate: Estimate | None, shown: str) -> None:
    assert Difference("ipo", "dpo", GOLD, estimate).shown == shown


def test_gold_leads_then_reward_then_accuracy() -> None:
    assert leading_measure(results(method("dpo", cell()))) == GOLD
    assert leading_measure(results(method("dpo", cell(gold=None)))) == REWARD
    assert leading_measure(results(method("dpo", cell(gold=None, reward=None)))) == ACCURACY


def test_other_prompts_are_refused_by_name() -> None:
    longer = results(method("dpo", cell(0), cell(1, gold=[1.0] * 23)))
    with pytest.raises(
        ValueError, match=r"method 'dpo', seed 1, field 'gold': expected the 24 numbers .* found 23"
    ):
        summarise(longer)
    across = results(method("dpo", cell(0)), method("ipo", cell(0, kl=[1.0] * 23)))
    with pytest.raises(ValueError, match=r"'ipo' and 'dpo', field 'kl': .* found 23 and 24"):
        differences(across)
    uneven = cell(accuracy={"mean": 1.0, "rows": 2, "right": [1, 1], "prompts": ["a"]})
    with pytest.raises(
        ValueError, match=r"field 'accuracy': expected as many prompts as numbers, found 1 and 2"
    ):
        summarise(results(method("dpo", uneven)))


def test_runs_that_are_not_done_are_named_even_if_the_file_does_not() -> None:
    content = results(method("dpo", cell(0), undone(1, "failed", "NaN")), seeds=[0, 1, 2])
    assert [(each.seed, each.state, each.why) for each in undone_runs(content)] == [
        (1, "failed", "NaN"),
        (2, "missing", "results.json does not name it"),
    ]
    assert asked_seeds(results(method("dpo", cell(3), cell(1)))) == [1, 3]


def test_how_numbers_are_written() -> None:
    assert column_decimals(GOLD, [number(0.051), None, number(-0.2)]) == 3
    assert column_decimals(GOLD, [number(12.3)]) == 1 and column_decimals(GOLD, [number(0.0)]) == 2
    assert column_decimals(UPDATES, [number(300.0)]) == 0 and column_decimals(SECONDS, [number(60.0)]) == 1
    assert column_decimals(ACCURACY, [number(0.7)]) == 1
    assert written(-0.25, ACCURACY, 1) == "−25.0"
    assert written(-1e-12, GOLD, 2) == "0.00", "rounding"
    assert written(-0.0004, ACCURACY, 1) == "−0.04", "the side of 0 is seen"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "results.json:1: expected JSON"),
        ("{}", "expected 'methods'"),
        ('{"methods": [{}]}', "methods\\[0\\]: expected a 'name'"),
    ],
)
def test_a_file_that_is_no_comparison_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(ValueError, match=said):
        read_results(tmp_path)
    (tmp_path / "results.json").write_text(json.dumps(results(method("dpo"))))
    assert read_results(tmp_path)["methods"][0]["name"] == "dpo"

"""The benchmark of the direct methods: equal costs, flipped labels, summing up, and the page."""

import json
from pathlib import Path
from random import Random

import pytest
import torch

from benchmarks.direct import costs, longer, online, votes
from benchmarks.direct.__main__ import parse
from benchmarks.direct.contest import PAIR_WORLDS, methods
from benchmarks.direct.contest import fit as fit_contest
from benchmarks.direct.contest import jobs as contest_jobs
from benchmarks.direct.costs import Stopwatch, bought, measured
from benchmarks.direct.fits import direct, kind_of, online_fit, ppo_fit, train
from benchmarks.direct.judge import accuracy
from benchmarks.direct.page import write_page
from benchmarks.direct.rankings import ARMS as RANKING_ARMS
from benchmarks.direct.rankings import best_against_worst
from benchmarks.direct.rankings import fit as fit_ranking
from benchmarks.direct.recipes import ASSUMED_CLEAN, RECIPES, TRIES, chosen
from benchmarks.direct.summary import (
    at_equal_kl,
    frontier,
    in_words,
    over_frontier,
    over_way,
    seconds_of,
    seconds_to,
)
from benchmarks.direct.worlds import FLIP_RATE, WORLDS, Ground, flipped
from benchmarks.reward_studies.cells import Cells, Job
from benchmarks.reward_studies.summary import Interval
from lit_rlhf import DPOModule
from lit_rlhf.modules.direct_methods import METHODS
from lit_rlhf.world.build import prompt_rows, write_model
from lit_rlhf.world.grammar import sample_sentence, sample_topic

COSTS = {"reference": 1.0, "no_reference": 0.5, "kto": 2.0, "reward": 1.0, "ppo": 4.0, "online": 2.0}


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    """A small corner of the demo world: an untrained policy, and sentences against the same shuffled."""
    folder, generator = tmp_path_factory.mktemp("direct"), Random(0)
    write_model(folder / "model", hidden=16, layers=1, heads=2)
    rows = []
    for _ in range(24):
        domain, noun = sample_topic(generator)
        words = sample_sentence(generator, domain, noun)
        mixed = sorted(words)
        if mixed != list(words):
            text = {"chosen": " ".join(words), "rejected": " ".join(mixed)}
            rows.append({"prompt": f"{domain} {noun} |", **text})
    prompts = list(prompt_rows(Random(1), 300))
    return Ground(
        WORLDS["demo"],
        0,
        folder / "model",
        rows[4:],
        rows[:4],
        prompts,
        prompts[:8],
        folder / "files",
        quick=True,
    )


# --- equal seconds


def test_costs_are_medians_of_ratios_within_a_turn():
    reference, other = iter([1.0, 2.0, 4.0]), iter([2.0, 6.0, 16.0])
    found = measured({"reference": lambda: next(reference), "other": lambda: next(other)}, rounds=3)
    assert (found["other"], found["reference"]) == (3.0, 1.0)  # of 2, 3 and 4
    assert found["seconds"] == 2.0
    assert found["turns"] == 3
    assert found["spread"]["other"] == [2.0, 4.0]


def test_turns_go_back_and_forth():
    order = []
    measured(
        {name: lambda name=name: order.append(name) or 1.0 for name in ("reference", "b", "c")}, rounds=2
    )
    assert order == ["reference", "b", "c", "c", "b", "reference"]


def test_a_budget_buys_whole_updates_and_at_least_one():
    assert bought({"kto": 1.5}, "kto", 80) == 53
    assert bought({"ppo": 10.0}, "ppo", 80, before=41.0) == 3
    assert bought({"ppo": 10.0}, "ppo", 80, before=200.0) == 1


def test_a_stopwatch_leaves_the_first_out():
    watch = Stopwatch(None, first=2, epochs=False)  # type: ignore[arg-type]
    watch.seen = [10.0, 20.0, 21.0, 23.0]
    assert watch.each == 1.5


def test_losses_without_a_reference_get_more_updates_for_a_budget(ground):
    pairs = ground.file("pairs_clean", ground.training)
    updates = {
        loss: direct(ground, COSTS, pairs, {"loss": loss}).updates for loss in ("sigmoid", "simpo", "kto")
    }
    assert updates == {"sigmoid": 4, "simpo": 8, "kto": 2}
    assert {kind_of(loss) for loss in ("simpo", "orpo", "cpo", "slic")} == {"no_reference"}


def test_methods_that_sample_are_counted_in_iterations(ground):
    trained = train(online_fit(ground, 0.1, None, 2), 4, 2)
    assert trained.updates == 4  # two iterations of 128 responses, updates of 64
    module, _ = ppo_fit(ground, {"kl_coef": 0.1, "rate": 2.0}, "lit_rlhf.world.gold.gold", 2)
    (rate,) = {group["initial_lr"] for group in module.configure_optimizers()["optimizer"].param_groups[:1]}
    assert rate == pytest.approx(1e-3)  # twice 5e-4


def test_a_cell_says_what_the_policy_is(ground):
    result = fit_contest(ground, COSTS, "clean", "sigmoid", 0)
    assert {"gold", "grammar", "kl", "length", "accuracy", "updates", "settings"} <= set(result)
    assert result["curve"] == []
    longer = fit_contest(ground, COSTS, "clean", "sigmoid", 0, times=2)
    assert [point["share"] for point in longer["curve"]] == [0.2, 0.5]
    assert longer["updates"] == 8


def test_the_start_is_at_no_distance_and_prefers_nothing(ground):
    numbers = ground.judge.measure(ground.judge.evaluator.reference, 0)
    assert numbers["kl"] == pytest.approx(0.0, abs=1e-5)
    assert numbers["accuracy"] == 0.5


# --- data


def test_a_quarter_of_the_labels_is_turned_round():
    rows = [{"prompt": "p", "chosen": f"a{n}", "rejected": f"b{n}"} for n in range(4000)]
    turned = flipped(rows, 3)
    share = sum(row["chosen"].startswith("b") for row in turned) / 4000
    assert share == pytest.approx(FLIP_RATE, abs=0.03)
    assert {frozenset((row["chosen"], row["rejected"])) for row in turned} == {
        frozenset((row["chosen"], row["rejected"])) for row in rows
    }
    assert flipped(rows, 3) == turned != flipped(rows, 4)


def test_best_against_worst_leaves_out_rankings_that_are_ties():
    rows = [
        {"prompt": "p", "responses": ["a", "b", "c"], "ranks": [3, 1, 1]},
        {"prompt": "q", "responses": ["a", "b"], "ranks": [1, 1]},
    ]
    assert best_against_worst(rows) == [{"prompt": "p", "chosen": "b", "rejected": "a"}]


def test_rankings_and_their_pairs_are_fitted(ground):
    responses = ["the soup is tasty .", "soup tasty .", "the the ."]
    rankings = [{"prompt": "food soup |", "responses": responses, "ranks": [1, 2, 3]}] * 6
    held_out = [{"prompt": "food soup |", "responses": responses[::-1], "ranks": [3, 2, 1]}]
    ranked = Ground(
        ground.world,
        1,
        ground.start,
        rankings,
        held_out,
        ground.prompts,
        ground.asked,
        ground.folder / "r",
        True,
    )
    for arm in RANKING_ARMS:
        result = fit_ranking(ranked, arm)
        assert result["updates"] == 4
        assert result["tau"] in (-1.0, pytest.approx(-1 / 3), pytest.approx(1 / 3), 1.0)
        assert result["settings"]["loss"] == ("plackett_luce" if arm == "plackett_luce" else "sigmoid")


def test_votes_have_an_arm_for_each_way_of_counting():
    assert {arm: reading["votes"] for arm, (_, reading, _) in votes.ARMS.items()} == {
        "majority": "majority", "soft": "share", "smoothed": "majority", "robust": "majority",
    }  # fmt: skip


# --- methods


def test_every_loss_on_pairs_is_in_the_contest():
    losses = {recipe.options["loss"] for name, recipe in RECIPES.items() if name != "ppo"}
    assert losses == set(METHODS) - {
        "plackett_luce"
    }  # which is the sigmoid loss on pairs, and is under rankings
    assert all(len(recipe.tries) == TRIES for recipe in RECIPES.values())
    for world in PAIR_WORLDS:
        for condition in ("clean", "flips"):
            assert set(methods(world, condition)) <= set(RECIPES)
            assert "sigmoid" in methods(world, condition)  # which all others are held against


@pytest.mark.parametrize("method", [name for name in RECIPES if name != "ppo"])
def test_every_try_is_one_that_the_module_takes(method, ground):
    for condition in ("clean", "flips"):
        for number in range(TRIES):
            DPOModule(str(ground.start), **RECIPES[method].settings(number, condition))
    assert chosen(method) in range(TRIES)


def test_what_corrects_for_noise_is_told_its_share():
    assert RECIPES["robust"].settings(0, "flips")["flip_rate"] == FLIP_RATE
    assert RECIPES["cdpo"].settings(0, "clean")["label_smoothing"] == ASSUMED_CLEAN
    assert "label_smoothing" not in RECIPES["sigmoid"].settings(0, "flips")


# --- summing up


def test_equal_rewards_are_half_right():
    assert accuracy([torch.tensor([1.0, 0.0]), torch.tensor([0.0, 0.0]), torch.tensor([0.0, 1.0])]) == 0.5


def test_families_are_compared_where_both_have_been():
    def run(kl: float, gold: float) -> dict:
        return {"kl": kl, "gold": gold}

    by_arm = {
        "online-0.1": {0: run(4.0, 2.0), 1: run(4.0, 1.0)},
        "online-1": {0: run(1.0, 1.5)},
        "offline-0.1": {0: run(4.0, 1.0), 1: run(0.5, 1.0)},
    }
    starts = {0: 0.0, 1: 0.0}
    assert frontier(by_arm, "online", 0, 0.0) == [(0.0, 0.0), (1.0, 1.5), (4.0, 2.0)]
    ours, theirs, gap = at_equal_kl(by_arm, "online", "offline", starts, 1.0)
    assert (ours.mean, theirs.mean, gap.mean, gap.seeds) == (
        1.5,
        0.5,
        1.0,
        1,
    )  # seed 1 went no further than 0.5
    assert at_equal_kl(by_arm, "online", "offline", starts, 9.0) is None


def test_a_method_is_held_against_dpo_at_its_own_distance():
    families = {"offline-0.1": {0: {"kl": 4.0, "gold": 1.0}, 1: {"kl": 1.0, "gold": 1.0}}}
    contest = {"orpo": {0: {"kl": 1.0, "gold": 0.75}, 1: {"kl": 2.0, "gold": 9.0}}}
    gap = over_frontier(contest, "orpo", families, {0: 0.0, 1: 0.0})
    assert (gap.mean, gap.seeds) == (0.25, 1)  # DPO is half-way on √KL; on seed 1 it never went so far
    assert over_frontier(contest, "cpo", families, {0: 0.0}) is None


def test_a_method_is_held_against_the_way_of_another():
    walked = {"kl": 4.0, "gold": 2.0, "curve": [{"kl": 1.0, "gold": 0.5}]}
    by_arm = {
        "online": {0: {"kl": 2.25, "gold": 2.0}, 1: {"kl": 9.0, "gold": 9.0}},
        "dpo": {0: walked, 1: walked},
    }
    gap = over_way(by_arm, "online", "dpo", {0: 0.0, 1: 0.0})
    assert (gap.mean, gap.seeds) == (0.75, 1)  # half-way between 0.5 and 2.0


def test_seconds_to_a_gain_count_the_reward_model():
    costs = {"reward": 0.5, "seconds": 0.1}
    result = {"gold": 2.0, "curve": [{"share": 0.5, "gold": 1.0}]}
    world = WORLDS["demo"]
    total, before = longer.TIMES * world.budget, 63 * 0.5  # 2,000 pairs in updates of 32
    way = longer.way(result, "ppo", 0.0, costs)
    assert way == [
        (pytest.approx(0.1 * before), 0.0),
        (pytest.approx(0.05 * (before + total)), 1.0),
        (pytest.approx(0.1 * total), 2.0),
    ]
    assert (
        longer.way(result, "orpo", 0.0, costs)[0]
        == longer.way(result, "sigmoid-0.3", 0.0, costs)[0]
        == (0.0, 0.0)
    )
    assert (
        longer.way(result, "online_reward", 0.0, costs)[0]
        == longer.way(result, "raft", 0.0, costs)[0]
        == way[0]
    )
    assert seconds_to(0.5, [(1.0, 0.0), (3.0, 1.0), (5.0, 2.0)]) == 2.0
    assert seconds_to(0.5, [(1.0, 0.0), (3.0, 0.4)]) is None


def test_intervals_are_written_from_three_seeds_on():
    assert in_words(None) == ""
    assert in_words(Interval(1.0, -1.0, 3.0, 3), 1, signed=True, bold=True) == "+1.0 [-1.0, +3.0]"
    assert in_words(Interval(1.0, 0.5, 1.5, 3), 1, bold=True) == "**1.0 [0.5, 1.5]**"
    assert in_words(Interval(1.0, 0.5, 1.5, 2), 1, bold=True) == "1.0"


def test_an_update_costs_what_is_computed_for_it():
    found = {**COSTS, "seconds": 0.1}
    assert seconds_of("orpo", found) == pytest.approx(0.05)
    assert seconds_of("ppo", found) == pytest.approx(0.4)
    assert seconds_of("cdpo", found) == pytest.approx(0.1)


# --- the page


def numbers(gold: float) -> dict:
    return {
        "gold": gold,
        "kl": gold,
        "grammar": 0.9,
        "length": 9.0,
        "accuracy": 0.6,
        "updates": 4,
        "labels": 64,
    }


def test_the_page_says_how_many_seeds_each_cell_has(tmp_path: Path):
    work = tmp_path / "work"
    (work / "starts").mkdir(parents=True)
    (work / "starts" / "demo-0.json").write_text(json.dumps({"cpu_seconds": 1.0}))
    spread = {name: [1.0, 1.0] for name in COSTS}
    (work / "costs-demo.json").write_text(json.dumps({**COSTS, "seconds": 0.05, "spread": spread}))
    for seed in range(3):
        cells = Cells(work, Job("contest", "demo", "clean", seed))
        cells.once("start", lambda: numbers(0.0))
        cells.once("sigmoid", lambda seed=seed: numbers(0.5 + 0.1 * seed))
        if seed < 2:
            cells.once("orpo", lambda seed=seed: numbers(0.7 + 0.1 * seed))
        other = Cells(work, Job("online", "demo", "clean", seed))
        for family in online.FAMILIES:
            other.once(f"{family}-0.1", lambda family=family: numbers(2.0 if family == "online" else 1.0))
    out = tmp_path / "direct.json"
    write_page(work, out)
    page = out.with_suffix(".md").read_text()
    assert out.with_suffix(".png").stat().st_size > 10_000
    (row,) = [line for line in page.splitlines() if line.startswith("| orpo | 25 ")]
    assert "| +0.20 |" in row  # two seeds have no interval
    (row,) = [line for line in page.splitlines() if line.startswith("| DPO (sigmoid) | beta ")]
    assert row.endswith("| 4 | 3 |")
    found = json.loads(out.read_text())
    assert len(found["cells"]) == 3 * 2 + 2 + 3 * 2
    assert [row["kl"] for row in found["online_against_offline"]] == [
        0.25,
        0.5,
        1.0,
    ]  # offline went no further


def test_seeds_are_run_whole():
    arguments = parse(["--out", "x.json", "--seeds", "3"])
    assert arguments.seeds == [3]
    assert [job.seed for job in contest_jobs([0, 1])] == [0] * 6 + [1] * 6
    assert costs.TURNS >= 3

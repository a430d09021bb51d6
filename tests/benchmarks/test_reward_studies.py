"""The studies of reward models: what they measure, how they sum it up, and that a cell is run once."""

import json
import math
from random import Random

import pytest
import torch

from benchmarks.reward_studies import components, denoising, rankings, votes
from benchmarks.reward_studies.__main__ import main, parse
from benchmarks.reward_studies.cells import Cells, Job, read_cells, read_failures
from benchmarks.reward_studies.demo_pairs import candidate_lists, candidate_pairs, split
from benchmarks.reward_studies.measures import (
    area_under_curve,
    correlation_within_rows,
    kendall_tau,
    log_loss,
    mean_entropy,
    pair_accuracy,
    strict_differences,
)
from benchmarks.reward_studies.summary import difference, group, interval, mean_curve
from benchmarks.reward_studies.work import STUDIES, study
from lit_rlhf.world.tastes import Taste

JOB = Job("rankings", "demo", "as_is", 3)


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor(values)


# --- measures, by hand


def test_accuracy_and_log_loss_of_three_comparisons():
    assert pair_accuracy(tensor(2.0, -1.0, 0.0)) == pytest.approx(0.5)
    expected = -(math.log(0.75) + 0.5 * math.log(0.75) + 0.5 * math.log(0.25)) / 2
    assert log_loss(tensor(math.log(3), math.log(3)), tensor(1.0, 0.5)) == pytest.approx(expected)
    assert mean_entropy(tensor(0.5, 1.0)) == pytest.approx(math.log(2) / 2)


def test_strict_differences_leave_ties_out_and_point_to_the_better():
    scores, truths = [tensor(5.0, 1.0, 2.0)], [tensor(0.0, 1.0, 1.0)]
    assert sorted(strict_differences(scores, truths).tolist()) == [-4.0, -3.0]


def test_tau_b_counts_ties_on_both_sides_and_leaves_undecided_rows_out():
    # truths 3 > 2 = 2 > 1: five decided pairs of six; scores all apart: 4 agree, 1 does not.
    scores, truths = [tensor(4.0, 3.0, 1.0, 2.0)], [tensor(3.0, 2.0, 2.0, 1.0)]
    expected = (4 - 1) / math.sqrt(6 * 5)
    undecided = [tensor(1.0, 2.0)], [tensor(0.0, 0.0)]
    assert kendall_tau(scores + undecided[0], truths + undecided[1]) == pytest.approx(expected)
    assert kendall_tau([tensor(1.0, 1.0)], [tensor(1.0, 2.0)]) == 0.0


def test_correlation_is_within_rows():
    # between rows the two run against each other, within them they agree
    assert correlation_within_rows(
        [tensor(0.0, 1.0), tensor(5.0, 6.0)], [tensor(9.0, 11.0), tensor(1.0, 3.0)]
    ) == (pytest.approx(1.0))
    assert correlation_within_rows([tensor(1.0, 1.0)], [tensor(0.0, 1.0)]) == 0.0


def test_area_under_curve_of_four_comparisons():
    # wrong ones at -1 and 2, right ones at 2 and 3: of four pairs two are in order, one is, one is equal
    assert area_under_curve(tensor(-1.0, 2.0, 2.0, 3.0), torch.tensor([True, True, False, False])) == 3.5 / 4


# --- summing up


def test_interval_of_three_values_by_hand():
    found = interval([1.0, 2.0, 3.0])
    assert (found.mean, found.seeds) == (2.0, 3)
    assert found.high - 2.0 == pytest.approx(
        4.303 / math.sqrt(3)
    ) and found.low + found.high == pytest.approx(4.0)
    assert found.sign == 0 and interval([2.0, 2.1, 2.2]).sign == 1 and interval([-2.0, -2.1]).sign == -1
    assert interval([1.0]).high == math.inf


def test_differences_are_paired_by_seed():
    cells = [
        {
            "study": "s",
            "world": "w",
            "condition": "c",
            "arm": arm,
            "seed": seed,
            "result": {"accuracy": value},
        }
        for arm, seed, value in (
            ("plain", 0, 0.5),
            ("plain", 1, 0.9),
            ("arm", 1, 1.0),
            ("arm", 0, 0.6),
            ("arm", 2, 0.0),
        )
    ]
    by_arm = group(cells, "s")["w", "c"]
    found = difference(by_arm, "arm", "plain", "accuracy")
    assert found is not None and found.seeds == 2
    assert found.mean == pytest.approx(0.1) and found.high - found.low == pytest.approx(0.0, abs=1e-9)
    assert difference(by_arm, "arm", "plain", "tau") is None and group(cells, "other") == {}


def test_mean_curve_point_by_point():
    by_arm = {
        "arm": {
            seed: {"curve": [{"passes": 1.0, "accuracy": value}, {"passes": 2.0, "accuracy": value + 0.1}]}
            for seed, value in ((0, 0.5), (1, 0.7))
        }
    }
    (first, second) = mean_curve(by_arm, "arm", "accuracy")
    assert first == (1.0, pytest.approx(0.6)) and second == (2.0, pytest.approx(0.7))
    assert mean_curve(by_arm, "arm", "tau") == [] and mean_curve(by_arm, "none", "accuracy") == []


# --- cells


def test_a_cell_is_run_once_and_a_failed_one_again(tmp_path, capsys):
    ran = []

    def work(value):
        ran.append(value)
        if value < 0:
            raise ValueError("no such thing\nin two lines")
        return {"accuracy": value}

    cells = Cells(tmp_path, JOB)
    assert cells.once("plain", lambda: work(-1)) is None
    assert read_failures(tmp_path) == {"rankings/demo/as_is/3/plain": "in two lines"}
    assert "ValueError" in capsys.readouterr().out
    assert cells.once("plain", lambda: work(1)) == {"accuracy": 1}
    assert Cells(tmp_path, JOB).once("plain", lambda: work(2)) == {"accuracy": 1}
    assert ran == [-1, 1] and read_failures(tmp_path) == {}
    (cell,) = read_cells(tmp_path)
    assert (cell["study"], cell["seed"], cell["arm"], cell["result"]) == (
        "rankings",
        3,
        "plain",
        {"accuracy": 1},
    )


# --- data


def test_a_ranking_falls_apart_into_its_pairs():
    row = {"prompt": "p", "responses": ["a", "b", "c"], "ranks": [2, 1, 2]}
    pairs = rankings.split_rows([row])
    assert [(pair["chosen"], pair["rejected"], pair.get("tie", False)) for pair in pairs] == [
        ("b", "a", False),
        ("a", "c", True),
        ("b", "c", False),
    ]


POOL = [{"prompt": f"{domain} |", "responses": [f"{domain} {n} {k}" for k in range(5)]}
        for n in range(40) for domain in ("food", "trip")]  # fmt: skip


def test_the_pool_is_parted_and_every_response_used_once():
    parts = split(POOL)
    assert sum(map(len, parts.values())) == len(POOL) == 80
    assert list(parts["train"]) + list(parts["dev"]) + list(parts["test"]) == POOL
    pairs = candidate_pairs(POOL, 80, ["food"])
    texts = [text for pair in pairs for text in pair["responses"]]
    assert len(texts) == len(set(texts)) == 160 and all(text.startswith("food") for text in texts)
    lists = candidate_lists(POOL, 30, Random(0), sizes=(4, 6))
    texts = [text for row in lists for text in row["responses"]]
    assert len(texts) == len(set(texts)) and {len(row["responses"]) for row in lists} == {4, 6}
    with pytest.raises(ValueError, match="expected 81 candidates in the pool, found 80"):
        candidate_pairs(POOL, 81, ["food"])


def test_votes_are_spoiled_as_the_condition_says():
    labels = [{"labeler": str(n), "choice": choice} for n, choice in enumerate("aaaab")]
    labels.append({"labeler": "5", "choice": "tie"})
    row = {"prompt": "p", "response_a": "x", "response_b": "y", "labels": labels}
    assert votes.share(row) == pytest.approx(4.5 / 6)
    assert votes.spoiled(row, "as_is", Random(0)) == row
    flipped = [votes.spoiled(row, "flips", Random(seed)) for seed in range(400)]
    assert all(one["labels"][5]["choice"] == "tie" for one in flipped)
    turned = sum(
        a["choice"] != b["choice"] for one in flipped for a, b in zip(one["labels"], labels, strict=True)
    )
    assert turned / (400 * 5) == pytest.approx(0.25, abs=0.03)
    for seed in range(20):
        names = [label["labeler"] for label in votes.spoiled(row, "spammers", Random(seed))["labels"]]
        assert len(set(names[:2])) == 2 and all(name.startswith("spammer") for name in names[:2])
        assert names[2:] == ["2", "3", "4", "5"]
    assert votes.vote_accuracy(tensor(0.3), [row]) == pytest.approx(4 / 5)
    assert labels[0] == {"labeler": "0", "choice": "a"}  # the given row is left as it was


def test_a_fold_holds_out_one_pair_of_each_paradigm():
    rows = [{"paradigm": name, "id": number} for name in "xyz" for number in range(5)]
    folds = [votes.held_out_of_each_paradigm(rows, fold) for fold in range(5)]
    assert [[row["id"] for row in fold] for fold in folds] == [[fold] * 3 for fold in range(5)]


def test_treated_rows_are_flipped_and_given_margins():
    rows = [{"prompt": "p", "chosen": f"c{n}", "rejected": f"r{n}", "wrong": False} for n in range(5)]
    found = denoising.treated(rows, [-2.0, 1.0, 3.0, 0.5, -0.25], "flip+margin")
    assert [(row["chosen"], row["margin"]) for row in found] == [
        ("r0", 2.0), ("c1", 1.0), ("c2", 3.0), ("c3", 0.5), ("c4", 0.0),
    ]  # fmt: skip
    soft = denoising.treated(rows, [-2.0, 1.0, 3.0, 0.5, -0.25], "soft+margin")
    assert [row.get("target", 1.0) for row in soft] == [0.75, 1.0, 1.0, 1.0, 0.75]


def test_wrong_labels_are_marked_and_of_the_planted_share():
    pairs = [{"prompt": "p", "chosen": "x" * (n % 7 + 1), "rejected": "x" * (n % 5 + 1)} for n in range(3000)]
    uniform = denoising._real_noise(pairs, "uniform", Random(0))
    assert sum(row["wrong"] for row in uniform) / 3000 == pytest.approx(0.25, abs=0.03)
    for pair, row in zip(pairs, uniform, strict=True):
        kept = row["rejected"], row["chosen"]
        assert (kept if row["wrong"] else kept[::-1]) == (pair["chosen"], pair["rejected"])
    concentrated = denoising._real_noise(pairs, "concentrated", Random(0))
    far = [
        row for row in concentrated if row["wrong"] and abs(len(row["chosen"]) - len(row["rejected"])) >= 3
    ]
    assert far and all(
        len(row["chosen"]) < len(row["rejected"]) for row in far
    )  # the lover of short ones alone


def test_a_taste_judges_pairs_and_leaves_out_what_it_cannot_tell_apart():
    candidates = [
        {"prompt": "food soup |", "responses": ["the soup is big .", "the soup is very big ."]},
        {"prompt": "food soup |", "responses": ["the soup is big .", "the soup is red ."]},
    ]
    (row,) = components.judge(candidates, Taste(adverb=1.0), "group", 0.0, Random(0))
    assert (row["chosen"], row["domain"]) == ("the soup is very big .", "group")
    drawn = [
        components.judge(candidates, Taste(adverb=1.0), "g", 1.0, Random(seed))[0] for seed in range(500)
    ]
    share = sum(row["chosen"] == "the soup is very big ." for row in drawn) / 500
    assert share == pytest.approx(1 / (1 + math.exp(-1)), abs=0.06)


# --- the command and the page


def test_every_study_says_what_it_is():
    for name in STUDIES:
        module = study(name)
        assert name == module.NAME and module.BASELINE in module.ARMS and module.HOW and module.__doc__
        assert all(metric in module.METRICS or metric in module.ARMS for metric in module.DRAWN)
        jobs = module.jobs([0, 1])
        assert len(jobs) == len({job.name for job in jobs}) and {job.seed for job in jobs} == {0, 1}
    assert parse(["--out", "x"]).seeds == [0, 1, 2, 3, 4]


def result(arm: str, seed: int) -> dict:
    value = 0.7 + 0.01 * seed + (0.05 if arm == "flip" else 0.0)
    return {"accuracy": value, "best_accuracy": value, "curve": [], "in_sample_auc": 0.8}


def test_the_page_tells_of_differences_failures_and_extras(tmp_path):
    for seed in range(3):
        cells = Cells(tmp_path / "full", Job("denoising", "demo", "uniform", seed))
        for arm in ("plain", "flip", "strength"):
            cells.once(arm, lambda arm=arm, seed=seed: result(arm, seed))
        cells.once("margin", lambda: {}["missing"])
    main(["--out", str(tmp_path), "--page", "--results", str(tmp_path)])
    page = (tmp_path / "reward_studies.md").read_text()
    assert "| flip the weakest 20 % | 0.760 | +0.050 [+0.050, +0.050] | 0.760 |" in page
    assert "| plain | 0.710 |  | 0.710 |  |" in page
    assert "against “plain”: better: flip the weakest 20 % (+0.050 [+0.050, +0.050])\n" in page
    assert "AUC, in-sample: 0.800 (0.80 to 0.80)" in page
    assert "failed cells: 3, the first `('denoising/demo/uniform/0/margin'" in page
    assert (tmp_path / "reward_studies_denoising.png").read_bytes().startswith(b"\x89PNG")
    numbers = json.loads((tmp_path / "reward_studies.json").read_text())
    assert len(numbers["cells"]) == 9 and numbers["cells"][0]["result"]["accuracy"] == 0.75

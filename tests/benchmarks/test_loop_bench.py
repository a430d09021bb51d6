"""The benchmark of loops: what its arms share, and how its numbers are made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import loop as bench
from benchmarks import loop_rows
from lit_rlhf.cli.loop.fits import class_of


def arm(gold: float, kl: float, grammar: float = 0.9) -> dict[str, Any]:
    return {"start": 0.0, "gold": [gold], "kl": [kl], "grammar": [grammar], "seconds": 1.0}


RESULTS = {
    "dpo 0.1": {
        0: {"one": arm(1.0, 4.0), "three": arm(1.2, 1.0)},
        1: {"one": arm(2.0, 4.0), "three": arm(2.0, 9.0)},
    },
    "dpo 0.6": {
        0: {"one": arm(0.8, 1.0), "three": arm(0.9, 0.25)},
        1: {"one": arm(1.0, 1.0), "three": arm(1.5, 2.25)},
    },
    "ppo 0.2": {
        0: {"one": arm(9.0, 1.0), "three": arm(0.0, 1.0)},
        1: {"one": arm(9.0, 1.0), "three": arm(0.0, 1.0)},
    },
}


def test_a_frontier_is_read_between_its_points() -> None:
    points = [(0.0, 0.0), (1.0, 0.8), (4.0, 1.0)]
    assert loop_rows.gold_at(0.25, points) == pytest.approx(0.4)
    assert loop_rows.gold_at(2.25, points) == pytest.approx(0.9)
    assert loop_rows.gold_at(5.0, points) is None


def test_differences_are_paired_by_seed_and_at_equal_kl() -> None:
    row = loop_rows.row_of("dpo 0.1", RESULTS, 2400, "who")
    assert (row["ours"], row["theirs"], row["ratio"]) == (1.6, 1.5, 1.067)
    assert row["spread"] == [0.0, 0.2] and row["conditions"]["difference"]["mean"] == 0.1
    # seed 0: 1.2 at 1 nat against 0.8 there; seed 1 went further than any run of one round
    assert row["conditions"]["difference_at_equal_kl"] == {"mean": 0.4, "seeds": 1}
    row = loop_rows.row_of("dpo 0.6", RESULTS, 2400, "who")
    # 0.9 at 1/4 nat against 0.4; 1.5 at 9/4 nats against the middle of 1.0 and 2.0
    assert row["conditions"]["difference_at_equal_kl"]["mean"] == 0.25
    assert row["conditions"]["kl"] == {"three": 1.25, "one": 1.0}
    json.dumps(row, allow_nan=False)


@pytest.mark.parametrize("setting", bench.SETTINGS, ids=lambda setting: setting.name)
def test_both_arms_have_the_same_labels_updates_and_leash(setting: bench.Setting, tmp_path: Path) -> None:
    size = bench.SIZES["full"]
    one, three = (bench.loop_of(setting, name, 3, size, tmp_path) for name in ("one", "three"))
    assert one.rounds * one.prompts_per_round == three.rounds * three.prompts_per_round == size.labels
    assert one.seed == three.seed == 3 and one.annotators == three.annotators
    price = "model.beta" if setting.method == "dpo" else "model.kl_coef"
    assert one.policy.set[price] == three.policy.set[price] == setting.coefficient
    assert three.policy.start == "previous" and three.policy.labels == "all"
    learns_from_prompts = class_of(one.policy, "data", "policy") == "PromptDataModule"
    length = "trainer.max_epochs" if learns_from_prompts else "trainer.max_steps"
    for name in (length, "model.scheduler.init_args.total_iters"):
        assert one.policy.set[name] == 3 * three.policy.set[name], name


@pytest.mark.slow
def test_it_runs_and_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "--quick",
        "--seeds",
        "1",
        "--first-seed",
        "0",
        "--only",
        "dpo 0.3",
        "--out",
        str(tmp_path / "loop.json"),
    ]
    bench.main(words)
    (row,) = json.loads((tmp_path / "loop.json").read_text())
    assert row["work"] == "three rounds dpo 0.3" and row["repeats"] == 1
    seeds = row["conditions"]["seeds"]["0"]
    assert len(seeds["three"]["gold"]) == 3 and len(seeds["one"]["gold"]) == 1
    assert seeds["three"]["labels"] == pytest.approx(seeds["one"]["labels"], abs=9), (
        "identical responses are no labels"
    )
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    bench.main(words)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")} == before

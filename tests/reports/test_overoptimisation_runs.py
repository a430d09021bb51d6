"""What is read of a run folder: every number once, at its iteration, whatever stopped the run."""

from __future__ import annotations

from pathlib import Path

import pytest

from lit_rlhf.reports.overoptimisation_groups import group_runs, what_differs
from lit_rlhf.reports.overoptimisation_runs import ENTROPY, GOLD, KL, RunError, read_run, read_runs
from tests.reports.runs_on_disk import write_config, write_events


def single(values: list[float]) -> list[float]:
    """As an event file keeps them."""
    import numpy as np

    return [float(np.float32(value)) for value in values]


def test_rollouts_stand_at_the_iterations_behind_their_policy_and_validations_one_later(
    tmp_path: Path,
) -> None:
    kl, gold = [0.0, 0.4, 0.9], [-1.0, 0.25, 0.5]
    write_events(
        tmp_path, {"objective/kl": kl, "objective/gold": gold, "val/objective/gold": [None, 0.3, None]}
    )
    run = read_run(tmp_path, "r")
    assert (run.get(KL).iterations, run.get(KL).values) == ([0, 1, 2], single(kl))
    assert (run.get(GOLD).iterations, run.get(GOLD).values) == ([0, 1, 2], single(gold))
    checked = run.get(GOLD, validation=True)
    assert (checked.iterations, checked.values) == ([2], single([0.3]))
    assert not len(run.get(ENTROPY))
    assert (run.iterations, run.updates, run.updates_per_iteration) == (3, 6, 2)


def test_continued_run_counts_each_iteration_once(tmp_path: Path) -> None:
    # Killed after iteration 4, continued from the checkpoint of iteration 2, stopped again before it came that far.
    write_events(tmp_path, {"objective/kl": [0.0, 1.0, 2.0, 3.0, 4.0]}, suffix=".a")
    write_events(tmp_path, {"objective/kl": [20.0, 30.0]}, first=2, purge_step=4, suffix=".b")
    run = read_run(tmp_path, "r")
    assert (run.get(KL).iterations, run.get(KL).values) == ([0, 1, 2, 3], [0.0, 1.0, 20.0, 30.0])
    assert (run.iterations, run.updates) == (4, 8)


def test_steps_logged_twice_without_a_purge_count_by_their_last_value(tmp_path: Path) -> None:
    write_events(tmp_path, {"objective/kl": [0.0, 1.0, 2.0]}, suffix=".a")
    write_events(tmp_path, {"objective/kl": [10.0, 20.0]}, first=1, suffix=".b")
    assert read_run(tmp_path, "r").get(KL).values == [0.0, 10.0, 20.0]


@pytest.mark.parametrize("cut", [1, 5, 30, 60])
def test_torn_last_event_costs_itself_alone(tmp_path: Path, cut: int) -> None:
    write_events(tmp_path, {"objective/kl": [0.0, 1.0, 2.0]})
    (file,) = (tmp_path / "tensorboard").iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[:-cut])
    run = read_run(tmp_path, "r")
    # The last record is the epoch, of about 40 bytes, the one before it the last KL.
    assert run.get(KL).values == ([0.0, 1.0, 2.0] if cut < 40 else [0.0, 1.0])


def test_unfinished_iteration_counts_its_updates_but_not_as_an_iteration(tmp_path: Path) -> None:
    write_events(tmp_path, {"objective/kl": [0.0, 1.0], "train/lr": [0.1, 0.1, 0.1]})
    run = read_run(tmp_path, "r")
    assert (run.iterations, run.updates, run.updates_per_iteration) == (2, 6, 2)


def test_values_that_are_not_finite_are_counted_and_left_out(tmp_path: Path) -> None:
    write_events(
        tmp_path, {"objective/kl": [0.0, float("nan"), 2.0], "objective/gold": [float("inf"), 1.0, 2.0]}
    )
    run = read_run(tmp_path, "r")
    assert (run.get(KL).iterations, run.get(KL).values) == ([0, 2], [0.0, 2.0])
    assert run.not_finite == {"objective/kl": 1, "objective/gold": 1}


def test_run_with_validations_alone_is_one(tmp_path: Path) -> None:
    write_events(tmp_path, {"val/objective/kl": [1.0, 2.0], "val/objective/gold": [0.1, 0.2]})
    run = read_run(tmp_path, "dpo")
    assert (run.get(KL, validation=True).iterations, run.iterations) == ([1, 2], 2)


def test_event_files_may_lie_in_the_folder_itself(tmp_path: Path) -> None:
    write_events(tmp_path, {"objective/kl": [0.0]})
    assert read_run(tmp_path / "tensorboard", "r").get(KL).values == [0.0]


def test_alarms_are_read_with_their_iteration(tmp_path: Path) -> None:
    write_events(tmp_path, {"objective/kl": [0.0, 1.0, 2.0]}, alarms={1: "entropy is low"})
    assert read_run(tmp_path, "r").alarms == [(1, "entropy is low")]


def test_folder_without_event_files_says_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"tensorboard; found nothing"):
        read_run(tmp_path, "r")
    write_config(tmp_path)
    with pytest.raises(RunError, match=r"found config\.yaml"):
        read_run(tmp_path, "r")
    write_events(tmp_path / "ppo", {"objective/kl": [0.0]})
    with pytest.raises(RunError, match=r"found folders of runs: .*/ppo$"):
        read_run(tmp_path, "r")


def test_run_of_another_phase_says_what_it_lacks_and_what_it_has(tmp_path: Path) -> None:
    write_config(tmp_path)
    write_events(tmp_path, {"val/rewards/accuracies": [0.5]})
    with pytest.raises(
        RunError, match=r"a run of PPOModule, has not logged objective/kl: .*val/rewards/accuracies"
    ):
        read_run(tmp_path, "r")


def test_config_that_is_no_yaml_is_named(tmp_path: Path) -> None:
    write_events(tmp_path, {"objective/kl": [0.0]})
    (tmp_path / "config.yaml").write_text("model: [", encoding="utf-8")
    with pytest.raises(RunError, match=r"config\.yaml: expected YAML"):
        read_run(tmp_path, "r")


def many(tmp_path: Path) -> list[Path]:
    folders = []
    for name, seed, beta in (("a/ppo-seed0", 0, 0.0), ("a/ppo-seed1", 1, 0.0), ("b/ppo", 0, 0.2)):
        write_events(tmp_path / name, {"objective/kl": [0.0, 1.0 + seed], "objective/gold": [0.0, 3.0]})
        write_config(tmp_path / name, seed=seed, kl_coef=beta)
        folders.append(tmp_path / name)
    return folders


def test_runs_that_differ_in_their_seeds_are_one_group(tmp_path: Path) -> None:
    runs = read_runs(many(tmp_path))
    groups = group_runs(runs)
    assert [group.name for group in groups] == ["ppo (2 seeds)", "ppo"]
    assert groups[0].mean(KL).values == [0.0, 1.5]
    # the folder that a run writes into is no setting
    assert what_differs(runs) == ["seed_everything 0, kl_coef 0.0", "seed_everything 1, kl_coef 0.0",
                                  "seed_everything 0, kl_coef 0.2"]  # fmt: skip


def test_mean_of_a_group_is_over_the_iterations_that_all_have(tmp_path: Path) -> None:
    for name, kl in (("a", [0.0, 2.0, 4.0]), ("b", [1.0, 3.0])):
        write_events(tmp_path / name, {"objective/kl": kl})
        write_config(tmp_path / name)
    (group,) = group_runs(read_runs([tmp_path / "a", tmp_path / "b"]))
    assert (group.mean(KL).iterations, group.mean(KL).values) == ([0, 1], [0.5, 2.5])


def test_runs_without_a_config_are_not_taken_for_repeats(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_events(tmp_path / name, {"objective/kl": [0.0]})
    runs = read_runs([tmp_path / "a", tmp_path / "b"])
    assert len(group_runs(runs)) == 2
    assert what_differs(runs) == ["not known: no config.yaml"] * 2

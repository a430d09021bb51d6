"""The library agrees with numbers from other codes, and the script that says so can say otherwise."""

import json
from pathlib import Path

import pytest

from tests.golden.check import check_file, main

VECTORS = Path(__file__).parent / "vectors.json"

BUILT = """
    seq_logps dpo/sigmoid dpo/sft dpo/hinge dpo/ipo dpo/exo_pair dpo/nca_pair dpo/robust dpo/bco_pair dpo/sppo_hard
    dpo/aot dpo/aot_unpaired dpo/apo_zero dpo/apo_down dpo/discopop dpo/sigmoid_norm
    dpo/sigmoid_fdiv=forward_kl dpo/sigmoid_fdiv=js_divergence dpo/sigmoid_ld_alpha=0.5 dpo/sigmoid_wpo=True
    dpo_ref/dpo dpo_ref/cdpo dpo_ref/ipo_sum dpo_ref/reference_free dpo_openrlhf/cdpo
    cpo/simpo_b2.0_g0.5 cpo/simpo_b2.5_g1.4 cpo/sigmoid_b0.1_g0.0 cpo/hinge_b0.1_g0.0 cpo/ipo_b0.1_g0.0
    orpo/odds_ratio kto/kto_wd1.0_wu1.0_b0.1 kto/kto_wd1.0_wu1.33_b0.3 kto/apo_zero_unpaired_wd1.0_wu1.0_b0.1
    rm/plain rm/margin rm/openrlhf_pairwise rm/openrlhf_logexp rm/luce_ratio rm/label_smoothing
    rm/center rm/margin_center rm/uniform_error_mixture ranking/K2 ranking/K4 ranking/best_of_K2 ranking/best_of_K4
    contrastive/simcse contrastive/swav contrastive/views meta_rm/difference_loss preference_strength reward_norm
    ppo/policy_token ppo/policy_sample ppo/policy_clip_higher ppo/policy_dual_clip ppo/policy_gspo
    ppo/value_clipped ppo/value_clipped_sample ppo/value_unclipped
    ppo/reward_placement_0.05 ppo/reward_placement_0.2
    group/advantages grpo/grpo_beta0.0 grpo/grpo_beta0.04 grpo/bnpo_beta0.0 grpo/bnpo_beta0.04
    grpo/dr_grpo_beta0.0 grpo/dr_grpo_beta0.04 grpo/dapo_beta0.0 grpo/dapo_beta0.04 rloo/loss
    kl_controller/lmhp kl_controller/openrlhf running_moments
    kl/k1 kl/k2 kl/k3 gae/g1.0_l0.95 gae/g0.99_l0.9 gae/g1.0_l1.0 gae/g1.0_l0.0 reinforce/returns
    whiten/shift_True whiten/shift_False
    trl_ppo/advantages_whitenFalse_k1 trl_ppo/loss_whitenFalse_k1
    trl_ppo/advantages_whitenTrue_k3 trl_ppo/loss_whitenTrue_k3
    entropy_and_exact_kl sft/aggregation accumulation/token_mean analytic/kl_bandit_6 analytic/best_of_n_6
""".split()  # noqa: SIM905

IN_PART = {"kl/k1", "kl/k2", "kl/k3", "orpo/odds_ratio"}
"""Cases that also hold numbers which the library does not give: the estimators in float32, held within ±10; and
the log-odds by themselves."""


def test_every_built_loss_agrees(capsys: pytest.CaptureFixture[str]) -> None:
    passed, failed, skipped = check_file(VECTORS)
    assert failed == []
    assert sorted(passed) == sorted(BUILT)
    *lines, last = capsys.readouterr().out.splitlines()
    assert last == f"{len(BUILT)} passed, 0 failed, {len(skipped)} skipped"
    told = {line.split()[1] for line in lines if line.startswith("skipped")}
    assert told == set(skipped)
    in_part = {line.split()[2].rstrip(":") for line in lines if line.startswith("in part")}
    assert in_part == IN_PART


def only(name: str, tmp_path: Path, **changes: object) -> Path:
    """A file with the one case, its outputs changed."""
    (case,) = (case for case in json.loads(VECTORS.read_text())["cases"] if case["name"] == name)
    case["outputs"] |= changes
    path = tmp_path / "cases.json"
    path.write_text(json.dumps({"cases": [case]}))
    return path


def test_a_wrong_number_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = only("rm/plain", tmp_path, loss=0.31)  # it is .306
    assert main([str(path)]) == 1
    out = capsys.readouterr().out
    assert "failed   rm/plain: loss differs by 0.00398" in out
    assert out.endswith("0 passed, 1 failed, 0 skipped\n")


@pytest.mark.parametrize("wrong", [float("nan"), [0.306, 0.306]])
def test_a_number_that_is_none_or_of_another_shape_fails(wrong: object, tmp_path: Path) -> None:
    assert main([str(only("rm/plain", tmp_path, loss=wrong))]) == 1


def test_a_wrong_number_inside_a_solution_fails(tmp_path: Path) -> None:
    (case,) = (
        case for case in json.loads(VECTORS.read_text())["cases"] if case["name"] == "analytic/kl_bandit_6"
    )
    solutions = case["outputs"]["solutions"]
    solutions[2]["kl"] += 1e-6
    assert main([str(only("analytic/kl_bandit_6", tmp_path, solutions=solutions))]) == 1


def test_a_right_file_gives_exit_code_0(tmp_path: Path) -> None:
    assert main([str(only("rm/plain", tmp_path))]) == 0


def test_a_missing_file_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "none.json")]) == 2
    assert "none.json" in capsys.readouterr().err

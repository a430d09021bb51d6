"""The studies of PPO: what they measure, how they sum it up, and that their arms change what they say."""

import inspect
import json
import math
from pathlib import Path
from random import Random

import pytest
import torch

from benchmarks.ppo_studies import ablation, frontier, ptx, real_text, starts, trl
from benchmarks.ppo_studies.__main__ import STUDIES, main, parse, remember_code, start_of, study
from benchmarks.ppo_studies.evaluation import Evaluator, _demo_outcomes, load_policy
from benchmarks.ppo_studies.fits import DEMO, optimise
from benchmarks.ppo_studies.summary import at_kl, compared_at_kl, expanded, grammar_kept, smoothed, spread
from benchmarks.prepare import write
from benchmarks.reward_studies.cells import Cells, Job
from lit_rlhf import PPOModule
from lit_rlhf.world.build import build_model, build_tokenizer, prompt_rows

CURVE = [{"kl": 1.0, "score": 0.5}, {"kl": 4.0, "score": 0.7}, {"kl": 1.0, "score": 9.0}]


# --- summing up, by hand


def test_a_value_at_a_kl_is_read_where_the_curve_first_reaches_it():
    start = [{"kl": 0.0, "score": 0.0}, *CURVE]
    assert at_kl(start, 0.25, "score") == pytest.approx(0.25)  # √KL is half-way from 0 to 1
    assert at_kl(start, 2.25, "score") == pytest.approx(0.6)  # 1.5 is half-way from 1 to 2
    assert at_kl(start, 9.0, "score") is None


def test_a_log_is_averaged_over_iterations():
    logged = [{"kl": float(n), "score": 2.0 * n, "entropy": 1.0} for n in range(4)]
    assert smoothed(logged, 3) == [{"kl": 1.0, "score": 2.0}, {"kl": 2.0, "score": 4.0}]
    assert smoothed(logged, 5) == []


def test_sides_are_compared_on_the_seeds_that_both_reach_the_kl():
    def run(*points: tuple[float, float]) -> dict:
        return {"logged": [{"kl": kl, "score": score} for kl, score in points for _ in range(5)]}

    ours = {0: run((0.0, 0.0), (4.0, 1.0)), 1: run((0.0, 0.0), (4.0, 2.0)), 2: run((0.0, 0.0), (0.1, 5.0))}
    theirs = {seed: run((0.0, 0.0), (4.0, 0.5)) for seed in (0, 1, 2)}
    found = compared_at_kl({"ours": ours, "theirs": theirs}, "ours", "theirs", 4.0)
    assert found is not None
    mine, other, gain = found
    assert (mine, other, gain.seeds) == (pytest.approx(1.5), pytest.approx(0.5), 2)
    assert gain.mean == pytest.approx(1.0)
    assert compared_at_kl({"ours": ours}, "ours", "theirs", 1.0) is None


def test_best_of_n_is_a_cell_for_each_n():
    points = {"best_of_2": {"gold": 1.0}, "best_of_4": {"gold": 2.0}}
    found = expanded([{"arm": "best_of_n", "seed": 3, "cpu_seconds": 5.0, "result": {"points": points}}])
    assert [(cell["arm"], cell["seed"], cell["result"]) for cell in found] == [
        ("best_of_2", 3, {"gold": 1.0}),
        ("best_of_4", 3, {"gold": 2.0}),
    ]
    assert sum(cell["cpu_seconds"] for cell in found) == 5.0


def test_grammar_is_compared_seed_by_seed():
    by_arm = {"sft": {0: {"grammar": 0.9}, 1: {"grammar": 0.8}}, "ppo-0.2": {1: {"grammar": 0.7}}}
    assert grammar_kept(by_arm, "ppo-0.2") == {1: pytest.approx(-0.1)}
    assert spread(by_arm, "sft", "grammar") == "0.85 (0.80 to 0.90)"
    assert spread(by_arm, "ppo-0.2", "grammar") == "0.70" and spread(by_arm, "sft", "gold") == ""


def test_the_peak_is_the_measurement_with_the_highest_gold():
    points = [{"iteration": n, "kl": n / 2, "gold": gold} for n, gold in enumerate((0.0, 0.9, 0.3))]
    assert real_text.peak(points) == {"iteration": 1, "kl": 0.5, "gold": 0.9}
    assert real_text.with_mean({"score_0": 1.0, "score_1": 0.0, "gold": 7.0})["score_mean"] == 0.5


# --- comparisons derived from the gold


def test_pairs_are_of_different_gold_and_turned_round_as_often_as_said():
    rows = [{"prompt": "p", "responses": ["a", "b", "c"], "golds": [0.5, 1.0, 0.5]}] * 500
    clean, mean_gold = starts.compare(rows, Random(0), flip_rate=0.0)
    assert len(clean) == 1000 and mean_gold == pytest.approx(2 / 3)
    assert {(pair["chosen"], pair["rejected"]) for pair in clean} == {("b", "a"), ("b", "c")}
    noisy, _ = starts.compare(rows, Random(0), flip_rate=0.25)
    assert sum(pair["rejected"] == "b" for pair in noisy) / 1000 == pytest.approx(0.25, abs=0.04)


# --- the evaluator and a run


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    build_model(hidden=16, layers=1, heads=2).save_pretrained(folder / "sft")
    build_tokenizer().save_pretrained(folder / "sft")
    write(folder / "prompts.jsonl", prompt_rows(Random(0), 32))
    return folder


def evaluator(world: Path) -> Evaluator:
    return Evaluator(world / "sft", {}, list(prompt_rows(Random(1), 8)), _demo_outcomes, 20)


def test_the_evaluator_sees_no_kl_between_a_policy_and_itself(world):
    look, policy = evaluator(world), load_policy(world / "sft")
    found = look.measure(policy, 12, 5)
    assert found["kl"] == pytest.approx(0.0, abs=1e-4) and found["grammar"] == 0.0
    assert found == look.measure(policy, 12, 5) != look.measure(policy, 12, 6)
    with torch.no_grad():
        policy.causal_lm.lm_head.weight.mul_(3.0)
    moved = look.draw(policy, 400, 5).values["kl"]
    assert moved.mean() > 3 * moved.std() / math.sqrt(400)  # positive on its own samples, beyond the noise


def test_a_model_that_knows_nothing_is_perplexed_by_the_whole_vocabulary(world):
    policy = load_policy(world / "sft")
    with torch.no_grad():
        policy.causal_lm.lm_head.weight.zero_()
    write(world / "texts.jsonl", [{"text": "the soup is very tasty ."}, {"text": "a lamp is dim ."}])
    vocabulary = policy.causal_lm.config.vocab_size
    assert ptx.perplexity(policy, evaluator(world), world / "texts.jsonl") == pytest.approx(
        vocabulary, rel=1e-4
    )


def test_a_run_is_measured_on_the_way_and_its_log_bears_the_right_iterations(world):
    settings = {**DEMO, "minibatch_size": 8, "epochs": 1}
    run = optimise(
        world / "sft",
        world / "prompts.jsonl",
        evaluator(world),
        4,
        seed=0,
        every=2,
        prompts_an_iteration=8,
        reward="lit_rlhf.world.gold.gold",
        **settings,
    )
    assert [point["iteration"] for point in run.points] == [2, 4]
    assert [point["iteration"] for point in run.logged] == [0, 1, 2, 3]
    assert run.logged[0]["kl"] == 0.0 != run.logged[1]["kl"]  # the first rollout is the reference's own
    assert run.cpu_seconds > 0 and run.module.kl_coef == 0.2


# --- arms and command


def test_every_arm_changes_what_the_module_or_the_run_knows():
    known = {*inspect.signature(PPOModule).parameters, *inspect.signature(optimise).parameters}
    changes = [change for _, change in ablation.ARMED.values()] + list(frontier.PPO.values())
    for change in changes:
        assert set(change) <= known
    assert [arm for arm, (_, change) in ablation.ARMED.items() if not change] == [ablation.BASELINE]
    merged = [
        json.dumps({**DEMO, **change}, default=str, sort_keys=True) for _, change in ablation.ARMED.values()
    ]
    assert len(set(merged)) == len(merged)  # no arm says what the demo has anyway
    assert {*frontier.PPO, "sft"} <= set(frontier.ARMS)


def test_every_study_says_what_it_is():
    for name in STUDIES:
        module = study(name)
        assert name == module.NAME and module.__doc__ and module.HOW and "{" not in module.HOW
        assert set(module.METRICS) and all(
            metric in module.METRICS for metric in getattr(module, "COMPARED", ())
        )
        (job,) = module.jobs([0])
        assert start_of(job) == ("real-0" if name == "real_text" else "demo-0")


def test_the_command_refuses_a_study_it_does_not_know(capsys):
    assert parse(["--out", "x"]).seeds == [0, 1, 2, 3, 4]
    with pytest.raises(SystemExit):
        parse(["frontir", "--out", "x"])
    assert (
        "expected studies of frontier, real_text, ptx, trl, ablation, page, found frontir"
        in capsys.readouterr().err
    )


def test_the_code_is_remembered_once(tmp_path):
    remember_code(tmp_path)
    remember_code(tmp_path)
    (seen,) = json.loads((tmp_path / "code.json").read_text())
    assert len(seen) == 16


def test_a_failing_run_of_trl_says_what_it_said(monkeypatch):
    monkeypatch.setenv("TRL_PPO_PYTHON", "false")
    with pytest.raises(RuntimeError, match="TRL's run failed"):
        trl.call({})


# --- the page


def result(kl: float, gold: float, grammar: float = 0.9) -> dict:
    numbers = {
        "kl": kl,
        "gold": gold,
        "score": gold / 2,
        "grammar": grammar,
        "objective": gold / 2 - 0.2 * kl,
    }
    return {
        **numbers,
        "curve": [{"iteration": 10, **numbers}],
        "logged": [{"kl": share * kl, "score": share * gold} for share in (0.0, 1.0) for _ in range(5)],
    }


def test_the_page_tells_of_grammar_differences_and_sides(tmp_path):
    out = tmp_path / "full"
    for seed in range(3):
        cells = Cells(out, Job("frontier", "demo", "equal_samples", seed))
        cells.once("sft", lambda: result(0.0, -0.5))
        cells.once("ppo-0.2", lambda seed=seed: result(2.0, 1.5, 0.9 - 0.03 * seed))
        cells.once(
            "best_of_n",
            lambda: {"points": {"best_of_4": {"kl": 0.6, "gold": 0.7, "score": 0.4, "grammar": 0.9}}},
        )
        cells = Cells(out, Job("ablation", "demo", "one_at_a_time", seed))
        cells.once("all", lambda seed=seed: result(2.0, 1.0 + seed))
        cells.once("lambda_1", lambda seed=seed: result(2.0, 1.5 + seed + 0.01 * seed))
        cells.once("epochs_4", lambda: {}["missing"])
        cells = Cells(out, Job("trl", "demo", "matched", seed))
        cells.once("sft", lambda: result(0.0, 0.0))
        cells.once("ours-0.2", lambda seed=seed: result(4.0, 2.0 + 0.01 * seed))
        cells.once("trl-0.2", lambda: result(4.0, 1.0))
    cells = Cells(out, Job("real_text", "prompts_e2e", "weak_reward", 0))
    scores = {"score_0": 1.0, "score_1": 3.0}
    cells.once("sft", lambda: {"gold": 0.5, "kl": 0.0, **scores, "score_mean": 2.0})
    curve = [
        {"iteration": 4, "kl": 16.0, "gold": 0.9, **scores},
        {"iteration": 8, "kl": 64.0, "gold": 0.4, **scores},
    ]
    cells.once("single-0", lambda: {**curve[1], "score_mean": 2.0, "curve": curve})
    main(["page", "--out", str(tmp_path), "--results", str(tmp_path)])
    page = (tmp_path / "ppo_studies.md").read_text()
    assert (
        "by seed: 0: +0.000, 1: -0.030, 2: -0.060. The least is -0.060; never under −0.05 is not met on 3"
        in page
    )
    assert "| best of 4 | 3 | 0.70 (0.70 to 0.70) |" in page
    assert "| λ = 1 | **+0.510 [+0.485, +0.535]** |" in page
    assert "| β = 0.2 | **+0.505 [+0.493, +0.517]** |" in page  # 4.303 · 0.005 / √3
    assert "| β = 0.2 | 2 |" in page  # both logs reach a KL of 2
    assert "failed cells: 3, the first `('ablation/demo/one_at_a_time/0/epochs_4'" in page
    # √KL is 2 of 4 on the way up and 4 + 1.66 of 4 + 4 on the way down
    assert "| one reward model, β = 0 | 0 | 0.90 | 16.0 | 0.70 | 0.78 | 0.90 | 0.69 | 0.40 |" in page
    for name in ("frontier", "real_text", "ablation", "trl"):
        assert (tmp_path / f"ppo_{name}.png").read_bytes().startswith(b"\x89PNG")
    numbers = json.loads((tmp_path / "ppo_studies.json").read_text())
    cell = next(cell for cell in numbers["cells"] if cell["arm"] == "ours-0.2")
    assert cell["result"]["curve"][0]["kl"] == 4.0 and "logged" not in cell["result"]

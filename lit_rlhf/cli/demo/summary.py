"""The demo's end: ``report.json``, ``frontier.png``, a short table, and samples side by side."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from lit_rlhf.callbacks import write_beside_and_rename
from lit_rlhf.cli.demo.presets import Preset
from lit_rlhf.reports.frontier import FrontierPoint, TrajectoryPoint, draw_frontier
from lit_rlhf.reports.tables import result_table, samples_table

Results = dict[str, dict[str, Any]]
SHOWN_PROMPTS = ["food soup |", "trip hotel |", "home lamp |", "show film |"]


def summarise(
    out: Path, settings: dict[str, Any], preset: Preset, results: Results, console: Console
) -> None:
    """Write the report and the picture, print the tables.

    Args:
        out: the demo's folder.
        settings: preset and seed.
        preset: its sizes.
        results: what each stage wrote, by its name.
        console: where to print.
    """
    report = build_report(settings, preset, results)
    write_beside_and_rename(out / "report.json", json.dumps(report, indent=1))
    draw_frontier(report["frontier"], out / "frontier.png", {"PPO, β = 0": results["ppo-0"]["trajectory"]})
    console.print(_table(report))
    leashed = f"{preset.ppo_betas[0]:g}"
    columns = {"before (SFT)": "sft", f"PPO, β = {leashed}": f"ppo-{leashed}", "PPO, β = 0": "ppo-0"}
    samples = {title: results[stage]["samples"] for title, stage in columns.items()}
    console.print(samples_table("Samples", SHOWN_PROMPTS, samples))
    missed = [name for name, met in report["marks"].items() if not met]
    console.print("All marks are met." if not missed else "Marks missed: " + "; ".join(missed) + ".")
    console.print(
        f"picture: {out / 'frontier.png'}\nreport: {out / 'report.json'}\n"
        f"curves: tensorboard --logdir {out / 'runs'}",
        highlight=False,
    )


def build_report(settings: dict[str, Any], preset: Preset, results: Results) -> dict[str, Any]:
    """What ``report.json`` holds."""
    sft, reward, free = results["sft"], results["reward"], results["ppo-0"]
    ppo, dpo = results[f"ppo-{preset.ppo_betas[0]:g}"], results[f"dpo-{preset.dpo_betas[0]:g}"]
    report: dict[str, Any] = {
        **settings,
        "sft": _pick(sft, "gold", "grammar", "shuffled_grammar", "cpu_seconds"),
        "reward": _pick(
            reward, "accuracy_gold", "accuracy_labels", "bayes_accuracy", "reference_mean", "cpu_seconds"
        ),
        "ppo": _pick(ppo, "beta", "gold", "grammar", "kl", "score", "entropy", "cpu_seconds"),
        "ppo_no_kl": {
            **_pick(free, "gold", "grammar", "kl", "score", "entropy", "distinct", "cpu_seconds"),
            "gold_peak": gold_peak(free["trajectory"]),
        },
        "dpo": _pick(dpo, "beta", "gold", "grammar", "kl", "score", "cpu_seconds"),
        "frontier": _frontier(preset, results),
    }
    report["marks"] = marks(report)
    return report


def gold_peak(trajectory: Sequence[TrajectoryPoint], window: int = 3) -> float:
    """The highest gold reward on the way, as a mean of `window` iterations, so that noise alone is no peak."""
    golds = [point["gold"] for point in trajectory]
    means = [sum(golds[i : i + window]) / window for i in range(len(golds) - window + 1)]
    return max(means or golds)


def marks(report: dict[str, Any]) -> dict[str, bool]:
    """What the demo promises to show, and whether this run did."""
    sft, reward, ppo, free, dpo = (report[name] for name in ("sft", "reward", "ppo", "ppo_no_kl", "dpo"))
    return {
        "SFT grammar at least 0.88": sft["grammar"] >= 0.88,
        "shuffled grammar at most 0.02": sft["shuffled_grammar"] <= 0.02,
        "reward model accuracy on gold at least 0.74": reward["accuracy_gold"] >= 0.74,
        "reward model accuracy on labels at least 0.83 of a perfect judge's": reward["accuracy_labels"]
        >= 0.83 * reward["bayes_accuracy"],
        "mean reference score within 1e-4 of 0": abs(reward["reference_mean"]) < 1e-4,
        "PPO lifts gold by at least 1.5": ppo["gold"] >= sft["gold"] + 1.5,
        "PPO keeps grammar within 0.05": ppo["grammar"] >= sft["grammar"] - 0.05,
        "PPO's KL is 2 to 6 nats": 2 <= ppo["kl"] <= 6,
        "at β = 0 the reward model is at least as pleased": free["score"] >= ppo["score"],
        "at β = 0 grammar falls to at most 0.2": free["grammar"] <= 0.2,
        "at β = 0 gold falls at least 1 below its peak": free["gold"] <= free["gold_peak"] - 1,
        "DPO lifts gold by at least 1.0 at a KL of at most 1.5": dpo["gold"] >= sft["gold"] + 1.0
        and dpo["kl"] <= 1.5,
        "DPO takes at most half of PPO's CPU time": dpo["cpu_seconds"] <= 0.5 * ppo["cpu_seconds"],
    }


def _frontier(preset: Preset, results: Results) -> list[FrontierPoint]:
    points = [_point("sft", results["sft"])]
    points += [_point("best_of_n", results["best_of_n"][str(n)], n=n) for n in preset.best_of]
    points += [_point("dpo", results[f"dpo-{beta:g}"], beta) for beta in preset.dpo_betas]
    points += [_point("ppo", results[f"ppo-{beta:g}"], beta) for beta in (*preset.ppo_betas, 0.0)]
    return points


def _point(
    method: str, result: dict[str, Any], beta: float | None = None, n: int | None = None
) -> FrontierPoint:
    return {
        "method": method,
        "beta": beta,
        "n": n,
        "kl": result["kl"],
        "gold": result["gold"],
        "grammar": result["grammar"],
    }


def _table(report: dict[str, Any]) -> Any:
    names = {"sft": "SFT", "best_of_n": "best of {n}", "dpo": "DPO, β = {beta:g}", "ppo": "PPO, β = {beta:g}"}
    rows = [
        [names[point["method"]].format(**point), point["gold"], point["grammar"], point["kl"]]
        for point in report["frontier"]
    ]
    reward = report["reward"]
    title = (
        f"Gold reward and grammar against KL (reward model: {reward['accuracy_gold']:.2f} right on gold, "
        f"{reward['accuracy_labels']:.2f} on noisy labels, where a perfect judge gets {reward['bayes_accuracy']:.2f})"
    )
    return result_table(title, ["policy", "gold", "grammar", "KL (nats)"], rows)


def _pick(result: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: result[name] for name in names}

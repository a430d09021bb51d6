"""Several runs of the demo, one seed each, in one table of medians: ``results/demo.md`` and ``demo.json``.

for seed in 0 1 2; do lit-rlhf demo --preset full --seed $seed --out demo-$seed; done
python -m benchmarks.demo demo-0 demo-1 demo-2 --out benchmarks/results
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

Report = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> None:
    """Read the reports, write the table, and copy the first run's picture."""
    parser = argparse.ArgumentParser(description="Medians over runs of the demo.")
    parser.add_argument("runs", nargs="+", type=Path, help="folders that `lit-rlhf demo` wrote")
    parser.add_argument(
        "--out", type=Path, required=True, help="where demo.md, demo.json and frontier.png go"
    )
    arguments = parser.parse_args(argv)
    reports = [json.loads((run / "report.json").read_text()) for run in arguments.runs]
    presets = {report["preset"] for report in reports}
    if len(presets) > 1:
        parser.error(f"expected runs of one preset, found {sorted(presets)}")
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "demo.json").write_text(json.dumps(reports, indent=1) + "\n")
    (arguments.out / "demo.md").write_text(render(reports))
    shutil.copy(arguments.runs[0] / "frontier.png", arguments.out / "frontier.png")


def render(reports: Sequence[Report]) -> str:
    """The page: the frontier as medians, and every mark with what each run reached."""
    seeds = ", ".join(str(report["seed"]) for report in reports)
    lines = [
        "# The demo world",
        "",
        f"`lit-rlhf demo --preset {reports[0]['preset']}`, seeds {seeds}; medians over the runs, each value of a run "
        "in brackets. Written by `python -m benchmarks.demo`; every number is also in `demo.json`.",
        "",
        f"CPU, {platform.machine()}, one thread; torch {version('torch')}, lightning {version('lightning')}, "
        f"transformers {version('transformers')}. Models of 106,304 parameters. `frontier.png` is the first run's.",
        "",
        "| policy | gold reward | grammar | KL to SFT, nats a response |",
        "| --- | --- | --- | --- |",
    ]
    for points in zip(*(report["frontier"] for report in reports), strict=True):
        cells = [_spread([point[key] for point in points]) for key in ("gold", "grammar", "kl")]
        lines.append(f"| {_name(points[0])} | " + " | ".join(cells) + " |")
    lines += ["", "| measured | value |", "| --- | --- |"]
    for part, keys in SHOWN.items():
        for key, meaning in keys.items():
            lines.append(f"| {meaning} | {_spread([report[part][key] for report in reports], 4)} |")
    lines += ["", "| mark | runs that meet it |", "| --- | --- |"]
    for mark in reports[0]["marks"]:
        lines.append(f"| {mark} | {sum(report['marks'][mark] for report in reports)} of {len(reports)} |")
    return "\n".join(lines) + "\n"


SHOWN = {
    "sft": {"shuffled_grammar": "grammar of SFT sentences with their words shuffled"},
    "reward": {
        "accuracy_gold": "reward model: accuracy against gold, held-out pairs",
        "accuracy_labels": "reward model: accuracy against the noisy labels",
        "bayes_accuracy": "what a perfect judge reaches on those labels",
        "reference_mean": "mean score of the reference responses",
    },
    "ppo": {"score": "PPO, recommended β: reward model's score", "cpu_seconds": "its CPU seconds"},
    "ppo_no_kl": {
        "score": "PPO, β = 0: reward model's score",
        "gold_peak": "its highest gold on the way, mean of three iterations",
        "entropy": "its entropy at the end, nats a token",
    },
    "dpo": {"cpu_seconds": "DPO, recommended β: CPU seconds"},
}


def _name(point: dict[str, Any]) -> str:
    names = {"sft": "SFT", "best_of_n": "best of {n}", "dpo": "DPO, β = {beta:g}", "ppo": "PPO, β = {beta:g}"}
    return names[point["method"]].format(**point)


def _spread(values: Sequence[float], digits: int = 2) -> str:
    shown = ", ".join(f"{value:.{digits}f}" for value in values)
    return f"{median(values):.{digits}f} ({shown})"


if __name__ == "__main__":
    main()

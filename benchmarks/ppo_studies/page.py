"""The results in one page: ``ppo_studies.md``, the same in ``.json``, and a figure a study."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.ppo_studies.figures import FIGURES
from benchmarks.ppo_studies.summary import (
    SMOOTHED,
    at_kl,
    compared_at_kl,
    expanded,
    grammar_kept,
    spread,
    with_start,
)
from benchmarks.reward_studies.cells import read_cells, read_failures
from benchmarks.reward_studies.summary import ByArm, difference, group, values

PACKAGES = ("torch", "lightning", "transformers", "tokenizers")
DISTANCES = (4.0, 8.0, 16.0, 32.0, 64.0)
"""Nats at which the runs of the study `real_text` are compared."""
EQUAL_KL = (0.5, 1.0, 2.0)
"""Nats at which both sides of the study `trl` are compared."""
FEWEST = 3
"""Seeds from which on an interval is shown."""
ALLOWED_LOSS = 0.05
"""Of grammar, that PPO at β = 0.2 may cost."""


def write_page(out: Path, results: Path, studies: Sequence[Any]) -> None:
    """Write what is done so far.

    Args:
        out: the studies' folder.
        results: where the page goes.
        studies: the modules of the studies, in the order of the page.
    """
    cells, failures = expanded(read_cells(out)), read_failures(out)
    starts = {file.stem: json.loads(file.read_text()) for file in sorted((out / "starts").glob("*.json"))}
    code = json.loads((out / "code.json").read_text()) if (out / "code.json").exists() else []
    results.mkdir(parents=True, exist_ok=True)
    lines = head(cells, starts, code, failures)
    for study in studies:
        for by_arm in group(cells, study.NAME).values():  # a study has one world and one condition
            lines += section(study, by_arm)
            figure = results / f"ppo_{study.NAME}.png"
            FIGURES[study.NAME](figure, study, by_arm)
            lines += [f"![{study.NAME}]({figure.name})", ""]
    (results / "ppo_studies.md").write_text("\n".join(lines), encoding="utf-8")
    shown = {"code": code, "starts": starts, "failures": failures}
    text = ",\n".join(json.dumps(short(cell), ensure_ascii=False) for cell in cells)
    (results / "ppo_studies.json").write_text(
        json.dumps(shown, indent=1, ensure_ascii=False)[:-2] + f',\n "cells": [\n{text}\n]\n}}\n'
    )
    print(f"written: {results}/ppo_studies.md ({len(cells)} cells, {len(failures)} failed)")


def head(
    cells: Sequence[Mapping[str, Any]],
    starts: Mapping[str, Any],
    code: Sequence[str],
    failures: Mapping[str, str],
) -> list[str]:
    """Conditions, and how to read the tables."""
    seconds = sum(cell["cpu_seconds"] for cell in cells) + sum(s["cpu_seconds"] for s in starts.values())
    # what runs in TRL's process is not in the cell's own time
    seconds += sum(cell["result"].get("seconds", 0.0) for cell in cells if cell["arm"].startswith("trl-"))
    versions = ", ".join(f"{package} {version(package)}" for package in PACKAGES)
    real = [start for name, start in starts.items() if name.startswith("real")]
    accuracies = [value for start in real for value in start["accuracy"]]
    judged = [s["reward_accuracy_gold"] for name, s in starts.items() if name.startswith("demo")]
    lines = [
        "# Five studies of PPO",
        "",
        "Written by `python -m benchmarks.ppo_studies --out $OUT` (`page` alone writes it anew); every "
        "cell is also in `ppo_studies.json`.",
        "",
        f"- {len(cells)} cells, {seconds / 60:.0f} CPU minutes, one thread a process, beside other work: "
        "seconds of different arms are comparable to some 20 %",
        f"- CPU, {platform.machine()}; python {platform.python_version()}, {versions}; code of the package "
        f"(SHA-256 over its files): {', '.join(code) or 'not recorded'}",
        "- demo world: `lit-rlhf demo --preset full` as far as the reward model, made anew for each seed "
        "(a Llama of 106,304 parameters; reward model right on "
        f"{_range(judged)} of "
        "held-out pairs by gold); all arms of a seed share it",
    ]
    if real:
        lines.append(
            f"- real text: reward models right on {_range(accuracies)} of clean held-out pairs; gold of the "
            f"SFT policy's samples {_range([start['sft_gold'] for start in real])}"
        )
    lines += [
        "- **KL**: to the SFT policy, nats a response, estimated on the policy's own samples. **score**: "
        "what the reward model says; **gold**: the world's own judgement, which nothing is trained on",
        "- numbers are means over the seeds, with the least and largest in brackets; a **difference** is "
        f"paired by seed, with a 95 % interval of Student's t where there are {FEWEST} seeds or more (one in "
        "twenty excludes 0 by chance)",
        *(
            [f"- failed cells: {len(failures)}, the first `{next(iter(failures.items()))}`"]
            if failures
            else []
        ),
        "",
    ]
    return lines


def section(study: Any, by_arm: ByArm) -> list[str]:
    """One study: what it is, what came out, its numbers."""
    seeds = sorted({seed for results in by_arm.values() for seed in results})
    lines = [
        f"## {study.NAME}",
        "",
        study.__doc__.strip(),
        "",
        f"{study.HOW} Seeds: {', '.join(map(str, seeds))}.",
        "",
    ]
    lines += [f"- {finding}" for finding in study.FINDINGS] + [""]
    lines += table(study, by_arm)
    lines += EXTRAS.get(study.NAME, lambda study, by_arm: [])(study, by_arm)
    return lines


def table(study: Any, by_arm: ByArm) -> list[str]:
    """Every metric of every arm, and how many seeds it has where these differ."""
    metrics = [m for m in study.METRICS if any(values(by_arm, arm, m) for arm in study.ARMS)]
    rows = []
    for arm, meaning in study.ARMS.items():
        if arm in by_arm:
            rows.append([meaning, str(len(by_arm[arm])), *(spread(by_arm, arm, m) for m in metrics)])
    return _markdown(["arm", "seeds", *(study.METRICS[m] for m in metrics)], rows)


def kept_grammar(study: Any, by_arm: ByArm) -> list[str]:
    """Whether PPO at β = 0.2 keeps the grammar, seed by seed."""
    lines = []
    for arm in study.EVERY_SEED:
        if kept := grammar_kept(by_arm, arm):
            worst = min(kept.values())
            said = ", ".join(f"{seed}: {value:+.3f}" for seed, value in sorted(kept.items()))
            verdict = "met" if worst >= -ALLOWED_LOSS else "not met"
            lines += [
                f"- {study.ARMS[arm]}: grammar at the end minus that of SFT, by seed: {said}. The least is "
                f"{worst:+.3f}; never under −{ALLOWED_LOSS} is {verdict} on {len(kept)} seeds."
            ]
    return [*lines, ""]


def differences(study: Any, by_arm: ByArm) -> list[str]:
    """Each arm minus the baseline, and which intervals exclude 0."""
    rows = []
    for arm, meaning in study.ARMS.items():
        if arm in by_arm and arm != study.BASELINE:
            found = [difference(by_arm, arm, study.BASELINE, metric) for metric in study.COMPARED]
            if any(found):
                rows.append([meaning, *(_bold(gain) for gain in found)])
    names = [f"{study.METRICS[metric]}" for metric in study.COMPARED]
    intro = f"Differences to “{study.ARMS[study.BASELINE]}”; bold where the interval excludes 0:"
    return [intro, "", *_markdown(["arm", *names], rows)] if rows else []


def over_optimisation(study: Any, by_arm: ByArm) -> list[str]:
    """Where each run's gold is highest, and what it is at the same distances from the SFT policy."""
    rows = []
    for arm in study.ARMED:
        for seed, result in sorted(by_arm.get(arm, {}).items()):
            curve = with_start(result["curve"], by_arm["sft"][seed])
            best = study.peak(curve)
            found = [at_kl(curve, kl, "gold") for kl in DISTANCES]
            cells = ["" if value is None else f"{value:.2f}" for value in found]
            rows.append([study.ARMS[arm], str(seed), f"{best['gold']:.2f}", f"{best['kl']:.1f}", *cells])
    header = ["arm", "seed", "highest gold", "at KL", *(f"gold at KL {kl:g}" for kl in DISTANCES)]
    intro = "Gold on the way: the highest measurement, and where a run first is so far (linear in √KL in between):"
    return [intro, "", *_markdown(header, rows)] if rows else []


def at_equal_kl(study: Any, by_arm: ByArm) -> list[str]:
    """Both sides at the same β and the same number of samples, and the score where both reach the same KL."""
    rows = []
    for one, other in study.PAIRED.items():
        found = [difference(by_arm, one, other, metric) for metric in study.COMPARED]
        if any(found):
            rows.append([one.replace("ours-", "β = "), *(_bold(gain) for gain in found)])
    lines = ["lit_rlhf minus TRL at the end, at the same β and number of samples:", ""]
    lines += _markdown(["", *(study.METRICS[metric] for metric in study.COMPARED)], rows)
    rows = []
    for one, other in study.PAIRED.items():
        for kl in EQUAL_KL:
            if compared := compared_at_kl(by_arm, one, other, kl):
                ours, theirs, gain = compared
                label = one.replace("ours-", "β = ")
                rows.append([label, f"{kl:g}", f"{ours:.2f}", f"{theirs:.2f}", _bold(gain)])
    lines += [
        f"Score where the rollouts of both first reach the same KL (the trainers' own logs, means of "
        f"{SMOOTHED} iterations in a row, linear in √KL between them):",
        "",
    ]
    return lines + _markdown(["", "KL", "lit_rlhf", "TRL 1.12.0", "difference"], rows)


EXTRAS = {
    "frontier": kept_grammar,
    "ablation": differences,
    "ptx": differences,
    "real_text": over_optimisation,
    "trl": at_equal_kl,
}
"""What a study says beside its table."""


def short(cell: Mapping[str, Any]) -> dict[str, Any]:
    """A cell with its curve, without what was logged, numbers rounded."""
    result: dict[str, Any] = {k: round(v, 4) for k, v in cell["result"].items() if isinstance(v, int | float)}
    if "curve" in cell["result"]:
        result["curve"] = [{k: round(v, 3) for k, v in point.items()} for point in cell["result"]["curve"]]
    return {**cell, "result": result}


def _bold(gain: Any) -> str:
    if gain is None:
        return ""
    if gain.seeds < FEWEST:
        return f"{gain.mean:+.3f}"
    return f"**{gain}**" if gain.sign else str(gain)


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [header, ["---"] * len(header), *rows]
    return [*("| " + " | ".join(line) + " |" for line in lines), ""]


def _range(numbers: Sequence[float]) -> str:
    return f"{min(numbers):.2f} to {max(numbers):.2f} (mean {mean(numbers):.2f})" if numbers else "?"

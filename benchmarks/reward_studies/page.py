"""The page of the studies: ``reward_studies.md``, the same in ``.json``, and a figure a study."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.reward_studies.cells import read_cells, read_failures
from benchmarks.reward_studies.figures import draw_curves, draw_differences
from benchmarks.reward_studies.summary import ByArm, difference, group, values

LOWER_IS_BETTER = ("log_loss", "best_log_loss", "noisy_fit", "gap")
PACKAGES = ("torch", "lightning", "transformers", "tokenizers")


def write_page(out: Path, results: Path, studies: Sequence[Any]) -> None:
    """Write what is done so far.

    Args:
        out: the studies' folder.
        results: where the page goes.
        studies: the modules of the studies, in the order of the page.
    """
    cells, failures = read_cells(out), read_failures(out)
    starts = {file.stem: json.loads(file.read_text()) for file in sorted((out / "starts").glob("*.json"))}
    results.mkdir(parents=True, exist_ok=True)
    lines = head(cells, starts, failures)
    for study in studies:
        grouped = group(cells, study.NAME)
        if not grouped:
            continue
        lines += section(study, grouped)
        figure = results / f"reward_studies_{study.NAME}.png"
        (draw_curves if study.NAME == "rankings" else draw_differences)(figure, study, grouped)
        lines += [f"![{study.NAME}]({figure.name})", ""]
    (results / "reward_studies.md").write_text("\n".join(lines), encoding="utf-8")
    numbers = {"starts": starts, "failures": failures, "cells": [short(cell) for cell in cells]}
    text = ",\n".join(json.dumps(cell, ensure_ascii=False) for cell in numbers.pop("cells"))
    (results / "reward_studies.json").write_text(
        json.dumps(numbers, indent=1, ensure_ascii=False)[:-2] + f',\n "cells": [\n{text}\n]\n}}\n'
    )
    print(f"written: {results}/reward_studies.md ({len(cells)} cells, {len(failures)} failed)")


def head(
    cells: Sequence[Mapping[str, Any]], starts: Mapping[str, Any], failures: Mapping[str, str]
) -> list[str]:
    """Conditions, and how to read the tables."""
    seconds = sum(cell["cpu_seconds"] for cell in cells) + sum(
        start["cpu_seconds"] for start in starts.values()
    )
    seeds = sorted({cell["seed"] for cell in cells})
    versions = ", ".join(f"{package} {version(package)}" for package in PACKAGES)
    real = starts.get("real", {})
    return [
        "# Five studies of reward models",
        "",
        "Written by `python -m benchmarks.reward_studies`; every cell is also in `reward_studies.json`.",
        "",
        f"- seeds {', '.join(map(str, seeds))}; {len(cells)} cells, {seconds / 60:.0f} CPU minutes, one thread a "
        "process, beside other work",
        f"- CPU, {platform.machine()}; python {platform.python_version()}, {versions}",
        "- demo world: Llama with 106,304 parameters, pretrained and fine-tuned anew for each seed; responses are "
        "samples of the fine-tuned policy, those that are no sentence left out "
        f"({_range([1 - s['grammar'] for name, s in starts.items() if name.startswith('demo')])} of them)",
        f"- real text: Llama with {real.get('parameters', 0):,} parameters, pretrained once on the text folders and on "
        f"both sides of the debates alike (perplexity {real.get('perplexity', 0):.1f}); a seed draws the new head, the "
        "training rows and their order",
        "- AdamW, gradients clipped at 1, a learning rate that rises over a tenth of the updates and falls to 0; demo "
        "2e-3, real text 5e-4; 16 pairs a batch, rankings with about as many responses",
        "- **difference**: arm minus baseline, paired by seed, mean with a 95 % interval of Student's t over the "
        "seeds. It speaks of training again with other draws, not of other held-out rows. One interval in twenty "
        "excludes 0 by chance, and there are many here",
        "- the best development point is chosen by accuracy on development rows that are as noisy as the training rows",
        *(
            [f"- failed cells: {len(failures)}, the first `{next(iter(failures.items()))}`"]
            if failures
            else []
        ),
        "",
    ]


def section(study: Any, grouped: Mapping[tuple[str, str], ByArm]) -> list[str]:
    """One study: what it is, what came out, a table for each world and condition."""
    lines = [
        f"## {study.NAME.capitalize()}",
        "",
        study.__doc__.strip(),
        "",
        study.HOW,
        "",
        f"**{study.FINDING}**",
        "",
    ]
    for (world, condition), by_arm in grouped.items():
        described = getattr(study, "CONDITIONS", {}).get(condition, "")
        lines += [f"### {world}{': ' + described if described else ''}", ""]
        lines += table(study, by_arm)
        lines += extras(study, by_arm)
        lines += _verdict(study, by_arm)
    return lines


def table(study: Any, by_arm: ByArm) -> list[str]:
    """Means of every metric; differences of those that are compared."""
    metrics = [m for m in study.METRICS if any(values(by_arm, arm, m) for arm in study.ARMS)]
    header = ["arm"]
    for metric in metrics:
        header += [study.METRICS[metric], *(["difference"] if metric in study.COMPARED else [])]
    lines = ["| " + " | ".join(header) + " |", "| " + " | ".join(["---"] * len(header)) + " |"]
    for arm, meaning in study.ARMS.items():
        if arm not in by_arm:
            continue
        cells = [meaning]
        for metric in metrics:
            found = values(by_arm, arm, metric)
            cells.append(f"{mean(found.values()):.3f}" if found else "")
            if metric in study.COMPARED:
                gain = None if arm == study.BASELINE else difference(by_arm, arm, study.BASELINE, metric)
                cells.append(str(gain) if gain else "")
        lines.append("| " + " | ".join(cells) + " |")
    return [*lines, ""]


def extras(study: Any, by_arm: ByArm) -> list[str]:
    """Numbers that belong to the data and not to an arm."""
    found = []
    for arm, metrics in getattr(study, "EXTRAS", {}).items():
        for metric, meaning in metrics.items():
            numbers = values(by_arm, arm, metric)
            if numbers:
                found.append(f"{meaning}: {mean(numbers.values()):.3f} ({_range(list(numbers.values()))})")
    return ["; ".join(found) + ".", ""] if found else []


def short(cell: Mapping[str, Any]) -> dict[str, Any]:
    """A cell without its curves and lists, numbers rounded."""
    result = {
        name: round(value, 4) for name, value in cell["result"].items() if isinstance(value, int | float)
    }
    return {**cell, "result": result}


def _verdict(study: Any, by_arm: ByArm) -> list[str]:
    """A line for each compared metric: which arms' intervals exclude 0."""
    lines = []
    for metric in study.COMPARED:
        said: dict[int, list[str]] = {1: [], -1: []}
        others = 0
        for arm, meaning in study.ARMS.items():
            gain = None if arm == study.BASELINE else difference(by_arm, arm, study.BASELINE, metric)
            if gain and gain.sign:
                said[gain.sign * (-1 if metric in LOWER_IS_BETTER else 1)].append(f"{meaning} ({gain})")
            others += gain is not None and not gain.sign
        words = {1: "better", -1: "worse"}
        parts = [f"{words[sign]}: {', '.join(names)}" for sign, names in said.items() if names]
        parts += [f"no difference seen in {others} {'others' if parts else 'arms'}"] if others else []
        if parts:
            lines.append(
                f"- {study.METRICS[metric]}, against “{study.ARMS[study.BASELINE]}”: {'; '.join(parts)}"
            )
    return [*lines, ""]


def _range(numbers: Sequence[float]) -> str:
    return f"{min(numbers):.2f} to {max(numbers):.2f}" if numbers else "?"

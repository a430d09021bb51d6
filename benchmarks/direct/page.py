"""The results in one page: ``direct.md``, the same in ``.json``, and the figure."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.direct import study_tables, tables
from benchmarks.direct.figures import draw
from benchmarks.direct.findings import FINDINGS, LIMITS, READ
from benchmarks.direct.starts import HELD_OUT
from benchmarks.direct.summary import FEWEST
from benchmarks.direct.worlds import WORLDS
from benchmarks.reward_studies.cells import read_cells, read_failures

PACKAGES = ("torch", "lightning", "transformers", "tokenizers")
Cell = Mapping[str, Any]


def write_page(work: Path, out: Path) -> None:
    """Write what is done so far.

    Args:
        work: the study's folder.
        out: the JSON file; page and figure go beside it.
    """
    cells, failures = [cell for cell in read_cells(work) if cell["study"] != "sweep"], read_failures(work)
    tried = [cell for cell in read_cells(work) if cell["study"] == "sweep"]
    starts = {file.stem: json.loads(file.read_text()) for file in sorted((work / "starts").glob("*.json"))}
    costs = {
        file.stem.removeprefix("costs-"): json.loads(file.read_text())
        for file in sorted(work.glob("costs-*.json"))
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    lines = head(cells, tried, starts, failures)
    lines += [f"![the direct methods]({out.stem}.png)", ""]
    sections = (
        tables.deciding(cells, costs),
        study_tables.more_time(cells, costs),
        study_tables.distance(cells),
    )
    rest = (study_tables.ranked(cells), study_tables.voted(cells), tables.demo(cells), tables.real(cells))
    lines += [line for section in (*sections, *rest, study_tables.paid(costs)) for line in section]
    lines += ["## Limits", "", *(f"- {limit}" for limit in LIMITS), ""]
    out.with_suffix(".md").write_text("\n".join(lines), encoding="utf-8")
    draw(out.with_suffix(".png"), cells, costs)
    shown = {
        "starts": starts,
        "costs": costs,
        "failures": failures,
        "online_against_offline": study_tables.distances(cells),
    }
    rows = {
        name: [json.dumps(short(cell)) for cell in some]
        for name, some in (("cells", cells), ("tried", tried))
    }
    parts = [f' "{name}": [\n' + ",\n".join(found) + "\n ]" for name, found in rows.items()]
    out.write_text(json.dumps(shown, indent=1)[:-2] + ",\n" + ",\n".join(parts) + "\n}\n", encoding="utf-8")
    print(f"written: {out.with_suffix('.md')} ({len(cells)} cells, {len(failures)} failed)")


def head(
    cells: Sequence[Cell], tried: Sequence[Cell], starts: Mapping[str, Any], failures: Mapping[str, str]
) -> list[str]:
    """What was found, and under which conditions."""
    seconds = sum(cell["cpu_seconds"] for cell in [*cells, *tried]) + sum(
        s["cpu_seconds"] for s in starts.values()
    )
    versions = ", ".join(f"{package} {version(package)}" for package in PACKAGES)
    seeds = sorted({cell["seed"] for cell in cells})
    world = WORLDS["demo"]
    lines = [
        "# Direct methods",
        "",
        "Written by `python -m benchmarks.direct --data $DATA --out benchmarks/results/direct.json` (`--page` alone "
        "writes it anew); every cell is in `direct.json`.",
        "",
        READ,
        "",
        *(f"- {finding}" for finding in FINDINGS),
        "",
        f"Conditions: {len(cells)} cells of seeds {', '.join(map(str, seeds))} and {len(tried)} tries, "
        f"{seconds / 60:.0f} CPU minutes, one thread, beside other work; CPU, {platform.machine()}, python "
        f"{platform.python_version()}, {versions}.",
        "",
        f"- **Equal seconds**: the budget is what {world.budget} updates of DPO cost in the demo world "
        f"({WORLDS['pairs_blimp'].budget} on real text). Since CPU seconds of the same update swing by half with the "
        "machine's load, the costs were measured against each other in turns (last table), and everything is given the "
        "updates that the budget buys. PPO and all that learn from a reward model learn it within their budget, from "
        "the same pairs in one pass. Rates rise over ten updates and fall to 0; AdamW, gradients clipped at 1.",
        f"- Demo world: `lit-rlhf demo`'s language and fine-tuned policy (106,304 parameters), made anew for each "
        f"seed; {world.pairs:,} pairs of its samples, labelled with noise; updates of {world.batch_size} pairs.",
        "- Real text: a Llama of 320 thousand parameters with its own tokenizer, fine-tuned on the responses of the "
        "training file, both sides alike; up to 800 rows, updates of 16 pairs, rate 1e-3, measured on up to "
        f"{HELD_OUT} held-out rows. Responses are cut at 64 tokens (BLiMP 32; rankings and votes 48, with a budget of "
        f"{WORLDS['kwise_ukp_rank'].budget} updates).",
        "- Rates: 5e-4 in the demo world. What draws samples has fewer updates for its seconds and learns at twice the "
        "rate; PPO at four times in the contest (its tries were of rates) and at one time under More time.",
        "- Settings: two tries for each method in the demo world on seed 100, which is no part of the results, at the "
        "same budget with clean labels, by gold; taken over to flipped labels and real text unsearched. Under `flips` "
        "robust and cDPO are told the share (0.25), else 0.1.",
        "- **gold**: the demo world's own judgement. **grammar**: share of sentences. **KL**: to the start, nats a "
        "response, on own samples. **accuracy**: of log π/π_start on held-out pairs with their labels as given.",
        f"- In brackets 95 % intervals of Student's t over seeds; differences are paired by seed (same start, data, "
        f"noise of samples), bold where the interval excludes 0. Nothing is corrected for the number of comparisons: "
        f"of twenty true zeros one is bold. From {FEWEST} seeds on; n is the number of seeds.",
    ]
    if failures:
        lines.append(f"- failed cells: {len(failures)}, the first: `{next(iter(failures.items()))}`")
    return [*lines, ""]


def short(cell: Cell) -> dict[str, Any]:
    """A cell with its numbers rounded."""
    result = {k: round(v, 4) if isinstance(v, float) else v for k, v in cell["result"].items()}
    return {**cell, "result": result}

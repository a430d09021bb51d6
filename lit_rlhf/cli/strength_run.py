"""``lit-rlhf strength`` from its arguments to its file: rows read, models trained, strengths written and shown."""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from lit_rlhf import RewardModule
from lit_rlhf.cli.check import CheckCommandLine
from lit_rlhf.cli.devices import choose_device
from lit_rlhf.cli.export import find_class
from lit_rlhf.cli.refusal import refuse
from lit_rlhf.cli.score_lines import write_lines
from lit_rlhf.cli.strength_members import Fit, differences, say
from lit_rlhf.cli.strength_rows import (
    StrengthRow,
    comparisons_to_judge,
    labelled,
    refuse_untreatable,
    report,
    treat,
)
from lit_rlhf.cli.strength_settings import FREE, flatten, judgements_fingerprint, settle_settings
from lit_rlhf.data.files import prompt_key
from lit_rlhf.data.formats import RowError, parse_row
from lit_rlhf.data.sources import find_sources
from lit_rlhf.data.tree_datamodule import TreeDataModule
from lit_rlhf.data.trees import plant_tree
from lit_rlhf.models.fingerprint import fingerprint_of_stored
from lit_rlhf.modules.reference_file import rows_fingerprint
from lit_rlhf.ops.strength import preference_strength
from lit_rlhf.reports.strength import draw_strengths


class Plan(CheckCommandLine):
    """Takes what ``fit`` takes, and builds the data module alone: the rows as the models will see them."""

    def __init__(self, argv: Sequence[str], judged_apart: bool) -> None:
        self.judged_apart = judged_apart
        super().__init__([*argv, "--data.val_fraction", "0"], Console())

    def _run_subcommand(self, subcommand: str) -> None:
        config = self.config.fit
        if not issubclass(find_class(config.model.class_path), RewardModule):
            refuse(
                f"strength trains reward models; {config.model.class_path} is none.",
                "--config configs/reward.yaml",
            )
        seed = config.seed_everything
        if isinstance(seed, bool) or not isinstance(seed, int):
            refuse(f"--seed_everything: expected a number, from which the models count, found {seed}.")
        self.seed: int = seed
        self.model: str = config.model.init_args.model
        self.on_cpu = config.trainer.accelerator == "cpu"
        self.path = self.data.paths["train"]
        if self.path is None:
            refuse("no data: give --data.path FILE, the rows to judge.")
        self.data.plant("train")
        if config.trainer.max_epochs not in (None, 1) and not self.judged_apart:
            say(
                f"Each model sees the rows that it judges {config.trainer.max_epochs} times, and may know them by "
                "heart: --folds 5 judges each row by models that have not seen it."
            )

    def settings(self) -> dict[str, Any]:
        """Every setting of the fits that changes what they learn, by its dotted name; and the model's content."""
        parsed = yaml.safe_load(self._parser("fit").dump(self.config.fit, skip_none=False))
        found = {name: value for name, value in flatten(parsed) if not name.startswith(FREE)}
        return {**found, "start model": fingerprint_of_stored(self.model)}


def measure(arguments: argparse.Namespace, fit_arguments: Sequence[str]) -> None:
    """Train, judge, treat, write, show.

    Raises:
        ValueError: the data or the arguments do not allow it; the message says what to do.
        FitStopped: a fit was stopped or failed.
    """
    plan, out = Plan(fit_arguments, bool(arguments.folds)), Path(arguments.out)
    note = weights_note(plan.path)
    if note:
        say(note)
    rows = read_pairs(plan.path, plan.data)
    refuse_untreatable(rows, arguments.then)
    trees = [row.tree for row in rows]
    parts = deal_rows(plan, rows, arguments.folds)
    about_rows = {
        "rows": rows_fingerprint(trees),
        "judgements": judgements_fingerprint(row.row for row in rows),
        "weights": [source.weight for source in find_sources(plan.path, "train")],
    }
    settle_settings(out, {**plan.settings(), "folds": arguments.folds, **about_rows})
    fits = plan_fits(plan, rows, parts, out, arguments.members)
    device = "cpu" if plan.on_cpu else choose_device("auto")
    measured = differences(fits, arguments.members, trees, fit_arguments, arguments.max_tokens, device)
    mean, spread = preference_strength(measured)
    counts = [len(tree.comparisons) for tree in trees]
    for row, strengths, spreads in zip(rows, mean.split(counts), spread.split(counts), strict=True):
        row.strengths, row.spreads = strengths.tolist(), spreads.tolist()
    changes = treat(rows, arguments.then, arguments.share, arguments.alpha)
    write_lines(out / "strength.jsonl", (row.written() for row in rows))
    shown = labelled(rows)
    draw_strengths(
        out / "strength.png", [strength for strength, *_ in shown], [row.spreads[at] for _, row, at in shown]
    )
    report(rows, changes)
    say(f"written: {out / 'strength.jsonl'}, {len(rows)} rows, and {out / 'strength.png'}")
    if note:
        say(note)


def weights_note(path: Any) -> str:
    """That the file which is written has no weights, where `path` weighs its files; else empty."""
    weighed = [(source.name, source.weight) for source in find_sources(path, "train") if source.weight != 1]
    if not weighed:
        return ""
    named = ", ".join(f"{name} {weight:g}" for name, weight in weighed)
    return (
        f"note: the models are trained with the weights of data.path ({named}), but strength.jsonl holds every row "
        "once, of all files in order: who trains on it has to draw them apart again"
    )


def read_pairs(path: Any, data: TreeDataModule) -> list[StrengthRow]:
    """Every row that can be read, in order, each by itself: what several annotators said of one pair stays apart."""
    rows: list[StrengthRow] = []
    for source in find_sources(path, "train"):
        for place, fields in source.read():
            try:
                if isinstance(fields, RowError):
                    raise fields
                row = parse_row(fields, data.kind, place)
            except RowError:
                continue  # the data module has counted it, or stopped
            judged = replace(row, comparisons=comparisons_to_judge(fields, row))
            limits = (data.max_prompt_tokens, data.max_response_tokens, data.assistant_turns)
            rows.append(StrengthRow(fields, row, plant_tree(judged, data.encoder, *limits)[0][0]))
    if not any(one.target > 0.5 for row in rows for one in row.tree.comparisons):
        raise ValueError("data.path: no row by itself tells two responses apart.")
    return rows


def deal_rows(plan: Plan, rows: Sequence[StrengthRow], folds: int) -> list[list[int]]:
    """The rows in parts, each judged by fits that leave it out; no parts without folds.

    Raises:
        ValueError: there are too few prompts, or weights that the files of the folds could not hold.
    """
    if not folds:
        return []
    if weights_note(plan.path):
        raise ValueError("--folds: the weights of data.path would be lost; give the files without weights.")
    return deal_folds([prompt_key(row.row) for row in rows], folds, plan.seed)


def plan_fits(
    plan: Plan, rows: Sequence[StrengthRow], parts: Sequence[Sequence[int]], out: Path, members: int
) -> list[Fit]:
    """The fits, member by member; where there are parts, the data files that leave one out are written."""
    if not parts:
        return [Fit(out / f"member-{m:02d}", plan.seed + m, range(len(rows))) for m in range(members)]
    files = [out / f"fold-{number}.jsonl" for number in range(len(parts))]
    for file, part in zip(files, parts, strict=True):
        left_out = set(part)
        write_lines(file, (row.fields for number, row in enumerate(rows) if number not in left_out))
    return [
        Fit(out / f"member-{m:02d}-fold-{number}", plan.seed + m, part, files[number])
        for m in range(members)
        for number, part in enumerate(parts)
    ]


def deal_folds(keys: Sequence[str], folds: int, seed: int) -> list[list[int]]:
    """The rows in parts of about as many prompts; rows of one prompt are in one part.

    Args:
        keys: of each row, what says which rows have one prompt.
        folds: how many parts.
        seed: decides.

    Raises:
        ValueError: there are fewer prompts than parts.
    """
    prompts = sorted(set(keys))
    if len(prompts) < folds:
        raise ValueError(f"--folds {folds}: expected as many prompts at least, found {len(prompts)}.")
    random.Random(seed).shuffle(prompts)
    part_of = {prompt: number % folds for number, prompt in enumerate(prompts)}
    return [[row for row, key in enumerate(keys) if part_of[key] == part] for part in range(folds)]

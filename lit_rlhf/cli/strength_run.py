"""``lit-rlhf strength`` from its arguments to its file: rows read, models trained, strengths written and shown."""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from lit_rlhf import RewardModule
from lit_rlhf.callbacks import write_beside_and_rename
from lit_rlhf.cli.check import CheckCommandLine
from lit_rlhf.cli.export import find_class
from lit_rlhf.cli.refusal import refuse
from lit_rlhf.cli.score_files import choose_device
from lit_rlhf.cli.strength_members import Fit, differences, say
from lit_rlhf.cli.strength_rows import StrengthRow, comparisons_to_judge, refuse_untreatable, report, treat
from lit_rlhf.data.files import prompt_key
from lit_rlhf.data.formats import RowError, parse_row
from lit_rlhf.data.sources import find_sources
from lit_rlhf.data.tree_datamodule import TreeDataModule
from lit_rlhf.data.trees import plant_tree
from lit_rlhf.modules.reference_file import rows_fingerprint
from lit_rlhf.ops.strength import preference_strength
from lit_rlhf.reports.strength import draw_strengths

SETTINGS_FILE = "strength-settings.json"
"""In the folder: what its models were trained with."""

FREE = ("out", "ckpt_path", "data.path", "trainer.default_root_dir", "trainer.devices", "trainer.accelerator",
        "trainer.strategy", "trainer.num_nodes", "trainer.logger", "trainer.callbacks", "trainer.enable_progress_bar",
        "trainer.enable_model_summary", "trainer.log_every_n_steps")  # fmt: skip
"""Settings that may change between two calls; the rows themselves are compared, not their place."""


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
        """Every setting of the fits that changes what they learn, by its dotted name."""
        parsed = yaml.safe_load(self._parser("fit").dump(self.config.fit, skip_none=False))
        return {name: value for name, value in flatten(parsed) if not name.startswith(FREE)}


def measure(arguments: argparse.Namespace, fit_arguments: Sequence[str]) -> None:
    """Train, judge, treat, write, show.

    Raises:
        ValueError: the data or the arguments do not allow it; the message says what to do.
        FitStopped: a fit was stopped or failed.
    """
    plan, out = Plan(fit_arguments, bool(arguments.folds)), Path(arguments.out)
    rows = read_pairs(plan.path, plan.data)
    refuse_untreatable(rows, arguments.then)
    trees = [row.tree for row in rows]
    settle_settings(out, {**plan.settings(), "folds": arguments.folds, "rows": rows_fingerprint(trees)})
    fits = plan_fits(plan, rows, out, arguments.members, arguments.folds)
    device = "cpu" if plan.on_cpu else choose_device("auto")
    measured = differences(fits, arguments.members, trees, fit_arguments, arguments.max_tokens, device)
    mean, spread = preference_strength(measured)
    counts = [len(tree.comparisons) for tree in trees]
    for row, strengths, spreads in zip(rows, mean.split(counts), spread.split(counts), strict=True):
        row.strengths, row.spreads = strengths.tolist(), spreads.tolist()
    changes = treat(rows, arguments.then, arguments.share, arguments.alpha)
    write_beside_and_rename(out / "strength.jsonl", as_json_lines([row.written() for row in rows]))
    draw_strengths(out / "strength.png", mean.tolist(), spread.tolist())
    report(rows, changes)
    say(f"written: {out / 'strength.jsonl'}, {len(rows)} rows, and {out / 'strength.png'}")


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
            row.comparisons = comparisons_to_judge(fields, row)
            limits = (data.max_prompt_tokens, data.max_response_tokens, data.assistant_turns)
            rows.append(StrengthRow(fields, row, plant_tree(row, data.encoder, *limits)[0][0]))
    if not any(row.tree.comparisons for row in rows):
        raise ValueError("data.path: no row by itself tells two responses apart.")
    return rows


def as_json_lines(rows: Sequence[Mapping[str, Any]]) -> str:
    """One line a row."""
    return "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows)


def settle_settings(out: Path, settings: dict[str, Any]) -> None:
    """Write the settings into a new folder; refuse one whose models were trained with others."""
    file = out / SETTINGS_FILE
    if not file.exists():
        write_beside_and_rename(file, json.dumps(settings, indent=1, default=str) + "\n")
        return
    before = json.loads(file.read_text(encoding="utf-8"))
    now = json.loads(json.dumps(settings, default=str))
    differ = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    if differ:
        said = "; ".join(
            name if name == "rows" else f"{name} was {before.get(name)} and is {now.get(name)}"
            for name in differ[:5]
        )
        refuse(
            f"{out} holds models that were trained otherwise: {said}.",
            "Give another --out, or the same arguments.",
        )


def plan_fits(plan: Plan, rows: Sequence[StrengthRow], out: Path, members: int, folds: int) -> list[Fit]:
    """The fits, member by member; with folds their data files are written."""
    if not folds:
        return [Fit(out / f"member-{m:02d}", plan.seed + m, range(len(rows))) for m in range(members)]
    if any(isinstance(entry, Mapping) and entry.get("weight", 1) != 1 for entry in plan.path):
        raise ValueError("--folds: the weights of data.path would be lost; give the files without weights.")
    parts = deal_folds([prompt_key(row.row) for row in rows], folds, plan.seed)
    files = [out / f"fold-{number}.jsonl" for number in range(folds)]
    for file, part in zip(files, parts, strict=True):
        left_out = set(part)
        kept = [row.fields for number, row in enumerate(rows) if number not in left_out]
        write_beside_and_rename(file, as_json_lines(kept))
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


def flatten(values: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """Nested settings under dotted names, without ``init_args``.

    >>> flatten({"model": {"class_path": "A", "init_args": {"link": None}}})
    [('model.class_path', 'A'), ('model.link', None)]
    """
    if not isinstance(values, dict):
        return [(prefix, values)]
    found = []
    for name, value in values.items():
        found += flatten(value, prefix if name == "init_args" else f"{prefix}.{name}".lstrip("."))
    return found

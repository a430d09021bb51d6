"""The files that everything is measured on: read before anything is trained, and held against what is learned from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lit_rlhf.cli.compare.methods import Method
from lit_rlhf.cli.compare.settings import Comparison
from lit_rlhf.cli.refusal import refuse
from lit_rlhf.cli.score_reading import read_files
from lit_rlhf.data.files import BadRowsError
from lit_rlhf.data.formats import Kind
from lit_rlhf.records import Row


def read_held_out(comparison: Comparison, methods: Sequence[Method]) -> list[str]:
    """Look over the held-out comparisons and prompts; what there is to say of them.

    Raises:
        Refusal: `--val` holds no comparison.
        BadRowsError: a row cannot be read.
    """
    said = []
    if comparison.val is not None:
        rows = read_files([comparison.val]).rows
        strict = sum(one.target != 0.5 for row in rows for one in row.comparisons)
        if not strict:
            refuse(f"--val {comparison.val}: {len(rows):,} rows, and none says that one response is better.")
        said += shared_with_training("--val", rows, methods)
    if comparison.evaluation is not None:
        rows = read_files([comparison.evaluation], "prompts").rows
        if len(rows) < comparison.samples:
            said.append(
                f"--samples {comparison.samples}: {comparison.evaluation} has {len(rows):,} prompts, and all are taken"
            )
        said += shared_with_training("--evaluation", rows[: comparison.samples], methods)
    return said


def shared_with_training(option: str, rows: Sequence[Row], methods: Sequence[Method]) -> list[str]:
    """How many held-out rows have a prompt that is learned from; a line for each training file that has any."""
    said = []
    files: dict[str, Kind | None] = {}
    for method in methods:
        given: Any = method.arguments("data").get("path")
        for file in [given] if isinstance(given, str) else given or []:
            if isinstance(file, str) and Path(file).is_file():
                files[file] = "prompts" if method.learns_from == "prompts" else None
    for file, kind in files.items():
        try:
            learned = {key_of(row) for row in read_files([file], kind).rows}
        except BadRowsError:
            continue  # the fit says so, or skips them, as its config has it
        if shared := sum(key_of(row) in learned for row in rows):
            said.append(f"{option}: {shared:,} of {len(rows):,} rows have a prompt that stands in {file} too")
    return said


def key_of(row: Row) -> str:
    """The row's prompt, by which it is known again."""
    return json.dumps(row.prompt, sort_keys=True)

"""Judgements as a file in another tool's format."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from lit_rlhf.labelling.exchange.arena import write_battles
from lit_rlhf.labelling.exchange.argilla_writing import write_records
from lit_rlhf.labelling.exchange.entries import Written
from lit_rlhf.labelling.exchange.label_studio_writing import write_tasks
from lit_rlhf.labelling.exchange.reading import Format
from lit_rlhf.labelling.exchange.table_writing import table_columns, write_table
from lit_rlhf.labelling.export_files import csv_lines, rows_as_bytes
from lit_rlhf.labelling.items import Judgement

SUFFIXES: dict[Format, tuple[str, ...]] = {
    "lit-rlhf": (".jsonl", ".jsonl.gz", ".csv"),
    "label-studio": (".json",),
    "argilla": (".json",),
    "arena": (".jsonl", ".jsonl.gz"),
    "csv": (".csv",),
}
"""How the names of files of each format end."""


def exchange_files(
    path: Path, kind: Format, judgements: Sequence[Judgement], machines: Mapping[str, str]
) -> tuple[dict[Path, bytes], Written]:
    """What to write under which name: `path`, and beside it Label Studio's labelling config; and what does not fit.

    Args:
        path: of the file.
        kind: its format, one of other tools.
        judgements: those to write, skips among them.
        machines: annotators that are programs.
    """
    if kind == "label-studio":
        out, config = write_tasks(judgements, machines)
        return {path: _json(out), path.with_suffix(".xml"): config.encode()}, out
    if kind == "argilla":
        out = write_records(judgements, machines)
        return {path: _json(out)}, out
    if kind == "arena":
        out = write_battles(judgements, machines)
        return {path: rows_as_bytes(path, out.rows)}, out
    out = write_table(judgements, machines)
    return {path: csv_lines(out.rows, table_columns(out.rows))}, out


def _json(out: Written) -> bytes:
    return (json.dumps(out.rows, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()

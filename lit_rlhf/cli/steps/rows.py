"""Files of rows that steps hand to one another."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lit_rlhf.callbacks import write_beside_and_rename

Fields = dict[str, Any]


def write_rows(path: Path, rows: Sequence[Fields]) -> None:
    """Rows as JSON lines, unless the file holds them already."""
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        write_beside_and_rename(path, text)


def read_jsonl(path: Path) -> list[Fields]:
    """The rows of a file of ours."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]

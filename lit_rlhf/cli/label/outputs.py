"""Files that the verbs of `label` write: never over the labelling file, and never half."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lit_rlhf.cli.refusal import refuse
from lit_rlhf.labelling.export_files import write_whole


def check_output(option: str, out: str, db: str) -> Path:
    """The path, or a refusal where it cannot be written or is the labelling file itself."""
    path = Path(out)
    if not path.parent.is_dir():
        refuse(f"{option} {out}: expected the folder {path.parent} to be there, found none.")
    if path.is_dir():
        refuse(f"{option} {out}: expected a file, found a folder.")
    if path.resolve() == Path(db).resolve():
        refuse(f"{option} {out}: expected another file than --db.")
    return path


def write_json(path: Path, content: Any) -> None:
    """Write it whole: a reader sees the old file or the new one."""
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_whole(path, text.encode(errors="backslashreplace"))

"""Files of which a reader sees the old version or the new one."""

from __future__ import annotations

import os
from pathlib import Path


def write_beside_and_rename(path: Path, text: str) -> None:
    """Write a text file so that a reader, or a crash, sees the old one or the new one and nothing between."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.{os.getpid()}.partial")
    beside.write_text(text, encoding="utf-8")
    os.replace(beside, path)

"""The texts that ``lit-rlhf init`` learns its vocabulary from."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from lit_rlhf.cli.refusal import near_files, refuse

TEXT_FIELDS = {
    "text", "prompt", "response", "completion", "responses", "chosen", "rejected", "messages", "content",
    "response_a", "response_b", "instruction", "input", "output", "question", "answer", "conversations", "value",
}  # fmt: skip
"""The fields of a JSONL row that a model will read; a name of a domain or an annotator is none of them."""


def text_files(names: Sequence[str]) -> list[Path]:
    """The files, those of folders included; refuses what is not there."""
    files: list[Path] = []
    for name in names:
        path = Path(name)
        if path.is_dir():
            found = sorted(
                p for p in path.rglob("*") if p.is_file() and p.suffix in (".txt", ".jsonl", ".gz")
            )
            if not found:
                refuse(f"--text {name}: no .txt, .jsonl or .gz file in the folder.")
            files += found
        elif path.is_file():
            files.append(path)
        else:
            refuse(f"--text {name}: no such file.", *near_files(name))
    return files


def read_texts(file: Path) -> Iterator[str]:
    """The texts of a file: the lines of plain text, or the text fields of JSONL rows."""
    as_json = ".jsonl" in file.suffixes
    opened: IO[str]
    with (
        gzip.open(file, "rt", encoding="utf-8")
        if file.suffix == ".gz"
        else open(file, encoding="utf-8") as opened
    ):
        for number, line in enumerate(opened, 1):
            if not line.strip():
                continue
            if not as_json:
                yield line
                continue
            try:
                yield from strings_in(json.loads(line))
            except json.JSONDecodeError as error:
                refuse(f"{file}:{number}: expected a JSON object, found {line[:60]!r} ({error.msg}).")


def strings_in(value: Any) -> Iterator[str]:
    """The texts in a JSON value: those of the known fields, or, where a row has none of them, every string.

    >>> list(strings_in({"prompt": "Hi", "messages": [{"role": "user", "content": "Yo"}], "domain": "chat"}))
    ['Hi', 'Yo']
    >>> list(strings_in({"headline": "Rain"}))
    ['Rain']
    """
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        known = [part for key, part in value.items() if key in TEXT_FIELDS]
        for part in known or value.values():
            yield from strings_in(part)
    elif isinstance(value, list):
        for part in value:
            yield from strings_in(part)

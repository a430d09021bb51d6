"""What a file or folder holds, in a few letters: by which a step's inputs are known again."""

from __future__ import annotations

import hashlib
from pathlib import Path

WHOLE_BYTES = 64 << 20
"""A file up to this size is read whole; of a larger one its size, its beginning and its end."""
_PART_BYTES = 4 << 20


def fingerprint(path: Path | str) -> str:
    """16 hex digits of a file's or folder's content; the name itself where there is neither, as of a hub's model.

    A folder's fingerprint is that of its files with their names, hidden ones left out.
    """
    place = Path(path)
    digest = hashlib.sha256()
    if place.is_dir():
        for file in sorted(place.rglob("*")):
            inside = file.relative_to(place)
            if file.is_file() and not any(part.startswith(".") for part in inside.parts):
                digest.update(f"{inside.as_posix()}\0".encode())
                _add_file(digest, file)
    elif place.is_file():
        _add_file(digest, place)
    else:
        digest.update(f"name\0{path}".encode())
    return digest.hexdigest()[:16]


def _add_file(digest: hashlib._Hash, file: Path) -> None:
    size = file.stat().st_size
    digest.update(f"{size}\0".encode())
    with file.open("rb") as opened:
        if size <= WHOLE_BYTES:
            while part := opened.read(_PART_BYTES):
                digest.update(part)
            return
        digest.update(opened.read(_PART_BYTES))
        opened.seek(-_PART_BYTES, 2)
        digest.update(opened.read(_PART_BYTES))

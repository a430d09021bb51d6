"""The file beside a store that holds its secret and tokens, so that addresses and open pages outlive the server."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lit_rlhf.labelling.server.access import Access


class AccessFileError(ValueError):
    """The file of tokens cannot be read or written; the message says what to do."""


def access_path(store: Path) -> Path:
    """Where the tokens of a store are: ``labels.db.access.json``."""
    return store.with_name(f"{store.name}.access.json")


def open_access(store: Path, annotators: Sequence[str] = ()) -> Access:
    """The access of a store; its file is made if there is none, and only its owner may read it.

    Args:
        store: the SQLite file.
        annotators: who gets an address of her own. Those who have one keep it.

    Raises:
        AccessFileError: the file holds something else, or cannot be written.
    """
    path = access_path(store)
    try:
        if not path.exists():
            _write(path, {"secret": secrets.token_hex(32), "owner": _token(), "annotators": {}}, is_new=True)
        content = _read(path)
        tokens: dict[str, str] = content["annotators"]
        if new := [name for name in dict.fromkeys(annotators) if name not in tokens]:
            tokens |= {name: _token() for name in new}
            _write(path, content)
        elif path.stat().st_mode & 0o077:
            path.chmod(0o600)
    except OSError as error:
        raise AccessFileError(f"{path}: the tokens cannot be kept there: {error.strerror or error}") from None
    return Access(bytes.fromhex(content["secret"]), content["owner"], tokens)


def _token() -> str:
    return secrets.token_urlsafe(32)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        annotators = content["annotators"]
        texts = [content["secret"], content["owner"], *annotators, *annotators.values()]
        whole = all(isinstance(text, str) and text for text in texts)
        whole = whole and len(bytes.fromhex(content["secret"])) >= 32
    except (ValueError, KeyError, TypeError, AttributeError):
        whole = False
    if not whole:
        raise AccessFileError(
            f"{path}: expected the secret and the tokens that `label serve` keeps there, found something else. "
            "Remove it for new ones: addresses that were given out, and pages that are open, end with it."
        )
    return dict(content)


def _write(path: Path, content: dict[str, Any], is_new: bool = False) -> None:
    """Written beside and put in place; of two servers that make the file at once, the first one's stays."""
    beside = path.with_name(f"{path.name}.{os.getpid()}.partial")
    beside.unlink(missing_ok=True)
    with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        json.dump(content, file, ensure_ascii=False, indent=1)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    if not is_new:
        os.replace(beside, path)
        return
    try:
        os.link(beside, path)  # unlike a rename, it takes nobody's place
    except FileExistsError:
        pass
    except OSError:  # a file system without links
        os.replace(beside, path)
    beside.unlink(missing_ok=True)

"""Annotators' names: what may be one, and that nobody sits down under another's."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

from starlette.exceptions import HTTPException

from lit_rlhf.labelling.schema import StoreError
from lit_rlhf.labelling.server.access import Access, Session
from lit_rlhf.labelling.server.text import HIDDEN
from lit_rlhf.labelling.store import LabelStore

LONGEST_NAME = 40
"""Characters of an annotator's name."""
BLANK = "\u2800"
"""A letter of Braille without a dot."""


def checked_name(name: object) -> str:
    """An annotator's name, trimmed.

    Raises:
        ValueError: it is empty, too long, or has characters that nobody can see.
    """
    if not isinstance(name, str):
        raise ValueError(f"a name: expected text, found {type(name).__name__}")
    name = unicodedata.normalize("NFC", name.strip())
    shown = name.isprintable() and not HIDDEN.search(name) and BLANK not in name
    if not 1 <= len(name) <= LONGEST_NAME or not shown or not _alike(name):
        raise ValueError(f"a name: expected 1 to {LONGEST_NAME} printable characters, found {name[:80]!a}")
    return name


def other_spelling(name: str, known: Iterable[str]) -> str | None:
    """A known name that a reader would take for this one, and that is not this one.

    >>> other_spelling("ann", ["bob", "Ann"])
    'Ann'
    """
    return next((other for other in known if other != name and _alike(other) == _alike(name)), None)


def known_annotators(store: LabelStore) -> list[str]:
    """People who have judged something, and programs."""
    return [*store.progress().by_annotator, *store.machines()]


def take_name(store: LabelStore, access: Access, session: Session, name: str) -> None:
    """Let the session's browser judge under a name.

    Raises:
        HTTPException: 403, the session has a name that cannot be changed, or the name has an address of its own; 400,
            it is a program's, or too much like one that is there.
    """
    if session.named:
        if name != session.annotator:
            raise HTTPException(
                403, f"This address is {session.annotator}'s, and its name cannot be changed."
            )
        return
    owner = name if name in access.annotators else other_spelling(name, access.annotators)
    if owner is not None:
        raise HTTPException(403, f"{owner} has an address of her own; take another name, or open that one.")
    known = known_annotators(store)
    alike = None if name in known else other_spelling(name, known)
    if alike is not None:
        raise HTTPException(
            400, f"{alike} is there already: write it like that, or take a name that differs more."
        )
    try:
        store.add_annotator(name)
    except StoreError as error:
        raise HTTPException(400, str(error)) from None


def _alike(name: str) -> str:
    """The same for names that look the same but for capitals, widths, spaces, and the style of a symbol."""
    letters = (one for one in unicodedata.normalize("NFKC", name) if not "\ufe00" <= one <= "\ufe0f")
    return " ".join("".join(letters).casefold().split())

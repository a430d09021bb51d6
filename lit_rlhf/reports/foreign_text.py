"""Text that others wrote, made fit to be looked at: cut to a length, and with nothing in it that hides."""

from __future__ import annotations

import re
from typing import NamedTuple

from lit_rlhf.records import Prompt

# Control characters but line feed and tab; what turns the direction of text around, or has no width; halves of
# surrogate pairs, which no file can hold; and what XML does not know.
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f"
    "\ufeff\ufff9-\ufffb\ufffe\uffff\ud800-\udfff\U000e0000-\U000e007f]"
)


class ShownText(NamedTuple):
    """The part of a text that is shown."""

    text: str
    left_out: int
    """Characters behind it that are not shown."""


def shown(text: str, limit: int) -> ShownText:
    """The first `limit` characters, with every hidden one written out.

    >>> shown("abc\u202edef", 5)
    ShownText(text='abc⟨U+202E⟩d', left_out=2)
    """
    head = text[:limit].replace("\r\n", "\n")
    return ShownText(_HIDDEN.sub(_written_out, head), max(0, len(text) - limit))


def one_line(text: str, limit: int) -> str:
    """A short label: white space is one blank, the end of a long one an ellipsis.

    >>> one_line("two\\nlines and more", 10)
    'two lines…'
    """
    part = " ".join(shown(text, 4 * limit).text.split())
    return part if len(part) <= limit and len(text) <= 4 * limit else part[: limit - 1].rstrip() + "…"


def as_text(turns: Prompt) -> str:
    """A prompt or response as one text, a conversation's turns behind their roles."""
    if isinstance(turns, str):
        return turns
    return "\n\n".join(f"{turn.get('role', '?')}: {turn.get('content', '')}" for turn in turns)


def _written_out(found: re.Match[str]) -> str:
    return f"⟨U+{ord(found[0]):04X}⟩"

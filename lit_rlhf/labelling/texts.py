"""Text that somebody else wrote, for those who read it: the words of a message, and one line for a terminal."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def message_text(message: Mapping[str, Any]) -> str:
    """What a message says: its text, its parts of text, and whatever else it holds as JSON."""
    content = message.get("content")
    parts = content if isinstance(content, list) else [content]
    texts = []
    for part in parts:
        if isinstance(part, Mapping) and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif isinstance(part, str):
            texts.append(part)
        elif part is not None:
            texts.append(json.dumps(part, ensure_ascii=False, indent=1))
    for name in ("tool_calls", "function_call"):
        if message.get(name):
            texts.append(json.dumps(message[name], ensure_ascii=False, indent=1))
    return "\n".join(texts)


def counted(number: int, one: str, several: str = "") -> str:
    """A number with what it is of.

    Args:
        number: how many.
        one: the word for one of them.
        several: the word for more; by default with an s behind it.

    >>> counted(1, "item"), counted(1200, "item"), counted(2, "person", "people")
    ('1 item', '1,200 items', '2 people')
    """
    return f"{number:,} {one if number == 1 else several or one + 's'}"


def printable(text: str) -> str:
    """One line, with what is not printable spelled out.

    >>> printable("a\\tb\\x1b[2J")
    'a\\\\tb\\\\x1b[2J'
    """
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)

"""Tokens to text as they come: what is certain is shown at once, what another token could change waits."""

from __future__ import annotations

from collections.abc import Callable, Sequence

UNREADABLE = "\ufffd"
"""What bytes are decoded to that are no character, or not yet."""


class TextStream:
    """Writes the text of growing ids, each part once.

    Held back are the beginnings of a character that is more than one token, and of a stop string. A stop string and
    what stands behind it are never shown.

    Args:
        decode: ids to text, special tokens left out.
        stops: texts that end a response.
        write: is handed every new part.
    """

    def __init__(
        self, decode: Callable[[list[int]], str], stops: Sequence[str], write: Callable[[str], None]
    ) -> None:
        self._decode, self._stops, self._write = decode, stops, write
        self._ids: list[int] = []
        self._shown = ""

    @property
    def tokens(self) -> int:
        """How many were drawn."""
        return len(self._ids)

    def add(self, token: int) -> None:
        """One more token was drawn."""
        self._ids.append(token)
        text = self._decode(self._ids)
        certain = cut_at_stop(text, self._stops)
        if certain == text:
            certain = without_stop_beginning(text.rstrip(UNREADABLE), self._stops)
        # some tokenizers take back characters while the bytes behind them are incomplete
        if certain.startswith(self._shown):
            self._write(certain[len(self._shown) :])
            self._shown = certain

    def finish(self) -> str:
        """No token follows: write what was held back. The whole text, as it is shown."""
        text = cut_at_stop(self._decode(self._ids), self._stops)
        self._write(text[len(self._shown) :])
        self._shown = text
        return text


def cut_at_stop(text: str, stops: Sequence[str]) -> str:
    """The text before the first stop string in it.

    >>> cut_at_stop("one two three", ["three", "two"])
    'one '
    """
    return text[: min((place for stop in stops if (place := text.find(stop)) >= 0), default=len(text))]


def without_stop_beginning(text: str, stops: Sequence[str]) -> str:
    """The text without the beginning of a stop string at its end.

    >>> without_stop_beginning("one tw", ["two"])
    'one '
    """
    longest = max(
        (size for stop in stops for size in range(1, len(stop)) if text.endswith(stop[:size])), default=0
    )
    return text[: len(text) - longest]

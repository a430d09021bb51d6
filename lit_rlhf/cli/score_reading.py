"""Files of rows for a command that changes none of them: read whole, or refused with every bad row counted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lit_rlhf.data.files import BadRowsError, describe_bad
from lit_rlhf.data.formats import Kind, RowError, parse_row
from lit_rlhf.data.layouts import native_fields
from lit_rlhf.data.sources import find_sources
from lit_rlhf.records import Row

NAMED = 5
"""Rows that a message names; the others are counted."""
SKIP_ADVICE = ", or --data.bad_rows skip"
"""Of the data room's messages, which a command without the option must not give."""


@dataclass
class Rows:
    """The rows of some files, each as it was and as it is read."""

    fields: list[dict[str, Any]] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    kinds: list[Kind] = field(default_factory=list)


def read_files(paths: Sequence[str], kind: Kind | None = None) -> Rows:
    """All rows of some files, in order.

    Args:
        paths: files, folders, or names of data sets on the hub.
        kind: what the rows are read as; None = what the names of their fields say.

    Raises:
        FileNotFoundError: a path that is not there.
        BadRowsError: rows that cannot be read; the first ones are named.
    """
    out, bad = Rows(), []
    for source in find_sources(list(paths), "predict"):
        for note in source.notes:
            say(note)
        for place, fields in source.read():
            try:
                if isinstance(fields, RowError):
                    raise fields
                read_as = kind or kind_of(fields)
                row = parse_row(fields, read_as, place)
                refuse_half_characters(row)
                out.rows.append(row)
                out.kinds.append(read_as)
                out.fields.append(dict(fields))
            except RowError as error:
                bad.append(error)
    if bad:
        *lines, _ = describe_bad(bad, len(out.rows)).replace(SKIP_ADVICE, "").splitlines()
        raise BadRowsError("\n".join([*lines, "Mend or remove them: no row is skipped here."]))
    if not out.rows:
        raise BadRowsError(f"no rows in {', '.join(paths)}")
    return out


def kind_of(fields: Any) -> Kind:
    """What kind of row the names of its fields say it is."""
    try:
        names = native_fields(fields).keys() if isinstance(fields, Mapping) else set()
    except (TypeError, ValueError):  # of a foreign layout, broken; reading it says where
        return "candidates"
    if "responses" in names:
        return "candidates"
    if names & {"chosen", "rejected", "response_a", "response_b"}:
        return "pairs"
    return "demonstrations" if names & {"response", "messages", "text"} else "candidates"


def refuse_half_characters(row: Row) -> None:
    r"""Refuse a row whose text holds half of a surrogate pair: no tokenizer reads it.

    Raises:
        RowError: with the place.
    """
    for text in texts_of(row):
        for place, letter in enumerate(text):
            if "\ud800" <= letter <= "\udfff":
                raise RowError(
                    row.place, "characters", f"half of one, {letter!r}, behind {text[:place][-20:]!r}"
                )


def texts_of(row: Row) -> Iterator[str]:
    """What the model reads of a row."""
    for part in (row.prompt, *row.responses):
        yield from [part] if isinstance(part, str) else [turn["content"] for turn in part]


def named(places: Sequence[str]) -> str:
    """The first places by name, the others as a count."""
    more = f" and {len(places) - NAMED} more" if len(places) > NAMED else ""
    return ", ".join(places[:NAMED]) + more


def say(text: str) -> None:
    """A line on stdout, at once."""
    print(text, flush=True)

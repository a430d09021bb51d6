"""Files of any known format, told apart by what they hold."""

from __future__ import annotations

import gzip
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TypeAlias

from lit_rlhf.labelling.columns import NULLS, FieldError
from lit_rlhf.labelling.exchange.arena import parse_battle
from lit_rlhf.labelling.exchange.argilla import parse_record
from lit_rlhf.labelling.exchange.entries import Entry, ExchangeError, Parsed, make_plain, short
from lit_rlhf.labelling.exchange.label_studio import parse_task
from lit_rlhf.labelling.exchange.label_studio_config import read_config
from lit_rlhf.labelling.exchange.native import parse_native
from lit_rlhf.labelling.exchange.table import SAID, parse_table_row
from lit_rlhf.labelling.verdicts import Mode

Format: TypeAlias = Literal["lit-rlhf", "label-studio", "argilla", "arena", "csv"]
FORMATS: tuple[Format, ...] = ("lit-rlhf", "label-studio", "argilla", "arena", "csv")
IN_WORDS: dict[Format, str] = {
    "lit-rlhf": "rows of ours: candidates, rankings, pairs or votes",
    "label-studio": "Label Studio's tasks",
    "argilla": "Argilla's records",
    "arena": "battles as Chatbot Arena has them",
    "csv": "a table with a column a response",
}
FLATTENED = {"annotator", "annotation_id", "lead_time"}
"""Fields of every row that Label Studio exports in less than its JSON."""
SHOWN = 3
"""Bad rows that are spelled out."""


def read_file(path: Path, kind: Format | None = None, mode: Mode | None = None, gold: bool = False) -> Parsed:
    """What a file holds; the first note says what it was taken for.

    Args:
        path: of a file; Label Studio's may have its project's labelling config beside it, of the same name with .xml.
        kind: its format; None = by what is in it.
        mode: how items that nobody has judged are to be judged; None = by how many responses they have.
        gold: whether its judgements are the known answers of tests.

    Raises:
        FileNotFoundError: there is none.
        ValueError: rows that cannot be read, the first ones spelled out with their lines.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected a file of judgements or candidates, found no file")
    if kind in (None, "label-studio"):
        first = next((fields for _, fields in islice(raw_rows(path), 1)), None)
        if isinstance(first, Mapping) and first.keys() >= FLATTENED and "data" not in first:
            raise ValueError(
                f"{path}: expected Label Studio's JSON export, found its JSON_MIN or CSV, which does not hold what "
                "kind of answer is which. Export the project once more, as JSON."
            )
        kind = kind or tell_format(first, path)
    native = kind == "lit-rlhf"
    parsed = (
        parse_native(path, mode, gold) if native else _parse(raw_rows(path), _parser(kind, path, mode), path)
    )
    parsed.notes.insert(0, f"{path}: read as {IN_WORDS[kind]}")
    return parsed


def tell_format(fields: Any, path: Path) -> Format:
    """The format of a row, by the fields that others do not have."""
    if not isinstance(fields, Mapping):
        return "lit-rlhf"
    if isinstance(fields.get("data"), Mapping):
        return "label-studio"
    if isinstance(fields.get("fields"), Mapping) or any(name.endswith(".responses") for name in fields):
        return "argilla"
    if {"model_a", "model_b"} <= fields.keys() and fields.keys() & {
        "winner",
        "winner_model_a",
        "conversation_a",
    }:
        return "arena"
    pair = {"response_a", "response_b"} <= fields.keys() and "labels" not in fields
    numbered = "response_1" in fields and "preference_strength" not in fields
    table = "prompt" in fields and (pair or numbered)
    return (
        "csv"
        if table and (path.name.endswith(".csv") or fields.keys() & {*SAID, "annotator", "rank_1"})
        else "lit-rlhf"
    )


def raw_rows(path: Path) -> Iterator[tuple[str, Any]]:
    """(place, fields) of every row; a whole file of one JSON object may hold a row, or columns.

    Raises:
        ValueError: the suffix is not known, or a line cannot be decoded.
    """
    from lit_rlhf.data.readers import READERS, reader_of

    reader = reader_of(path)
    if reader is None:
        raise ValueError(
            f"{path}: expected a name that ends in {', '.join(READERS)}, found {path.suffix or 'none'}"
        )
    whole = _one_object(path) if re.search(r"\.json(\.gz)?$", path.name) else None
    if whole is not None:
        columns = [value for value in whole.values() if isinstance(value, list)]
        lengths = {len(value) for value in columns}
        if columns and len(columns) == len(whole) and len(lengths) == 1:
            for number in range(lengths.pop()):
                yield f"{path}:{number + 1}", {name: value[number] for name, value in whole.items()}
        else:
            yield f"{path}:1", whole
        return
    for place, fields in reader(path, str(path)):
        if isinstance(fields, Exception):
            raise fields
        yield place, fields


def _one_object(path: Path) -> dict[str, Any] | None:
    """The object that a file is, over however many lines; None where it is none, or rows on a line each."""
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    if not content.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{"):
        return None
    try:
        whole = json.loads(content.decode("utf-8-sig"))
    except ValueError:
        return None
    return whole if isinstance(whole, dict) else None


def _parser(kind: Format, path: Path, mode: Mode | None) -> Callable[[Mapping[str, Any], str], Entry | str]:
    if kind == "label-studio":
        beside = path.with_name(re.sub(r"\.jsonl?(\.gz)?$", "", path.name) + ".xml")
        config = read_config(beside) if beside.is_file() else None
        return lambda fields, place: parse_task(fields, place, mode, config)
    parse = {"argilla": parse_record, "arena": parse_battle, "csv": parse_table_row}[kind]
    return lambda fields, place: parse(fields, place, mode)


def _parse(
    rows: Iterator[tuple[str, Any]], parse: Callable[[Mapping[str, Any], str], Entry | str], path: Path
) -> Parsed:
    parsed, bad = Parsed(), []
    left_out: Counter[str] = Counter()
    notes: Counter[str] = Counter()
    for place, fields in rows:
        try:
            if not isinstance(fields, Mapping):
                raise ExchangeError(place, "an object with named fields", short(fields))
            known = {name: None if _is_nan(value) else value for name, value in fields.items()}
            entry = parse(known, place)
            if isinstance(entry, str):
                left_out[entry] += 1
                continue
            notes[NULLS] += make_plain(entry) + sum(map(_is_nan, fields.values()))
        except (ExchangeError, FieldError) as error:
            bad.append(str(error))
            continue
        left_out.update(entry.left_out)
        notes.update(entry.notes)
        parsed.entries.append(entry)
    if bad:
        raise ValueError(describe_bad(bad, len(parsed.entries)))
    if not parsed.entries and not left_out:
        raise ValueError(f"{path}: expected rows, found none")
    parsed.notes += [f"left out: {count:,} {what}" for what, count in left_out.items()]
    parsed.notes += [f"{count:,} {what}" for what, count in notes.items() if count]
    return parsed


def _is_nan(value: Any) -> bool:
    """Whether a number is none, as columns of numbers have it where there is nothing."""
    return isinstance(value, float) and not math.isfinite(value)


def describe_bad(bad: Sequence[str], good: int) -> str:
    """The first bad rows, how many more there are, and what to do."""
    lines = [f"{len(bad)} bad of {len(bad) + good} rows:", *(f"  {text}" for text in bad[:SHOWN])]
    if len(bad) > SHOWN:
        lines.append(f"  ... and {len(bad) - SHOWN} more")
    lines.append("Mend or remove them, or say with --format what the file is; nothing was imported.")
    return "\n".join(lines)

"""``lit-rlhf label import``: candidates and judgements from files, other tools' among them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from lit_rlhf.cli.refusal import near_files, refuse
from lit_rlhf.labelling.exchange.entries import Entry
from lit_rlhf.labelling.exchange.importing import import_entries
from lit_rlhf.labelling.exchange.reading import FORMATS, Format, read_file
from lit_rlhf.labelling.store import LabelStore
from lit_rlhf.labelling.verdicts import MODES, Mode

MANY = 2_000
"""Judgements from which on their number is told while they are written."""


def main(argv: Sequence[str]) -> None:
    """``lit-rlhf label import FILE… --db F``"""
    arguments = parse(argv)
    missing = next((name for name in arguments.files if not Path(name).is_file()), None)
    if missing is not None:
        refuse(f"{missing}: expected a file to import, found none.", *near_files(missing))
    try:
        import_files(arguments)
    except (ValueError, OSError) as error:  # a row, or a labelling file, that cannot be read
        refuse(str(error))


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The command's arguments."""
    parser = argparse.ArgumentParser(
        "lit-rlhf label import",
        allow_abbrev=False,
        description="Put what files hold into a labelling file: prompts with responses as items, and what people said "
        "of them as judgements of the same annotators, with their times. Nothing is added twice: the same file again "
        "changes nothing. All files are read before anything is written.",
    )
    add = parser.add_argument
    add("files", nargs="+", metavar="FILE", help=".jsonl, .json, .csv, .parquet, .arrow, also .gz")
    add("--db", required=True, metavar="F", help="the labelling file; made where there is none")
    add(
        "--format",
        choices=["auto", *FORMATS],
        default="auto",
        help="lit-rlhf: rows of ours and what is read like them. label-studio: JSON of tasks. argilla: records as JSON "
        "or columns. arena: battles. csv: a table with response_1, response_2, … auto tells by the first row "
        "(%(default)s)",
    )
    add(
        "--mode",
        choices=MODES,
        help="how items that nobody has judged are judged (default: by their responses; one is rated, two compared, "
        "more ranked)",
    )
    add("--gold", action="store_true", help="the judgements in the files are the known answers of test items")
    return parser.parse_args(argv)


def import_files(arguments: argparse.Namespace) -> None:
    """Read all files, then write.

    Raises:
        ValueError: rows that cannot be read, or a labelling file that is none.
    """
    kind = None if arguments.format == "auto" else cast(Format, arguments.format)
    entries: list[Entry] = []
    for name in arguments.files:
        parsed = read_file(Path(name), kind, cast(Mode | None, arguments.mode), arguments.gold)
        print("\n".join(parsed.notes))
        entries += parsed.entries
    judgements = sum(len(entry.said) for entry in entries)
    with LabelStore(arguments.db) as store:
        if judgements < MANY or arguments.gold:
            done = import_entries(store, entries, arguments.gold)
        else:
            from lit_rlhf.cli.row_progress import RowProgress

            with RowProgress("importing", judgements, unit="judgement") as progress:
                done = import_entries(store, entries, told=lambda: progress.advance(1))
    print(f"{arguments.db}:")
    print("\n".join(f"  {line}" for line in done.describe()))

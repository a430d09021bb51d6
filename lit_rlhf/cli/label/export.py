"""``lit-rlhf label export``: judgements as files that the next phase trains on, or that other tools read."""

from __future__ import annotations

import argparse
import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from lit_rlhf.cli.refusal import refuse
from lit_rlhf.labelling.exchange.reading import FORMATS, Format
from lit_rlhf.labelling.exchange.writing import SUFFIXES, exchange_files
from lit_rlhf.labelling.export import ROWS, ExportSettings, export_judgements
from lit_rlhf.labelling.export_files import rows_as_bytes, write_whole
from lit_rlhf.labelling.export_selection import select
from lit_rlhf.labelling.items import Judgement
from lit_rlhf.labelling.store import LabelStore
from lit_rlhf.labelling.texts import counted

WRITTEN = {"item", "winner"}
"""A field of every row of ours, and of arena's."""


def main(argv: Sequence[str]) -> None:
    """``lit-rlhf label export --db F --out F``"""
    arguments = parse(argv)
    check_arguments(arguments)
    try:
        export_file(arguments)
    except (
        ValueError,
        OSError,
    ) as error:  # settings that contradict, or a file that cannot be read or written
        refuse(str(error))


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The command's arguments."""
    parser = argparse.ArgumentParser(
        "lit-rlhf label export",
        allow_abbrev=False,
        description="Write the current judgements of a labelling file. Skips, tests, exercises and repeats are not "
        "exported, and everything that is left out is counted. The file is written whole or not at all, and the same "
        "judgements give the same bytes. The last line has the number to go on from next time.",
    )
    add_options_of_files(parser)
    add_options_of_rows(parser)
    add_options_of_selection(parser)
    return parser.parse_args(argv)


def add_options_of_files(parser: argparse.ArgumentParser) -> None:
    """What is read, and what is written."""
    add = parser.add_argument
    add("--db", required=True, metavar="F", help="the labelling file; people may be at work on it")
    add(
        "--out",
        required=True,
        metavar="F",
        help="the file to write: .jsonl, .jsonl.gz, .csv; .json for other tools",
    )
    add(
        "--format",
        choices=FORMATS,
        default="lit-rlhf",
        help="label-studio (with its labelling config beside), argilla, arena, or csv: a table for people, with a "
        "column a response (%(default)s: files to train on)",
    )


def add_options_of_rows(parser: argparse.ArgumentParser) -> None:
    """What judgements become."""
    add = parser.add_argument_group("rows to train on").add_argument
    add(
        "--rows",
        choices=ROWS,
        help="rankings: a row a judgement, ratings among them. pairs: a row for every two responses. votes: the same, "
        "with all annotators in one row. demonstrations: what annotators wrote (default: pairs where all items have "
        "two responses, else rankings)",
    )
    add(
        "--votes",
        choices=["each", "majority", "min-agree"],
        default="each",
        help="each: every judgement. majority: one row an item, what most said. min-agree: only what --min-agree "
        "annotators said alike of two responses (%(default)s)",
    )
    add("--min-agree", type=int, metavar="N", help="annotators that have to agree (default: 2)")
    add(
        "--ties", choices=["keep", "drop"], default="keep", help="drop takes out what says that all are equal"
    )
    add(
        "--margins",
        action="store_true",
        help="pairs get a margin that reward models ask of the difference of scores: 2/3 for better, 1/3 for slightly "
        "better; such pairs are no votes any more, so annotators' rows are not put together",
    )


def add_options_of_selection(parser: argparse.ArgumentParser) -> None:
    """Which judgements are meant."""
    add = parser.add_argument_group("which judgements").add_argument
    add(
        "--since",
        type=int,
        default=0,
        metavar="N",
        help="only judgements after number N, revised ones again under their new number; with majority, min-agree and "
        "votes whole items in which something is new. What was taken back since is not told",
    )
    add("--without-flagged", action="store_true", help="leave out items that somebody flagged")
    add("--people-only", action="store_true", help="leave out judgements by programs")


def check_arguments(arguments: argparse.Namespace) -> None:
    """Refuse what contradicts itself before anything is read."""
    kind, out = cast(Format, arguments.format), Path(arguments.out)
    if not out.name.endswith(SUFFIXES[kind]):
        refuse(
            f"--out {out}: expected a name that ends in {' or '.join(SUFFIXES[kind])} with --format {kind}."
        )
    if out.is_dir():
        refuse(f"--out {out}: expected a file to write, found a folder.")
    check_replaced(out)
    if arguments.min_agree is not None and arguments.votes != "min-agree":
        refuse(f"--min-agree: expected --votes min-agree beside it, found {arguments.votes}.")
    if kind == "lit-rlhf":
        return
    for option, default in [("rows", None), ("votes", "each"), ("ties", "keep"), ("margins", False)]:
        found = getattr(arguments, option)
        if found != default:
            refuse(
                f"--{option}: goes with --format lit-rlhf, found {kind}, which has every judgement as it was given."
            )


def check_replaced(out: Path) -> None:
    """Refuse to write over rows that no export wrote, such as the candidates that were judged."""
    if not out.is_file() or not out.name.endswith((".jsonl", ".jsonl.gz")):
        return
    with gzip.open(out, "rt") if out.suffix == ".gz" else out.open(encoding="utf-8") as stream:
        try:
            first = json.loads(stream.readline() or "null")
        except (ValueError, OSError):
            first = {}
    if first is not None and not (isinstance(first, dict) and first.keys() & WRITTEN):
        refuse(
            f"--out {out}: expected no file, or an earlier export to replace, found other rows. Take another name."
        )


def export_file(arguments: argparse.Namespace) -> None:
    """Read the labelling file and write the export.

    Raises:
        ValueError: no labelling file, or settings that contradict what is in it.
    """
    settings = ExportSettings(
        arguments.rows,
        arguments.votes,
        2 if arguments.min_agree is None else arguments.min_agree,
        arguments.ties,
        arguments.since,
        arguments.without_flagged,
        arguments.people_only,
        arguments.margins,
    )
    with LabelStore(arguments.db, create=False) as store:
        judgements, machines = store.judgements(), store.machines()
    out, kind = Path(arguments.out), cast(Format, arguments.format)
    if kind == "lit-rlhf":
        exported = export_judgements(judgements, settings, machines)
        files, lines, following = {out: rows_as_bytes(out, exported.rows)}, exported.describe(), exported.next
        rows = len(exported.rows)
    else:
        chosen = select(
            judgements,
            machines,
            settings.since,
            settings.people_only,
            settings.without_flagged,
            skips=True,
        )
        files, written = exchange_files(out, kind, chosen.judgements, machines)
        rows = len(written.rows)
        lines = [f"{counted(rows, 'row')} for {kind}, from {counted(len(chosen.judgements), 'judgement')}"]
        lines += [f"left out: {count:,} {what}" for what, count in chosen.left_out.items()]
        lines += [f"{kind} does not hold: {count:,} {what}" for what, count in written.not_held.items()]
        lines += written.notes
        following = chosen.next
    if not rows:
        lines.insert(1, f"the file is empty: {why_empty(judgements, settings.since)}")
    for path, content in files.items():
        write_whole(path, content)
    print(f"{', '.join(map(str, files))}: {lines[0]}")
    print("\n".join([*(f"  {line}" for line in lines[1:]), f"next time: --since {following}"]))


def why_empty(judgements: Sequence[Judgement], since: int) -> str:
    """Why an export has no rows."""
    if not judgements:
        return "nothing is judged yet"
    if judgements[-1].number <= since:
        return f"no judgement is later than --since {since}"
    return "every judgement was left out"

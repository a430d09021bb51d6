"""``lit-rlhf label status``: how far the work is."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict

from lit_rlhf.cli.label.outputs import check_output, write_json
from lit_rlhf.cli.refusal import refuse
from lit_rlhf.labelling.items import Progress, Settings
from lit_rlhf.labelling.schema import StoreError
from lit_rlhf.labelling.store import LabelStore
from lit_rlhf.labelling.texts import counted, printable


def main(argv: Sequence[str]) -> None:
    """``lit-rlhf label status --db F``"""
    parser = argparse.ArgumentParser(
        "lit-rlhf label status",
        allow_abbrev=False,
        description="How many judgements there are of those that are wanted, by whom, and how long the rest takes.",
    )
    parser.add_argument("--db", required=True, metavar="F", help="the labelling file")
    parser.add_argument("--json", metavar="OUT", help="write the numbers there too")
    arguments = parser.parse_args(argv)
    out = None if arguments.json is None else check_output("--json", arguments.json, arguments.db)
    try:
        with LabelStore(arguments.db, create=False) as store:
            progress, settings = store.progress(), store.settings
    except StoreError as error:
        refuse(str(error))
    print("\n".join(status_lines(arguments.db, progress, settings)))
    if out is not None:
        done = progress.given >= progress.wanted
        write_json(out, {**asdict(progress), "overlap": settings.overlap, "done": done})


def status_lines(name: str, progress: Progress, settings: Settings) -> list[str]:
    """What the command prints."""
    share = f" ({progress.given / progress.wanted:.0%})" if progress.wanted else ""
    lines = [
        f"{name}: {counted(progress.items, 'item')}, {counted(settings.overlap, 'annotator')} for each; "
        f"{progress.given:,} of {progress.wanted:,} judgements{share}"
    ]
    left = progress.wanted - progress.given
    if left and progress.seconds_each is not None:
        hours, minutes = divmod(max(1, round(left * progress.seconds_each / 60)), 60)
        lines.append(
            f"  about {hours} h {minutes:02d} min of one person's work is left, at {progress.seconds_each:.1f} s each"
        )
    for annotator, judged in progress.by_annotator.items():
        program = " (a program)" if annotator in progress.machines else ""
        lines.append(f"  {printable(annotator)}{program}: {judged:,}")
    if sum(progress.by_annotator.values()) > progress.given:
        lines.append("  (practice, tests, repeats and skips among what annotators gave; not in the total)")
    if progress.skipped or progress.flagged:
        lines.append(f"  skipped: {progress.skipped:,}; flagged: {progress.flagged:,}")
    return lines

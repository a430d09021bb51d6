"""``lit-rlhf label status``: how far the work is."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from lit_rlhf.cli.refusal import refuse
from lit_rlhf.labelling.items import Progress, Settings
from lit_rlhf.labelling.schema import StoreError
from lit_rlhf.labelling.store import LabelStore


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
    try:
        with LabelStore(arguments.db, create=False) as store:
            progress, settings = store.progress(), store.settings
    except StoreError as error:
        refuse(str(error))
    print("\n".join(status_lines(arguments.db, progress, settings)))
    if arguments.json is not None:
        numbers = {**asdict(progress), "overlap": settings.overlap, "done": progress.given >= progress.wanted}
        beside = Path(f"{arguments.json}.{os.getpid()}.partial")
        beside.write_text(json.dumps(numbers, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        os.replace(beside, arguments.json)


def status_lines(name: str, progress: Progress, settings: Settings) -> list[str]:
    """What the command prints."""
    share = f" ({progress.given / progress.wanted:.0%})" if progress.wanted else ""
    lines = [
        f"{name}: {progress.items:,} items, {settings.overlap} annotator{'s' * (settings.overlap > 1)} for each; "
        f"{progress.given:,} of {progress.wanted:,} judgements{share}"
    ]
    left = progress.wanted - progress.given
    if left and progress.seconds_each is not None:
        hours, minutes = divmod(round(left * progress.seconds_each / 60), 60)
        lines.append(
            f"  about {hours} h {minutes:02d} min of one person's work is left, at {progress.seconds_each:.0f} s each"
        )
    for annotator, judged in progress.by_annotator.items():
        program = " (a program)" if annotator in progress.machines else ""
        lines.append(f"  {annotator}{program}: {judged:,}")
    if progress.skipped or progress.flagged:
        lines.append(f"  skipped: {progress.skipped:,}; flagged: {progress.flagged:,}")
    return lines

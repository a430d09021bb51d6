"""``lit-rlhf label backup``: a copy of the labelling file, also while people work."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from lit_rlhf.cli.label.outputs import check_output
from lit_rlhf.cli.refusal import refuse
from lit_rlhf.labelling.schema import StoreError
from lit_rlhf.labelling.store import LabelStore
from lit_rlhf.labelling.texts import counted


def main(argv: Sequence[str]) -> None:
    """``lit-rlhf label backup --db F --out COPY``"""
    parser = argparse.ArgumentParser(
        "lit-rlhf label backup",
        allow_abbrev=False,
        description="Copy a labelling file while it is served: `cp` may copy half a change, this does not. The copy is "
        "one file, which every command takes as its --db.",
    )
    parser.add_argument("--db", required=True, metavar="F", help="the labelling file")
    parser.add_argument(
        "--out", required=True, metavar="COPY", help="the file to write; an older copy is replaced"
    )
    arguments = parser.parse_args(argv)
    out = check_output("--out", arguments.out, arguments.db)
    try:
        with LabelStore(arguments.db, create=False) as store:
            store.backup(out)
        with LabelStore(out, create=False) as copy:
            progress = copy.progress()
    except StoreError as error:
        refuse(str(error))
    judged = counted(sum(progress.by_annotator.values()), "judgement")
    print(f"{out}: {judged} of {counted(progress.items, 'item')}")

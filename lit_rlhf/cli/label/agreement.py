"""``lit-rlhf label agreement``: how far the annotators agree, and what biases them."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path

from lit_rlhf.cli.refusal import refuse
from lit_rlhf.labelling.schema import StoreError
from lit_rlhf.labelling.store import LabelStore


def main(argv: Sequence[str]) -> None:
    """``lit-rlhf label agreement --db F``"""
    parser = argparse.ArgumentParser(
        "lit-rlhf label agreement",
        allow_abbrev=False,
        description="Agreement, biases, consistency and time of a labelling file's annotators, with 95 %% intervals: "
        "what the page shows at /agreement. The numbers are people's; programs are held against them. May be asked "
        "while people work.",
    )
    parser.add_argument("--db", required=True, metavar="F", help="the labelling file")
    parser.add_argument("--json", metavar="OUT", help="write the numbers there too")
    arguments = parser.parse_args(argv)
    out = None if arguments.json is None else Path(arguments.json)
    if out is not None:
        if not out.parent.is_dir():
            refuse(f"--json {out}: expected the folder {out.parent} to be there, found none.")
        if out.resolve() == Path(arguments.db).resolve():
            refuse(f"--json {out}: expected another file than --db.")
    try:
        with LabelStore(arguments.db, create=False) as store:
            judgements, machines = store.judgements(), store.machines()
    except StoreError as error:
        refuse(str(error))
    from lit_rlhf.labelling.agreement import describe_judgements, describe_lines

    described = describe_judgements(judgements, machines)
    print("\n".join(describe_lines(described)))
    if out is not None:
        beside = out.with_name(f"{out.name}.{os.getpid()}.partial")
        beside.write_text(
            json.dumps(described, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8"
        )
        os.replace(beside, out)

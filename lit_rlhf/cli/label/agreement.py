"""``lit-rlhf label agreement``: how far the annotators agree, and what biases them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from lit_rlhf.cli.label.outputs import check_output, write_json
from lit_rlhf.cli.refusal import refuse
from lit_rlhf.labelling.schema import StoreError
from lit_rlhf.labelling.store import LabelStore


def main(argv: Sequence[str]) -> None:
    """``lit-rlhf label agreement --db F``"""
    parser = argparse.ArgumentParser(
        "lit-rlhf label agreement",
        allow_abbrev=False,
        description="Agreement, biases, consistency and time of a labelling file's annotators, with 95 % intervals: "
        "what the page shows at /agreement. The numbers are people's; programs are held against them. May be asked "
        "while people work.",
    )
    parser.add_argument("--db", required=True, metavar="F", help="the labelling file")
    parser.add_argument("--json", metavar="OUT", help="write the numbers there too")
    arguments = parser.parse_args(argv)
    out = None if arguments.json is None else check_output("--json", arguments.json, arguments.db)
    try:
        with LabelStore(arguments.db, create=False) as store:
            judgements, machines = store.judgements(), store.machines()
    except StoreError as error:
        refuse(str(error))
    from lit_rlhf.labelling.agreement import describe_judgements, describe_lines

    described = describe_judgements(judgements, machines)
    print("\n".join(describe_lines(described)))
    if out is not None:
        write_json(out, described)

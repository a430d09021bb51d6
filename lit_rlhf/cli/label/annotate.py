"""``lit-rlhf label annotate``: a rule, a reward model or a language model judges, in the same file as people."""

from __future__ import annotations

import argparse
import json
import math
import shlex
import sys
from collections.abc import Sequence
from dataclasses import fields
from itertools import pairwise

from lit_rlhf.cli.given_files import check_model_folder
from lit_rlhf.cli.refusal import refuse
from lit_rlhf.labelling.annotators.settings import (
    Annotator,
    AnnotatorError,
    check_annotator,
    defaults,
    is_address,
    key_of,
)
from lit_rlhf.labelling.schema import StoreError
from lit_rlhf.labelling.server.names import checked_name
from lit_rlhf.labelling.store import LabelStore


def main(argv: Sequence[str]) -> None:
    """``lit-rlhf label annotate --db F --annotator SPEC --name NAME``"""
    arguments = parse(argv)
    settings = check_arguments(arguments)
    from lit_rlhf.cli.guard import run_guarded
    from lit_rlhf.cli.label.annotate_run import annotate

    try:
        run_guarded("label annotate", lambda: annotate(arguments, settings))
    except KeyboardInterrupt:
        print("\ninterrupted; what was judged is in the file", file=sys.stderr)
        print(f"go on with: {shlex.join(['lit-rlhf', 'label', 'annotate', *argv])}", file=sys.stderr)
        raise SystemExit(130) from None


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The command's arguments; None for options that were not given."""
    parser = argparse.ArgumentParser(
        "lit-rlhf label annotate",
        allow_abbrev=False,
        description="Let a program judge what a labelling file asks, beside people or instead of them: it takes tasks "
        "as they do, sees prompt and responses in an order drawn for it, and nothing of where they come from; its "
        "judgements are marked as a program's, and take places of --overlap as a person's do: for a program beside "
        "people raise it by one. What was interrupted goes on when the same command is given again, and nothing is "
        "judged twice.",
    )
    add_general_options(parser)
    add_options_of_scores(parser)
    add_options_of_language_models(parser)
    return parser.parse_args(argv)


def add_general_options(parser: argparse.ArgumentParser) -> None:
    """Which file, who judges, and how much of it."""
    add = parser.add_argument
    add("--db", required=True, metavar="F", help="the labelling file")
    add(
        "--annotator",
        required=True,
        metavar="SPEC",
        help="the dotted path of a reward function, f(prompts, completions, **columns) -> list of scores; a reward "
        "model's folder or hub name; the address of a `lit-rlhf serve`; or, with --llm-model, the address of a "
        "language model, such as http://localhost:8000/v1",
    )
    add(
        "--name",
        required=True,
        metavar="NAME",
        help="who it is in the file; other settings need another name",
    )
    add("--limit", type=int, metavar="N", help="judgements to give now (default: all there are for it)")
    add(
        "--timeout",
        type=float,
        metavar="S",
        help="seconds that one request or one call of a function may take (120)",
    )
    add(
        "--key-env",
        metavar="NAME",
        help="the environment variable with the key or token that the address asks for",
    )
    add("--batch-size", type=int, metavar="N", help="responses in one forward (64)")
    add("--device", help="of a reward model: auto, cpu, cuda, cuda:1, mps (auto)")


def add_options_of_scores(parser: argparse.ArgumentParser) -> None:
    """How scores become judgements."""
    add = parser.add_argument_group("by scores (a function, a reward model, a reward server)").add_argument
    add("--tie-width", type=float, metavar="W", help="scores that differ by at most W are a tie (0)")
    add("--slight-width", type=float, metavar="W", help="pairs: by at most W is slightly better (0)")
    add(
        "--rating-bounds",
        type=float,
        nargs=4,
        metavar="S",
        help="the scores from which on a response is rated 2, 3, 4 and 5; needed where there are ratings",
    )
    add(
        "--columns",
        nargs="+",
        metavar="FIELD",
        help="fields of the rows that the function is told besides prompt, response and `finished`",
    )
    add("--temperature", type=float, metavar="T", help="scale of Gumbel noise on the scores (0)")
    add("--flips", type=float, metavar="P", help="share of judgements turned the wrong way round (0)")
    add("--seed", type=int, metavar="N", help="of the noise (0)")


def add_options_of_language_models(parser: argparse.ArgumentParser) -> None:
    """What a language model is asked, and how often."""
    add = parser.add_argument_group("by a language model").add_argument
    add(
        "--llm-model", metavar="NAME", help="the model's name at the address, which answers /chat/completions"
    )
    add(
        "--both-orders",
        action="store_true",
        default=None,
        help="ask for the responses in both orders; where the two answers differ it is a tie",
    )
    add(
        "--llm-request",
        metavar="JSON",
        help='more fields of the request ({"temperature": 0}), such as \'{"max_tokens": 500}\'',
    )
    add("--concurrency", type=int, metavar="N", help="tasks asked about at once (4)")
    add("--requests-per-minute", type=float, metavar="N", help="started at the most (no limit)")
    add("--retries", type=int, metavar="N", help="tries of a request after the first (6)")


def check_arguments(arguments: argparse.Namespace) -> Annotator:
    """Refuse what can be seen to be wrong before anything heavy is loaded; what is asked for, where nothing is."""
    try:
        arguments.name = checked_name(arguments.name)
    except ValueError as error:
        refuse(f"--name: {error}.")
    if arguments.llm_request is not None:
        arguments.llm_request = read_request(arguments.llm_request)
    try:
        settings = annotator_of(arguments)
        key_of(settings.key_env, flag("key_env"))
    except AnnotatorError as error:
        refuse(error.message, *error.hints)
    if not is_address(settings.annotator):
        check_model_folder("--annotator", settings.annotator)
    if arguments.limit is not None and arguments.limit < 1:
        refuse(f"--limit: expected 1 or more, found {arguments.limit}.")
    arguments.slight_width = arguments.slight_width or 0.0
    if not 0 <= arguments.slight_width < math.inf:
        refuse(f"--slight-width: expected 0 or more, found {arguments.slight_width:g}.")
    bounds = arguments.rating_bounds
    if bounds is not None and not all(low < high for low, high in pairwise(bounds)):
        refuse(
            f"--rating-bounds: expected ascending numbers, found {' '.join(f'{one:g}' for one in bounds)}."
        )
    try:
        LabelStore(arguments.db, create=False).close()
    except StoreError as error:
        refuse(str(error))
    return settings


def annotator_of(arguments: argparse.Namespace) -> Annotator:
    """Who judges.

    Raises:
        AnnotatorError: an option is wrong.
    """
    given = {name: value for name, value in vars(arguments).items() if value is not None}
    options = {"annotator": arguments.annotator, **defaults(), **given}
    check_annotator(options, given, flag)
    settings = {one.name: options[one.name] for one in fields(Annotator)}
    return Annotator(**{**settings, "columns": tuple(settings["columns"])})


def flag(option: str) -> str:
    """What an option is called on the command line.

    >>> flag("tie_width")
    '--tie-width'
    """
    return f"--{option.replace('_', '-')}"


def read_request(text: str) -> object:
    """What JSON spells."""
    try:
        return json.loads(text)
    except ValueError as error:
        refuse(f"--llm-request: not JSON: {error}.")

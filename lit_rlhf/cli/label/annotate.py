"""``lit-rlhf label annotate``: a rule, a reward model or a language model judges, in the same file as people."""

from __future__ import annotations

import argparse
import json
import math
import os
import shlex
import sys
from collections.abc import Sequence
from itertools import pairwise
from urllib.parse import urlsplit

from lit_rlhf.cli.given_files import check_model_folder
from lit_rlhf.cli.refusal import refuse
from lit_rlhf.labelling.schema import StoreError
from lit_rlhf.labelling.server.names import checked_name
from lit_rlhf.labelling.store import LabelStore

OF_SCORES = ("temperature", "flips", "seed", "tie_width", "slight_width", "rating_bounds", "columns")
OF_LANGUAGE_MODELS = ("llm_request", "both_orders", "requests_per_minute", "retries", "concurrency")
DEFAULTS = {
    "temperature": 0.0, "flips": 0.0, "seed": 0, "tie_width": 0.0, "slight_width": 0.0, "columns": (),
    "llm_request": {"temperature": 0}, "both_orders": False, "retries": 6, "concurrency": 4,
}  # fmt: skip
"""What the options of one kind of annotator are where they are not given; None says that they were not."""

NAMES_THE_SOURCE = ("model", "source", "policy", "checkpoint", "sampling", "generator")
"""What a field is called that says what wrote a response."""


def main(argv: Sequence[str]) -> None:
    """``lit-rlhf label annotate --db F --annotator SPEC --name NAME``"""
    arguments = parse(argv)
    check_arguments(arguments)
    from lit_rlhf.cli.guard import run_guarded
    from lit_rlhf.cli.label.annotate_run import annotate

    try:
        run_guarded("label annotate", lambda: annotate(arguments))
    except KeyboardInterrupt:
        print("\ninterrupted; what was judged is in the file", file=sys.stderr)
        print(f"go on with: {shlex.join(['lit-rlhf', 'label', 'annotate', *argv])}", file=sys.stderr)
        raise SystemExit(130) from None


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The command's arguments."""
    parser = argparse.ArgumentParser(
        "lit-rlhf label annotate",
        allow_abbrev=False,
        description="Let a program judge what a labelling file asks, beside people or instead of them: it takes tasks "
        "as they do, sees prompt and responses in an order drawn for it, and nothing of where they come from; its "
        "judgements are marked as a program's, and take places of --overlap as a person's do: for a program beside "
        "people raise it by one. What was interrupted goes on when the same command is given again, and nothing is "
        "judged twice.",
    )
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
        default=120.0,
        metavar="S",
        help="seconds that one request or one call of a function may take (%(default)g)",
    )
    add(
        "--key-env",
        metavar="NAME",
        help="the environment variable with the key or token that the address asks for",
    )
    scores = parser.add_argument_group("by scores (a function, a reward model, a reward server)").add_argument
    scores("--tie-width", type=float, metavar="W", help="scores that differ by at most W are a tie (0)")
    scores("--slight-width", type=float, metavar="W", help="pairs: by at most W is slightly better (0)")
    scores(
        "--rating-bounds",
        type=float,
        nargs=4,
        metavar="S",
        help="the scores from which on a response is rated 2, 3, 4 and 5; needed where there are ratings",
    )
    scores(
        "--columns",
        nargs="+",
        metavar="FIELD",
        help="fields of the rows that the function is told besides prompt, response and `finished`",
    )
    scores("--temperature", type=float, metavar="T", help="scale of Gumbel noise on the scores (0)")
    scores("--flips", type=float, metavar="P", help="share of judgements turned the wrong way round (0)")
    scores("--seed", type=int, metavar="N", help="of the noise (0)")
    add("--batch-size", type=int, default=64, metavar="N", help="responses in one forward (%(default)s)")
    add("--device", default="auto", help="of a reward model: auto, cpu, cuda, cuda:1, mps (%(default)s)")
    llm = parser.add_argument_group("by a language model").add_argument
    llm(
        "--llm-model", metavar="NAME", help="the model's name at the address, which answers /chat/completions"
    )
    llm(
        "--both-orders",
        action="store_true",
        default=None,
        help="ask for the responses in both orders; where the two answers differ it is a tie",
    )
    llm(
        "--llm-request",
        metavar="JSON",
        help='more fields of the request ({"temperature": 0}), such as \'{"max_tokens": 500}\'',
    )
    llm("--concurrency", type=int, metavar="N", help="tasks asked about at once (4)")
    llm("--requests-per-minute", type=float, metavar="N", help="started at the most (no limit)")
    llm("--retries", type=int, metavar="N", help="tries of a request after the first (6)")
    return parser.parse_args(argv)


def check_arguments(arguments: argparse.Namespace) -> None:
    """Refuse what can be seen to be wrong before anything heavy is loaded, and fill in what was not given."""
    try:
        arguments.name = checked_name(arguments.name)
    except ValueError as error:
        refuse(f"--name: {error}.")
    check_kind(arguments)
    for option, value in DEFAULTS.items():
        if getattr(arguments, option) is None:
            setattr(arguments, option, value)
    for option, least in [("limit", 1), ("batch_size", 1), ("concurrency", 1), ("retries", 0)]:
        found = getattr(arguments, option)
        if found is not None and found < least:
            refuse(f"--{option.replace('_', '-')}: expected {least} or more, found {found}.")
    for option in ("temperature", "tie_width", "slight_width"):
        found = getattr(arguments, option)
        if not 0 <= found < math.inf:
            refuse(f"--{option.replace('_', '-')}: expected 0 or more, found {found:g}.")
    if not 0 <= arguments.flips <= 1:
        refuse(f"--flips: expected a share from 0 to 1, found {arguments.flips:g}.")
    for option in ("timeout", "requests_per_minute"):
        found = getattr(arguments, option)
        if found is not None and not 0 < found < math.inf:
            refuse(f"--{option.replace('_', '-')}: expected more than 0, found {found:g}.")
    check_bounds(arguments.rating_bounds)
    for column in arguments.columns:
        if any(word in column.lower() for word in NAMES_THE_SOURCE):
            refuse(
                f"--columns {column}: says what wrote a response, which no annotator is told.",
                "A field that says something else is given to the function under another name.",
            )
    check_request(arguments)
    check_key(arguments)
    try:
        LabelStore(arguments.db, create=False).close()
    except StoreError as error:
        refuse(str(error))


def check_kind(arguments: argparse.Namespace) -> None:
    """Refuse options of another kind of annotator, and an address that may be either."""
    spec = arguments.annotator
    address = urlsplit(spec).scheme in ("http", "https") and "://" in spec
    language = arguments.llm_model is not None
    if language and not address:
        refuse(
            f"--annotator {spec}: expected the address of the language model, such as http://localhost:8000/v1."
        )
    if address and not language and urlsplit(spec).path.rstrip("/").endswith(("/v1", "/chat/completions")):
        refuse(
            f"--annotator {spec}: looks like a language model's address; --llm-model NAME says which model.",
            "Without it an address is that of a reward server, such as `lit-rlhf serve` runs, which has no /v1.",
        )
    if address and (urlsplit(spec).username is not None or urlsplit(spec).password is not None):
        refuse(
            "--annotator: expected an address without a user or password, which would be kept in the file.",
            "Put the key into an environment variable, and give its name as --key-env.",
        )
    if arguments.key_env is not None and not address:
        refuse(f"--key-env: goes with an address, and --annotator {spec} is none.")
    for option in OF_SCORES if language else OF_LANGUAGE_MODELS:
        if getattr(arguments, option) is not None:
            kind = "scores" if language else "a language model (--llm-model)"
            hint = (
                ["What the model is sent besides stands in --llm-request."] if option == "temperature" else []
            )
            refuse(f"--{option.replace('_', '-')}: goes with {kind}, not with this annotator.", *hint)
    if not address:
        check_model_folder("--annotator", spec)


def check_bounds(bounds: Sequence[float] | None) -> None:
    """Refuse bounds between ratings that do not ascend."""
    if bounds is not None and not all(low < high for low, high in pairwise(bounds)):
        refuse(
            f"--rating-bounds: expected ascending numbers, found {' '.join(f'{one:g}' for one in bounds)}."
        )


def check_request(arguments: argparse.Namespace) -> None:
    """Read the fields of the request; refuse those that are not for the user to say."""
    if not isinstance(arguments.llm_request, str):
        return
    try:
        fields = json.loads(arguments.llm_request)
    except ValueError as error:
        refuse(f"--llm-request: not JSON: {error}.")
    if not isinstance(fields, dict):
        refuse(f'--llm-request: expected an object such as {{"max_tokens": 500}}, found {fields!r}.')
    if taken := sorted({"model", "messages", "stream", "n"} & set(fields)):
        refuse(f"--llm-request: {taken[0]} is not to be set here.")
    arguments.llm_request = fields


def check_key(arguments: argparse.Namespace) -> None:
    """Refuse a key that is not there, or that no header can carry."""
    if arguments.key_env is None:
        return
    key = os.environ.get(arguments.key_env, "").strip()
    if not key or not key.isascii() or not key.isprintable():
        found = "letters that a key cannot have" if key else "nothing"
        refuse(
            f"--key-env {arguments.key_env}: expected a key in that environment variable, found {found}.",
            f"Set it first: export {arguments.key_env}=...",
        )

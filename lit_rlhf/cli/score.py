"""``lit-rlhf score``: what a reward model, or a policy's implicit reward, says of every response in a file.

Where the responses are judged, how well the two agree.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence

from lit_rlhf.cli.given_files import check_model_folder, check_out, check_rows
from lit_rlhf.cli.refusal import refuse

DEFAULT_BETA = 0.1
"""Of an implicit reward, as in DPO."""


def main(argv: Sequence[str]) -> None:
    """``lit-rlhf score MODEL FILE... --out F``"""
    arguments = parse(argv)
    check_arguments(arguments)
    from lit_rlhf.cli.guard import run_guarded
    from lit_rlhf.cli.score_files import score_files

    try:
        run_guarded("score", lambda: score_files(arguments))
    except KeyboardInterrupt as stop:
        print("\n" + "; ".join(["interrupted", *map(str, stop.args)]), file=sys.stderr)
        print(f"go on with: {shlex.join(['lit-rlhf', 'score', *argv])}", file=sys.stderr)
        raise SystemExit(130) from None


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The command's arguments."""
    parser = argparse.ArgumentParser(
        "lit-rlhf score",
        allow_abbrev=False,
        description="Score every response of a file with a reward model. Each row is written as it was, with "
        "`reward_scores` (one a response, in the order of the row's own fields: chosen and rejected, response_a and "
        "response_b, response_1 and response_2), `reward_ranks` (1 = best) and, for a model of several components, "
        "`reward_disagreement`. Where rows are judged (pairs, rankings, votes) the judgements are compared with the "
        "scores as `validate` does it, in a table, a page reward-report.html and metrics.json. For that, pairs that "
        "name their annotator become one row of votes a pair, and rows of one rated response one ranking a prompt. "
        "With --reference MODEL is a policy, and its scores are the implicit rewards beta * log(policy / reference) "
        "of the responses, which compare within a prompt. "
        "What was interrupted or failed goes on when the same command is given again.",
    )
    add = parser.add_argument
    add("model", metavar="MODEL", help="a reward model's folder, such as runs/reward/export, or its hub name")
    add(
        "--reference",
        metavar="REF",
        help="the policy that MODEL, a policy too, was trained from: scores are MODEL's implicit rewards",
    )
    add("--beta", type=float, metavar="B", help=f"reward per nat of an implicit reward ({DEFAULT_BETA})")
    add("files", metavar="FILE", nargs="+", help="candidates, rankings, pairs, votes or demonstrations")
    add("--out", metavar="F", required=True, help="the .jsonl file to write")
    add("--train", metavar="FILE", help="judged rows that the bag-of-words baseline is fitted on")
    add(
        "--report",
        metavar="DIR",
        help="where the page and metrics.json go (default: F without its suffix, -report)",
    )
    add(
        "--max-tokens",
        type=int,
        default=8192,
        metavar="N",
        help="tokens in one forward, prompts and responses together; a longer row is one by itself (%(default)s)",
    )
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (%(default)s)")
    return parser.parse_args(argv)


def check_arguments(arguments: argparse.Namespace) -> None:
    """Refuse what can be seen to be wrong before anything heavy is loaded."""
    if arguments.max_tokens < 1:
        refuse(f"--max-tokens: expected 1 or more, found {arguments.max_tokens}.")
    if arguments.beta is not None and not arguments.beta > 0:
        refuse(f"--beta: expected more than 0, found {arguments.beta:g}.")
    if arguments.beta is not None and arguments.reference is None:
        refuse(
            "--beta: is of an implicit reward, and goes with --reference, the model that MODEL was trained from."
        )
    check_model_folder("MODEL", arguments.model)
    if arguments.reference is not None:
        check_model_folder("--reference", arguments.reference)
    check_out(arguments.out)
    for name in arguments.files:
        check_rows("FILE", name)
    if arguments.train:
        check_rows("--train", arguments.train)

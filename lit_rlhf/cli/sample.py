"""``lit-rlhf sample``: a file of prompts with responses that a policy draws, to be labelled or scored."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence

from lit_rlhf.cli.given_files import check_model_folder, check_out, check_rows
from lit_rlhf.cli.refusal import refuse
from lit_rlhf.cli.sample_options import (
    add_best_of,
    add_sampling_options,
    check_best_of,
    sampling_settings,
)
from lit_rlhf.rollout.settings import SamplingSettings


def main(argv: Sequence[str]) -> None:
    """``lit-rlhf sample MODEL --prompts FILE... -k K --out F``"""
    arguments = parse(argv)
    settings = check_arguments(arguments)
    from lit_rlhf.cli.guard import run_guarded
    from lit_rlhf.cli.sample_files import sample_files

    try:
        run_guarded("sample", lambda: sample_files(arguments, settings))
    except KeyboardInterrupt as stop:
        print("\n" + "; ".join(["interrupted", *map(str, stop.args)]), file=sys.stderr)
        print(f"go on with: {shlex.join(['lit-rlhf', 'sample', *argv])}", file=sys.stderr)
        raise SystemExit(130) from None


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The command's arguments."""
    parser = argparse.ArgumentParser(
        "lit-rlhf sample",
        allow_abbrev=False,
        description="Draw responses to every prompt of a file. Each row is written as it was, with `responses`, "
        "`finished` (whether each came to an end before the limit), `source` (the model) and `sampling` (its "
        "fingerprint, the settings, the seed, the version); `score` reads such a file. What a row gets "
        "depends on the seed and its number in the file, not on what is drawn beside it. What was interrupted goes on "
        "when the same command is given again.",
    )
    add = parser.add_argument
    add("model", metavar="MODEL", help="a policy's folder, such as runs/sft/export, or its hub name")
    add(
        "--prompts",
        metavar="F",
        nargs="+",
        required=True,
        help="files of rows with a `prompt`: text, or a list of {role, content}",
    )
    add(
        "-k",
        dest="k",
        type=int,
        default=1,
        metavar="K",
        help="responses to a prompt, all different: equal ones are drawn again, up to 4 times K draws (%(default)s)",
    )
    add("--out", metavar="F", required=True, help="the .jsonl file to write")
    add("--limit", type=int, metavar="N", help="the first N prompts only")
    add_best_of(parser, "keep the K best, best first, with their `reward_scores`")
    add_sampling_options(parser, max_new_tokens=SamplingSettings.max_new_tokens)
    return parser.parse_args(argv)


def check_arguments(arguments: argparse.Namespace) -> SamplingSettings:
    """How to draw; what can be seen to be wrong is refused before anything heavy is loaded."""
    if arguments.k < 1:
        refuse(f"-k: expected 1 or more, found {arguments.k}.")
    if arguments.limit is not None and arguments.limit < 1:
        refuse(f"--limit: expected 1 or more, found {arguments.limit}.")
    check_model_folder("MODEL", arguments.model)
    check_best_of(arguments)
    if arguments.best_of is not None and arguments.best_of < arguments.k:
        refuse(f"--best-of: expected at least -k ({arguments.k}), found {arguments.best_of}.")
    if arguments.temperature == 0 and arguments.k > 1:
        refuse(f"-k {arguments.k}: with --temperature 0 there is only one response to a prompt.")
    settings = sampling_settings(arguments)
    check_out(arguments.out)
    for name in arguments.prompts:
        check_rows("--prompts", name)
    return settings

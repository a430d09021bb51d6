"""``lit-rlhf chat``: talk with a policy."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from lit_rlhf.cli.given_files import check_model_folder
from lit_rlhf.cli.sample_options import (
    add_best_of,
    add_sampling_options,
    check_best_of,
    sampling_settings,
)

MAX_NEW_TOKENS = 512


def main(argv: Sequence[str]) -> None:
    """``lit-rlhf chat DIR``"""
    arguments = parse(argv)
    check_model_folder("DIR", arguments.model)
    check_best_of(arguments)
    settings = sampling_settings(arguments)
    from lit_rlhf.cli.chat_loop import chat
    from lit_rlhf.cli.guard import run_guarded

    try:
        run_guarded("chat", lambda: chat(arguments, settings))
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The command's arguments."""
    parser = argparse.ArgumentParser(
        "lit-rlhf chat",
        allow_abbrev=False,
        description="Talk with a policy: its words are shown as they are drawn, and the conversation goes on through "
        "the model's chat template. /help lists the commands inside; Ctrl-C stops an answer, Ctrl-D ends. With a pipe "
        "on stdin every line is a turn, and stdout has the answers alone. A model without a chat template continues "
        "each line as plain text.",
    )
    parser.add_argument(
        "model", metavar="DIR", help="a policy's folder, such as runs/ppo/export, or its hub name"
    )
    parser.add_argument("--system", metavar="TEXT", help="what stands before the first turn, as the system's")
    add_best_of(parser, "show the best with its score")
    add_sampling_options(parser, max_new_tokens=MAX_NEW_TOKENS)
    return parser.parse_args(argv)

"""``lit-rlhf serve``: a reward behind HTTP, which PPO takes by its address."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

from lit_rlhf.cli.given_files import check_model_folder
from lit_rlhf.cli.refusal import refuse


def main(argv: Sequence[str]) -> None:
    """``lit-rlhf serve REWARD``"""
    arguments = parse(argv)
    check_arguments(arguments)
    from lit_rlhf.cli.guard import run_guarded
    from lit_rlhf.cli.serve_reward import serve_reward

    run_guarded("serve", lambda: serve_reward(arguments))


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The command's arguments."""
    parser = argparse.ArgumentParser(
        "lit-rlhf serve",
        allow_abbrev=False,
        description="Serve a reward over HTTP, to one run of PPO or to many, which take its address as their reward. "
        "Requests that wait at the same time are scored together. A model reads prompts and responses as text, with a "
        "tokenizer of its own. Ctrl-C or SIGTERM ends the server after the requests that are inside.",
    )
    add = parser.add_argument
    add(
        "reward",
        metavar="REWARD",
        help="a reward model's folder, such as runs/reward/export, its hub name, or the dotted path of a function",
    )
    add(
        "--host",
        default="127.0.0.1",
        metavar="H",
        help="the address to listen on; 0.0.0.0 is every network of this machine (%(default)s)",
    )
    add("--port", type=int, default=8000, metavar="N", help="0 takes a free one (%(default)s)")
    add("--batch-size", type=int, default=64, metavar="N", help="responses in one forward (%(default)s)")
    add(
        "--max-requests",
        type=int,
        default=64,
        metavar="N",
        help="requests that may be inside at once; more are told to come back (%(default)s)",
    )
    add("--max-mib", type=int, default=8, metavar="N", help="size of one request, in MiB (%(default)s)")
    add(
        "--timeout",
        type=float,
        default=300.0,
        metavar="S",
        help="seconds that one call of a function may take; a model has no limit (%(default)g)",
    )
    add(
        "--token-env",
        metavar="NAME",
        help="the environment variable with a token that every request has to bring (default: none is asked for)",
    )
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (%(default)s)")
    return parser.parse_args(argv)


def check_arguments(arguments: argparse.Namespace) -> None:
    """Refuse what can be seen to be wrong before anything heavy is loaded."""
    for option, least in [("port", 0), ("batch_size", 1), ("max_requests", 1), ("max_mib", 1)]:
        found = getattr(arguments, option)
        if found < least:
            refuse(f"--{option.replace('_', '-')}: expected {least} or more, found {found}.")
    if arguments.port > 65535:
        refuse(f"--port: expected at most 65535, found {arguments.port}.")
    if not arguments.timeout > 0:
        refuse(f"--timeout: expected more than 0 seconds, found {arguments.timeout:g}.")
    if arguments.token_env is not None and not os.environ.get(arguments.token_env, "").strip():
        refuse(
            f"--token-env {arguments.token_env}: expected a token in that environment variable, found nothing.",
            f"Set it for the server and the trainers, such as: export {arguments.token_env}=$(openssl rand -hex 32)",
        )
    check_model_folder("REWARD", arguments.reward)
    if arguments.reward.startswith(("http://", "https://")):
        refuse(
            f"REWARD {arguments.reward}: expected a reward to serve, found the address of one that is served."
        )

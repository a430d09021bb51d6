"""The options of ``sample`` and ``chat`` that say how responses are drawn. Imports nothing heavy."""

from __future__ import annotations

import argparse
import math
from dataclasses import MISSING, fields

from lit_rlhf.cli.given_files import check_model_folder
from lit_rlhf.cli.refusal import refuse
from lit_rlhf.rollout.settings import SamplingSettings

LARGEST_SEED = 2**63 - 1
LARGEST_BIAS = 1e9
"""Of a logit; beyond it sums of two are soon infinite in fp32."""


def add_sampling_options(parser: argparse.ArgumentParser, max_new_tokens: int) -> None:
    """Give `parser` an option for every sampling setting, with the settings' own defaults.

    Args:
        parser: of the command.
        max_new_tokens: its default here.
    """
    default = {
        field.name: field.default for field in fields(SamplingSettings) if field.default is not MISSING
    }
    add = parser.add_argument_group("how responses are drawn").add_argument
    add(
        "--max-new-tokens",
        type=int,
        default=max_new_tokens,
        metavar="N",
        help="tokens of a response at the most (%(default)s)",
    )
    add(
        "--min-new-tokens",
        type=int,
        default=default["min_new_tokens"],
        metavar="N",
        help="no end before so many tokens",
    )
    add(
        "--temperature",
        type=float,
        default=default["temperature"],
        metavar="T",
        help="logits are divided by it; 0 takes the most likely token (%(default)s)",
    )
    add("--top-k", type=int, metavar="K", help="only the K most likely tokens")
    add(
        "--top-p",
        type=float,
        metavar="P",
        help="only the most likely tokens that together have this probability",
    )
    add(
        "--min-p",
        type=float,
        metavar="P",
        help="only tokens at least P times as likely as the most likely one",
    )
    add(
        "--repetition-penalty",
        type=float,
        default=default["repetition_penalty"],
        metavar="X",
        help="above 1, tokens that prompt or response hold become less likely (%(default)s)",
    )
    add(
        "--logit-bias",
        action="append",
        default=[],
        metavar="ID=X",
        help="X is added to the logit of a token; -inf forbids it; can be repeated",
    )
    add(
        "--stop",
        action="append",
        default=[],
        metavar="STRING",
        help="text that ends a response and stays in it (chat leaves it out); a line break is $'\\n' in bash; can be "
        "repeated",
    )
    add(
        "--stop-id",
        action="append",
        type=int,
        default=[],
        metavar="ID",
        help="token that ends a response, as the EOS and those of generation_config.json do; can be repeated",
    )
    add(
        "--max-cached-tokens",
        type=int,
        metavar="N",
        help="tokens whose keys and values are held at once, others wait: bounds the memory (32768, or what one "
        "response needs where that is more)",
    )
    add("--seed", type=int, default=0, help="the same seed gives the same responses (%(default)s)")
    add(
        "--chat-template",
        metavar="T",
        help="chatml, a .jinja file or a template, in place of the model's own",
    )
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (%(default)s)")


def add_best_of(parser: argparse.ArgumentParser, kept: str) -> None:
    """Give `parser` ``--best-of`` and ``--reward``; `kept` says what of the N is kept."""
    add = parser.add_argument_group("best of several").add_argument
    add("--best-of", type=int, metavar="N", help=f"draw N responses, score them with --reward, and {kept}")
    add(
        "--reward", metavar="DIR", help="a reward model's folder, such as runs/reward/export, or its hub name"
    )


def check_best_of(arguments: argparse.Namespace) -> None:
    """Refuse ``--best-of`` and ``--reward`` that do not go together."""
    if arguments.best_of is None and arguments.reward is None:
        return
    if arguments.best_of is None:
        refuse("--reward: is there to choose with, and nothing says among how many.", "Give --best-of N too.")
    if arguments.reward is None:
        refuse(
            "--best-of: nothing says which is best.", "Give --reward DIR too, the folder of a reward model."
        )
    if arguments.best_of < 2:
        refuse(f"--best-of: expected 2 or more, found {arguments.best_of}.")
    if arguments.temperature == 0:
        refuse("--best-of: with --temperature 0 all responses are the same.")
    check_model_folder("--reward", arguments.reward)


def sampling_settings(arguments: argparse.Namespace) -> SamplingSettings:
    """What the options say, checked; the model's own stop ids are not among it yet."""
    if not 0 <= arguments.seed <= LARGEST_SEED:
        refuse(f"--seed: expected 0 to {LARGEST_SEED}, found {arguments.seed}.")
    for option in ("temperature", "repetition_penalty"):
        if not math.isfinite(value := getattr(arguments, option)):
            refuse(f"--{option.replace('_', '-')}: expected a finite number, found {value}.")
    plain = {
        field.name: getattr(arguments, field.name)
        for field in fields(SamplingSettings)
        if field.name not in ("logit_bias", "stop_token_ids", "stop_strings")
    }
    try:
        return SamplingSettings(
            **plain,
            logit_bias=dict(map(bias_of, arguments.logit_bias)) or None,
            stop_token_ids=tuple(sorted(set(arguments.stop_id))),
            stop_strings=tuple(dict.fromkeys(arguments.stop)),
        )
    except ValueError as error:
        name, colon, said = str(error).partition(":")
        option = {"stop_strings": "stop"}.get(name, name).replace("_", "-")
        refuse(
            f"--{option}{colon}{said.replace('max_new_tokens', '--max-new-tokens').replace(', or null', '')}"
        )


def bias_of(text: str) -> tuple[int, float]:
    """The id and the number of ``ID=X``.

    >>> bias_of("15=-2.5")
    (15, -2.5)
    """
    name, _, number = text.partition("=")
    try:
        found = int(name), float(number)
    except ValueError:
        refuse(f"--logit-bias {text}: expected ID=X, a token id and a number, such as 15=-2.5.")
    if found[0] < 0 or not (abs(found[1]) <= LARGEST_BIAS or found[1] == -math.inf):
        refuse(
            f"--logit-bias {text}: expected an id of 0 or more, and a number from {-LARGEST_BIAS:g} to "
            f"{LARGEST_BIAS:g}, or -inf."
        )
    return found

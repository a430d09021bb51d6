"""The command line of ``lit-rlhf compare``; what is wrong with it is said before anything heavy is loaded."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from lit_rlhf.cli.compare.settings import Comparison
from lit_rlhf.cli.given_files import check_model_folder, check_rows, check_yaml
from lit_rlhf.cli.refusal import did_you_mean, refuse
from lit_rlhf.cli.steps.configs import find_config

USAGE = (
    "usage: lit-rlhf compare --configs A.yaml B.yaml … --seconds S --val FILE --evaluation FILE\n"
    "                        [--out DIR] [OPTION …]"
)
ABOUT = (
    "Trains several configs of `lit-rlhf fit` from one start, on the same data and the same budget, once with each "
    "seed, and looks at every policy in the same way: how often its implicit reward, the log of its probability over "
    "the start's, agrees with held-out comparisons; and what its responses to held-out prompts are worth, how far "
    "from the start they were bought, and how long they are. Each step is one of our commands, which is printed and "
    "written to commands.sh; compare.html grows with every policy. What was stopped or killed goes on when the same "
    "command is given again; with more configs or seeds only these are added; a config or file that has changed since "
    "is noticed, and so is a function's in the current folder. A fit that fails does not end the others."
)
OPTIONS: tuple[tuple[str, str, str], ...] = (
    ("--configs", "FILE …", "configs, or names of shipped ones; a method is called like its file"),
    ("--out", "DIR", "the comparison's folder (runs/compare)"),
    ("--model", "START", "where every policy starts; without it all configs must name the same model"),
    ("--data", "FILE", "comparisons to learn from, all of them, for PairDataModule and RankingDataModule; without it "
     "these must agree"),
    ("--prompts", "FILE", "prompts to learn from, all of them, for PromptDataModule; without it these must agree"),
    ("--reward", "SPEC", "a reward model's folder or a function's dotted path, for modules that take a reward; the "
     "responses are judged by it too"),
    ("--val", "FILE", "held-out comparisons, which train nothing"),
    ("--evaluation", "FILE", "held-out prompts, each answered once by every policy, at temperature 1 and with the same "
     "random numbers"),
    ("--gold", "PATH", "dotted path of f(prompts, completions, **columns) -> list of numbers, the truth if known; "
     "judges the answers and trains nothing"),
    ("--samples", "N", "evaluation prompts that are answered, from the first (256)"),
    ("--max-new-tokens", "N", "tokens of an answer at the most (64)"),
    ("--seeds", "N …", "of the fits; one number is a count: 3 is 0 1 2 (1)"),
    ("--seconds", "S", "each fit's budget: so much processor time in training, rollouts included, validation and "
     "checkpoints not; of the fit's own process alone: a served reward, a language model's server and data workers "
     "are not in it"),
    ("--clock", "cpu|wall", "which seconds: of the processor (cpu), or those that pass, for training on a GPU"),
    ("--updates", "N", "each fit's budget: so many optimizer steps, which may be very different work; instead of "
     "--seconds"),
)  # fmt: skip
"""Each option with what follows it and its line of help."""


def help_text() -> str:
    """What ``lit-rlhf compare --help`` prints."""
    lines = [USAGE, "", *textwrap.wrap(ABOUT, 100, break_on_hyphens=False), ""]
    for name, value, said in OPTIONS:
        wrapped = textwrap.wrap(said, 78, break_on_hyphens=False)
        lines += [f"  {f'{name} {value}':<20} {wrapped[0]}", *(f"{'':23}{line}" for line in wrapped[1:])]
    lines += [
        "",
        "what a config says of epochs, steps and time is set aside for the budget; fits do not validate, unless a",
        "callback of the config waits for it. Exit code 1: one of the fits, or what is measured of it, failed.",
    ]
    return "\n".join(lines)


class Parser(argparse.ArgumentParser):
    """Says no as the other commands do."""

    def error(self, message: str) -> NoReturn:
        """The error first, and the nearest option."""
        unknown = (
            message.removeprefix("unrecognized arguments: ").split()[0] if "unrecognized" in message else ""
        )
        hint = did_you_mean(unknown, [name for name, *_ in OPTIONS]) if unknown else ""
        refuse(f"{message}. {hint}".rstrip(), USAGE, "help: lit-rlhf compare --help")


def parse(argv: Sequence[str]) -> Comparison:
    """The settings, as far as they can be looked at without reading a config.

    Raises:
        Refusal: an option that is unknown, missing or senseless, or a file that is not there.
    """
    parser = Parser("lit-rlhf compare", allow_abbrev=False, add_help=False)
    add = parser.add_argument
    add("--configs", nargs="+", required=True)
    add("--out", default="runs/compare")
    for name in ("model", "data", "val", "prompts", "reward", "evaluation", "gold"):
        add(f"--{name}")
    add("--seeds", nargs="+", type=int, default=[1])
    add("--seconds", type=float)
    add("--clock", choices=("cpu", "wall"), default="cpu")
    add("--updates", type=int)
    add("--samples", type=int, default=256)
    add("--max-new-tokens", type=int, default=64)
    given = vars(parser.parse_args(argv))
    check(given)
    given["seeds"] = seeds_of(given["seeds"])
    return Comparison(**{**given, "configs": tuple(given["configs"]), "out": Path(given["out"])})


def check(given: dict[str, Any]) -> None:
    """Refuse what makes no sense, and files that are not there."""
    if (given["seconds"] is None) == (given["updates"] is None):
        found = "neither" if given["seconds"] is None else "both"
        refuse(f"expected one budget, --seconds or --updates, found {found}.", USAGE)
    for name in ("seconds", "updates", "samples", "max_new_tokens"):
        value = given[name]
        if value is not None and not value > 0:
            refuse(f"--{name.replace('_', '-')}: expected more than 0, found {value:g}.")
    if given["clock"] == "wall" and given["seconds"] is None:
        refuse("--clock wall: is of --seconds, and the budget is --updates.")
    if given["val"] is None and given["evaluation"] is None:
        refuse(
            "nothing to compare the policies by was given.",
            "Give --val FILE, held-out comparisons, or --evaluation FILE, held-out prompts; better both.",
        )
    if given["gold"] is not None and given["evaluation"] is None:
        refuse("--gold: judges the answers to --evaluation FILE, held-out prompts; give these too.")
    for name in ("data", "val", "prompts", "evaluation"):
        if given[name] is not None:
            check_rows(f"--{name}", given[name])
    if given["model"] is not None:
        check_model_folder("--model", given["model"])
    for config in given["configs"]:
        check_yaml(str(find_config(config, "--configs")))


def seeds_of(given: Sequence[int]) -> tuple[int, ...]:
    """The seeds; one number is how many.

    >>> seeds_of([3]), seeds_of([7, 3])
    ((0, 1, 2), (7, 3))
    """
    if len(given) == 1:
        if given[0] < 1:
            refuse(
                f"--seeds: one number is how many, 1 or more; found {given[0]}.",
                "Several are the seeds: 0 1 2",
            )
        return tuple(range(given[0]))
    if len(set(given)) < len(given) or min(given) < 0:
        refuse(f"--seeds: expected different ones of 0 or more, found {' '.join(map(str, given))}.")
    return tuple(given)

"""``lit-rlhf strength``: how sure several reward models are of each comparison, and the doubtful labels mended.

Wang et al. 2024, "Secrets of RLHF in Large Language Models Part II", section 2.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence

from lit_rlhf.cli.given_files import check_files
from lit_rlhf.cli.refusal import refuse

TREATMENTS = ("none", "flip", "soft", "margin", "flip+margin", "soft+margin")


def main(argv: Sequence[str]) -> None:
    """``lit-rlhf strength --config FILE ... --out DIR``"""
    arguments, fit_arguments = parse(argv)
    check_arguments(arguments, fit_arguments)
    from lit_rlhf.cli.guard import run_guarded
    from lit_rlhf.cli.strength_members import FitStopped
    from lit_rlhf.cli.strength_run import measure

    try:
        run_guarded("strength", lambda: measure(arguments, fit_arguments))
    except (KeyboardInterrupt, FitStopped) as stopped:
        print(f"\nstopped; what is finished is kept in {arguments.out}", file=sys.stderr)
        print(f"go on with: {shlex.join(['lit-rlhf', 'strength', *argv])}", file=sys.stderr)
        raise SystemExit(stopped.exit_code if isinstance(stopped, FitStopped) else 130) from None


def parse(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """This command's arguments, and those of the fits."""
    parser = argparse.ArgumentParser(
        "lit-rlhf strength",
        allow_abbrev=False,
        usage="lit-rlhf strength --config FILE --model.model MODEL --data.path FILE --out DIR [options of fit] …",
        description="Train several reward models on the same pairs, in other orders and from other heads, and write "
        "DIR/strength.jsonl: every row as it was, with the mean (`strength`) and the standard deviation "
        "(`strength_std`) over the models of score(chosen) - score(rejected), and treated as asked. A strength far "
        "below 0 says that the label is probably the wrong way round. Each model is an ordinary fit in "
        "DIR/member-NN; given again after an interruption, the command goes on where it was, and another --then "
        "trains nothing.",
        epilog="All other arguments are those of fit: lit-rlhf fit --help. The whole of data.path trains.",
    )
    add = parser.add_argument
    add("--out", metavar="DIR", required=True, help="the folder for the models and strength.jsonl")
    add("--members", type=int, default=10, metavar="N", help="models that judge each row (%(default)s)")
    add(
        "--folds",
        type=int,
        default=0,
        metavar="K",
        help="judge each row by models that were not trained on it, or on its prompt: K fits a member, each leaves out "
        "one of K parts of the prompts; 0: one fit a member, on all rows (%(default)s)",
    )
    add(
        "--then",
        choices=TREATMENTS,
        default="none",
        help="flip: swap chosen and rejected of the weakest share, and all fields that are named after them; such rows "
        "say `flipped`, true, or false where an earlier call had swapped them too. soft: lower the target of rows "
        "with a negative strength. margin: set each row's margin to its strength, or 0 where that is negative "
        "(%(default)s)",
    )
    add("--share", type=float, default=0.1, metavar="Q", help="the share that flip swaps (%(default)s)")
    add(
        "--alpha",
        type=float,
        default=0.1,
        metavar="A",
        help="soft: how much is taken off the target: 1 becomes 1 - A (%(default)s)",
    )
    add(
        "--max-tokens",
        type=int,
        default=8192,
        metavar="N",
        help="when rows are scored, tokens in one forward (%(default)s)",
    )
    return parser.parse_known_args(argv)


def check_arguments(arguments: argparse.Namespace, fit_arguments: Sequence[str]) -> None:
    """Refuse what can be seen to be wrong before anything heavy is loaded."""
    if arguments.members < 1:
        refuse(f"--members: expected 1 or more, found {arguments.members}.")
    if arguments.folds < 0 or arguments.folds == 1:
        refuse(f"--folds: expected 2 or more, or 0 for none, found {arguments.folds}.")
    if not 0 < arguments.share < 1:
        refuse(f"--share: expected a share between 0 and 1, found {arguments.share}.")
    if not 0 < arguments.alpha <= 0.5:
        refuse(f"--alpha: expected more than 0 and at most 0.5, a coin's target, found {arguments.alpha}.")
    if arguments.max_tokens < 1:
        refuse(f"--max-tokens: expected 1 or more, found {arguments.max_tokens}.")
    if any(word.partition("=")[0] == "--ckpt_path" for word in fit_arguments):
        refuse("--ckpt_path: the models start from --model.model, and go on from their own checkpoints.")
    if int(os.environ.get("WORLD_SIZE", os.environ.get("SLURM_NTASKS", "1"))) > 1:
        refuse(
            "several processes were started from outside (torchrun, srun).",
            "Start one: each model is a fit of its own, and takes --trainer.devices.",
        )
    check_files(fit_arguments, "strength")

"""``lit-rlhf report``: what runs of PPO gained, how far they moved for it, and where gold was lost, on one page."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from lit_rlhf import __version__
from lit_rlhf.cli.refusal import near_files, refuse


def main(argv: Sequence[str]) -> None:
    """``lit-rlhf report RUN... --out F``"""
    arguments = parse(argv)
    check_arguments(arguments)
    from lit_rlhf.cli.guard import run_guarded

    run_guarded("report", lambda: report(arguments))


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The command's arguments."""
    parser = argparse.ArgumentParser(
        "lit-rlhf report",
        allow_abbrev=False,
        description="Draw runs of PPO on one page: score, gold reward, KL, entropy, length and more over the "
        "iterations, score and gold against the root of the KL with the fit of Gao et al. 2022, and where gold began "
        "to be lost. The gold reward is what the module logs as objective/gold, with --model.gold_reward. Runs that "
        "differ in their seeds alone are drawn in one colour. A run that is still going is drawn as far as it is.",
    )
    add = parser.add_argument
    add("runs", metavar="RUN", nargs="+", help="a run folder, such as runs/ppo")
    add("--out", metavar="F", required=True, help="the .html file to write; an older one is replaced")
    add(
        "--best-of",
        metavar="FILE",
        help="samples of the policy that the runs start from, several a prompt, as `lit-rlhf score` writes them "
        "(responses, reward_scores), with gold_scores where there is a gold reward: draws best-of-n",
    )
    return parser.parse_args(argv)


def check_arguments(arguments: argparse.Namespace) -> None:
    """Refuse what can be seen to be wrong before anything heavy is loaded."""
    if Path(arguments.out).suffix not in (".html", ".htm"):
        refuse(f"--out {arguments.out}: expected a name that ends in .html.")
    if Path(arguments.out).is_dir():
        refuse(f"--out {arguments.out}: is a folder; give a file in it.")
    for name in arguments.runs:
        if not Path(name).exists():
            refuse(f"RUN {name}: no such folder.", *near_files(name))
        if not Path(name).is_dir():
            refuse(f"RUN {name}: expected a run folder, found a file.")
    places = [Path(name).resolve() for name in arguments.runs]
    for place, name in enumerate(arguments.runs):
        if places[place] in places[:place]:
            refuse(f"RUN {name}: is given twice.")
    if arguments.best_of and not Path(arguments.best_of).exists():
        refuse(f"--best-of {arguments.best_of}: no such file.", *near_files(arguments.best_of))


def report(arguments: argparse.Namespace) -> None:
    """Read, draw, and say the most important in the terminal."""
    from lit_rlhf.reports.overoptimisation import write_overoptimisation_report
    from lit_rlhf.reports.overoptimisation_best_of_n import read_candidates
    from lit_rlhf.reports.overoptimisation_runs import read_runs

    candidates = None
    if arguments.best_of:
        from lit_rlhf.data.sources import find_sources

        candidates = read_candidates(
            row for source in find_sources(arguments.best_of, "test") for row in source.read()
        )
    runs = read_runs([Path(name) for name in arguments.runs])
    footer = f"Written by lit-rlhf {__version__} on {time.strftime('%Y-%m-%d %H:%M')}."
    said = write_overoptimisation_report(Path(arguments.out), runs, candidates, footer)
    print(said.verdict)
    for name, sentence in said.each:
        print(f"  {name}: {sentence}")
    for sentence in said.fits:
        print(f"fit: {sentence}")
    for caution in said.cautions:
        print(f"note: {caution}")
    print(f"report: {arguments.out}")

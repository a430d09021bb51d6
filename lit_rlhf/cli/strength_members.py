"""The reward models behind ``lit-rlhf strength``: ordinary fits, each a process of its own, kept when finished."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from torch import Tensor

from lit_rlhf.cli.progress import duration
from lit_rlhf.cli.score_lines import RowScores, read_part
from lit_rlhf.cli.scoring import score_rows, scoring_key
from lit_rlhf.models.scorer import load_scorer
from lit_rlhf.records import Tree


class FitStopped(SystemExit):
    """A fit has ended without its export: it was stopped, or failed and has said why."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.exit_code = code


@dataclass(frozen=True)
class Fit:
    """One fit: a member, or a member on all parts of the rows but one."""

    folder: Path
    seed: int
    """Decides the order of the rows and the new head."""
    judges: Sequence[int]
    """The rows whose strength it speaks to, by their number."""
    data: Path | None = None
    """What it is trained on, where that is not all rows."""

    @property
    def export(self) -> Path:
        return self.folder / "export"

    @property
    def is_finished(self) -> bool:
        """The export appears whole, and last of all."""
        return (self.export / "config.json").exists()

    def arguments(self, given: Sequence[str]) -> list[str]:
        """Those of ``lit-rlhf fit``; `given` are the ones that all members have in common."""
        seed = str(self.seed)
        words = [*given, "--data.val_fraction", "0", "--data.seed", seed, "--seed_everything", seed]
        if self.data is not None:
            words += ["--data.path", str(self.data)]
        words += ["--out", str(self.folder)]
        if (self.folder / "checkpoints" / "last.ckpt").exists():
            words += ["--ckpt_path", "last"]
        return words


def differences(
    fits: Sequence[Fit],
    members: int,
    trees: Sequence[Tree],
    given: Sequence[str],
    max_tokens: int,
    device: torch.device | str,
) -> Tensor:
    """Score of the better minus score of the worse response, by each member, ``[M, C]``.

    What is finished, of the fits and of the scoring, is not done again.

    Args:
        fits: member by member; a member's judge every row once.
        members: M.
        trees: the rows; C is the number of their comparisons.
        given: arguments of fit that all have in common.
        max_tokens: of a forward, where rows are scored.
        device: where rows are scored.

    Raises:
        FitStopped: a fit was stopped or failed.
    """
    lacking = [fit for fit in fits if not fit.is_finished]
    finished = len(fits) - len(lacking)
    if finished:
        say(f"{finished} of {len(fits)} models are finished already")
    start = monotonic()
    found: list[list[float]] = []
    for number, fit in enumerate(fits):
        if not fit.is_finished:
            done = len([other for other in lacking if other.is_finished])
            left = (monotonic() - start) / done * (len(lacking) - done) if done else None
            pace = "" if left is None else f", about {duration(left)} left"
            say(f"\nmodel {number + 1} of {len(fits)}, seed {fit.seed}: {fit.folder}{pace}")
            code = run_fit(fit.arguments(given))
            if code or not fit.is_finished:
                raise FitStopped(128 - code if code < 0 else code or 1)
        scored = judged_by(fit, trees, max_tokens, device)
        if not number % (len(fits) // members):  # the first fit of a member
            found.append([0.0] * sum(len(tree.comparisons) for tree in trees))
        place_differences(found[-1], trees, fit.judges, scored)
    return torch.tensor(found)


def run_fit(arguments: Sequence[str]) -> int:
    """``lit-rlhf fit`` in a process of its own: its exit code, negative where a signal ended it.

    A signal to this process goes on to the fit, which saves and stops; it is waited for.
    """
    safe = ["-P"] if sys.flags.safe_path else []
    # A session of its own: Ctrl-C in a terminal would reach it twice, and the second one stops without saving.
    process = subprocess.Popen(
        [sys.executable, *safe, "-m", "lit_rlhf", "fit", *arguments], start_new_session=True
    )

    def pass_on(number: int, frame: Any) -> None:
        process.send_signal(number)

    numbers = [
        number
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(number) is not signal.SIG_IGN  # as nohup sets it
    ]
    previous = {number: signal.signal(number, pass_on) for number in numbers}
    try:
        return process.wait()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def judged_by(
    fit: Fit, trees: Sequence[Tree], max_tokens: int, device: torch.device | str
) -> list[RowScores]:
    """The scores of the rows that the fit judges; kept in its folder, and read from there the next time."""
    rows = [trees[number] for number in fit.judges]
    kept = fit.folder / f"scores-{scoring_key(str(fit.export), rows)[:16]}.jsonl"
    known = read_part(kept, len(rows))
    if len(known) == len(rows):
        return known
    network = load_scorer(str(fit.export))
    return score_rows(network, rows, kept, max_tokens, device, f"scoring with {fit.folder.name}")


def place_differences(
    into: list[float], trees: Sequence[Tree], judged: Sequence[int], scored: Sequence[RowScores]
) -> None:
    """Put the differences of some rows where they belong among those of all comparisons.

    Raises:
        ValueError: a response that is compared has no score.
    """
    starts = [0]
    for tree in trees:
        starts.append(starts[-1] + len(tree.comparisons))
    for number, one in zip(judged, scored, strict=True):
        for place, comparison in enumerate(trees[number].comparisons):
            better, worse = one.scores[comparison.better], one.scores[comparison.worse]
            if better is None or worse is None:
                raise ValueError(
                    f"{trees[number].id}: the model has too few positions for this row. Lower "
                    "data.max_prompt_tokens or data.max_response_tokens."
                )
            into[starts[number] + place] = better - worse


def say(text: str) -> None:
    """A line on stdout, at once: what a fit prints comes behind it."""
    print(text, flush=True)

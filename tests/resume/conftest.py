"""A fit of PPO that nobody disturbs, once for all tests of this folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks.kills import Ended, Kill
from benchmarks.resume import (
    ONE_RANK,
    TWO_RANKS,
    VARIANTS,
    Outcome,
    Trial,
    import_everything,
    prepare,
    trial,
    uninterrupted,
)


@dataclass(frozen=True)
class Undisturbed:
    """The run left alone, in its folder."""

    folder: Path
    flags: list[str]
    ranks: int
    outcome: Outcome
    ended: Ended
    """Of rank 0: what it counted, and how long it took."""

    def killed(self, *kills: Kill) -> Trial:
        """The same run killed so, continued to its end and compared."""
        return trial(self.folder, self.flags, self.outcome, kills, self.ranks)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int], Undisturbed]:
    """By variant and number of processes."""
    import_everything()
    made: dict[tuple[str, int], Undisturbed] = {}

    def make(variant: str, ranks: int) -> Undisturbed:
        if (variant, ranks) not in made:
            folder = tmp_path_factory.mktemp("resume")
            prepare(folder)
            flags = [*(TWO_RANKS if ranks == 2 else ONE_RANK), *VARIANTS[variant]]
            outcome, ended = uninterrupted(folder, flags, ranks)
            made[variant, ranks] = Undisturbed(folder, flags, ranks, outcome, ended)
        return made[variant, ranks]

    return make

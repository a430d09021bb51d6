"""Where a loop's things lie, what kind of rows its labels are, and with what a round is drawn."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from lit_rlhf.cli.loop.fits import class_of
from lit_rlhf.cli.loop.settings import Loop

START = "start"
"""The folder of what is measured of the loop's model itself."""
PLAIN = {
    "temperature": 1.0, "top-k": None, "top-p": None, "min-p": None, "repetition-penalty": 1.0, "logit-bias": None,
    "min-new-tokens": 0, "stop": None, "stop-id": None,
}  # fmt: skip
"""Sampling under which responses are drawn from the policy itself, so that their log-ratios estimate the KL."""


class Folders:
    """A loop's places.

    Args:
        loop: the settings.
        out: the loop's folder.
    """

    def __init__(self, loop: Loop, out: Path) -> None:
        self.loop, self.out = loop, out

    @cached_property
    def learns_from_prompts(self) -> bool:
        """Whether the policy's phase is PPO or its kin; else DPO, which learns from the labels themselves."""
        return class_of(self.loop.policy, "data", "policy") == "PromptDataModule"

    @property
    def rows(self) -> str:
        """The kind of rows that labels become."""
        asked = self.loop.export.rows
        return asked if asked != "auto" else "pairs" if self.loop.responses == 2 else "rankings"

    @property
    def mode(self) -> str:
        """How annotators are asked."""
        return "pairwise" if self.loop.responses == 2 else "ranking"

    def folder(self, number: int) -> Path:
        """Of a round, from 1; 0 = of the loop's model."""
        return self.out / (f"round-{number}" if number else START)

    def policy(self, number: int) -> str:
        """The policy that came of a round; 0 = the loop's model."""
        return str(self.folder(number) / "policy" / "export") if number else self.loop.model

    def reward(self, number: int) -> str:
        """The reward model that came of a round."""
        return str(self.folder(number) / "reward" / "export")

    def seed_of(self, number: int) -> int:
        """What a round's samples are drawn with."""
        return 1000 * self.loop.seed + number

    @property
    def draws_plainly(self) -> bool:
        """Whether responses are drawn from the policy as it is."""
        said = {name.replace("_", "-"): value for name, value in self.loop.sampling.items()}
        return all(name not in PLAIN or value == PLAIN[name] for name, value in said.items())

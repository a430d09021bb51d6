"""One judge for every policy of a world: what its own samples are, and which of two held-out responses it prefers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from benchmarks.ppo_studies.evaluation import Evaluator, Outcomes, _demo_outcomes
from benchmarks.reward_studies.fits import CHUNK, DataRow, responses_of
from benchmarks.reward_studies.measures import Grouped
from lit_rlhf.data.trees import plant_tree
from lit_rlhf.models.modes import evaluating
from lit_rlhf.models.policy import PolicyNetwork, sequence_logprobs
from lit_rlhf.records import Row
from lit_rlhf.rewards.model import score_trees

if TYPE_CHECKING:
    from benchmarks.direct.worlds import World

Numbers = dict[str, float]

ON_THE_WAY = 256
"""Responses of a measurement on the way."""
AT_THE_END = {"demo": 512, "blimp": 128, "debates": 96}
"""And when a policy is done, by the world's kind."""


class Judge:
    """Draws responses of a policy, and looks at its implicit reward log π/π_start of held-out responses.

    The noise of the draws is the same for all policies of a world and seed.

    Args:
        start: folder of the policy that all begin with.
        held_out: rows of two responses (the better first) or more, as comparison files have them.
        asked: prompts to draw responses to.
        outcomes: what the world says of the texts.
        world: how rows are cut.
        few: whether to draw few responses.
    """

    def __init__(
        self,
        start: Path,
        held_out: Sequence[DataRow],
        asked: Sequence[DataRow],
        outcomes: Outcomes,
        world: World,
        few: bool = False,
    ) -> None:
        self.evaluator = Evaluator(start, {}, list(asked), outcomes, world.max_response_tokens)
        self.held_out = held_out
        self.samples = 64 if few else AT_THE_END[world.kind]
        self.trees = []
        for row in held_out:
            planted, _ = plant_tree(
                Row(row["prompt"], responses_of(row)),
                self.evaluator.encoder,
                world.max_prompt_tokens,
                world.max_response_tokens,
            )
            self.trees += planted
        self.counts = [len(tree.response_ids) for tree in self.trees]
        self._start = self._logprobs(self.evaluator.reference)

    def measure(self, policy: PolicyNetwork, seed: int, on_the_way: bool = False) -> Numbers:
        """Means over samples (``gold``, ``grammar``, ``kl``, ``length``, ...), and at the end ``accuracy`` on pairs."""
        count = min(self.samples, ON_THE_WAY) if on_the_way else self.samples
        numbers = self.evaluator.measure(policy, count, seed, 41)
        if not on_the_way and all(count == 2 for count in self.counts) and "chosen" in self.held_out[0]:
            numbers["accuracy"] = round(accuracy(self.rewards(policy)), 5)
        return numbers

    def rewards(self, policy: PolicyNetwork) -> list[Tensor]:
        """log π(y|x)/π_start(y|x) of each row's responses, nats."""
        with evaluating(policy):
            found = self._logprobs(policy)
        return list((found - self._start).split(self.counts))

    def _logprobs(self, policy: PolicyNetwork) -> Tensor:
        return score_trees(lambda trees: sequence_logprobs(policy(trees)), self.trees, CHUNK, "cpu")


def accuracy(rewards: Grouped) -> float:
    """Share of rows whose first response has the higher reward; equal ones count one half.

    Example:
        >>> accuracy([torch.tensor([1.0, 0.0]), torch.tensor([2.0, 2.0])])
        0.75
    """
    differences = torch.stack([row[0] - row[1] for row in rewards])
    return ((differences > 0).double() + 0.5 * (differences == 0).double()).mean().item()


demo_outcomes: Outcomes = _demo_outcomes


def no_outcomes(
    rows: Sequence[Mapping[str, Any]], texts: Sequence[str], finished: Sequence[bool]
) -> Mapping[str, Sequence[float]]:
    """Of real text nobody knows the gold reward."""
    return {}

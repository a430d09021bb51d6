"""A reward that is several, with a doubt where they disagree."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from lit_rlhf.models.components import combine_scores, disagreement
from lit_rlhf.rewards.protocol import Completions
from lit_rlhf.rewards.scoring import PartialReward, Scoring, join_parts

Conservative = Literal["mean", "min", "mean_minus_std"]


class Ensemble(PartialReward):
    """Whole reward models, such as of several seeds, combined to one score.

    A policy finds what one model is wrong about; ``min`` and ``mean_minus_std`` pay less for what only some of them
    like. The members have to be on one scale: train them with ``unit_variance``.

    Args:
        members: the rewards.
        combine: ``mean``, ``min``, or ``mean_minus_std``: mean − k·std over the members, the population's.
        k: standard deviations that ``mean_minus_std`` takes off.
        key: what the config calls the reward, for errors.

    Raises:
        ValueError: no such way to combine, or a negative k.
    """

    def __init__(
        self,
        members: Sequence[PartialReward],
        combine: Conservative = "mean",
        k: float = 1.0,
        key: str = "reward",
    ) -> None:
        if combine not in get_args(Conservative):
            raise ValueError(
                f"model.{key}.combine: expected one of {', '.join(get_args(Conservative))}, found {combine!r}."
            )
        if not isinstance(k, int | float) or not k >= 0:
            raise ValueError(f"model.{key}.k: expected a number of at least 0, found {k!r}.")
        self.members = members
        self.combine = combine
        self.k = k

    def begin(self, completions: Completions, thorough: bool) -> Callable[[], Scoring]:
        """See :meth:`PartialReward.begin`; a response has a score where every member has one."""
        begun = [member.begin(completions, thorough) for member in self.members]

        def finish() -> Scoring:
            scores, failures = join_parts(begun)
            return Scoring(combine_scores(scores, self.combine, self.k), failures)

        return finish

    def disagreement(self, completions: Completions) -> Tensor:
        """Standard deviation of each response's scores over the members ``[N]``."""
        return disagreement(self._scores(completions))

    def _scores(self, completions: Completions) -> Tensor:
        return torch.stack([member.score(completions) for member in self.members], -1)

    def to(self, device: torch.device | str) -> Ensemble:
        """Move every member."""
        for member in self.members:
            member.to(device)
        return self

    def networks(self) -> list[nn.Module]:
        """Those of every member."""
        return [network for member in self.members for network in member.networks()]

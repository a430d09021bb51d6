"""What a reward is: anything that gives one score for each response."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from lit_rlhf.records import Prompt


@dataclass
class Completions:
    """N responses to be scored."""

    prompts: list[Prompt]
    """N prompts, as they stand in the data file."""
    texts: list[str]
    """N responses in text, special tokens left out."""
    prompt_ids: list[list[int]]
    """N lists, in the policy's tokens."""
    response_ids: list[list[int]]
    """N lists, in the policy's tokens, with the EOS where one was drawn."""
    finished: list[bool]
    """Whether the response ended with an EOS."""
    prompt_names: list[str]
    """What to call the prompt in an error: its id, or its place in the file."""
    columns: dict[str, list[Any]] = field(default_factory=dict)
    """Every other field of the prompt rows, N values each."""

    def __len__(self) -> int:
        return len(self.texts)

    def select(self, places: Sequence[int]) -> Completions:
        """The responses at `places`, in that order."""

        def at(values: list[Any]) -> list[Any]:
            return [values[place] for place in places]

        return replace(
            self,
            prompts=at(self.prompts),
            texts=at(self.texts),
            prompt_ids=at(self.prompt_ids),
            response_ids=at(self.response_ids),
            finished=at(self.finished),
            prompt_names=at(self.prompt_names),
            columns={name: at(values) for name, values in self.columns.items()},
        )


class Reward(Protocol):
    """Scores ``[N]`` in fp32 for N responses, all finite; raises where it cannot."""

    def score(self, completions: Completions) -> Tensor: ...

    def to(self, device: torch.device | str) -> Any:
        """Move what it holds, if it holds anything."""
        ...


class RewardError(RuntimeError):
    """A reward failed or gave a number that is none; the message names the prompt."""


class BrokenRewardError(RewardError):
    """A reward is not what a reward has to be, whatever it is asked: nothing that could be skipped."""

"""What a reward is: anything that gives one score for each response."""

from __future__ import annotations

from dataclasses import dataclass, field
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


class Reward(Protocol):
    """Scores ``[N]`` in fp32 for N responses."""

    def score(self, completions: Completions) -> Tensor: ...

    def to(self, device: torch.device | str) -> Any:
        """Move what it holds, if it holds anything."""
        ...


class RewardError(RuntimeError):
    """A reward failed or gave a number that is none; the message names the prompt."""

"""A reward that is a Python function with TRL's signature."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lit_rlhf.records import Prompt
from lit_rlhf.rewards.protocol import Completions, RewardError

RewardFunction = Callable[..., Sequence[float | None]]

RESERVED = {"prompts", "completions", "completion_ids", "finished"}
"""Arguments that every reward function gets."""


class FunctionReward:
    """Calls ``function(prompts, completions, **columns) -> list[float | None]``.

    `prompts` and `completions` are lists of strings; where the prompt is a conversation, the completion is
    ``[{"role": "assistant", "content": ...}]``. `columns` hold every other field of the prompt file, and
    `completion_ids` and `finished` (whether the response ended with its EOS). A None score means "does not
    apply".

    Args:
        function: the callable.
        name: what to call it in errors.
    """

    def __init__(self, function: RewardFunction, name: str | None = None) -> None:
        self.function = function
        self.name = name or getattr(function, "__qualname__", type(function).__name__)

    def score(self, completions: Completions) -> Tensor:
        """Scores ``[N]``; NaN where the function gave None.

        Raises:
            RewardError: a field of the prompt file has a reserved name, the function raised, gave another
                number of scores, or one that is not finite.
        """
        taken = sorted(RESERVED & set(completions.columns))
        if taken:
            raise RewardError(
                f"Reward {self.name}: the prompt file's field {taken[0]!r} has the name of an argument that every "
                f"reward function gets ({', '.join(sorted(RESERVED))}). Rename the field."
            )
        columns: dict[str, list[Any]] = {
            **completions.columns,
            "completion_ids": completions.response_ids,
            "finished": completions.finished,
        }
        texts = [
            text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]
            for prompt, text in zip(completions.prompts, completions.texts, strict=True)
        ]
        try:
            given = list(self.function(prompts=completions.prompts, completions=texts, **columns))
        except Exception as error:
            raise RewardError(f"Reward {self.name} raised {type(error).__name__}: {error}") from error
        if len(given) != len(texts):
            raise RewardError(f"Reward {self.name}: expected {len(texts)} scores, found {len(given)}.")
        for value, name, prompt, text in zip(
            given, completions.prompt_names, completions.prompts, texts, strict=True
        ):
            self._check(value, name, prompt, text)
        return torch.tensor([math.nan if value is None else float(value) for value in given])

    def _check(self, value: object, name: str, prompt: Prompt, text: object) -> None:
        if value is not None and not (isinstance(value, int | float) and math.isfinite(value)):
            raise RewardError(
                f"Reward {self.name}: expected a finite number or None, found {value!r} "
                f"for prompt {name} ({str(prompt)[-60:]!r}, response {str(text)[:60]!r})."
            )

    def to(self, device: torch.device | str) -> FunctionReward:
        return self

"""Rewards in Python: functions with TRL's signature, and objects with a `score` of their own."""

from __future__ import annotations

import inspect
import math
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lit_rlhf.rewards.calls import OutOfTimeError, begin_call
from lit_rlhf.rewards.protocol import BrokenRewardError, Completions, Reward
from lit_rlhf.rewards.scoring import Failure, PartialReward, Scoring, ask_in_halves

RewardFunction = Callable[..., Sequence[float | None] | Awaitable[Sequence[float | None]]]

RESERVED = {"prompts", "completions", "completion_ids", "finished"}
"""Arguments that every reward function gets."""

TRAINER_OF_TRL = {"trainer_state", "log_extra", "log_metric", "environments"}
"""Arguments of TRL's that stand for its trainer, which is not here."""


class FunctionReward(PartialReward):
    """Calls ``function(prompts, completions, **columns) -> list[float | None]``, as TRL does.

    `prompts` and `completions` are lists of strings; where the prompt is a conversation, the completion is
    ``[{"role": "assistant", "content": ...}]``. `columns` hold every other field of the prompt file, and
    `completion_ids` and `finished` (whether the response ended with its EOS); where the text alone is known, as to an
    annotator, there are no `completion_ids`. A None score means "does not apply".

    A function that raises is asked again for each half of the responses, and so on, to find those that it fails on;
    one that is out of time is not. A plain function that hangs is left in its thread, which nobody can kill, but which
    does not keep the process from ending.

    Args:
        function: the callable; a coroutine function, or an object with an async ``__call__``, is awaited.
        name: what to call it in errors.
        timeout: seconds that a call may take; None = as long as it likes.

    Raises:
        ValueError: the function cannot do without an argument that only TRL's trainer could give.
    """

    def __init__(
        self, function: RewardFunction, name: str | None = None, timeout: float | None = None
    ) -> None:
        self.function = function
        self.name = name or str(getattr(function, "__qualname__", type(function).__name__))
        self.timeout = timeout
        wanted = sorted(TRAINER_OF_TRL & required_arguments(function))
        if wanted:
            raise ValueError(
                f"Reward {self.name} takes {wanted[0]}, which TRL's trainer gives and which there is not here. Give "
                f"the argument a default, such as {wanted[0]}=None, and do without it."
            )

    def begin(self, completions: Completions, thorough: bool) -> Callable[[], Scoring]:
        """See :meth:`PartialReward.begin`; an async function is under way from here on.

        Raises:
            BrokenRewardError: a field of the prompt file has a reserved name; on waiting, the function gave another
                number of scores than it was asked for.
        """
        taken = sorted(RESERVED & set(completions.columns))
        if taken:
            raise BrokenRewardError(
                f"Reward {self.name}: the prompt file's field {taken[0]!r} has the name of an argument that every "
                f"reward function gets ({', '.join(sorted(RESERVED))}). Rename the field."
            )
        return _begin_asking(self, completions, thorough)

    def begin_call(self, completions: Completions) -> Callable[[], Any]:
        texts = [
            text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]
            for prompt, text in zip(completions.prompts, completions.texts, strict=True)
        ]
        # copies: what a function takes out of its lists is there again when it is asked again
        arguments: dict[str, Any] = {
            **{name: list(values) for name, values in completions.columns.items()},
            "prompts": list(completions.prompts),
            "completions": texts,
            "finished": list(completions.finished),
        }
        if any(completions.response_ids):  # none has no token at all: then the text alone is known
            arguments["completion_ids"] = list(completions.response_ids)
        return begin_call(self.function, arguments, self.timeout)

    def read(self, given: Any, completions: Completions) -> Scoring:
        values = self._listed(given, len(completions))
        numbers, failures = [], {}
        for place, value in enumerate(values):
            number = _number(value)
            if number is None:
                failures[place] = Failure(
                    f"Reward {self.name}: expected a finite number or None, found {value!r}"
                )
            numbers.append(math.nan if number is None else number)
        return Scoring(torch.tensor(numbers), failures)

    def _listed(self, given: Any, count: int) -> list[Any]:
        try:
            values = None if isinstance(given, str | dict) else list(given)
        except TypeError:
            values = None
        if values is None:
            raise BrokenRewardError(
                f"Reward {self.name}: expected a list of {count} scores, found {type(given).__name__}."
            )
        if len(values) != count:
            raise BrokenRewardError(
                f"Reward {self.name}: expected {count} scores, found {len(values)}. A reward function returns one "
                "score for each response, None where it does not apply."
            )
        return values


class ObjectReward(PartialReward):
    """An object with ``score(completions) -> Tensor [N]``, plain or async, and ``to(device)``.

    A score that is not finite is a failure; to say "does not apply" takes a function, and None.

    Args:
        held: the object.
        timeout: seconds that a call may take; None = as long as it likes.
    """

    def __init__(self, held: Reward, timeout: float | None = None) -> None:
        self.held = held
        self.name = type(held).__name__
        self.timeout = timeout

    def begin(self, completions: Completions, thorough: bool) -> Callable[[], Scoring]:
        """See :meth:`PartialReward.begin`."""
        return _begin_asking(self, completions, thorough)

    def begin_call(self, completions: Completions) -> Callable[[], Any]:
        return begin_call(self.held.score, {"completions": completions}, self.timeout)

    def read(self, given: Any, completions: Completions) -> Scoring:
        if not isinstance(given, Tensor) or given.shape != (len(completions),):
            found = list(given.shape) if isinstance(given, Tensor) else type(given).__name__
            raise BrokenRewardError(
                f"Reward {self.name}: expected a tensor of {len(completions)} scores, found {found}."
            )
        return finite_or_failed(self.name, given)

    def to(self, device: torch.device | str) -> ObjectReward:
        self.held.to(device)
        return self


def finite_or_failed(name: str, scores: Tensor) -> Scoring:
    """The scores ``[N]`` of a reward that applies to every response: what is not finite is a failure."""
    scores = scores.detach().float().cpu()
    bad = (~scores.isfinite()).nonzero().flatten().tolist()
    failures = {place: Failure(f"Reward {name} gave {scores[place].item()}") for place in bad}
    return Scoring(scores.masked_fill(~scores.isfinite(), torch.nan), failures)


def _begin_asking(
    reward: FunctionReward | ObjectReward, completions: Completions, thorough: bool
) -> Callable[[], Scoring]:
    """Call for all responses at once, and where that raises for parts of them, see :func:`ask_in_halves`."""
    begun = reward.begin_call(completions)

    def ask(part: Completions) -> Scoring:
        wait = begun if part is completions else reward.begin_call(part)
        try:
            return reward.read(wait(), part)
        except OutOfTimeError:
            why = f"Reward {reward.name} took more than {reward.timeout:g} seconds (model.reward_timeout)"
            return Scoring.nothing(len(part), Failure(why))

    return lambda: ask_in_halves(reward.name, ask, completions, thorough)


def _number(value: Any) -> float | None:
    """The value as a number, NaN for None; None where it is no finite number."""
    if value is None:
        return math.nan
    if isinstance(value, str | bytes):
        return None
    try:
        number = float(value.detach() if isinstance(value, Tensor) else value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def required_arguments(function: Callable[..., Any]) -> set[str]:
    """The names of the arguments that it cannot be called without."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # some built-in ones have none
        return set()
    return {p.name for p in parameters if p.default is p.empty and p.kind is not p.VAR_KEYWORD}

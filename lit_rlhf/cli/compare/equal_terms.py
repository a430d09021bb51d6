"""Methods held to one start, the same data and one reward."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from lit_rlhf.cli.compare.methods import Method
from lit_rlhf.cli.refusal import refuse
from lit_rlhf.cli.steps.configs import flag_value

ROWS = ("path", "val_path", "val_fraction", "max_prompt_tokens", "max_response_tokens", "bad_rows")
"""What of a data module decides which rows are learned from, and how much of them."""


def check_same(methods: Sequence[Method]) -> None:
    """Refuse methods that do not start from, or learn from, the same.

    Raises:
        Refusal: with the two that differ, and what to do.
    """
    hold_equal(
        methods, "model.model", lambda one: one.arguments("model").get("model"), "give --model START for all"
    )
    for kind, option in (("comparisons", "--data"), ("prompts", "--prompts")):
        same = [one for one in methods if one.learns_from == kind]
        for key in ROWS:
            whole = key in ("path", "val_path", "val_fraction")
            advice = f"give {option} FILE for all" if whole else "make them the same"
            hold_equal(same, f"data.{key}", lambda one, key=key: one.arguments("data").get(key), advice)  # type: ignore[misc]
    hold_equal(rewarded(methods), "model.reward", lambda one: one.reward, "give --reward SPEC for all")


def rewarded(methods: Sequence[Method]) -> list[Method]:
    """The methods that are given a reward."""
    return [one for one in methods if one.reward is not None]


def hold_equal(methods: Sequence[Method], key: str, value_of: Callable[[Method], Any], advice: str) -> None:
    """Refuse two methods whose values differ."""
    for other in methods[1:]:
        first, second = value_of(methods[0]), value_of(other)
        if first != second:
            refuse(
                f"{methods[0].config} and {other.config} are not compared on equal terms: {key} is "
                f"{flag_value(first)} in the first, {flag_value(second)} in the second.",
                f"Make them the same in the configs{f', or {advice}' if advice.startswith('give') else ''}.",
            )

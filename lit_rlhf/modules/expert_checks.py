"""What the arguments that choose ExpertIterationModule's responses have to be, each by itself and together."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral
from typing import Any, Literal, TypeAlias, get_args

from lit_rlhf.modules.base import check_argument

Method: TypeAlias = Literal["best_of_n", "raft", "reward_weighted"]


def check_selection(given: Mapping[str, Any]) -> None:
    """Refuse arguments that choose nothing, contradict one another, or are another method's.

    Args:
        given: the constructor's arguments by name.

    Raises:
        ValueError: by the config key.
    """
    method, samples, keep, beta = (given[name] for name in ("method", "samples_per_prompt", "keep", "beta"))
    if method not in get_args(Method):
        raise ValueError(f"model.method: expected one of {', '.join(get_args(Method))}, found {method!r}.")
    check_argument(
        "samples_per_prompt", samples, samples >= 2, "2 or more, since a prompt's responses are compared"
    )
    whole = isinstance(keep, Integral) and not isinstance(keep, bool)
    check_argument("keep", keep, whole and keep >= 1, "a whole number, 1 or more")
    if method == "reward_weighted":
        if keep != 1:
            raise ValueError(
                f"model.keep: reward_weighted learns all responses, by their weights; leave it out, found {keep}."
            )
        if beta is None:
            raise ValueError(
                "model.beta: reward_weighted needs it: the score that a nat of KL is worth, 0.05 for PPO's kl_coef. "
                "A start: the standard deviation of scores among a prompt's responses, where most of them still count; "
                "smaller leaves the best alone (selection/effective_responses says how many count)."
            )
        check_argument("beta", beta, beta > 0, "more than 0")
        return
    if beta is not None:
        raise ValueError(
            f"model.beta: {method} learns the best responses whatever their scores; it is reward_weighted's. Leave it "
            "out (--model.beta null where a config gives it)."
        )
    if keep >= samples:
        raise ValueError(
            f"model.keep: expected fewer than model.samples_per_prompt ({samples}), since who keeps all chooses none; "
            f"found {keep}."
        )

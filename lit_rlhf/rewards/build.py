"""From what a config says of the reward to the reward."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from lit_rlhf.rewards.ensemble import Ensemble
from lit_rlhf.rewards.model import ModelReward
from lit_rlhf.rewards.named import as_reward, made_by_class_path, names_model, reward_at_path
from lit_rlhf.rewards.protocol import Completions, Reward, RewardError
from lit_rlhf.rewards.remote import RemoteReward
from lit_rlhf.rewards.remote.wire import is_address
from lit_rlhf.rewards.scoring import (
    Failure,
    PartialReward,
    Scoring,
    describe_failures,
    join_parts,
    raise_failure,
)

log = logging.getLogger(__name__)

RewardSpec = str | dict[str, Any] | list[dict[str, Any]] | Callable[..., Any]

_DOES_NOT_APPLY = Failure(
    "The reward gave no score (None, which counts only beside another reward that applies)"
)


class WeightedSum(PartialReward):
    """Σ weight·score over several rewards; a reward that does not apply to a response adds nothing there.

    Async functions among them run at the same time, beside the others.

    Args:
        rewards: the parts with their weights.
    """

    def __init__(self, rewards: Sequence[tuple[PartialReward, float]]) -> None:
        self.rewards = rewards

    def begin(self, completions: Completions, thorough: bool) -> Callable[[], Scoring]:
        """See :meth:`PartialReward.begin`; NaN where no part applies, or one failed."""
        begun = [reward.begin(completions, thorough) for reward, _ in self.rewards]

        def finish() -> Scoring:
            scores, failures = join_parts(begun)
            parts = scores * torch.tensor([weight for _, weight in self.rewards][: scores.shape[1]])
            total = torch.where(parts.isnan().all(1), torch.nan, parts.nan_to_num(0.0).sum(1))
            total[list(failures)] = torch.nan
            return Scoring(total, failures)

        return finish

    def to(self, device: torch.device | str) -> WeightedSum:
        for reward, _ in self.rewards:
            reward.to(device)
        return self

    def networks(self) -> list[nn.Module]:
        return [network for reward, _ in self.rewards for network in reward.networks()]


def build_reward(
    spec: RewardSpec,
    policy_tokenizer: PreTrainedTokenizerBase,
    timeout: float | None = None,
    key: str = "reward",
) -> PartialReward:
    """The reward that `spec` names.

    Args:
        spec: a folder or hub name of a reward model; a dotted path to a function or class; the address of a reward
            server, http:// or https://, see :class:`lit_rlhf.rewards.remote.RemoteReward`;
            ``{class_path, init_args}``; ``{ensemble, combine, k}``, see :class:`lit_rlhf.rewards.ensemble.Ensemble`;
            a list of ``{reward, weight}``; from Python also a callable, or an object with a `score`.
        policy_tokenizer: the tokenizer that the responses are sampled with.
        timeout: seconds that a call of a function may take, or all requests to a server about one rollout's
            responses; None = as long as it likes. Models have no limit.
        key: what the config calls it, for errors.

    Raises:
        ValueError: the spec is none of these, or names nothing that can be imported; or a timeout of no seconds.
    """
    if timeout is not None and not timeout > 0:
        raise ValueError(f"model.reward_timeout: expected more than 0 seconds, found {timeout}.")
    return _build(spec, policy_tokenizer, timeout, key)


def score_completions(
    reward: Reward, completions: Completions, on_failure: Literal["stop", "skip"] = "stop"
) -> Tensor:
    """The reward's scores ``[N]`` in fp32 on the CPU, finite but for NaN where it failed and that is to be skipped.

    It failed on a response where it raised (also when asked for it alone), gave something else than a finite number,
    or took too long; and where it said that it does not apply, with nothing beside it that does.

    Args:
        reward: from :func:`build_reward`, or any object with a `score`.
        completions: the responses.
        on_failure: ``stop`` raises; ``skip`` gives NaN there, and logs how many and the first reason.

    Raises:
        RewardError: the reward failed and `on_failure` is ``stop``, or it is not what a reward has to be; the message
            names the reward, the prompt and what to do.
    """
    thorough = on_failure == "skip"
    scoring = as_reward(reward, None).begin(completions, thorough)()
    for place in scoring.scores.isnan().nonzero().flatten().tolist():
        scoring.failures.setdefault(place, _DOES_NOT_APPLY)
    if not scoring.failures:
        return scoring.scores
    if not thorough:
        raise_failure(scoring, completions)
    log.warning(
        "%d of %d responses have no score. %s",
        len(scoring.failures),
        len(completions),
        describe_failures(scoring, completions),
    )
    return scoring.scores


def is_plain(spec: Any) -> bool:
    """Whether a reward is given in words and numbers alone, which a config and a checkpoint can hold.

    >>> is_plain([{"reward": "./a", "weight": 1.0}]), is_plain([{"reward": print}])
    (True, False)
    """
    if isinstance(spec, dict):
        return all(is_plain(value) for value in spec.values())
    if isinstance(spec, list | tuple):
        return all(is_plain(value) for value in spec)
    return spec is None or isinstance(spec, str | int | float)


def refuse_if_all_failed(failed: Tensor) -> None:
    """Stop where a rollout has no score at all: there is nothing to learn from, and what failed will fail again.

    Args:
        failed: of all ranks' responses. Bool ``[N]``.

    Raises:
        RewardError: all are True.
    """
    if bool(failed.all()):
        raise RewardError(
            f"The reward failed on all {len(failed)} responses of the rollout; the log says why. Mend the reward, and "
            "continue from the last checkpoint."
        )


def _build(
    spec: RewardSpec, tokenizer: PreTrainedTokenizerBase, timeout: float | None, key: str
) -> PartialReward:
    if isinstance(spec, list):
        if not spec:
            raise ValueError(f"model.{key}: expected at least one {{reward, weight}}, found an empty list.")
        return WeightedSum(
            [_weighted(part, tokenizer, timeout, f"{key}[{place}]") for place, part in enumerate(spec)]
        )
    if isinstance(spec, dict):
        if "ensemble" in spec:
            return _ensemble(spec, tokenizer, timeout, key)
        if "class_path" not in spec:
            raise ValueError(
                f"model.{key}: expected a mapping with class_path or ensemble, found the keys {sorted(spec)}."
            )
        return as_reward(made_by_class_path(spec, f"model.{key}"), spec["class_path"], timeout)
    if not isinstance(spec, str):
        return as_reward(spec, None, timeout)
    if is_address(spec):
        return as_reward(RemoteReward(spec), spec, timeout)
    if names_model(spec):
        return ModelReward(spec, tokenizer)
    return reward_at_path(spec, timeout, f"model.{key}")


def _weighted(
    part: dict[str, Any], tokenizer: PreTrainedTokenizerBase, timeout: float | None, key: str
) -> tuple[PartialReward, float]:
    if not isinstance(part, dict) or set(part) - {"reward", "weight"} or "reward" not in part:
        found = f"the keys {sorted(part)}" if isinstance(part, dict) else repr(part)
        raise ValueError(f"model.{key}: expected entries of {{reward, weight}}, found {found}.")
    weight = part.get("weight", 1.0)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not math.isfinite(weight):
        raise ValueError(f"model.{key}.weight: expected a finite number, found {weight!r}.")
    return _build(part["reward"], tokenizer, timeout, f"{key}.reward"), float(weight)


def _ensemble(
    spec: dict[str, Any], tokenizer: PreTrainedTokenizerBase, timeout: float | None, key: str
) -> Ensemble:
    unknown, names = sorted(set(spec) - {"ensemble", "combine", "k"}), spec["ensemble"]
    if unknown:
        raise ValueError(
            f"model.{key}: expected the keys ensemble, combine, k, found {', '.join(unknown)} too."
        )
    if not isinstance(names, list) or len(names) < 2:
        raise ValueError(
            f"model.{key}.ensemble: expected a list of at least two reward models, found {names!r}."
        )
    members = [_build(name, tokenizer, timeout, f"{key}.ensemble[{n}]") for n, name in enumerate(names)]
    return Ensemble(members, spec.get("combine", "mean"), spec.get("k", 1.0), key)

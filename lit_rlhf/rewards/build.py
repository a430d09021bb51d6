"""From what a config says of the reward to the reward."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from lit_rlhf.models.loading import looks_local
from lit_rlhf.rewards.ensemble import Ensemble
from lit_rlhf.rewards.function import FunctionReward
from lit_rlhf.rewards.model import ModelReward
from lit_rlhf.rewards.protocol import Completions, Reward, RewardError

RewardSpec = str | dict[str, Any] | list[dict[str, Any]] | Callable[..., Any]


class WeightedSum:
    """Σ weight·score over several rewards; a reward that does not apply to a response adds nothing there.

    Args:
        rewards: the parts with their weights.
    """

    def __init__(self, rewards: list[tuple[Reward, float]]) -> None:
        self.rewards = rewards

    def score(self, completions: Completions) -> Tensor:
        """Scores ``[N]``; NaN where no part applies."""
        parts = torch.stack([weight * reward.score(completions) for reward, weight in self.rewards])
        return torch.where(parts.isnan().all(0), torch.nan, parts.nan_to_num(0.0).sum(0))

    def to(self, device: torch.device | str) -> WeightedSum:
        for reward, _ in self.rewards:
            reward.to(device)
        return self


def build_reward(spec: RewardSpec, policy_tokenizer: PreTrainedTokenizerBase) -> Reward:
    """The reward that `spec` names.

    Args:
        spec: a folder or hub name of a reward model; a dotted path to a function or class;
            ``{class_path, init_args}``; ``{ensemble, combine, k}``, see :class:`lit_rlhf.rewards.ensemble.Ensemble`;
            a list of ``{reward, weight}``; from Python also a callable.
        policy_tokenizer: the tokenizer that the responses are sampled with.
    Raises:
        ValueError: the spec is none of these, or names nothing that can be imported.
    """
    if isinstance(spec, list):
        return WeightedSum([_weighted(part, policy_tokenizer) for part in spec])
    if isinstance(spec, dict):
        if "ensemble" in spec:
            return _ensemble(spec, policy_tokenizer)
        if "class_path" not in spec:
            raise ValueError(
                f"reward: expected a mapping with class_path or ensemble, found the keys {sorted(spec)}."
            )
        return _as_reward(_import(spec["class_path"])(**spec.get("init_args", {})), spec["class_path"])
    if not isinstance(spec, str):
        return _as_reward(spec)
    if looks_local(spec) or "/" in spec or Path(spec).is_dir():
        return ModelReward(spec, policy_tokenizer)
    found = _import(spec)
    return _as_reward(found() if isinstance(found, type) else found, spec)


def finite_scores(reward: Reward, completions: Completions) -> Tensor:
    """The reward's scores ``[N]``, all finite.

    Raises:
        RewardError: a response has no finite score; the message names its prompt.
    """
    scores = reward.score(completions).float().cpu()
    bad = (~scores.isfinite()).nonzero().flatten().tolist()
    if bad:
        first = bad[0]
        raise RewardError(
            f"The reward gave {scores[first].item()} for {len(bad)} of {len(scores)} responses, first for prompt "
            f"{completions.prompt_names[first]} (response {completions.texts[first][:60]!r}). "
            "Every response needs a finite score; a function's None counts only beside another reward."
        )
    return scores


def _as_reward(made: Any, name: str | None = None) -> Reward:
    """What has a `score` is a reward already; anything else is called."""
    return made if hasattr(made, "score") else FunctionReward(made, name)


def _weighted(part: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> tuple[Reward, float]:
    if set(part) - {"reward", "weight"} or "reward" not in part:
        raise ValueError(f"reward: expected entries of {{reward, weight}}, found the keys {sorted(part)}.")
    return build_reward(part["reward"], tokenizer), float(part.get("weight", 1.0))


def _ensemble(spec: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> Ensemble:
    unknown, names = sorted(set(spec) - {"ensemble", "combine", "k"}), spec["ensemble"]
    if unknown:
        raise ValueError(f"reward: expected the keys ensemble, combine, k, found {', '.join(unknown)} too.")
    if not isinstance(names, list) or len(names) < 2:
        raise ValueError(f"reward.ensemble: expected a list of at least two reward models, found {names!r}.")
    members = [build_reward(name, tokenizer) for name in names]
    return Ensemble(members, spec.get("combine", "mean"), spec.get("k", 1.0))


def _import(path: str) -> Any:
    module_name, _, attribute = path.rpartition(".")
    try:
        return getattr(import_module(module_name), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"reward: {path!r} is neither a folder here nor a dotted path that can be imported ({error}). "
            "A function's path looks like my_package.my_module.my_function, in the current folder or on PYTHONPATH."
        ) from error

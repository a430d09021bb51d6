"""What PPO's arguments have to be, each by itself and together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lit_rlhf.modules.base import check_argument
from lit_rlhf.modules.iteration_phase import check_iteration
from lit_rlhf.rollout.credit import GROUP_ADVANTAGES

if TYPE_CHECKING:
    from lit_rlhf.modules.ppo import PPOModule


def check_numbers(given: dict[str, Any]) -> None:
    """Refuse numbers out of their range, by their config keys.

    Args:
        given: the constructor's arguments by name.

    Raises:
        ValueError: one makes no sense.
    """
    check_iteration(given)
    kl_coef, critic_warmup = given["kl_coef"], given["critic_warmup"]
    check_argument("kl_horizon", given["kl_horizon"], given["kl_horizon"] >= 1, "1 or more")
    check_argument("kl_coef", kl_coef, kl_coef >= 0, "0 or more")
    for name in ("kl_target", "target_kl"):
        check_argument(name, given[name], given[name] is None or given[name] > 0, "more than 0, or null")
    check_argument("critic_warmup", critic_warmup, critic_warmup >= 0, "0 or more")


def check_together(module: PPOModule) -> None:
    """Refuse arguments that contradict one another.

    Args:
        module: holds them, and no networks yet.

    Raises:
        ValueError: two do.
    """
    advantage = module.credit.advantage
    if advantage in GROUP_ADVANTAGES and module.samples_per_prompt < 2:
        raise ValueError(
            f"model.samples_per_prompt: {advantage} compares the responses of a prompt; expected 2 or more, "
            f"found {module.samples_per_prompt}."
        )
    for name in ("critic_warmup", "critic_learning_rate"):
        if getattr(module, name) and not module.credit.wants_critic:
            raise ValueError(
                f"model.{name}: {advantage} has no critic. Leave it out (--model.{name} null where a config gives "
                "it), or take model.advantage gae, or reinforce with model.baseline value."
            )
    limit = module.sampling.max_new_tokens
    if module.shaping is not None and module.shaping.overlong_buffer > limit:
        raise ValueError(
            f"model.shaping.overlong_buffer: expected at most model.max_new_tokens ({limit}), found "
            f"{module.shaping.overlong_buffer}."
        )
    if module.kl_target is not None and module.kl_coef == 0:
        raise ValueError(
            "model.kl_target: model.kl_coef 0 stays 0 whatever it is multiplied by. Give it 0.1, or leave one out."
        )

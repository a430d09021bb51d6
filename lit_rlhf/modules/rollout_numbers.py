"""What is logged and shown of a rollout."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lit_rlhf.data.tokenization import TextEncoder
from lit_rlhf.metrics import explained_variance
from lit_rlhf.ops.kl import k1
from lit_rlhf.ops.masking import masked_mean
from lit_rlhf.records import Experience
from lit_rlhf.rollout.credit import Credit


def sequence_kl(experience: Experience) -> Tensor:
    """log π(y|x)/π_ref(y|x) of each response, ``[N]`` in nats: its mean estimates the KL without bias."""
    return k1(experience.old_logprobs, experience.reference_logprobs).sum(1)


def rollout_numbers(experience: Experience) -> dict[str, float]:
    """Logged scalars of any phase's rollout by name, over the responses whose reward did not fail."""
    counted = ~experience.failed
    mask = experience.counted_mask
    difference = (experience.sampled_logprobs - experience.recomputed_logprobs).abs().nan_to_num(0.0)
    numbers = {
        "objective/kl": sequence_kl(experience)[counted].mean(),
        "objective/scores": experience.scores[counted].mean(),
        "objective/entropy": masked_mean(experience.entropy, mask),
        "rollout/response_length": mask[counted].sum(1).float().mean(),
        "rollout/eos_rate": 1.0 - experience.truncated[counted].float().mean(),
        "rollout/failed_rewards": experience.failed.float().sum(),
        "rollout/logprob_difference": difference.max(),
    }
    gold = experience.gold_scores[~experience.gold_scores.isnan()]
    if len(gold):
        numbers["objective/gold"] = gold.mean()
    return {name: value.item() for name, value in numbers.items()}


def price_numbers(experience: Experience, kl_coef: float) -> dict[str, float]:
    """What PPO maximises, and what it is made of.

    Args:
        experience: of all ranks.
        kl_coef: β, price of a nat of KL in units of the score.
    """
    counted = ~experience.failed
    shaped = experience.shaped_scores[counted]
    return {
        "objective/shaped_scores": shaped.mean().item(),
        "objective/rlhf_reward": (shaped - kl_coef * sequence_kl(experience)[counted]).mean().item(),
        "objective/kl_coef": kl_coef,
    }


def critic_numbers(experience: Experience, credit: Credit) -> dict[str, float]:
    """How well the critic foresaw the returns of a rollout; nothing where there is none."""
    if not credit.wants_critic:
        return {}
    foreseen = (experience.values, experience.returns, experience.counted_mask)
    if credit.level != "token":  # a response is one action, and the value before its first token counts
        foreseen = (experience.values[:, 0], experience.returns[:, 0], experience.counted_mask[:, 0])
    return {"value/explained_variance": explained_variance(*foreseen).item()}


def rollout_table(experience: Experience, encoder: TextEncoder, rows: int) -> list[dict[str, Any]]:
    """The first responses as rows of a sample table."""
    kl = sequence_kl(experience)
    return [
        {
            "prompt": encoder.decode(experience.prompt_ids[i]),
            "response": encoder.decode(experience.response_ids[i]),
            "score": None if experience.failed[i] else round(experience.scores[i].item(), 3),
            "kl": round(kl[i].item(), 3),
            "finished": not bool(experience.truncated[i]),
        }
        for i in range(min(rows, len(experience)))
    ]

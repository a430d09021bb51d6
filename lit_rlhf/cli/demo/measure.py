"""What a policy of the demo world is worth: gold, grammar, KL, entropy, and what the reward model says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from lit_rlhf.data.tokenization import TextEncoder
from lit_rlhf.models.policy import PolicyNetwork
from lit_rlhf.ops.masking import masked_mean
from lit_rlhf.ops.noise import counter_key
from lit_rlhf.records import Tree
from lit_rlhf.rewards.model import ModelReward, score_trees
from lit_rlhf.rollout.experience import sampled_trees
from lit_rlhf.rollout.responses import SampledResponses
from lit_rlhf.rollout.sampling import sample_responses
from lit_rlhf.rollout.settings import SamplingSettings
from lit_rlhf.world.gold import gold
from lit_rlhf.world.grammar import grammatical

MAX_NEW_TOKENS = 20
CHUNK = 512


@dataclass
class Drawn:
    """Responses to prompts, in text and in tokens."""

    prompts: list[str]
    prompt_ids: list[list[int]]
    sampled: SampledResponses
    texts: list[str]
    finished: list[bool]

    def golds(self) -> list[float]:
        """The gold reward of each response."""
        return gold(self.prompts, self.texts, finished=self.finished)

    def correct(self) -> list[bool]:
        """Whether each response is a sentence of the language, and came to its end."""
        return [
            done and grammatical(text.split()) for text, done in zip(self.texts, self.finished, strict=True)
        ]


def draw(
    policy: PolicyNetwork, tokenizer: PreTrainedTokenizerBase, prompts: list[str], *counters: int
) -> Drawn:
    """One response to each prompt, its noise a function of the counters and the prompt's place."""
    encoder = TextEncoder(tokenizer)
    prompt_ids = [encoder.prompt_ids(prompt) for prompt in prompts]
    keys = counter_key(*counters, torch.arange(len(prompts)))
    sampled = sample_responses(
        policy,
        prompt_ids,
        SamplingSettings(MAX_NEW_TOKENS),
        keys,
        encoder.eos_token_id,
        with_entropy=True,
    )
    texts = [encoder.decode(ids) for ids in sampled.response_ids]
    return Drawn(prompts, prompt_ids, sampled, texts, (~sampled.truncated).tolist())


def reward_scores(reward: ModelReward, drawn: Drawn) -> Tensor:
    """What the reward model says of each response."""
    trees = [
        Tree(prompt, [response], [[True] * len(response)])
        for prompt, response in zip(drawn.prompt_ids, drawn.sampled.response_ids, strict=True)
    ]
    return score_trees(reward.network, trees, CHUNK, "cpu")


@torch.no_grad()
def measure_policy(drawn: Drawn, reference: PolicyNetwork, reward: ModelReward | None) -> dict[str, float]:
    """Means over the responses; KL in nats a response, estimated on the policy's own samples."""
    trees = sampled_trees(drawn.prompt_ids, drawn.sampled.response_ids)
    reference_logprobs = reference(trees).logprobs
    mask = trees.response_grid_mask()
    kl = ((drawn.sampled.logprobs - reference_logprobs) * mask).sum(1)
    result: dict[str, float] = {
        "gold": _mean(drawn.golds()),
        "grammar": _mean(drawn.correct()),
        "kl": kl.mean().item(),
        "entropy": masked_mean(drawn.sampled.entropy, mask).item(),  # type: ignore[arg-type]  # it was asked for
        "length": mask.sum(1).float().mean().item(),
        "distinct": len(set(drawn.texts)) / len(drawn.texts),
    }
    if reward is not None:
        result["score"] = reward_scores(reward, drawn).mean().item()
    return result


def _mean(values: list[Any]) -> float:
    return sum(values) / len(values)

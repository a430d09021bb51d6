"""One evaluator for every policy of a world: samples of it on fixed prompts, seen by gold, reward model and SFT."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import mean
from typing import Any

import torch
from torch import Tensor

from benchmarks.prepare import read
from benchmarks.slot_coverage import coverage
from lit_rlhf.data.tokenization import TextEncoder, load_tokenizer
from lit_rlhf.models.loading import load_causal_lm
from lit_rlhf.models.modes import evaluating
from lit_rlhf.models.policy import PolicyNetwork
from lit_rlhf.models.scorer import load_scorer
from lit_rlhf.ops.masking import masked_mean
from lit_rlhf.ops.noise import counter_key
from lit_rlhf.records import Tree
from lit_rlhf.rewards.model import score_trees
from lit_rlhf.rollout.experience import sampled_trees
from lit_rlhf.rollout.sampling import sample_responses
from lit_rlhf.rollout.settings import SamplingSettings
from lit_rlhf.world.build import prompt_rows
from lit_rlhf.world.gold import gold
from lit_rlhf.world.grammar import grammatical

CHUNK = 256
"""Responses of one forward."""

Numbers = dict[str, float]
Outcomes = Callable[
    [Sequence[Mapping[str, Any]], Sequence[str], Sequence[bool]], Mapping[str, Sequence[float]]
]
"""Prompt rows, texts and whether each came to its end, to values of each response by name, ``gold`` among them."""


@dataclass
class Drawn:
    """A response to each of some prompts, with everything that is measured of it, ``[N]`` each."""

    values: dict[str, Tensor]
    """``gold``, ``score``, ``kl``, ``length``, ``finished``, and what else the world knows."""
    texts: list[str]
    entropy: float
    """Nats a token."""

    def means(self) -> Numbers:
        """The mean of everything, and the share of different texts."""
        means = {name: value.float().mean().item() for name, value in self.values.items()}
        return {**means, "entropy": self.entropy, "distinct": len(set(self.texts)) / len(self.texts)}


class Evaluator:
    """Draws responses of a policy to the world's evaluation prompts and measures them.

    The noise of the draws depends on the counters and the prompt's place alone, so policies are compared on common
    random numbers. The KL is to `reference`, estimated on the policy's own samples, in nats a response.

    Args:
        reference: folder of the policy that all started from.
        rewards: folders of reward models by name; ``score`` is what the policies were trained on.
        rows: evaluation prompts, gone through again where more are asked for.
        outcomes: what the world says of the texts.
        max_new_tokens: response tokens at the most.
    """

    def __init__(
        self,
        reference: Path,
        rewards: Mapping[str, Path],
        rows: Sequence[Mapping[str, Any]],
        outcomes: Outcomes,
        max_new_tokens: int,
    ) -> None:
        self.reference = load_policy(reference)
        self.encoder = TextEncoder(load_tokenizer(str(reference)))
        self.rewards = {name: load_scorer(str(folder)).eval() for name, folder in rewards.items()}
        self.rows, self.outcomes = rows, outcomes
        self.prompt_ids = [self.encoder.prompt_ids(row["prompt"]) for row in rows]
        self.settings = SamplingSettings(max_new_tokens)

    @torch.no_grad()
    def draw(self, policy: PolicyNetwork, count: int, *counters: int) -> Drawn:
        """One response to each of `count` prompts."""
        places = [place % len(self.rows) for place in range(count)]
        prompts = [self.prompt_ids[place] for place in places]
        keys = counter_key(*counters, torch.arange(count))
        with evaluating(policy):
            sampled = sample_responses(
                policy, prompts, self.settings, keys, self.encoder.eos_token_id, with_entropy=True
            )
        texts = [self.encoder.decode(ids) for ids in sampled.response_ids]
        finished = (~sampled.truncated).tolist()
        mask = torch.arange(sampled.logprobs.shape[1]) < torch.tensor(
            [[len(ids)] for ids in sampled.response_ids]
        )
        values = {
            "kl": self._kl(prompts, sampled.response_ids, sampled.logprobs * mask),
            "length": mask.sum(1),
            "finished": ~sampled.truncated,
        }
        for name, said in self.outcomes([self.rows[place] for place in places], texts, finished).items():
            values[name] = torch.tensor([float(value) for value in said])
        trees = [Tree(p, [r], [[True] * len(r)]) for p, r in zip(prompts, sampled.response_ids, strict=True)]
        for name, scorer in self.rewards.items():
            values[name] = score_trees(scorer, trees, CHUNK, "cpu")
        return Drawn(values, texts, masked_mean(sampled.entropy, mask).item())

    def measure(self, policy: PolicyNetwork, count: int, *counters: int) -> Numbers:
        """Means over `count` responses, rounded."""
        return {name: round(value, 5) for name, value in self.draw(policy, count, *counters).means().items()}

    def _kl(self, prompts: list[list[int]], responses: list[list[int]], logprobs: Tensor) -> Tensor:
        sums = []
        for start in range(0, len(prompts), CHUNK):
            trees = sampled_trees(prompts[start : start + CHUNK], responses[start : start + CHUNK])
            sums.append(self.reference(trees).logprobs.sum(1))
        return logprobs.sum(1) - torch.cat(sums)


def load_policy(folder: Path) -> PolicyNetwork:
    """The policy of a folder in Hugging Face layout, in eval mode."""
    return PolicyNetwork(load_causal_lm(str(folder))).eval()


def demo_evaluator(demo: Path) -> Evaluator:
    """Of a demo folder: gold and grammar, and the demo's reward model."""
    return Evaluator(
        demo / "runs" / "sft" / "export",
        {"score": demo / "runs" / "reward" / "export"},
        list(prompt_rows(Random("evaluation"), 1024)),
        _demo_outcomes,
        20,
    )


def real_evaluator(real: Path, members: int, max_new_tokens: int) -> Evaluator:
    """Of a real-text folder: slot coverage on held-out prompts, and what each reward model says."""
    rewards = {f"score_{member}": real / f"reward-{member}" for member in range(members)}
    rows = read(real / "files" / "prompts_val.jsonl")
    return Evaluator(real / "sft", rewards, rows, _real_outcomes, max_new_tokens)


def _demo_outcomes(
    rows: Sequence[Mapping[str, Any]], texts: Sequence[str], finished: Sequence[bool]
) -> Mapping[str, Sequence[float]]:
    correct = [float(done and grammatical(text.split())) for text, done in zip(texts, finished, strict=True)]
    return {"gold": gold([row["prompt"] for row in rows], texts, finished=finished), "grammar": correct}


def _real_outcomes(
    rows: Sequence[Mapping[str, Any]], texts: Sequence[str], finished: Sequence[bool]
) -> Mapping[str, Sequence[float]]:
    covered = [coverage(text, row["gold"]) for text, row in zip(texts, rows, strict=True)]
    return {"gold": [0.0 if value is None else value for value in covered]}


def mean_of(points: Sequence[Numbers], name: str) -> float:
    """The mean of one number over several points."""
    return mean(point[name] for point in points)

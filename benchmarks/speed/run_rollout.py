"""One run of a sampler, ours or transformers' `generate`: ``python -m benchmarks.speed.run_rollout JOB``.

The first pass is warm-up and greedy, so that both sides have to come to the same tokens; the others are greedy too, or
drawn at temperature 1, as the job says.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers.models.llama.modeling_llama  # noqa: F401  # imported now, so that it is not weighed later
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from benchmarks.speed import rows as random_rows
from benchmarks.speed.bandwidth import copy_bytes_per_second, decode_bytes
from benchmarks.speed.flops import now
from benchmarks.speed.greedy import near_ties
from benchmarks.speed.job import Job
from benchmarks.speed.lengths import Limits, response_limits
from benchmarks.speed.meter import Meter, response_lengths
from benchmarks.speed.run_ours import quiet
from lit_rlhf.models.policy import PolicyNetwork
from lit_rlhf.ops.noise import counter_key
from lit_rlhf.rollout.sampling import sample_responses
from lit_rlhf.rollout.settings import SamplingSettings

Sampler = Callable[[list[list[int]], list[int], bool], list[list[int]]]
"""Prompts, the length of each response and whether greedily, to responses."""


def main() -> None:
    """Run the job that stands on the command line and print what was measured."""
    job = Job.from_arguments()
    meter = Meter(job)
    model: Any = random_rows.policy(job).eval().to(job.device, torch.bfloat16 if job.bf16 else torch.float32)
    steps = StepClock(job.device)
    sample = {"ours": ours, "generate": generate}[job.program](model, job, steps)
    drawn = random_rows.prompts(job)
    prompts: list[list[int]] = []  # of the greedy responses
    greedy_tokens: list[list[int]] = []
    lengths: list[list[int]] = []
    for number, limits in enumerate(response_limits(job)):
        chosen = drawn[number * job.batch : (number + 1) * job.batch]
        repeated = [ids for ids in chosen for _ in range(job.responses)]
        greedy = number < job.warm or job.greedy
        responses = sample(repeated, limits, greedy)
        meter.step()
        lengths.append(list(map(len, responses)))
        slots = sum(lengths[-1]) if job.program == "ours" else len(repeated) * max(lengths[-1])
        meter.batch(sum(lengths[-1]), slots)
        if lengths[-1] != limits:
            raise RuntimeError(f"expected responses of {limits} tokens, found {lengths[-1]}")
        if greedy:
            prompts += repeated
            greedy_tokens += responses
    measured = meter.measured(
        attention=model.config._attn_implementation,
        prompts=job.batch * job.steps,
        response_lengths=response_lengths(lengths[job.warm :]),
    )
    if not job.bf16:  # which rounds so coarsely that ties are everywhere
        measured.facts["greedy_tokens"] = greedy_tokens
        measured.facts["distinct_greedy_tokens"] = len({token for ids in greedy_tokens for token in ids})
        if job.program == "ours":
            measured.facts["near_ties"] = near_ties(model, prompts, greedy_tokens)
    if job.with_peak:
        measured.facts["decode_bytes_per_second"] = decode_bytes(job) / steps.seconds_a_step(
            job.lengths[1] - 1
        )
        measured.facts["copy_bytes_per_second"] = copy_bytes_per_second(job.device)
    measured.report()


class StepClock:
    """When the last pass's forwards ended; both samplers wait for the device in each, to see which rows are over.

    Args:
        device: see :func:`benchmarks.speed.flops.now`.
    """

    def __init__(self, device: str) -> None:
        self.device = device
        self._ends: list[float] = []

    def begin(self) -> None:
        """A pass begins."""
        self._ends = []

    def tick(self) -> None:
        """A forward is over."""
        self._ends.append(now(self.device))

    def seconds_a_step(self, steps: int) -> float:
        """Mean of the pass's last `steps` forwards: with rows of equal lengths, all but those of the prompts."""
        return (self._ends[-1] - self._ends[-1 - steps]) / steps


def ours(model: Any, job: Job, steps: StepClock) -> Sampler:
    """This package's sampler, as PPO and ``lit-rlhf sample`` call it; its log-probabilities are in."""
    network = PolicyNetwork(model)
    passes = iter(range(job.warm + job.steps))

    def sample(prompts: list[list[int]], limits: list[int], greedy: bool) -> list[list[int]]:
        settings = SamplingSettings(max_new_tokens=job.lengths[1], temperature=0.0 if greedy else 1.0)
        keys = counter_key(job.seed, next(passes), torch.arange(len(prompts)))
        steps.begin()
        drawn = sample_responses(
            network,
            prompts,
            settings,
            keys,
            random_rows.EOS,
            job.device,
            progress=(lambda *_: steps.tick()) if job.with_peak else None,
            limits=limits,
        )
        return drawn.response_ids

    return sample


def generate(model: Any, job: Job, steps: StepClock) -> Sampler:
    """transformers' own, all rows in one batch, padded on the left; it gives no log-probabilities.

    A prompt stands there once for each of its responses, as `num_return_sequences` makes it too.
    """

    @torch.no_grad()
    def sample(prompts: list[list[int]], limits: list[int], greedy: bool) -> list[list[int]]:
        steps.begin()
        width = max(map(len, prompts))
        stops: list[StoppingCriteria] = [Limits(limits, width)]
        if job.with_peak:
            stops.append(Ticks(steps))
        ids = torch.tensor([[random_rows.PAD] * (width - len(row)) + row for row in prompts]).to(job.device)
        settings = GenerationConfig(
            max_new_tokens=job.lengths[1],
            do_sample=not greedy,
            top_k=0,
            pad_token_id=random_rows.PAD,
            bos_token_id=random_rows.BOS,
            eos_token_id=None,
        )
        out = model.generate(
            input_ids=ids,
            attention_mask=(ids != random_rows.PAD).long(),
            generation_config=settings,
            stopping_criteria=StoppingCriteriaList(stops),
        )[:, width:]
        return [row[:limit] for row, limit in zip(out.tolist(), limits, strict=True)]

    return sample


class Ticks(StoppingCriteria):
    """Ends nothing, and tells the clock of each step.

    Args:
        steps: the clock.
    """

    def __init__(self, steps: StepClock) -> None:
        self.steps = steps

    def __call__(self, input_ids: torch.Tensor, scores: Any, **more: Any) -> Any:
        self.steps.tick()
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


if __name__ == "__main__":
    quiet()
    main()

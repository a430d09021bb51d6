"""Collectives counted on 1, 2 and 4 processes, beside what paper says of the same runs."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.scale import networks, volume
from benchmarks.scale.collectives import Tallies, sent
from benchmarks.scale.runs import LORA_RANK, PHASES, Counted, Run
from benchmarks.speed.rows import SIZES

WIDTHS = {"32-true": (4, 4, 4), "bf16-mixed": (2, 4, 4), "bf16-true": (2, 2, 2)}
"""Bytes of a layer's weight and of any other as it is gathered, and of a gradient as it is reduced."""


def runs(quick: bool) -> list[Run]:
    """Every phase on 1, 2 and 4 processes with whole weights and with parts; and on 2 with other settings."""
    size, counts = ("tiny", (1, 2)) if quick else ("A", (1, 2, 4))
    plain = [
        Run(phase, strategy, ranks, size=size)
        for phase in PHASES
        for strategy in ("ddp", "fsdp2")
        for ranks in counts
    ]
    both = [run for run in plain if run.ranks == 2]
    adapters = [replace(run, lora=True) for run in both]
    kept = [replace(run, reshard_after_forward=False) for run in both if run.strategy == "fsdp2"]
    accumulated = [replace(run, accumulate=2) for run in both if run.phase in ("sft", "ppo")]
    narrow = [
        replace(run, precision=precision)
        for run in both
        for precision in ("bf16-mixed", "bf16-true")
        if run.strategy == "fsdp2" and run.phase in ("sft", "reward", "dpo")
    ]
    whole = [replace(run, whole_while_sampling=True) for run in kept if run.phase == "ppo"]
    whole = [replace(run, reshard_after_forward=True) for run in whole]
    return [*plain, *([] if quick else [*adapters, *kept, *whole, *accumulated, *narrow])]


def on_paper(run: Run) -> Counted:
    """What the model says that :func:`benchmarks.scale.runs.count` counts; `start` is left out."""
    width, root_width, gradient_width = WIDTHS[run.precision]
    settings = volume.Settings(
        run.strategy,
        run.ranks,
        run.reshard_after_forward,
        run.accumulate,
        width,
        root_width,
        gradient_width,
        run.whole_while_sampling,
    )
    shape, lora = SIZES[run.size], LORA_RANK if run.lora else None
    policy, plain = networks.policy(shape, lora), networks.policy(shape)
    if run.phase == "ppo":
        critic = networks.scorer(shape)
        models = volume.Models(
            networks.shared_actor_critic(policy, shape) if lora else networks.actor_critic(policy, critic),
            len(policy.layers),
            plain,
            networks.scorer(shape),
        )
        rows = run.responses // run.ranks
        batches = -(-rows // run.rows)
        looks_again = 1 if run.precision == "32-true" else batches  # bf16 rounds sampling and training apart
        rollout = volume.Rollout(run.response, rows, run.rows, run.prompt, run.response, looks_again)
        collected, step = volume.steady_iteration(settings, models, rollout, run.updates)
        return Counted(step, collected, {})
    network = networks.scorer(shape, lora) if run.phase == "reward" else policy
    return Counted(volume.steady_update(settings, network, plain if run.phase == "dpo" else None), {}, {})


def ratio(counted: Tallies, paper: Tallies, ranks: int) -> float:
    """Bytes that a rank sends, counted over those on paper; 1 where neither sends any."""
    theirs, ours = sent(counted, ranks), sent(paper, ranks)
    return theirs / ours if ours else 1.0 if theirs == 0 else float("inf")

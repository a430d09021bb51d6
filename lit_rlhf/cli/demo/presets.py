"""How much of everything the demo does. No torch here: the front door reads it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Preset:
    """Sizes of one run of the demo."""

    expected: str
    """How long it takes, for the first line."""
    texts: int
    """Sentences to pretrain on."""
    demonstrations: int
    """To fine-tune on."""
    pairs: int
    """Comparisons for the reward model and DPO."""
    held_out_pairs: int
    """Comparisons to measure the reward model on."""
    evaluation_prompts: int
    """Responses that each figure is measured on."""
    best_of: tuple[int, ...]
    """n of best-of-n."""
    dpo_betas: tuple[float, ...]
    """The first is the recommended one."""
    ppo_betas: tuple[float, ...]
    """The first is the recommended one."""
    ppo_iterations: int
    """Of each PPO run with a leash."""
    free_iterations: int
    """Of the PPO run at β = 0."""
    ppo_prompts: int
    """Prompts an iteration, one response to each."""


PRESETS = {
    "quick": Preset(
        expected="under five minutes",
        texts=16_000,
        demonstrations=6_000,
        pairs=8_000,
        held_out_pairs=1_000,
        evaluation_prompts=512,
        best_of=(4, 16),
        dpo_betas=(0.45, 0.15),
        ppo_betas=(0.2, 0.05),
        ppo_iterations=110,
        free_iterations=60,
        ppo_prompts=128,
    ),
    "full": Preset(
        expected="under ten minutes",
        texts=24_000,
        demonstrations=6_000,
        pairs=8_000,
        held_out_pairs=2_000,
        evaluation_prompts=1_024,
        best_of=(2, 4, 8, 16),
        dpo_betas=(0.45, 1.0, 0.15),
        ppo_betas=(0.2, 0.5, 0.05),
        ppo_iterations=110,
        free_iterations=80,
        ppo_prompts=128,
    ),
}

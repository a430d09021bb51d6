"""The details of PPO, each changed alone in the demo world: which of them mattered here?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.ppo_studies.evaluation import demo_evaluator, load_policy
from benchmarks.ppo_studies.fits import AT_THE_END, DEMO, RESPONSES, Run, optimise
from benchmarks.ppo_studies.starts import Starts
from benchmarks.reward_studies.cells import Cells, Job, Result
from lit_rlhf.rollout.shaping import ScoreShaping

NAME = "ablation"
ITERATIONS = 40
BASELINE = "all"
REWARD_MODEL = "the reward model"
"""Stands for its folder, which a seed gives."""

Changes = Mapping[str, Any]
_NO_CRITIC: Changes = {"critic_learning_rate": None}
ARMED: Mapping[str, tuple[str, Changes]] = {
    "all": ("baseline", {}),
    "no_advantage_whitening": ("advantages not whitened", {"whiten_advantages": False}),
    "no_value_clip": ("values not clipped", {"value_clip_range": None}),
    "critic_from_reward": ("critic starts as the reward model", {"critic": REWARD_MODEL}),
    "critic_warmup": ("critic alone for 5 iterations", {"critic_warmup": 5}),
    "critic_slow": ("critic learns at the policy's rate", {"critic_learning_rate": None}),
    "no_critic": ("no critic: REINFORCE with the mean", {"advantage": "reinforce", **_NO_CRITIC}),
    "lambda_1": ("λ = 1", {"lam": 1.0}),
    "lambda_0.5": ("λ = 0.5", {"lam": 0.5}),
    "clip_wide": ("clip range 10", {"clip_range": 10.0}),
    "epochs_1": ("1 pass over a rollout", {"epochs": 1}),
    "epochs_4": ("4 passes over a rollout", {"epochs": 4}),
    "adaptive_kl": ("β adapted to 2 nats", {"kl_target": 2.0, "kl_horizon": 1000}),
    "k2_in_loss": ("k2 in the loss", {"kl_in": "loss", "kl_estimator": "k2"}),
    "sequence_level": ("responses as one action", {"level": "sequence"}),
    "reward_scale_clip": (
        "scores scaled by running moments, clipped at ±3",
        {"shaping": ScoreShaping(missing_eos_score=-3.0, scale="mean_std", clip=3.0)},
    ),
    "reward_whitening": ("token rewards whitened", {"whiten_rewards": True}),
    "no_missing_eos": ("a missing EOS costs nothing", {"shaping": None}),
    "entropy_bonus": ("entropy bonus 0.01", {"entropy_coef": 0.01}),
    "adam_epsilon": ("Adam's ε 1e-8 in place of 1e-5", {"epsilon": 1e-8}),
    "annealed": ("learning rates fall to 0", {"anneal": True}),
    "no_gradient_clip": ("gradients not clipped", {"gradient_clip": None}),
}
"""Each arm's meaning, and what it changes of the demo's settings."""

ARMS = {arm: meaning for arm, (meaning, _) in ARMED.items()}
METRICS = {
    "gold": "gold",
    "objective": "score − 0.2·KL",
    "score": "score",
    "kl": "KL",
    "grammar": "grammar",
    "entropy": "entropy",
    "seconds": "CPU s",
}
COMPARED = ("gold", "objective", "kl", "grammar")
DRAWN = ("gold", "objective", "kl", "grammar")
FINDINGS: tuple[str, ...] = (
    "Where the KL is priced matters by far the most: k2 in the loss at the same β goes to three times the "
    "KL. It gains more gold there and loses 0.045 of grammar: another, smaller price, whose β has to be "
    "searched for anew.",
    "What scales the reward moves the price of KL with it: running moments go further (gold +0.32, KL "
    "+0.8), whitened token rewards less far (gold −0.20, grammar +0.02). Neither makes a better trade that "
    "could be seen: score − 0.2·KL stays.",
    "Three arms have learned less after so many samples: one pass in place of two, λ = 0.5 (0.04 each in "
    "score − 0.2·KL) and rates that fall to 0 (0.03).",
    "A clip range of 10 and the entropy bonus add 0.2 nats and change nothing else that could be seen.",
    "The others make no difference that could be seen, within 0.02 of score − 0.2·KL on the mean: whitened "
    "advantages, value clip, where the critic starts, its warm-up and rate, λ = 1, four passes, adaptive "
    "β, Adam's ε, gradient clipping, responses as one action. Nor does having a critic at all: REINFORCE "
    "with the mean does as well in two thirds of the CPU time.",
    "What a missing EOS costs cannot show where nearly every response ends by itself.",
    "That says something of short responses, a small policy and a leash that holds; with β = 0, long "
    "responses or a reward that is hard to get it may be otherwise.",
)
HOW = (
    f"Baseline: the demo's settings with constant learning rates, β = 0.2 in the reward (k1), {ITERATIONS} "
    f"iterations of {RESPONSES} responses, two passes in minibatches of 64, AdamW at 5e-4 (critic 1e-3, ε "
    "1e-5), gradients clipped at 1, GAE with λ = 0.95, advantages whitened over the rollout, clip range "
    "0.2, values clipped at 0.5 with weight 0.5, a critic of its own that starts as the policy with a head "
    "of zeros, a score of −3 without an EOS. Every arm changes one of these; a difference is paired by "
    f"seed. Measured on {AT_THE_END:,} responses to the same prompts. “score − 0.2·KL” is what the baseline "
    "maximises; arms that price the KL otherwise maximise something else."
)


def jobs(seeds: list[int]) -> list[Job]:
    return [Job(NAME, "demo", "one_at_a_time", seed) for seed in seeds]


def run(job: Job, starts: Starts, cells: Cells) -> None:
    """All arms of a seed."""
    demo, seed = starts.demo(job.seed), job.seed
    evaluator = demo_evaluator(demo)
    sft = demo / "runs" / "sft" / "export"
    cells.once("sft", lambda: evaluator.measure(load_policy(sft), AT_THE_END, seed, 41))

    def once(arm: str, changes: Changes) -> None:
        def work() -> Result:
            return outcome(trained(starts, seed, evaluator, changes), evaluator, seed)

        cells.once(arm, work)

    for arm, (_, changes) in ARMED.items():
        once(arm, changes)


def trained(starts: Starts, seed: int, evaluator: Any, changes: Changes) -> Run:
    """The run of one arm."""
    demo = starts.demo(seed)
    reward = str(demo / "runs" / "reward" / "export")
    settings = {**DEMO, **changes}
    if settings.get("critic") == REWARD_MODEL:
        settings["critic"] = reward
    return optimise(
        demo / "runs" / "sft" / "export",
        demo / "data" / "prompts.jsonl",
        evaluator,
        2 if starts.quick else ITERATIONS,
        seed,
        every=10,
        reward=reward,
        **settings,
    )


def outcome(run: Run, evaluator: Any, seed: int) -> Result:
    """What the policy is worth, and what it went for."""
    numbers: dict[str, Any] = dict(evaluator.measure(run.policy, AT_THE_END, seed, 41))
    numbers["objective"] = round(numbers["score"] - DEMO["kl_coef"] * numbers["kl"], 5)
    return {**numbers, "seconds": round(run.cpu_seconds, 2), "curve": run.points, "logged": run.logged}

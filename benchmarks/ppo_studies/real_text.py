"""Restaurant descriptions against a weak reward model: where the gold reward peaks, and what an ensemble changes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from benchmarks.ppo_studies.evaluation import Evaluator, Numbers, load_policy, real_evaluator
from benchmarks.ppo_studies.fits import ON_THE_WAY, optimise
from benchmarks.ppo_studies.starts import COMPARISONS, FLIP_RATE, MEMBERS, RESPONSE_TOKENS, SAMPLES, Starts
from benchmarks.reward_studies.cells import Cells, Job, Result
from lit_rlhf.metrics.best_of_n import best_of_n_kl
from lit_rlhf.rollout.shaping import ScoreShaping

NAME = "real_text"
ITERATIONS = 32
SEEDS = 2
RESPONSES, MEASURED = 128, 800
"""Of an iteration, and of a measurement at the end: 100 held-out prompts, eight responses each."""
EVERY = 4
BEST_OF = (2, 4, 8, 16)

ENSEMBLE = "mean − std of four"
ARMED: Mapping[str, tuple[str, float, bool]] = {
    "single-0": ("one reward model, β = 0", 0.0, False),
    "ensemble-0": (f"{ENSEMBLE}, β = 0", 0.0, True),
    "single-0.05": ("one reward model, β = 0.05", 0.05, False),
    "ensemble-0.05": (f"{ENSEMBLE}, β = 0.05", 0.05, True),
}
"""Meaning, β, and whether the reward is the ensemble's."""
ARMS = {
    "sft": "SFT",
    **{f"best_of_{n}": f"best of {n} by one reward model" for n in BEST_OF},
    **{arm: meaning for arm, (meaning, _, _) in ARMED.items()},
}
METRICS = {
    "gold": "gold at the end",
    "kl": "KL at the end",
    "score": "score it was trained on",
    "score_0": "first reward model",
    "score_mean": "mean of four",
    "length": "tokens",
    "distinct": "distinct",
    "seconds": "CPU s",
}
FINDINGS: tuple[str, ...] = (
    "Over-optimisation is plain: with β = 0 the gold rises from 0.75 to 0.82 within 4 nats, is back at its "
    "start by about 17, and ends at 0.40 while the reward model's score goes on rising from −0.2 to 4.2.",
    "Mean − std over four reward models moves the peak out and keeps more at the same distance (0.81 "
    "against 0.76 at 16 nats, 0.73 against 0.65 at 32), but does not prevent it: unleashed, it too ends at "
    "0.43. By then all four members are fooled alike.",
    "Ensemble and leash together are what worked: with β = 0.05 the single model still falls to 0.71, the "
    "ensemble stays between 0.82 and 0.87 for the whole run and ends at 0.85.",
    "Best of n by the single model gives 0.84 at 1.2 nats (n = 8), more than any run at its first measurement "
    "(0.81 to 0.82 at 2.5 to 3.6 nats); n = 16 gains no more.",
    "One seed: the order of the runs is clear at these sizes, its second decimals are not.",
)
HOW = (
    "`prompts_e2e`: a small Llama, fine-tuned on `demos_e2e` alone (four epochs). Gold is the share of a "
    f"prompt's facts that a response states (`benchmarks/slot_coverage.py`). {SAMPLES} samples of the SFT "
    f"policy to each training prompt give the pairs that differ in gold; {FLIP_RATE:.0%} of them are turned "
    f"round, and each of {MEMBERS} reward models learns from {COMPARISONS} of them drawn anew, with scores "
    "of unit variance, so that the members are on one scale. The single model is the first member. "
    f"{ITERATIONS} iterations of {RESPONSES} responses of at most {RESPONSE_TOKENS} tokens, two passes, "
    "minibatches of 64, learning rate 3e-4 (critic 1e-3), a response without an EOS scores −3. Measured on "
    f"the 100 prompts held out, {MEASURED // 100} responses each at the end, {ON_THE_WAY} in all every "
    f"{EVERY} iterations."
)


def jobs(seeds: list[int]) -> list[Job]:
    return [Job(NAME, "prompts_e2e", "weak_reward", seed) for seed in seeds if seed < SEEDS]


def run(job: Job, starts: Starts, cells: Cells) -> None:
    """All arms of a seed."""
    real, seed = starts.real(job.seed), job.seed
    evaluator = real_evaluator(real, MEMBERS, RESPONSE_TOKENS)

    def sft() -> Result:
        policy = load_policy(real / "sft")
        parameters = sum(p.numel() for p in policy.parameters())
        return {**with_mean(evaluator.measure(policy, MEASURED, seed, 41)), "parameters": parameters}

    cells.once("sft", sft)
    cells.once("best_of_n", lambda: best_of_n(evaluator, real / "sft", seed))
    for arm, (_, beta, several) in ARMED.items():
        cells.once(
            arm,
            lambda beta=beta, several=several: _ppo(starts, evaluator, beta, several, seed),  # type: ignore[misc]
        )


def _ppo(starts: Starts, evaluator: Evaluator, beta: float, several: bool, seed: int) -> Result:
    real = starts.real(seed)
    members = [str(real / f"reward-{member}") for member in range(MEMBERS)]
    run = optimise(
        real / "sft",
        real / "files" / "prompts_train.jsonl",
        evaluator,
        2 if starts.quick else ITERATIONS,
        seed,
        every=1 if starts.quick else EVERY,
        learning_rate=3e-4,
        prompts_an_iteration=RESPONSES,
        reward={"ensemble": members, "combine": "mean_minus_std", "k": 1.0} if several else members[0],
        gold_reward="benchmarks.slot_coverage.slot_coverage",
        kl_coef=beta,
        epochs=2,
        minibatch_size=64,
        max_new_tokens=RESPONSE_TOKENS,
        value_coef=0.5,
        value_clip_range=0.5,
        critic_learning_rate=1e-3,
        shaping=ScoreShaping(missing_eos_score=-3.0),
    )
    end = with_mean(evaluator.measure(run.policy, MEASURED, seed, 41))
    return {
        **end,
        "score": run.logged[-1]["score"],
        "seconds": round(run.cpu_seconds, 2),
        "curve": run.points,
        "logged": run.logged,
    }


def with_mean(numbers: Numbers) -> Numbers:
    """With what the reward models say on average."""
    scores = [value for name, value in numbers.items() if re.fullmatch(r"score_\d+", name)]
    return {**numbers, "score_mean": round(sum(scores) / len(scores), 5)}


def peak(curve: Sequence[Numbers]) -> Numbers:
    """The measurement on the way with the highest gold."""
    return max(curve, key=lambda point: point["gold"])


def best_of_n(evaluator: Evaluator, sft: Path, seed: int) -> Result:
    """For each n the means of the responses that the first reward model likes best of n."""
    policy = load_policy(sft)
    rounds = [evaluator.draw(policy, MEASURED, seed, 51, number).values for number in range(max(BEST_OF))]
    scores = torch.stack([values["score_0"] for values in rounds])
    points = {}
    for n in BEST_OF:
        best = scores[:n].argmax(0, keepdim=True)
        chosen = {
            name: torch.stack([values[name].float() for values in rounds]).gather(0, best).mean().item()
            for name in ("gold", "length", *evaluator.rewards)
        }
        kl = best_of_n_kl(n)
        points[f"best_of_{n}"] = with_mean(
            {**{k: round(v, 5) for k, v in chosen.items()}, "kl": round(kl, 5)}
        )
    return {"points": points}

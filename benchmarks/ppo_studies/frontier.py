"""What each method gains in the demo world, and how far from the SFT policy it goes for it, at equal samples."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.ppo_studies.evaluation import Evaluator, Numbers, demo_evaluator, load_policy
from benchmarks.ppo_studies.fits import AT_THE_END, DEMO, RESPONSES, Run, optimise, optimise_directly
from benchmarks.ppo_studies.starts import Starts
from benchmarks.prepare import read, write
from benchmarks.reward_studies.cells import Cells, Job, Result
from lit_rlhf.metrics.best_of_n import best_of_n_kl

NAME = "frontier"
ITERATIONS = 110
"""Of 128 responses: 14,080 a run, as many as there are in DPO's 7,040 pairs."""
EVERY_SEED = ("ppo-0.2", "ppo-0.2-annealed")
"""Arms that all seeds run; the others stop after `SEEDS`."""
SEEDS = 1
GROUP = 4
BEST_OF = (2, 4, 8, 16, 32)

_GROUPED: Mapping[str, Any] = {"samples_per_prompt": GROUP, "critic_learning_rate": None}
PPO: Mapping[str, Mapping[str, Any]] = {
    "ppo-0.2": {},
    "ppo-0.2-annealed": {"anneal": True},
    "ppo-0.05": {"kl_coef": 0.05},
    "ppo-0.5": {"kl_coef": 0.5},
    "ppo-adaptive": {"kl_target": 3.0, "kl_horizon": 1000},
    "ppo-0": {"kl_coef": 0.0},
    "rloo-0.2": {"advantage": "rloo", **_GROUPED},
    "reinforce-0.2": {"advantage": "reinforce", "baseline": "mean", "critic_learning_rate": None},
    "grpo-0.04": {"advantage": "grpo", "kl_in": "loss", "kl_estimator": "k3", "kl_coef": 0.04, **_GROUPED},
    "grpo-0.2": {"advantage": "grpo", "kl_in": "loss", "kl_estimator": "k3", **_GROUPED},
    "grpo-1": {"advantage": "grpo", "kl_in": "loss", "kl_estimator": "k3", "kl_coef": 1.0, **_GROUPED},
    "dr_grpo-0.2": {"advantage": "dr_grpo", "loss_mean": "max_length", **_GROUPED},
}
"""What each arm changes of the demo's settings."""
DPO_BETAS = (1.0, 0.45, 0.15)

ARMS = {
    "sft": "SFT",
    **{f"best_of_{n}": f"best of {n}" for n in BEST_OF},
    **{f"dpo-{beta:g}": f"DPO, β = {beta:g}" for beta in DPO_BETAS},
    "ppo-0.5": "PPO, β = 0.5",
    "ppo-0.2": "PPO, β = 0.2",
    "ppo-0.2-annealed": "PPO, β = 0.2, rates fall to 0",
    "ppo-adaptive": "PPO, β held to 3 nats",
    "ppo-0.05": "PPO, β = 0.05",
    "ppo-0": "PPO, β = 0",
    "rloo-0.2": "RLOO, β = 0.2",
    "reinforce-0.2": "REINFORCE, mean baseline, β = 0.2",
    "grpo-1": "GRPO, k3 in the loss, β = 1",
    "grpo-0.2": "GRPO, k3 in the loss, β = 0.2",
    "grpo-0.04": "GRPO, k3 in the loss, β = 0.04",
    "dr_grpo-0.2": "Dr. GRPO, k1 in the reward, β = 0.2",
}
METRICS = {
    "gold": "gold",
    "score": "score",
    "grammar": "grammar",
    "kl": "KL",
    "entropy": "entropy",
    "length": "tokens",
    "distinct": "distinct",
    "seconds": "CPU s",
}
FINDINGS: tuple[str, ...] = (
    "Methods that price KL in the reward end at one place: at β = 0.2 PPO, RLOO, REINFORCE and Dr. GRPO "
    "come to a KL of 2.0 to 2.4 and a score of 1.22 to 1.29 (seed 0). Those without a critic take two "
    "thirds of the CPU time.",
    "PPO at β = 0.2 keeps its grammar on every seed, with constant learning rates and with rates that fall "
    "to 0; at β = 0.05 it gains more gold (2.38) and loses 0.04 of grammar; at β = 0 the score rises to "
    "2.10 while gold falls to −3.99 and no sentence is left. β = 0.05 is not safe everywhere: on seed 1 the "
    "grammar fell to 0.58 (study trl).",
    "A β adapted to 3 nats ends at 2.8, between β = 0.2 and 0.05, as it should.",
    "GRPO's β is no price in units of the score: its 0.04 from the literature lets the policy go to 68 "
    "nats and lose the language, 0.2 gives a worse trade than PPO (gold 1.11 at KL 5.0, grammar 0.78), 1 "
    "holds it at 0.3 nats. It has to be searched for.",
    "Best of n by the same reward model is ahead at small KL (gold 0.97 at 0.6 nats, n = 4; PPO at β = 0.5 "
    "has 0.93 at 0.9) and level with PPO further out (1.68 at 1.8 nats and 1.92 at 2.5, against 1.80 at "
    "2.0). It keeps the grammar, and pays n times at each use.",
    "DPO costs a fifth of PPO's CPU time and is behind at equal KL: gold 0.80 at KL 1.0 and 1.08 at 2.1, "
    "where PPO has 0.93 at 0.9 and 1.80 at 2.0. It loses 0.07 to 0.13 of grammar, on-policy methods at "
    "that KL 0.04 at the most.",
)
HOW = (
    f"Every trained policy has seen {ITERATIONS * RESPONSES:,} sampled responses: {ITERATIONS} iterations "
    f"of {RESPONSES} (RLOO, GRPO and Dr. GRPO: {RESPONSES // GROUP} prompts with {GROUP} responses each), "
    "two passes, minibatches of 64, learning rate 5e-4 for the policy and 1e-3 for a critic; DPO the "
    f"{ITERATIONS * RESPONSES // 2:,} first of the reward model's own pairs, once, at 5e-4. Best of n draws "
    "n responses of the SFT policy when it is used and trains nothing; its KL is log n − (n − 1)/n. GRPO "
    "divides a group's scores by their standard deviation and has its KL in the loss, so its β is no price "
    "in the same unit. The adaptive β starts at 0.2 with a horizon of 1,000 responses. Measured on "
    f"{AT_THE_END:,} responses to the same prompts; CPU seconds are those of the fit (of best of n: of "
    "drawing and scoring so many for one prompt each of the evaluation)."
)


def jobs(seeds: list[int]) -> list[Job]:
    return [Job(NAME, "demo", "equal_samples", seed) for seed in seeds]


def run(job: Job, starts: Starts, cells: Cells) -> None:
    """All arms of a seed."""
    demo, seed = starts.demo(job.seed), job.seed
    evaluator = demo_evaluator(demo)
    sft = demo / "runs" / "sft" / "export"
    few = starts.quick
    cells.once("sft", lambda: evaluator.measure(load_policy(sft), AT_THE_END, seed, 41))
    for arm, changes in PPO.items():
        if seed < SEEDS or arm in EVERY_SEED:
            cells.once(arm, lambda changes=changes: _ppo(starts, seed, evaluator, changes))  # type: ignore[misc]
    if seed >= SEEDS:
        return
    cells.once("best_of_n", lambda: best_of_n(evaluator, sft, seed))
    pairs, count = demo / "data" / "pairs.jsonl", 128 if few else ITERATIONS * RESPONSES // 2
    some = demo / "data" / "pairs_of_dpo.jsonl"
    write(some, read(pairs)[:count])
    for beta in DPO_BETAS:
        cells.once(
            f"dpo-{beta:g}",
            lambda beta=beta: finished(  # type: ignore[misc]
                optimise_directly(sft, some, count, beta, 5e-4, seed), evaluator, seed
            ),
        )


def _ppo(starts: Starts, seed: int, evaluator: Evaluator, changes: Mapping[str, Any]) -> Result:
    demo = starts.demo(seed)
    settings = {**DEMO, **changes}
    run = optimise(
        demo / "runs" / "sft" / "export",
        demo / "data" / "prompts.jsonl",
        evaluator,
        4 if starts.quick else ITERATIONS,
        seed,
        every=2 if starts.quick else 10,
        prompts_an_iteration=RESPONSES // settings.get("samples_per_prompt", 1),
        reward=str(demo / "runs" / "reward" / "export"),
        **settings,
    )
    return finished(run, evaluator, seed)


def finished(run: Run, evaluator: Evaluator, seed: int) -> Result:
    """What a run has come to, and its way."""
    numbers: dict[str, Any] = dict(evaluator.measure(run.policy, AT_THE_END, seed, 41))
    return {**numbers, "seconds": round(run.cpu_seconds, 2), "curve": run.points, "logged": run.logged}


def best_of_n(evaluator: Evaluator, sft: Path, seed: int) -> Result:
    """For each n the means of the responses that the reward model likes best of n; their seconds are added up."""
    policy, begun = load_policy(sft), time.process_time()
    rounds, seconds = [], []
    for number in range(max(BEST_OF)):
        rounds.append(evaluator.draw(policy, AT_THE_END, seed, 51, number).values)
        seconds.append(time.process_time() - begun)
    scores = torch.stack([values["score"] for values in rounds])
    points: dict[str, Numbers] = {}
    for n in BEST_OF:
        best = scores[:n].argmax(0, keepdim=True)
        chosen = {
            name: torch.stack([values[name].float() for values in rounds]).gather(0, best).mean().item()
            for name in ("gold", "grammar", "score", "length")
        }
        kl = best_of_n_kl(n)
        points[f"best_of_{n}"] = {**{k: round(v, 5) for k, v in chosen.items()}, "kl": round(kl, 5)}
        points[f"best_of_{n}"]["seconds"] = round(seconds[n - 1], 2)
    return {"points": points}

"""What PPO forgets of the language it was pretrained on, and what a pretraining mix (PPO-ptx) keeps."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch

from benchmarks.ppo_studies.evaluation import CHUNK, Evaluator, Numbers, demo_evaluator, load_policy
from benchmarks.ppo_studies.fits import AT_THE_END, DEMO, RESPONSES, optimise
from benchmarks.ppo_studies.starts import Starts
from benchmarks.prepare import read
from benchmarks.reward_studies.cells import Cells, Job, Result
from lit_rlhf.data.trees import pack_trees, plant_tree
from lit_rlhf.models.policy import PolicyNetwork
from lit_rlhf.modules.pretraining_mix import PretrainingMix
from lit_rlhf.ops.noise import counter_key
from lit_rlhf.records import Row
from lit_rlhf.rollout.sampling import sample_responses
from lit_rlhf.world.grammar import grammatical

NAME = "ptx"
ITERATIONS = 60
SEEDS = 2
BETA = 0.05
COEFFICIENTS = (0.0, 0.1, 1.0, 27.8)
DEARER = (0.2, 0.5)
"""β of PPO alone at which less is gained and less forgotten, to hold the mix against."""
ROWS = 64
"""Pretraining rows beside a minibatch of 64 responses."""
BASELINE = "ptx-0"
ARMS = {
    "pretrained": "pretrained model",
    "sft": "SFT",
    **{f"ptx-{coef:g}": f"PPO, γ = {coef:g}" if coef else "PPO alone" for coef in COEFFICIENTS},
    **{f"beta-{beta:g}": f"PPO alone, β = {beta:g}" for beta in DEARER},
}
METRICS = {
    "perplexity": "perplexity of held-out text",
    "text_grammar": "grammar of text",
    "gold": "gold",
    "score": "score",
    "kl": "KL",
    "grammar": "grammar of responses",
    "seconds": "CPU s",
}
COMPARED = ("perplexity", "gold", "score", "kl", "grammar")
FINDINGS: tuple[str, ...] = (
    "PPO at β = 0.05 forgets: perplexity of held-out text goes from 5.6 to 12.8, and of the texts that it "
    "writes without a prompt 80 % are sentences in place of 93 %, while its responses lose 4 points of "
    "grammar.",
    "A mix with γ = 0.1 keeps most of it (7.8, 90 %) for 0.09 of the score and none of the gold; γ = 1 "
    "keeps nearly all (5.9, 92 %) and costs two fifths of the gain in score. InstructGPT's 27.8 is too "
    "much where both losses are means per token: nothing is gained.",
    "A larger price of KL is no substitute, as InstructGPT found: at β = 0.5 the policy gains less than "
    "with γ = 1 (score 0.82 against 0.99) and writes worse text (perplexity 6.3 against 5.9, 77 % "
    "sentences against 92 %); β = 0.2 gains less than γ = 0.1 (1.18 against 1.50) at about its perplexity "
    "(7.4 against 7.8) and writes worse text too (86 % against 90 %).",
    "Of seed 0; of seed 1 only PPO alone was run.",
)
HOW = (
    f"The demo's settings with β = {BETA:g}, where PPO goes far, {ITERATIONS} iterations of {RESPONSES} "
    f"responses. Beside every minibatch of 64 responses, {ROWS} sentences that the model was pretrained on, "
    "weighted with γ (27.8 is InstructGPT's). Perplexity is per token on 500 sentences of the same kind "
    "that nothing was trained on, half of them behind a heading; grammar of text is the share of correct "
    "sentences among 1,024 drawn behind the BOS alone, without a prompt, a heading in front taken off."
)


def jobs(seeds: list[int]) -> list[Job]:
    return [Job(NAME, "demo", "pretraining_mix", seed) for seed in seeds if seed < SEEDS]


def run(job: Job, starts: Starts, cells: Cells) -> None:
    """All arms of a seed."""
    demo, seed = starts.demo(job.seed), job.seed
    evaluator = demo_evaluator(demo)
    for arm in ("pretrained", "sft"):
        folder = demo / "runs" / arm.replace("pretrained", "pretrain") / "export"
        cells.once(arm, lambda folder=folder: look(load_policy(folder), evaluator, demo, seed))  # type: ignore[misc]
    for coef in COEFFICIENTS:
        cells.once(f"ptx-{coef:g}", lambda coef=coef: _mixed(starts, evaluator, coef, BETA, seed))  # type: ignore[misc]
    for beta in DEARER:
        cells.once(f"beta-{beta:g}", lambda beta=beta: _mixed(starts, evaluator, 0.0, beta, seed))  # type: ignore[misc]


def _mixed(starts: Starts, evaluator: Evaluator, coef: float, beta: float, seed: int) -> Result:
    demo = starts.demo(seed)
    mix = PretrainingMix(str(demo / "data" / "texts.jsonl"), coef, ROWS, max_tokens=32) if coef else None
    run = optimise(
        demo / "runs" / "sft" / "export",
        demo / "data" / "prompts.jsonl",
        evaluator,
        2 if starts.quick else ITERATIONS,
        seed,
        reward=str(demo / "runs" / "reward" / "export"),
        pretraining=mix,
        **{**DEMO, "kl_coef": beta},
    )
    numbers: dict[str, Any] = dict(look(run.policy, evaluator, demo, seed))
    return {**numbers, "seconds": round(run.cpu_seconds, 2), "curve": run.points}


def look(policy: PolicyNetwork, evaluator: Evaluator, demo: Path, seed: int) -> Numbers:
    """What the policy answers, and what it still knows of text."""
    policy.eval()
    return {
        **evaluator.measure(policy, AT_THE_END, seed, 41),
        "perplexity": round(perplexity(policy, evaluator, demo / "data" / "validation_texts.jsonl"), 4),
        "text_grammar": round(text_grammar(policy, evaluator, AT_THE_END, seed), 4),
    }


@torch.no_grad()
def perplexity(policy: PolicyNetwork, evaluator: Evaluator, texts: Path) -> float:
    """exp of the mean loss a token of a text file, the EOS counted."""
    trees = [plant_tree(Row("", [row["text"]], is_text=True), evaluator.encoder)[0][0] for row in read(texts)]
    total, count = 0.0, 0
    for start in range(0, len(trees), CHUNK):
        packed = pack_trees(trees[start : start + CHUNK])
        total -= policy(packed).logprobs.sum().item()
        count += int(packed.response_grid_mask().sum())
    return math.exp(total / count)


def text_grammar(policy: PolicyNetwork, evaluator: Evaluator, count: int, seed: int) -> float:
    """The share of correct sentences among texts drawn behind the BOS."""
    encoder = evaluator.encoder
    bos = encoder.tokenizer.bos_token_id
    keys = counter_key(seed, 61, torch.arange(count))
    drawn = sample_responses(policy, [[bos]] * count, evaluator.settings, keys, encoder.eos_token_id)
    correct = [
        not cut and grammatical(encoder.decode(ids).split("|")[-1].split())
        for ids, cut in zip(drawn.response_ids, drawn.truncated.tolist(), strict=True)
    ]
    return sum(correct) / count

"""Files for runs on several ranks: uneven rows, batches that do not divide, tiny models as folders."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import torch

from lit_rlhf import RewardModule
from tests.conftest import make_llama, make_tokenizer

WORDS = [
    "the",
    "soup",
    "cake",
    "train",
    "lamp",
    "hotel",
    "is",
    "looks",
    "tasty",
    "fresh",
    "late",
    "and",
    "a",
    ".",
]
ROWS = 26
"""In batches of 7 the last has 5; with `accumulate_grad_batches` 3 the last window has one batch."""


def text(draw: Random, least: int, most: int) -> str:
    """So many words."""
    return " ".join(draw.choice(WORDS) for _ in range(draw.randint(least, most)))


def small_ids(
    prompts: list[str], completions: list[str], completion_ids: list[list[int]], **columns: Any
) -> list[float]:
    """A reward that tokens alone decide: the share of ids under 150."""
    return [sum(token < 150 for token in ids) / len(ids) for ids in completion_ids]


def many_letters(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
    """What an annotator can see."""
    return [float(len(text)) for text in completions]


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def prepare(folder: Path) -> None:
    """All files of the matrix, made from fixed seeds."""
    draw = Random(7)
    write(
        folder / "demonstrations.jsonl",
        [
            {"prompt": text(draw, 1, 8), "response": " " + text(draw, 1, 12), "id": f"d{n}"}
            for n in range(ROWS)
        ],
    )
    write(
        folder / "pairs.jsonl",
        [
            {
                "prompt": f"{n} {text(draw, 1, 8)}",
                "chosen": f" {n} {text(draw, 1, 12)}",
                "rejected": " " + text(draw, 1, 12),
                "domain": "ab"[n % 2],
                "id": f"p{n}",
            }
            for n in range(ROWS)
        ],
    )
    rankings = []
    for n in range(ROWS):
        count = draw.randint(2, 5)
        rankings.append(
            {
                "prompt": f"{n} {text(draw, 1, 8)}",
                "responses": [f" {number} {text(draw, 1, 10)}" for number in range(count)],
                "ranks": draw.sample(range(1, count + 1), count),
                "id": f"r{n}",
            }
        )
    write(folder / "rankings.jsonl", rankings)
    write(folder / "prompts.jsonl", [{"prompt": text(draw, 1, 8), "id": f"q{n}"} for n in range(11)])
    write(folder / "texts.jsonl", [{"text": text(draw, 2, 14)} for _ in range(9)])
    tokenizer = make_tokenizer()
    for name, seed in (("model", 0), ("other", 1)):
        model = make_llama(tokenizer, seed)
        with torch.no_grad():
            model.lm_head.weight[tokenizer.eos_token_id] *= 4  # responses end at different times
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    for name, seed in (("reward", 2), ("other-reward", 3)):
        RewardModule(make_llama(tokenizer, seed), tokenizer=tokenizer, seed=seed).export(folder / name)

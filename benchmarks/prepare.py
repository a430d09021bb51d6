"""The files that the real-text runs need beside those of the data folder, made from training files alone."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

HELD_OUT_PROMPTS = 100
"""Prompts that PPO does not train on."""
SAMPLES_PER_PROMPT = 4
"""Rows of each held-out prompt in the file that responses are drawn to."""
DEVELOPMENT_DEBATES = 3
"""Debate prompts of the training file that decide when to stop, so that no argument stands on both sides."""


def prepare(data: Path, out: Path) -> dict[str, int]:
    """Write the files into `out` and return their rows.

    ``pretrain_pairs.jsonl`` has each distinct argument of ``pairs_ukp_convarg`` and each transcript of
    ``pairs_hh_harmless`` with its two endings, both sides alike, so nothing in it says which was preferred.
    ``ukp_train`` and ``ukp_dev`` part the debates. ``prompts_val`` holds every prompt of the SFT validation file
    file, which SFT has not seen, and others that only PPO has not; ``prompts_sampled`` repeats its rows.
    """
    out.mkdir(parents=True, exist_ok=True)
    ukp = read(data / "pairs_ukp_convarg" / "train.jsonl")
    hh = read(data / "pairs_hh_harmless" / "train.jsonl")
    arguments = dict.fromkeys(row[side] for row in ukp for side in ("chosen", "rejected"))
    endings = (row["prompt"] + row[side] for row in hh for side in ("chosen", "rejected"))
    debates = list(dict.fromkeys(row["prompt"] for row in ukp))[-DEVELOPMENT_DEBATES:]
    unseen = {row["prompt"] for row in read(data / "demos_e2e" / "valid.jsonl")}
    prompts = read(data / "prompts_e2e" / "train.jsonl")
    for row in prompts:
        row["seen_in_sft"] = row["prompt"] not in unseen
    random.Random(0).shuffle(prompts)  # the file goes by restaurant
    prompts.sort(key=lambda row: row["seen_in_sft"], reverse=True)  # stable: the unseen ones come last
    return {
        name: write(out / f"{name}.jsonl", rows)
        for name, rows in {
            "pretrain_pairs": [{"text": text} for text in dict.fromkeys([*arguments, *endings])],
            "ukp_train": [row for row in ukp if row["prompt"] not in debates],
            "ukp_dev": [row for row in ukp if row["prompt"] in debates],
            "prompts_train": prompts[:-HELD_OUT_PROMPTS],
            "prompts_val": prompts[-HELD_OUT_PROMPTS:],
            "prompts_sampled": prompts[-HELD_OUT_PROMPTS:] * SAMPLES_PER_PROMPT,
        }.items()
    }


def read(file: Path) -> list[dict[str, Any]]:
    """The rows of a JSONL file."""
    with open(file, encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def write(file: Path, rows: Iterable[dict[str, Any]]) -> int:
    """Write rows as JSONL; returns how many."""
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    file.write_text("".join(lines), encoding="utf-8")
    return len(lines)

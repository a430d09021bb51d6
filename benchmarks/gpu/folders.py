"""Random models in Hugging Face layout, and files of rows that are exactly as long as they may be."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import torch

from benchmarks.scale.networks import SHAPE_8B
from benchmarks.speed import rows as random_rows

SHAPES = {"A": random_rows.SIZES["A"], "1B": random_rows.SIZES["1B"], "8B": SHAPE_8B}
ROWS = 256
SPECIAL = 3
"""Ids that are no words."""


def model_folder(work: Path, size: str, kind: str, device: str) -> Path:
    """A random Llama in bf16, made where it is not there yet: ``policy``, or a ``reward`` model.

    Args:
        work: the folder that it is put into.
        size: a key of :data:`SHAPES`.
        kind: with a language-model head or a scalar one.
        device: where its weights are drawn.
    """
    folder = work / "models" / f"{size}-{kind}"
    if folder.exists():
        return folder
    from transformers import LlamaForCausalLM, LlamaForSequenceClassification

    shape = SHAPES[size]
    random_rows.SIZES.setdefault(size, shape)
    config = random_rows.config(size, num_labels=1)
    torch.manual_seed(0)
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            made = (LlamaForCausalLM if kind == "policy" else LlamaForSequenceClassification)(config)
    finally:
        torch.set_default_dtype(default)
    beside = folder.with_name(f".{folder.name}.writing")
    shutil.rmtree(beside, ignore_errors=True)
    made.save_pretrained(beside)
    random_rows.tokenizer(size).save_pretrained(beside)
    beside.rename(folder)
    return folder


def data_file(work: Path, size: str, phase: str, prompt: int, response: int) -> Path:
    """Rows of random words; with BOS and EOS a prompt has `prompt` tokens and a response `response`."""
    file = work / "data" / f"{size}-{phase}-{prompt}-{response}.jsonl"
    if file.exists():
        return file
    draw, vocabulary = random.Random(0), SHAPES[size]["vocabulary"]

    def words(count: int) -> str:
        return random_rows.text_of([draw.randrange(SPECIAL, vocabulary) for _ in range(count)])

    def row() -> dict[str, Any]:
        found = {"prompt": words(prompt - 1)}
        if phase == "sft":
            found["response"] = words(response - 1)
        elif phase != "ppo":
            found |= {"chosen": words(response - 1), "rejected": words(response - 1)}
        return found

    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row()) + "\n" for _ in range(ROWS)))
    return file

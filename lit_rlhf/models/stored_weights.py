"""Which tensors a folder in Hugging Face layout holds, without loading them."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import safe_open
from transformers.utils import cached_file

FILES = (
    "model.safetensors.index.json",
    "model.safetensors",
    "pytorch_model.bin.index.json",
    "pytorch_model.bin",
)
"""Where transformers looks for weights: whole or in shards."""


def stored_names(model: str) -> set[str]:
    """The names of the tensors that are stored, by the first of :data:`FILES` that is there.

    Args:
        model: a folder, or a hub name, of which what the cache lacks is fetched.

    Raises:
        FileNotFoundError: there is none of these files.
    """
    name = str(Path(model).expanduser()) if Path(model).expanduser().is_dir() else model
    for file in FILES:
        found = cached_file(name, file, _raise_exceptions_for_missing_entries=False)
        if found is None:
            continue
        if file.endswith(".json"):
            return set(json.loads(Path(found).read_text())["weight_map"])
        if file.endswith(".safetensors"):
            with safe_open(found, "pt") as tensors:
                return set(tensors.keys())
        return set(torch.load(found, map_location="cpu", weights_only=True, mmap=True))
    raise FileNotFoundError(f"model {model!r}: expected one of {', '.join(FILES)}, found none of them.")

"""Memory of each rank while a model is loaded under fsdp2: ``python -m benchmarks.loading --out FILE.json``.

Weights read in parts (`deferred_weights`, which `lit-rlhf fit` takes by itself) against every rank loading all of them
and keeping its part; the folder holds bf16, the run fp32. What is measured is memory of the process's own; pages of a
file that it maps are the system's.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import lightning as L
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.scale.launch import run_ranks
from benchmarks.scale.results import machine
from lit_rlhf import SFTModule, deferred_weights
from lit_rlhf.callbacks import write_beside_and_rename
from lit_rlhf.data.trees import pack_trees
from lit_rlhf.records import ResponseTrees, Tree
from lit_rlhf.world.build import build_tokenizer

SIZES = {"quick": (128, 2), "full": (1024, 16)}
"""Width and layers of a random Llama."""


class Peak:
    """The most memory of its own that this process holds inside the block, in MiB over that at its start."""

    def __enter__(self) -> Peak:
        self._start, self._most, self._ends = own_memory(), 0.0, threading.Event()
        self._watch = threading.Thread(target=self._look, daemon=True)
        self._watch.start()
        return self

    def _look(self) -> None:
        while not self._ends.is_set():
            self._most = max(self._most, own_memory() - self._start)
            time.sleep(0.002)

    def __exit__(self, *error: Any) -> None:
        self._ends.set()
        self._watch.join()
        self.most, self.left = self._most, own_memory() - self._start


def own_memory() -> float:
    """Anonymous resident memory of this process, MiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("this system does not say how much memory a process has of its own")


class OneBatch:
    """What a fit sees before it stops: nothing of it matters here."""

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Any:
        yield batch()


def batch() -> ResponseTrees:
    return pack_trees([Tree([0], [[5, 6, 7]], [[True] * 3])])


class Loaded(Exception):
    """Raised when the weights are where they are to be."""


class StopWhenLoaded(L.Callback):
    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        raise Loaded


def write_model(folder: str, width: int, layers: int) -> float:
    """A random Llama in bf16, as most are stored; MiB of its weights in fp32."""
    config = LlamaConfig(
        vocab_size=32_000,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=8,
        num_key_value_heads=8,
    )
    model = LlamaForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    return sum(parameter.numel() for parameter in model.parameters()) * 4 / 2**20


def load(folder: str, ranks: int, in_parts: bool) -> tuple[float, float]:
    """Peak and what is held afterwards, MiB, of one rank."""
    torch.set_num_threads(1)
    with Peak() as peak:
        with deferred_weights() if in_parts else nullcontext():
            module = SFTModule(folder)
        trainer = L.Trainer(
            accelerator="cpu",
            devices=ranks,
            strategy="fsdp2",
            max_epochs=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[StopWhenLoaded()],
        )
        with suppress(Loaded):
            trainer.fit(module, OneBatch())
    return peak.most, peak.left


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser("python -m benchmarks.loading", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a small model; no result to keep")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.json")
    arguments = parser.parse_args()
    width, layers = SIZES["quick" if arguments.quick else "full"]
    rows = []
    with tempfile.TemporaryDirectory() as place:
        # in a process of its own: what this one has freed its children would find and count as theirs
        (weights,) = run_ranks(write_model, 1, place, width, layers)
        for ranks in (1, 2, 4):
            parts, whole = (run_ranks(load, ranks, place, ranks, in_parts) for in_parts in (True, False))
            ours, theirs = max(peak for peak, _ in parts), max(peak for peak, _ in whole)
            rows.append(
                {
                    "work": "loading memory",
                    "size": f"{weights:.0f} MiB of weights, {ranks} ranks",
                    "against": "every rank loads all weights",
                    "ours": round(ours, 1),
                    "theirs": round(theirs, 1),
                    "ratio": round(theirs / ours, 2),
                    "unit": "MiB at the most, of the rank that holds most",
                    "repeats": 1,
                    "spread": None,
                    "conditions": {
                        **machine(arguments.quick),
                        "held_afterwards": round(max(left for _, left in parts), 1),
                        "clock": "RssAnon, looked at every 2 ms",
                    },
                }
            )
            print(
                f"{ranks} ranks: {ours:.0f} MiB in parts, {theirs:.0f} MiB whole, of {weights:.0f}",
                flush=True,
            )
    write_beside_and_rename(arguments.out, json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()

"""What the fits start from, made once a seed and shared by all: a fine-tuned policy, and comparisons."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.direct.worlds import TUNING_SEED, WORLDS, Ground, World
from benchmarks.ppo_studies.starts import DemoStart
from benchmarks.prepare import read, write
from benchmarks.reward_studies.fits import DataRow, quieten, responses_of
from lit_rlhf import DemonstrationDataModule, SFTModule
from lit_rlhf.callbacks import write_beside_and_rename
from lit_rlhf.cli import init
from lit_rlhf.cli.demo.phases import adamw, warm_up_then_fall
from lit_rlhf.world.build import prompt_rows

SHAPE = init.Size(hidden=96, layers=2, heads=4, vocab=1024)
"""Of the real-text models."""
TEXTS = 2000
"""Responses that a real-text policy is fine-tuned on, at the most."""
HELD_OUT = 250
"""Rows of the held-out file that count, at the most."""
DEVELOPMENT = 200
"""Rows that a tuning seed measures on in place of the held-out file."""


class Starts:
    """The folders of everything that fits start from.

    Args:
        data: the data folder.
        out: the study's folder.
        quick: few rows and short fits, to see that everything runs.
    """

    def __init__(self, data: Path, out: Path, quick: bool) -> None:
        self.data, self.folder, self.quick = data, out / "starts", quick

    def ground(self, world: World, seed: int) -> Ground:
        """What fits of a world share; makes the policy where there is none yet."""
        self.make(world.kind, seed)
        folder = self.folder / f"{world.kind}-{seed}"
        parts = self._demo_rows(folder) if world.kind == "demo" else self._real_rows(world, seed)
        training, held_out, prompts, asked = parts
        if self.quick:
            training, held_out, asked = training[:64], held_out[:32], asked[:64]
        held_out = held_out[:HELD_OUT]
        start = folder / "runs" / "sft" / "export" if world.kind == "demo" else folder / "sft"
        files = folder / f"files-{world.name}"
        return Ground(
            world, seed, start, training[: world.pairs], held_out, prompts, asked, files, self.quick
        )

    def costs(self, world: World) -> Mapping[str, float]:
        """What updates cost in a world, measured on a tuning seed's start."""
        from benchmarks.direct.costs import costs_of

        return costs_of(self.ground(world, TUNING_SEED), self.folder.parent)

    def make(self, kind: str, seed: int) -> None:
        """The fine-tuned policy of a kind and seed, unless it is there."""
        done = self.folder / f"{kind}-{seed}.json"
        if done.exists():
            return
        quieten()
        begun = time.process_time()
        makers: dict[str, Callable[[Path, int], dict[str, Any]]] = {
            "demo": self._make_demo, "blimp": self._make_real, "debates": self._make_real,
        }  # fmt: skip
        numbers = makers[kind](self.folder / f"{kind}-{seed}", seed)
        numbers["cpu_seconds"] = round(time.process_time() - begun, 1)
        write_beside_and_rename(done, json.dumps(numbers))
        print(f"start {kind}-{seed}: {numbers}", flush=True)

    # --- the demo world ---------------------------------------------------------------------------------

    def _make_demo(self, folder: Path, seed: int) -> dict[str, Any]:
        demo = DirectStart(folder, "quick" if self.quick else "full", seed, time.perf_counter())
        demo.run()
        numbers = json.loads((folder / "stages" / "sft.json").read_text())
        return {name: round(numbers[name], 3) for name in ("gold", "grammar", "length")}

    def _demo_rows(self, folder: Path) -> tuple[list[DataRow], list[DataRow], list[DataRow], list[DataRow]]:
        data = folder / "data"
        held_out = read(data / "held_out_pairs.jsonl")
        asked = list(prompt_rows(Random("evaluation"), 1024))
        return read(data / "pairs.jsonl"), held_out, read(data / "prompts.jsonl"), asked

    # --- real text --------------------------------------------------------------------------------------

    def _texts(self, kind: str) -> list[DataRow]:
        """Every distinct response of the training files with its prompt: both sides alike, so no label is in them."""
        names = ("pairs_blimp",) if kind == "blimp" else ("pairs_ukp_convarg", "kwise_ukp_rank")
        rows = (row for name in names for row in read(self.data / name / "train.jsonl"))
        distinct = dict.fromkeys((row["prompt"], text) for row in rows for text in responses_of(row))
        return [{"prompt": prompt, "response": text} for prompt, text in distinct]

    def _make_real(self, folder: Path, seed: int) -> dict[str, Any]:
        """A small Llama with its own tokenizer, fine-tuned on the responses."""
        from benchmarks.direct.fits import trainer

        kind = folder.name.split("-")[0]
        world = next(world for world in WORLDS.values() if world.kind == kind)
        rows = self._texts(kind)
        Random(f"texts {seed}").shuffle(rows)
        rows = rows[: 200 if self.quick else TEXTS]
        folder.mkdir(parents=True, exist_ok=True)
        write(folder / "texts.jsonl", rows)
        tokenizer = init.train_tokenizer([folder / "texts.jsonl"], SHAPE.vocab)
        model = init.random_llama(tokenizer, SHAPE, max_positions=128, seed=seed)
        epochs = 3
        updates = epochs * len(rows) // 32
        module = SFTModule(
            model, tokenizer=tokenizer, optimizer=adamw(3e-3, 0.01),
            scheduler=warm_up_then_fall(updates, max(1, updates // 10), 0.1), seed=seed,
        )  # fmt: skip
        data = DemonstrationDataModule(
            str(folder / "texts.jsonl"), batch_size=32, val_fraction=0.05, seed=seed,
            max_prompt_tokens=world.max_prompt_tokens, max_response_tokens=world.max_response_tokens,
        )  # fmt: skip
        runner = trainer(max_epochs=epochs)
        runner.fit(module, datamodule=data)
        module.export(folder / "sft")
        runner.limit_val_batches = 1.0
        (numbers,) = runner.validate(module, datamodule=data, verbose=False)
        parameters = sum(parameter.numel() for parameter in module.network.parameters())
        return {
            "texts": len(rows),
            "perplexity": round(numbers["val/perplexity"], 2),
            "parameters": parameters,
        }

    def _real_rows(
        self, world: World, seed: int
    ) -> tuple[list[DataRow], list[DataRow], list[DataRow], list[DataRow]]:
        training = read(self.data / world.name / "train.jsonl")
        held_out = read(self.data / world.name / "valid.jsonl")
        Random(f"rows {seed}").shuffle(training)
        if seed >= TUNING_SEED:  # settings are not chosen on the rows that the results are measured on
            training, held_out = training[DEVELOPMENT:], training[:DEVELOPMENT]
        prompts = [{"prompt": row["prompt"]} for row in training]
        asked = [{"prompt": row["prompt"]} for row in held_out]
        return training, held_out, prompts, asked


class DirectStart(DemoStart):
    """The demo's own stages, as far as the comparisons."""

    def run(self) -> None:
        """Make what is not there yet."""
        self._claim()
        self._stage("world", "data", self._make_world)
        self._stage("pretrain", "the language", self._pretrain)
        self._stage("sft", "answering", self._fine_tune)
        self._stage("comparisons", "pairs of samples", self._compare)

"""What the studies' models start from, made once and kept: the demo world's SFT model, and one of real text."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random

from benchmarks.prepare import read, write
from benchmarks.reward_studies.fits import Data, DataRow, Start, quieten, train
from lit_rlhf import DemonstrationDataModule, SFTModule
from lit_rlhf.callbacks import write_beside_and_rename
from lit_rlhf.cli import init
from lit_rlhf.cli.demo import phases
from lit_rlhf.cli.demo.measure import draw
from lit_rlhf.data.tokenization import load_tokenizer
from lit_rlhf.models.loading import load_causal_lm
from lit_rlhf.models.policy import PolicyNetwork
from lit_rlhf.world.build import prompt_rows, write_data, write_model
from lit_rlhf.world.grammar import grammatical, prompt_text, sample_sentence, sample_topic

SAMPLES = 5
"""Samples of the SFT policy to each prompt of the demo world's pool."""
SHAPE = {"hidden": 128, "layers": 2, "heads": 4, "vocab": 2048}
"""Of the real-text model."""


class Starts:
    """The models and the demo world's candidates.

    Args:
        data: the data folder.
        out: the studies' folder.
        quick: small models and few rows, to see that everything runs.
    """

    def __init__(self, data: Path, out: Path, quick: bool) -> None:
        self.data, self.folder, self.quick = data, out / "starts", quick

    def demo(self, seed: int) -> Start:
        """The SFT model of the demo world with this seed."""
        return Start(self._demo_folder(seed) / "runs" / "sft" / "export", 8, 24, learning_rate=2e-3)

    def real(self, max_prompt_tokens: int = 48, max_response_tokens: int = 96) -> Start:
        """The model that was pretrained on the text folders."""
        return Start(self.folder / "real" / "export", max_prompt_tokens, max_response_tokens, 5e-4)

    def blimp(self) -> Start:
        """A reward model of the same, that has seen pairs of ``pairs_blimp``."""
        return Start(self.folder / "blimp" / "export", 16, 48, 5e-4)

    def pool(self, seed: int) -> list[DataRow]:
        """Prompts with samples of the SFT policy, `finished` sentences without repetition."""
        return read(self._demo_folder(seed) / "pool.jsonl")

    def rows(self, folder: str, part: str) -> list[DataRow]:
        """Lines of a file of the data folder."""
        return read(self.data / folder / f"{part}.jsonl")

    def make(self, name: str) -> None:
        """Make ``real``, ``blimp`` (out of ``real``), or ``demo-SEED``, unless it is there."""
        done = self.folder / f"{name}.json"
        if done.exists():
            return
        quieten()
        begun = time.process_time()
        makers = {"real": self._make_real, "blimp": self._make_blimp}
        numbers = makers[name]() if name in makers else self._make_demo(int(name.removeprefix("demo-")))
        numbers["cpu_seconds"] = round(time.process_time() - begun, 1)
        write_beside_and_rename(done, json.dumps(numbers))
        print(f"start {name}: {numbers}", flush=True)

    def _demo_folder(self, seed: int) -> Path:
        return self.folder / f"demo-{seed}"

    def _make_demo(self, seed: int) -> dict[str, float]:
        texts, demonstrations, prompts = (3_000, 1_000, 1_000) if self.quick else (24_000, 6_000, 6_000)
        folder = self._demo_folder(seed)
        if not (folder / "model").exists():
            write_model(folder / "model", seed=seed)
        data = write_data(folder / "data", seed, texts=texts, demonstrations=demonstrations)
        runs = folder / "runs"
        phases.pretrain(runs / "pretrain", folder / "model", data, texts)
        phases.fine_tune(runs / "sft", runs / "pretrain" / "export", data, demonstrations, seed)
        return self._sample(runs / "sft" / "export", seed, prompts)

    def _sample(self, model: Path, seed: int, prompts: int) -> dict[str, float]:
        """Write the pool: to each prompt what is language among its samples, each text once."""
        if self.quick:  # a policy of a few seconds writes hardly a sentence
            write(self._demo_folder(seed) / "pool.jsonl", _grammar_pool(seed, prompts))
            return {"grammar": 1.0}
        policy, tokenizer = PolicyNetwork(load_causal_lm(str(model))).eval(), load_tokenizer(str(model))
        asked = [row["prompt"] for row in prompt_rows(Random(f"pool {seed}"), prompts)]
        drawn = [draw(policy, tokenizer, asked, seed, 11, sample) for sample in range(SAMPLES)]
        rows, kept = [], 0
        for place, prompt in enumerate(asked):
            texts = [
                d.texts[place] for d in drawn if d.finished[place] and grammatical(d.texts[place].split())
            ]
            kept += len(texts)
            rows.append({"prompt": prompt, "responses": list(dict.fromkeys(texts))})
        write(self._demo_folder(seed) / "pool.jsonl", rows)
        return {"grammar": round(kept / (prompts * SAMPLES), 3)}

    def _make_real(self) -> dict[str, float]:
        """A tokenizer and a Llama from the texts, pretrained on them and on both sides of the debates alike."""
        folder = self.folder / "real"
        texts = [
            self.data / name / "train.jsonl" for name in ("text_wiki", "text_c4", "text_tinyshakespeare")
        ]
        arguments = dict.fromkeys(
            row[side] for row in self.rows("pairs_ukp_convarg", "train") for side in ("chosen", "rejected")
        )
        folder.mkdir(parents=True, exist_ok=True)
        write(folder / "arguments.jsonl", [{"text": text} for text in arguments])
        files = [*texts, folder / "arguments.jsonl"]
        tokenizer = init.train_tokenizer(files, SHAPE["vocab"])
        model = init.random_llama(tokenizer, init.Size(**SHAPE), max_positions=512, seed=0)
        updates, batch = (20, 8) if self.quick else (1200, 24)
        return self._pretrain(model, tokenizer, files, folder / "export", updates, batch)

    def _make_blimp(self) -> dict[str, float]:
        """A reward model from pairs of ``pairs_blimp`` without the sentences that people voted on."""
        voted = {
            row[side]
            for row in self.rows("multi_blimp_human", "train")
            for side in ("response_a", "response_b")
        }
        rows = [
            row for row in self.rows("pairs_blimp", "train") if not {row["chosen"], row["rejected"]} & voted
        ]
        Random(0).shuffle(rows)
        start = replace(self.real(), max_prompt_tokens=16, max_response_tokens=48)
        data = Data(rows[: 40 if self.quick else 1500], start.batch_size)
        train(start, data, 2.0, seed=0).module.export(self.folder / "blimp" / "export")
        return {"pairs": len(data.rows), "left_out": len(self.rows("pairs_blimp", "train")) - len(rows)}

    def _pretrain(
        self, model: object, tokenizer: object, files: Sequence[Path], export: Path, updates: int, batch: int
    ) -> dict[str, float]:
        import lightning as L
        import torch

        module = SFTModule(
            model,  # type: ignore[arg-type]
            tokenizer=tokenizer,
            optimizer=lambda parameters: torch.optim.AdamW(
                parameters, lr=3e-3, weight_decay=0.01, fused=True
            ),
            scheduler=phases.warm_up_then_fall(updates, updates // 10),
        )
        data = DemonstrationDataModule(
            [str(file) for file in files],
            batch_size=batch,
            max_response_tokens=128,
            val_fraction=0.02,
            seed=0,
        )
        trainer = L.Trainer(
            accelerator="cpu",
            devices=1,
            max_steps=updates,
            max_epochs=-1,
            gradient_clip_val=1.0,
            logger=False,
            limit_val_batches=0,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, datamodule=data)
        module.export(export)
        trainer.limit_val_batches = 1.0
        (numbers,) = trainer.validate(module, datamodule=data, verbose=False)
        return {
            "perplexity": round(numbers["val/perplexity"], 2),
            "parameters": sum(parameter.numel() for parameter in module.network.parameters()),
        }


def _grammar_pool(seed: int, prompts: int) -> list[DataRow]:
    generator, rows = Random(f"pool {seed}"), []
    for _ in range(prompts):
        domain, noun = sample_topic(generator)
        texts = [" ".join(sample_sentence(generator, domain, noun)) for _ in range(SAMPLES)]
        rows.append({"prompt": prompt_text(domain, noun), "responses": list(dict.fromkeys(texts))})
    return rows

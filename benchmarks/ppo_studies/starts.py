"""What the studies start from, made once a seed and shared by all cells: policies, reward models, prompts."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import lightning as L
import torch

from benchmarks.prepare import prepare, read, write
from benchmarks.reward_studies.fits import quieten
from benchmarks.slot_coverage import coverage
from lit_rlhf import DemonstrationDataModule, PairDataModule, RewardModule, SFTModule
from lit_rlhf.callbacks import write_beside_and_rename
from lit_rlhf.cli import init
from lit_rlhf.cli.demo import phases
from lit_rlhf.cli.demo.loop import Demo
from lit_rlhf.data.tokenization import TextEncoder, load_tokenizer
from lit_rlhf.models.loading import load_causal_lm
from lit_rlhf.models.policy import PolicyNetwork
from lit_rlhf.ops.noise import counter_key
from lit_rlhf.rollout.sampling import sample_responses
from lit_rlhf.rollout.settings import SamplingSettings

DataRow = dict[str, Any]

SHAPE = init.Size(hidden=128, layers=2, heads=4, vocab=1024)
"""Of the real-text model."""
RESPONSE_TOKENS = 48
"""Of the real-text model's responses, the EOS included."""
SAMPLES = 4
"""Samples of the SFT policy to each real-text prompt, of which comparisons are made."""
COMPARISONS, FLIP_RATE = 800, 0.25
"""Pairs that each real-text reward model learns from, and the share of them that is turned round."""
REWARD_EPOCHS = 2
MEMBERS = 4
"""Real-text reward models; a policy that learns from one of them learns from the first."""


class DemoStart(Demo):
    """The demo's own stages, as far as the reward model."""

    def run(self) -> None:
        """Make what is not there yet."""
        self._claim()
        self._stage("world", "data", self._make_world)
        self._stage("pretrain", "the language", self._pretrain)
        self._stage("sft", "answering", self._fine_tune)
        self._stage("comparisons", "pairs of samples", self._compare)
        self._stage("reward", "a reward model", self._learn_reward)


class Starts:
    """The folders of everything that cells start from.

    Args:
        data: the data folder.
        out: the studies' folder.
        quick: small models and few rows, to see that everything runs.
    """

    def __init__(self, data: Path, out: Path, quick: bool) -> None:
        self.data, self.folder, self.quick = data, out / "starts", quick

    def demo(self, seed: int) -> Path:
        """The demo's folder of this seed: ``runs/{pretrain,sft,reward}/export``, ``data/*.jsonl``, ``stages``."""
        return self.folder / f"demo-{seed}"

    def real(self, seed: int) -> Path:
        """The real-text folder of this seed: ``sft``, ``reward-0`` ..., ``files/prompts_{train,val}.jsonl``."""
        return self.folder / f"real-{seed}"

    def make(self, name: str) -> None:
        """Make ``demo-SEED`` or ``real-SEED``, unless it is there."""
        done = self.folder / f"{name}.json"
        if done.exists():
            return
        quieten()
        begun = time.process_time()
        kind, seed = name.split("-")
        numbers = (self._make_demo if kind == "demo" else self._make_real)(int(seed))
        numbers["cpu_seconds"] = round(time.process_time() - begun, 1)
        write_beside_and_rename(done, json.dumps(numbers))
        print(f"start {name}: {numbers}", flush=True)

    def _make_demo(self, seed: int) -> dict[str, Any]:
        demo = DemoStart(self.demo(seed), "quick" if self.quick else "full", seed, time.perf_counter())
        demo.run()
        stages = {
            name: json.loads((self.demo(seed) / "stages" / f"{name}.json").read_text())
            for name in ("sft", "reward")
        }
        return {
            "sft_grammar": stages["sft"]["grammar"],
            "sft_gold": stages["sft"]["gold"],
            "reward_accuracy_gold": stages["reward"]["accuracy_gold"],
        }

    def _make_real(self, seed: int) -> dict[str, Any]:
        """A small Llama of its own tokenizer, fine-tuned; comparisons of its samples; reward models from them."""
        folder = self.real(seed)
        prepare(self.data, folder / "files")
        demonstrations = self.data / "demos_e2e" / "train.jsonl"
        tokenizer = init.train_tokenizer([demonstrations], SHAPE.vocab)
        model = init.random_llama(tokenizer, SHAPE, max_positions=256, seed=seed)
        epochs = 1 if self.quick else 4
        updates = epochs * len(read(demonstrations)) // 32
        module = SFTModule(model, tokenizer=tokenizer, **_learning(3e-3, updates), seed=seed)
        _fit(
            module,
            DemonstrationDataModule(str(demonstrations), batch_size=32, val_fraction=0.05, seed=seed),
            epochs,
        )
        module.export(folder / "sft")
        prompts = read(folder / "files" / "prompts_train.jsonl")
        rows, mean_gold = compare(sampled(folder / "sft", prompts, SAMPLES, seed), Random(seed))
        held_out = read(folder / "files" / "prompts_val.jsonl")
        test, _ = compare(
            sampled(folder / "sft", held_out, SAMPLES, seed + 1), Random(seed + 1), flip_rate=0.0
        )
        write(folder / "files" / "test_pairs.jsonl", test)
        numbers: dict[str, Any] = {"sft_gold": mean_gold, "pairs": len(rows), "accuracy": []}
        for member in range(MEMBERS):
            numbers["accuracy"].append(self._learn_reward(folder, rows, member, seed))
        return numbers

    def _learn_reward(self, folder: Path, rows: Sequence[DataRow], member: int, seed: int) -> float:
        """One member, from a draw of the pairs, flips and head of its own; returns its accuracy on clean pairs."""
        generator = Random(f"reward {seed} {member}")
        drawn = generator.sample(list(rows), min(COMPARISONS, len(rows)))
        pairs = folder / "files" / f"pairs_{member}.jsonl"
        write(pairs, drawn)
        torch.manual_seed(1000 * seed + member)
        module = RewardModule(
            str(folder / "sft"),
            unit_variance=True,
            **_learning(5e-4, REWARD_EPOCHS * COMPARISONS // 16),
            seed=1000 * seed + member,
        )
        data = PairDataModule(
            str(pairs), val_path=str(folder / "files" / "test_pairs.jsonl"), batch_size=16, seed=member
        )
        trainer = _fit(module, data, 1 if self.quick else REWARD_EPOCHS)
        module.export(folder / f"reward-{member}")
        (numbers,) = trainer.validate(module, datamodule=data, verbose=False)
        return round(float(numbers["val/rewards/accuracies"]), 4)


def sampled(model: Path, prompts: Sequence[DataRow], samples: int, seed: int) -> list[DataRow]:
    """Each prompt's row with `samples` responses of the model, and the gold reward of each."""
    tokenizer = load_tokenizer(str(model))
    encoder = TextEncoder(tokenizer)
    policy = PolicyNetwork(load_causal_lm(str(model))).eval()
    ids = [encoder.prompt_ids(row["prompt"]) for row in prompts]
    rows = [{**row, "responses": [], "golds": []} for row in prompts]
    for number in range(samples):
        keys = counter_key(seed, 21, number, torch.arange(len(ids)))
        drawn = sample_responses(policy, ids, SamplingSettings(RESPONSE_TOKENS), keys, encoder.eos_token_id)
        for row, response in zip(rows, drawn.response_ids, strict=True):
            text = encoder.decode(response)
            row["responses"].append(text)
            row["golds"].append(coverage(text, row["gold"]))
    return rows


def compare(
    rows: Sequence[DataRow], generator: Random, flip_rate: float = FLIP_RATE
) -> tuple[list[DataRow], float]:
    """Pairs of responses to one prompt that differ in gold, each turned round with probability `flip_rate`.

    Returns:
        the pairs in a random order, and the mean gold of all responses.
    """
    pairs = []
    for row in rows:
        order = sorted(zip(row["golds"], row["responses"], strict=True), reverse=True)
        for place, (gold, better) in enumerate(order):
            for other, worse in order[place + 1 :]:
                if gold > other:
                    flipped = generator.random() < flip_rate
                    chosen, rejected = (worse, better) if flipped else (better, worse)
                    pairs.append({"prompt": row["prompt"], "chosen": chosen, "rejected": rejected})
    generator.shuffle(pairs)
    golds = [gold for row in rows for gold in row["golds"]]
    return pairs, sum(golds) / len(golds)


def _learning(rate: float, updates: int) -> dict[str, Any]:
    return {
        "optimizer": phases.adamw(rate, 0.01),
        "scheduler": phases.warm_up_then_fall(updates, updates // 10, 0.1),
    }


def _fit(module: L.LightningModule, data: L.LightningDataModule, epochs: int) -> L.Trainer:
    trainer = L.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=epochs,
        gradient_clip_val=1.0,
        logger=False,
        limit_val_batches=1.0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(module, datamodule=data)
    return trainer

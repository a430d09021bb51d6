"""What is run on a GPU: phases, sizes, precisions and strategies, each as arguments of ``lit-rlhf fit``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmarks.gpu.folders import data_file, model_folder

Phase = Literal["sft", "reward", "dpo", "ppo"]
PHASES: tuple[Phase, ...] = ("sft", "reward", "dpo", "ppo")
CONFIGS = Path(__file__).parents[2] / "configs"
LORA = "{r: 16, lora_alpha: 32, target_modules: all-linear}"


@dataclass(frozen=True)
class Amounts:
    """How much a fit does.

    Args:
        prompt: tokens of each prompt.
        response: tokens of each response.
        rows: of an update.
        micro_batches: that they are cut into.
        steps: updates of a fit; PPO has `iterations` of four.
        iterations: of PPO.
    """

    prompt: int
    response: int
    rows: int
    micro_batches: int
    steps: int
    iterations: int


FULL = Amounts(1024, 512, 8, 2, 8, 3)
QUICK = Amounts(12, 6, 4, 2, 4, 3)
PPO_UPDATES = 4
"""Of an iteration: two epochs of two minibatches."""


@dataclass(frozen=True)
class Cell:
    """One fit.

    Args:
        phase: what is trained.
        size: of every model.
        lora: whether adapters are, in place of weights.
        precision: Lightning's name of it.
        strategy: ``auto`` or ``fsdp2``.
    """

    phase: Phase
    size: str
    lora: bool
    precision: str
    strategy: str

    @property
    def name(self) -> str:
        """No other has the same."""
        what = "LoRA" if self.lora else "full"
        return f"{self.phase} {self.size} {what} {self.precision} {self.strategy}"

    def steps(self, amounts: Amounts) -> int:
        """Updates of the whole fit."""
        return PPO_UPDATES * amounts.iterations if self.phase == "ppo" else amounts.steps

    def arguments(self, work: Path, amounts: Amounts, device: str) -> list[str]:
        """What ``fit`` and ``plan`` are given alike; models and data are made where they are not there yet."""
        kind = "reward" if self.phase == "reward" else "policy"
        data = data_file(work, self.size, self.phase, amounts.prompt, amounts.response)
        found = {
            "model.model": str(model_folder(work, self.size, kind, device)),
            "model.execution": "{activation_checkpointing: true}",
            "data.path": str(data),
            "data.batch_size": str(amounts.rows),
            "data.val_fraction": "0.1",
            "data.max_prompt_tokens": str(amounts.prompt),
            "trainer.accelerator": "gpu" if device == "cuda" else "cpu",
            "trainer.devices": "1",
            "trainer.strategy": self.strategy,
            "trainer.precision": self.precision,
            "trainer.accumulate_grad_batches": str(amounts.micro_batches),
            "trainer.limit_val_batches": "0",
            "trainer.log_every_n_steps": "1",
            "trainer.enable_checkpointing": "false",
            "trainer.enable_progress_bar": "false",
            "trainer.logger": "false",
        }
        if self.lora:
            found["model.lora"] = LORA
        if self.lora and self.phase in ("dpo", "ppo"):
            found["model.reference_storage"] = "adapter_off"
        if self.phase == "ppo":
            found |= self._of_ppo(work, amounts, device)
        else:
            # a loader hands out micro-batches, and an update is as many of them
            found["data.batch_size"] = str(amounts.rows // amounts.micro_batches)
            found["data.max_response_tokens"] = str(amounts.response)
            found["trainer.max_steps"] = str(amounts.steps)
        flags = [f"--{name}={value}" for name, value in found.items()]
        return ["--config", str(CONFIGS / f"{self.phase}.yaml"), *flags]

    def _of_ppo(self, work: Path, amounts: Amounts, device: str) -> dict[str, str]:
        return {
            "model.reward": str(model_folder(work, self.size, "reward", device)),
            "model.max_new_tokens": str(amounts.response),
            "model.samples_per_prompt": "1",
            "model.epochs": "2",
            "model.minibatch_size": str(amounts.rows),
            "data.batch_size": str(2 * amounts.rows),
            "trainer.max_epochs": str(amounts.iterations),
            "trainer.check_val_every_n_epoch": "null",
            "trainer.val_check_interval": "1000000",
            **({"model.critic": "shared", "model.critic_learning_rate": "null"} if self.lora else {}),
        }


def cells(quick: bool) -> Iterator[Cell]:
    """The small ones first: those that cannot be missed, and beyond them what the plan says fits."""
    if quick:
        yield Cell("sft", "A", False, "bf16-mixed", "auto")
        yield Cell("reward", "A", False, "bf16-true", "fsdp2")
        yield Cell("dpo", "A", True, "bf16-true", "auto")
        yield Cell("ppo", "A", True, "bf16-mixed", "fsdp2")
        return
    for phase in PHASES:
        for precision in ("bf16-mixed", "bf16-true"):
            yield Cell(phase, "1B", False, precision, "auto")
            yield Cell(phase, "1B", False, precision, "fsdp2")
        yield Cell(phase, "1B", True, "bf16-true", "auto")
    for phase in PHASES:
        yield Cell(phase, "8B", True, "bf16-true", "auto")
    for phase in PHASES:
        yield Cell(phase, "8B", True, "bf16-true", "fsdp2")
        yield Cell(phase, "8B", False, "bf16-true", "auto")

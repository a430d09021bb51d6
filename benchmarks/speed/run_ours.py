"""One run of this package's modules in a Lightning trainer: ``python -m benchmarks.speed.run_ours JOB``."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
import transformers.models.llama.modeling_llama  # noqa: F401  # imported now, so that it is not weighed later
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger

from benchmarks.speed import rows as random_rows
from benchmarks.speed.flops import dpo_flops, peak_flops
from benchmarks.speed.job import JSON, Job
from benchmarks.speed.meter import Meter, described
from lit_rlhf.data.loader import TreeLoader
from lit_rlhf.data.trees import pack_trees
from lit_rlhf.modules.base import PhaseModule
from lit_rlhf.modules.dpo import DPOModule
from lit_rlhf.modules.reward import RewardModule
from lit_rlhf.modules.sft import SFTModule
from lit_rlhf.records import Comparison, ResponseTrees, Tree

CLIP = 1.0


class MeteredLoader(TreeLoader):
    """Tells the meter what is in each batch."""

    def __init__(self, meter: Meter, trees: Sequence[Tree], **size: int | None) -> None:
        super().__init__(trees, shuffle=False, **size)  # type: ignore[arg-type]
        self.meter = meter

    def __iter__(self) -> Iterator[ResponseTrees]:
        for batch in super().__iter__():
            self.meter.batch(*count(batch, self.meter.job.attention == "padded"))
            yield batch


class Watch(Callback):
    """Tells the meter of each step's end, and of the first loss."""

    def __init__(self, meter: Meter) -> None:
        self.meter = meter

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, index: int) -> None:
        if self.meter.first_loss is None:
            self.meter.loss(outputs["loss"])
        self.meter.step()


def main() -> None:
    """Run the job that stands on the command line and print what was measured."""
    job = Job.from_arguments()
    meter = Meter(job)
    with tempfile.TemporaryDirectory() as folder:
        module = make_module(job, Path(folder))
        loader = make_loader(job, meter)
        if job.phase == "sft":
            meter.loss(loss_of_first_rows(job, module, loader.trees))
        trainer = make_trainer(job, meter, Path(folder))
        trainer.fit(module, train_dataloaders=loader)
        measured = meter.measured(**facts(job, module, trainer))
        if job.with_peak:  # last: its matrices are not to be weighed
            measured.facts.update(rates(job, measured.seconds))
        measured.report()


def optimizer_of(job: Job) -> partial[torch.optim.AdamW]:
    """Fused, as the other side's; under bf16 on neither side, because Lightning clips no fused optimizer there."""
    return partial(torch.optim.AdamW, lr=1e-4, weight_decay=0.0, fused=not job.bf16)


def make_trees(job: Job) -> list[Tree]:
    """The job's rows as this package's trees."""
    if job.phase == "sft":
        return [tree_of(row.prompt, [row.response]) for row in random_rows.demonstrations(job)]
    rows = random_rows.comparisons(job)
    if job.as_pairs:
        rows = [pair for row in rows for pair in row.pairs()]
    return [tree_of(row.prompt, row.responses) for row in rows]


def tree_of(prompt: list[int], responses: list[list[int]]) -> Tree:
    """Every token of the responses counts; an earlier response is better than any later one."""
    number = len(responses)
    return Tree(
        prompt,
        responses,
        [[True] * len(ids) for ids in responses],
        [Comparison(better, worse) for better in range(number) for worse in range(better + 1, number)],
    )


def make_loader(job: Job, meter: Meter) -> MeteredLoader:
    """Batches in the rows' order, as many as the job has steps; with a token budget, one epoch of them."""
    trees = make_trees(job)
    if job.max_tokens is not None:
        return MeteredLoader(meter, trees, max_tokens=job.max_tokens)
    pairs = job.responses * (job.responses - 1) // 2 if job.as_pairs else 1
    return MeteredLoader(meter, trees, batch_size=job.batch * pairs)


def make_module(job: Job, folder: Path) -> PhaseModule:
    """The phase's module on the random model that the other side has too."""
    tokenizer = random_rows.tokenizer(job.size)
    settings: dict[str, Any] = {
        "optimizer": optimizer_of(job),
        "tokenizer": tokenizer,
        "attention": job.attention,
    }
    if job.phase == "dpo":
        return DPOModule(random_rows.causal_lm(job), beta=0.1, **settings)
    if job.phase == "sft":
        return SFTModule(random_rows.causal_lm(job), seed=job.seed, **settings)
    # through a folder, so that the head has the other side's weights; centring is no part of a step
    random_rows.classifier(job).save_pretrained(folder / "classifier")
    return RewardModule(str(folder / "classifier"), center=False, **settings)


def make_trainer(job: Job, meter: Meter, folder: Path) -> L.Trainer:
    """As in somebody's script, with a logger, and without checkpoints and bar, which the other side has not either."""
    return L.Trainer(
        accelerator="gpu" if job.device == "cuda" else "cpu",
        devices=1,
        max_epochs=1,
        precision="bf16-mixed" if job.bf16 else "32-true",
        gradient_clip_val=CLIP,
        log_every_n_steps=job.log_every,
        logger=TensorBoardLogger(folder),
        callbacks=[Watch(meter)],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )


def count(batch: ResponseTrees, padded: bool) -> tuple[int, int]:
    """Real tokens, the prompt counted for each of its responses, and the slots that are computed."""
    rows = [
        batch.prompt_lengths[tree] + length
        for tree, length in zip(batch.tree_index.tolist(), batch.response_lengths, strict=True)
    ]
    return sum(rows), len(rows) * max(rows) if padded else batch.input_ids.numel()


@torch.no_grad()
def loss_of_first_rows(job: Job, module: PhaseModule, trees: Sequence[Tree]) -> torch.Tensor:
    """Of the first step's rows on the other side: packing to a budget puts other rows into ours."""
    module.to(job.device)
    with torch.autocast(job.device, torch.bfloat16, enabled=job.bf16):
        output = module.compute_loss(pack_trees(trees[: job.batch]).to(job.device))
    return output.total / output.count


def facts(job: Job, module: PhaseModule, trainer: L.Trainer) -> JSON:
    """What the numbers need beside them."""
    network: Any = module.network
    trunk = network.trunk if job.phase == "reward" else network.causal_lm
    return {
        "optimizer": described(trainer.optimizers[0]),
        "attention": trunk.config._attn_implementation,
        "logged": sorted(name for name in trainer.logged_metrics if name not in ("epoch", "step")),
    }


def rates(job: Job, seconds: float) -> JSON:
    """Useful operations per second of the timed DPO steps, and the most that this machine does now."""
    rows = random_rows.comparisons(job)[job.warm * job.batch :]
    return {
        "useful_flops_per_second": dpo_flops(job.size, rows) / seconds,
        "peak_flops_per_second": peak_flops(job.device, job.bf16),
    }


def quiet() -> None:
    """Nothing but the line that counts."""
    warnings.filterwarnings("ignore")
    for name in ("lightning.pytorch", "lightning.fabric", "lit_rlhf"):
        logging.getLogger(name).setLevel(logging.ERROR)


if __name__ == "__main__":
    quiet()
    main()

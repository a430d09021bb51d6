"""Fits of the studies: the project's own module, data modules and trainer, quiet, and measured on the way."""

from __future__ import annotations

import logging
import math
import tempfile
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from benchmarks.prepare import write
from lit_rlhf import PairDataModule, RankingDataModule, RewardModule
from lit_rlhf.data.tokenization import TextEncoder, load_tokenizer
from lit_rlhf.data.trees import plant_tree
from lit_rlhf.models.modes import evaluating
from lit_rlhf.records import Row, Tree
from lit_rlhf.rewards.model import score_trees

DataRow = dict[str, Any]
Curve = list[dict[str, float]]
Measure = Callable[[Any], Mapping[str, float]]
"""Numbers of a scorer."""

CHUNK = 64
"""Rows scored in one forward."""


@dataclass(frozen=True)
class Start:
    """A model to start from, how its rows are cut, and the learning rate that suits it."""

    folder: Path
    """In Hugging Face layout."""
    max_prompt_tokens: int
    max_response_tokens: int
    learning_rate: float
    batch_size: int = 16
    """Pairs of a batch."""

    @property
    def limits(self) -> dict[str, int]:
        """As data modules take them."""
        return {
            "max_prompt_tokens": self.max_prompt_tokens,
            "max_response_tokens": self.max_response_tokens,
        }


@dataclass(frozen=True)
class Data:
    """Lines of a comparison file, and how they are read."""

    rows: Sequence[DataRow]
    batch_size: int
    module: type[PairDataModule] | type[RankingDataModule] = PairDataModule
    options: Mapping[str, Any] = field(default_factory=dict)
    """Of the data module."""

    @property
    def responses(self) -> int:
        """Responses of a pass over the rows."""
        return sum(len(responses_of(row)) for row in self.rows)


class Probe:
    """Responses to score while a model trains.

    Args:
        start: whose tokenizer and limits are used.
        rows: lines of a comparison file; see :func:`responses_of`.
    """

    def __init__(self, start: Start, rows: Iterable[DataRow]) -> None:
        encoder = TextEncoder(load_tokenizer(str(start.folder)))
        self.trees: list[Tree] = []
        for row in rows:
            planted, _ = plant_tree(
                Row(row["prompt"], responses_of(row)),
                encoder,
                start.max_prompt_tokens,
                start.max_response_tokens,
            )
            self.trees += planted
        self.counts = [len(tree.response_ids) for tree in self.trees]

    def scores(self, network: Callable[..., Tensor]) -> list[Tensor]:
        """The scores of each row's responses."""
        return list(score_trees(network, self.trees, CHUNK, "cpu").split(self.counts))

    def differences(self, network: Callable[..., Tensor]) -> Tensor:
        """First minus second, of rows with two responses, ``[C]``."""
        scores = torch.stack(self.scores(network))
        return scores[:, 0] - scores[:, 1]


def responses_of(row: DataRow) -> list[Any]:
    """`responses`, or `chosen` and `rejected`, or `response_a` and `response_b`, in this order."""
    if "responses" in row:
        return list(row["responses"])
    names = ("chosen", "rejected") if "chosen" in row else ("response_a", "response_b")
    return [row[name] for name in names]


@dataclass
class Trained:
    """A reward model after its fit."""

    module: RewardModule
    curve: Curve
    """What was measured on the way; `passes` says when, in passes over each response."""

    @property
    def network(self) -> Any:
        """The scorer, in eval mode."""
        return self.module.network.eval()


class Watch(L.Callback):
    """Measures the scorer every so many responses, and at the end.

    Args:
        measure: what is measured.
        every: responses between two measurements.
        pass_size: responses of one pass.
    """

    def __init__(self, measure: Measure, every: int, pass_size: int) -> None:
        self.measure, self.every, self.pass_size = measure, every, pass_size
        self.seen = 0
        self.curve: Curve = []

    def on_train_batch_end(self, trainer: L.Trainer, module: Any, outputs: Any, batch: Any, _: int) -> None:
        before, self.seen = self.seen, self.seen + batch.num_responses
        last = trainer.global_step == trainer.max_steps
        if last or self.seen // self.every > before // self.every:
            with torch.no_grad(), evaluating(module.network):
                numbers = self.measure(module.network)
            self.curve.append({"passes": round(self.seen / self.pass_size, 3), **numbers})


def train(
    start: Start,
    data: Data,
    passes: float,
    seed: int,
    measure: Measure | None = None,
    pass_size: int | None = None,
    probes: int = 4,
    **arguments: Any,
) -> Trained:
    """A reward model trained for so many passes over each response.

    AdamW (weight decay 0.01), gradients clipped at 1, a learning rate that rises over a tenth of the updates
    and falls to 0.

    Args:
        start: the model.
        data: what it learns from.
        passes: over each response of `pass_size`.
        seed: of the new head, of the order, and of what the module draws.
        measure: what is measured on the way.
        pass_size: responses of a pass; by default those of the data's rows.
        probes: how often it is measured, the end included.
        arguments: the module's.
    """
    quieten()
    size = pass_size or data.responses
    updates_an_epoch = math.ceil(len(data.rows) / data.batch_size)
    updates = max(1, round(passes * size / data.responses * updates_an_epoch))
    watch = Watch(measure, max(1, round(passes * size / probes)), size) if measure else None
    torch.manual_seed(seed)
    module = RewardModule(
        str(start.folder),
        center=False,
        optimizer=lambda parameters: torch.optim.AdamW(
            parameters, lr=start.learning_rate, weight_decay=0.01, fused=True
        ),
        scheduler=lambda optimizer: torch.optim.lr_scheduler.LambdaLR(
            optimizer,
            lambda step: min((step + 1) / max(1, updates // 10), 1.0) * max(0.0, 1 - step / updates),
        ),
        seed=seed,
        **arguments,
    )
    trainer = L.Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=updates,
        max_epochs=-1,
        gradient_clip_val=1.0,
        logger=False,
        callbacks=[watch] if watch else [],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        write(path, data.rows)
        options = {"batch_size": data.batch_size, "seed": seed, **start.limits, **data.options}
        trainer.fit(module, datamodule=data.module(str(path), **options))
    return Trained(module, watch.curve if watch else [])


def quieten() -> None:
    """Nothing of Lightning and transformers on the screen: hundreds of fits would bury the studies' own lines."""
    from transformers.utils import logging as transformers_logging

    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    for name in ("lightning.pytorch", "lightning.fabric", "lightning", "lit_rlhf"):
        logging.getLogger(name).setLevel(logging.ERROR)
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()


def best_by(curve: Curve, name: str) -> dict[str, float]:
    """The first point of a curve at which `name` is highest."""
    return max(curve, key=lambda point: point[name])

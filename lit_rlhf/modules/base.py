"""What the phases share: the optimizer, the one mean, logging, export. Nothing of an algorithm."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, Protocol, TypeVar

import lightning as L
import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.plugins.precision import DoublePrecision, HalfPrecision
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torchmetrics import Metric
from transformers import PreTrainedTokenizerBase

from lit_rlhf.data.ranks import data_rank
from lit_rlhf.data.seed import settled_seed
from lit_rlhf.data.tokenization import TextEncoder, load_tokenizer
from lit_rlhf.models.deferred_weights import has_deferred, read_weights
from lit_rlhf.models.loading import resolve_model_name
from lit_rlhf.models.lora import LoraAdapter, settle_checksum
from lit_rlhf.models.quantized import is_quantized
from lit_rlhf.models.reference import Frozen
from lit_rlhf.models.sharding import (
    Outline,
    average_gradients,
    clip_gradients,
    is_sharded,
    own_part,
)
from lit_rlhf.ops.noise import seed_from
from lit_rlhf.records import LossOutput, ResponseTrees
from lit_rlhf.rollout.sampling import sample_responses
from lit_rlhf.rollout.settings import SamplingSettings
from lit_rlhf.strategies.fsdp2 import FSDP2Strategy
from lit_rlhf.strategies.limits import scales_late

Settings = TypeVar("Settings")

NOT_HYPERPARAMETERS = ["optimizer", "scheduler", "tokenizer"]
"""Left out of the checkpoint: objects, given again on load."""


def check_argument(name: str, value: float | None, fits: bool, expected: str) -> None:
    """Refuse a constructor's argument that makes no sense, by its config key."""
    if not fits:
        raise ValueError(f"model.{name}: expected {expected}, found {value}.")


def default_optimizer(parameters: Any) -> torch.optim.Optimizer:
    """AdamW at 1e-4 without weight decay."""
    return torch.optim.AdamW(parameters, lr=1e-4, weight_decay=0.0)


def checked_settings(
    kind: type[Settings], key: str, given: Settings | dict[str, Any] | None
) -> Settings | None:
    """A group of settings from what a config or a checkpoint holds; None stays None.

    Args:
        kind: the dataclass, which checks its values.
        key: its config key, for the error.
        given: the dataclass, or its fields as plain values.

    Raises:
        ValueError: something else, or a field that there is not, with the nearest one, or one that is missing.
    """
    if given is None or isinstance(given, kind):
        return given
    if not isinstance(given, dict):
        raise ValueError(f"model.{key}: {not_settings(kind, given)}")
    known = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            raise ValueError(f"model.{key}.{name}: no such key.{hint} There are: {', '.join(known)}.")
    if not given.keys() >= set(_required(kind)):
        raise ValueError(f"model.{key}: {not_settings(kind, given)}")
    return kind(**given)


def not_settings(kind: type[Any], found: Any) -> str:
    """What to say of something else in the place of a group of settings.

    Args:
        kind: their dataclass.
        found: in their place; text may be meant for the one setting that has to be given.
    """
    required = _required(kind)
    first = required[0] if required else fields(kind)[0].name
    advice = f" Write {{{first}: {found}}}." if required and isinstance(found, str) else ""
    return f"expected {{{first}: …}}, found {found!r}.{advice}"


def _required(kind: type[Any]) -> list[str]:
    missing = (one for one in fields(kind) if one.default is MISSING and one.default_factory is MISSING)
    return [one.name for one in missing]


class Movable(Protocol):
    """A frozen network, or a reward that may hold one."""

    def to(self, device: torch.device | str) -> Any: ...


class PhaseModule(L.LightningModule):
    """The floor that SFT, reward, PPO and DPO stand on; abstract.

    A phase sets `network` and defines `compute_loss`, which returns a sum and what to divide it by. The mean
    is taken here, once: over every counted item of the optimizer batch, all ranks and accumulation steps.
    """

    network: nn.Module

    def __init__(
        self,
        model: str | nn.Module,
        optimizer: OptimizerCallable,
        scheduler: LRSchedulerCallable | None,
        tokenizer: PreTrainedTokenizerBase | None,
        chat_template: str | None,
    ) -> None:
        super().__init__()
        if tokenizer is None:
            if not isinstance(model, str):
                raise ValueError(
                    f"model is a {type(model).__name__} already built: give its tokenizer too, tokenizer=..."
                )
            tokenizer = load_tokenizer(resolve_model_name(model))
        self.tokenizer = tokenizer
        self.chat_template = chat_template
        self._make_optimizer = optimizer
        self._make_scheduler = scheduler
        self._window: list[tuple[Tensor, Tensor]] = []
        self._outline: Outline | None = None

    @property
    def encoder(self) -> TextEncoder:
        """Text to ids and back: the data module's, whose tokenizer and chat template override, or our own."""
        theirs = getattr(self.datamodule, "encoder", None)
        return theirs if isinstance(theirs, TextEncoder) else TextEncoder(self.tokenizer, self.chat_template)

    def tokenizer_to_export(self) -> PreTrainedTokenizerBase:
        """The tokenizer with the chat template in use, so that the next phase needs not be told again."""
        tokenizer = copy.deepcopy(self.encoder.tokenizer)
        if self.encoder.chat_template is not None:
            tokenizer.chat_template = self.encoder.chat_template
        return tokenizer

    @property
    def data_rank(self) -> int:
        """Which share of the data is this process's, from 0."""
        return data_rank(self.trainer)[0]

    @property
    def data_ranks(self) -> int:
        """How many shares there are: ranks that compute layers together see the same rows."""
        return data_rank(self.trainer)[1]

    @property
    def datamodule(self) -> Any:
        """The trainer's data module; None where there is no trainer yet, or it was given plain loaders."""
        return None if self._trainer is None else getattr(self._trainer, "datamodule", None)

    @property
    def is_learning(self) -> bool:
        """Whether what is computed is learnt from: in a trainer's training steps, whatever mode the layers are in."""
        return self.training if self._trainer is None else bool(self.trainer.training)

    def frozen(self) -> list[Movable]:
        """What the phase holds beside its network: not registered, so moved here and not by Lightning.

        What has `networks()` gives those that are spread over ranks, where the strategy does that.
        """
        return []

    def configure_model(self) -> None:
        """Spread all networks over the ranks, where the strategy does that; each rank reads its part of the weights.

        Lightning calls it before every loop; what is spread already stays as it is.
        """
        held = [network for frozen in self.frozen() for network in networks_of(frozen)]
        strategy = None if self._trainer is None else self.trainer.strategy
        device: torch.device | str = "cpu"
        if isinstance(strategy, FSDP2Strategy):
            self._refuse_to_shard()
            if self._outline is None:
                self._outline = Outline(self.network, getattr(self, "adapter", None))
            for network in (self.network, *held):
                strategy.shard(network)
            device = strategy.device_of_parts
            each_row_once = strategy.device_mesh["data_parallel"].get_group()
            for metric in (part for part in self.modules() if isinstance(part, Metric)):
                metric.process_group = each_row_once
        for network in filter(has_deferred, (self.network, *held)):
            read_weights(network, device)
        settle_checksum(self.network)

    def _refuse_to_shard(self) -> None:
        """Say so where the phase cannot work with weights that are spread over ranks. Meant to be extended."""
        if is_quantized(self.network):
            raise ValueError(
                "model.lora.base_weights: weights of 4 bits are not spread over ranks. Take full ones, or ddp."
            )

    @property
    def is_sharded(self) -> bool:
        """Whether the network is spread over ranks, so that every rank must call what computes with it."""
        return is_sharded(self.network)

    def _move_frozen(self) -> None:
        precision = self.trainer.precision_plugin
        with torch.inference_mode(False):  # what a validation moves is changed by a fit behind it
            for held in self.frozen():
                held.to(self.device)
                if isinstance(held, Frozen) and isinstance(precision, HalfPrecision | DoublePrecision):
                    precision.convert_module(
                        held.network
                    )  # the weights of what it is compared with were, too

    def _reset_metrics(self) -> None:
        # What `Trainer.validate` leaves are tensors of inference mode, which validation inside a fit cannot add to;
        # and sums over an epoch, which a bf16 network would turn to bf16, stand still after a few hundred batches.
        for child in self.modules():
            if isinstance(child, Metric):
                child.set_dtype(torch.float32)
                child.reset()

    def setup(self, stage: str) -> None:
        # Lightning widens weights after a checkpoint's were put in, which are then no more than fp32.
        if isinstance(self.trainer.precision_plugin, DoublePrecision):
            self.trainer.precision_plugin.convert_module(self)

    # The module is on its device in these hooks, and not yet in `setup`.
    def on_fit_start(self) -> None:
        self._window = []  # an earlier fit may have ended inside an accumulation window
        if self.trainer.accumulate_grad_batches > 1 and not scales_late(self.trainer.strategy):
            rank_zero_warn(
                "DeepSpeed keeps gradients to itself: under accumulation each window is divided by the count of its "
                "first batch, and not by its own. Use data.max_tokens, whose batches are equally full, or fsdp2."
            )
        self._move_frozen()

    def on_validation_start(self) -> None:
        self._move_frozen()
        self._reset_metrics()

    def on_test_start(self) -> None:
        self._move_frozen()
        self._reset_metrics()

    def on_predict_start(self) -> None:
        self._move_frozen()

    def remember_arguments(self, model: str | nn.Module, *objects: str) -> None:
        """Save the constructor's arguments as hyper-parameters, without those that are objects."""
        ignored = [*NOT_HYPERPARAMETERS, *objects, *([] if isinstance(model, str) else ["model"])]
        self.save_hyperparameters(ignore=ignored)

    def compute_loss(self, batch: Any) -> LossOutput:
        """The phase's loss on one batch, as a sum and a count. Meant to be overridden."""
        raise NotImplementedError

    def mean_loss(self, output: LossOutput, rows: Sequence[str]) -> Tensor:
        """What `training_step` returns so that the gradient is that of Σ totals / Σ counts.

        Both sums run over all ranks and over the accumulation window. Lightning divides by the window's
        length and the strategy averages over ranks; here the sum is put back for the ranks and scaled by the
        window's first count, and :meth:`on_before_optimizer_step` puts in the window's own count once it is
        known.

        Args:
            output: of `compute_loss`.
            rows: the batch's row ids or places, for the error.
        Raises:
            FloatingPointError: the loss is not finite; nothing has been updated by it.
        """
        if not torch.isfinite(output.total):
            shown = ", ".join(rows[:5]) + (f" and {len(rows) - 5} more" if len(rows) > 5 else "")
            raise FloatingPointError(
                f"The loss is {output.total.item()} at epoch {self.current_epoch}, update {self.global_step}, on rows "
                f"{shown}. Lower the learning rate, set trainer.gradient_clip_val, or look at these rows."
            )
        count = self._sum_over_ranks(output.count.detach().float())
        self._window.append((output.total.detach(), count))
        return output.total * (self.trainer.world_size / self._window_scale())

    def _window_scale(self) -> Tensor:
        """What the window's losses are divided by until its own count is known; the same on all ranks."""
        first = self._window[0][1]
        return torch.where(first > 0, first, torch.ones_like(first))

    def _sum_over_ranks(self, value: Tensor) -> Tensor:
        if self.trainer.world_size == 1:
            return value
        # a copy: the sum is taken in place, and the backward may still need what the tensor held
        summed: Tensor = self.trainer.strategy.reduce(value.clone(), reduce_op="sum")
        return summed

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Divide by the whole accumulation window's count; runs after unscaling and before clipping."""
        if self.is_sharded:
            average_gradients(self.parameters_beside())
        if not self._window:
            return
        divided_by = self.trainer.accumulate_grad_batches
        scale, counts = self._window_scale(), torch.stack([count for _, count in self._window])
        self._window = []
        if divided_by == 1 and len(counts) == 1:
            return
        total = counts.sum()
        factor = divided_by * scale / torch.where(total > 0, total, torch.ones_like(total))
        for parameter in self.parameters():
            if parameter.grad is not None:
                own_part(parameter.grad).mul_(factor)

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """As the trainer's flags say; the norm is that of the whole gradient, also where ranks hold parts of it."""
        if not self.is_sharded or not gradient_clip_val or gradient_clip_algorithm == "value":
            super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)
            return
        clip_gradients((p for group in optimizer.param_groups for p in group["params"]), gradient_clip_val)

    def log_training(self, output: LossOutput) -> None:
        """Log a training step's numbers, on the steps that the trainer writes out and on the epoch's last.

        The loss is that of the optimizer batch so far, all ranks together; the other metrics are those of this
        rank's last micro-batch. Call it after :meth:`mean_loss`.
        """
        every: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]  # set by its logger connector
        if not every:  # as Lightning has it: never
            return
        due = (self.trainer.global_step + 1) % every == 0
        if not (due or self.trainer.is_last_batch):
            return
        total = self._sum_over_ranks(torch.stack([total for total, _ in self._window]).sum().float())
        count = torch.stack([count for _, count in self._window]).sum()
        self.log("train/loss", torch.where(count > 0, total / count, 0.0), prog_bar=True)
        self.log_dict(output.metrics)

    def dropout_seed(self, batch_idx: int) -> int:
        """What a training step draws depends on (seed, step, rank) alone, so that a resumed run repeats it."""
        return seed_from(
            settled_seed(self.hparams.get("seed")), self.current_epoch, batch_idx, self.data_rank
        )

    def configure_optimizers(self) -> Any:
        """The optimizer over :meth:`parameter_groups`, and its schedule stepped once an update."""
        optimizer = self._make_optimizer(self.parameter_groups())
        if self._make_scheduler is None:
            return optimizer
        scheduler = self._make_scheduler(optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def parameter_groups(self) -> list[dict[str, Any]]:
        """What the optimizer updates."""
        return [{"params": [p for p in self.network.parameters() if p.requires_grad]}]

    def parameters_beside(self) -> list[nn.Parameter]:
        """What is trained outside the network, such as what a loss learns; whole on every rank."""
        own = {id(parameter) for parameter in self.network.parameters()}
        return [p for p in self.parameters() if p.requires_grad and id(p) not in own]

    def export(self, directory: str | Path) -> None:
        """Write the trained network as a Hugging Face folder that the next phase takes as its `model`.

        With LoRA it is merged, and the adapter stands beside it. Where the network :attr:`is_sharded` every rank must
        call it: rank 0 gathers the weights in the memory of its CPU, and writes.
        """
        if self._outline is None or not self.is_sharded:
            self.write_export(self.network, getattr(self, "adapter", None), Path(directory))
            return
        with self._outline.filled(self.network) as whole:
            if whole is not None:
                self.write_export(*whole, Path(directory))

    def write_export(self, network: Any, adapter: LoraAdapter | None, directory: Path) -> None:
        """Write a whole network, with its adapters, as the phase's kind of folder."""
        raise NotImplementedError

    def sample_table(self) -> list[dict[str, Any]] | None:
        """A few examples of what the model does now, for the text tab of the logger; None = nothing to show."""
        return None

    def sample_texts(
        self, prompts: list[list[int]], settings: SamplingSettings, keys: Tensor
    ) -> tuple[list[str], list[bool]]:
        """Responses in text, and whether each ended with its EOS."""
        with self.trainer.precision_plugin.forward_context():
            sampled = sample_responses(
                self.network,  # type: ignore[arg-type]  # policies decode; reward models never come here
                prompts,
                settings,
                keys,
                self.encoder.eos_token_id,
                self.device,
            )
        return [self.encoder.decode(ids) for ids in sampled.response_ids], (~sampled.truncated).tolist()


def networks_of(held: Movable) -> list[nn.Module]:
    """The frozen networks that it holds; somebody's own reward need not know of it, and stays whole on every rank."""
    networks: list[nn.Module] = getattr(held, "networks", list)()
    return networks


def prompts_of(trees: ResponseTrees) -> list[list[int]]:
    """The prompts of a batch, B lists of ids."""
    segments = trees.input_ids.split(trees.segment_lengths)
    counts = torch.bincount(trees.tree_index.cpu(), minlength=trees.num_trees).tolist()
    prompts, position = [], 0
    for count in counts:
        prompts.append(segments[position].tolist())
        position += 1 + count
    return prompts

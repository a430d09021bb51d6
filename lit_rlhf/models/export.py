"""Networks to Hugging Face folders: safetensors, tokenizer, generation config. Read by transformers alone."""

from __future__ import annotations

import copy
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import TaskType
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerBase

from lit_rlhf.models.lora import LoraAdapter
from lit_rlhf.models.policy import PolicyNetwork
from lit_rlhf.models.scorer import ScorerNetwork


def export_policy(
    network: PolicyNetwork,
    tokenizer: PreTrainedTokenizerBase,
    directory: str | Path,
    adapter: LoraAdapter | None = None,
) -> None:
    """Write the policy as ``AutoModelForCausalLM`` loads it, with eos and pad in both configs.

    The folder appears whole or not at all; an earlier one of that name is replaced. With adapters it holds a copy
    that they are merged into, and ``<directory>-adapter`` holds them alone, as ``PeftModel`` loads them.
    """
    model = network.causal_lm
    if adapter is not None:
        model = adapter.merged()
        _write_adapter(adapter, tokenizer, Path(directory), TaskType.CAUSAL_LM, adapter.weights())
    for config in (model.config, model.generation_config):
        config.eos_token_id = tokenizer.eos_token_id
        config.pad_token_id = tokenizer.pad_token_id
        config.bos_token_id = tokenizer.bos_token_id
    with _written_beside(Path(directory)) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def export_scorer(
    network: ScorerNetwork,
    tokenizer: PreTrainedTokenizerBase,
    directory: str | Path,
    adapter: LoraAdapter | None = None,
) -> None:
    """Write the scorer as ``AutoModelForSequenceClassification`` with one label loads it.

    transformers' classification heads have no bias. Where the final norm has one (GPT-2) the head's bias is
    folded into it, and plain transformers gives our scores. Else it stands in ``config.json`` as
    ``score_bias``: our loaders add it, and plain transformers' scores differ by exactly that constant. With
    the luce link plain transformers gives the head's output, before the link (``score_link``, ``score_offset``).

    With adapters the folder holds a copy that they are merged into, and ``<directory>-adapter`` holds them and the
    head's weights, as ``PeftModel`` loads them onto a sequence classifier with one label of the model that they were
    trained on. The three numbers then stand in the metadata of its safetensors file, the bias never folded.
    """
    trunk = network.trunk
    if adapter is not None:
        trunk = adapter.merged()
        prefix = trunk.base_model_prefix
        weights = {f"{prefix}.{name}": weight for name, weight in adapter.weights().items()}
        weights["score.weight"] = network.head.weight
        numbers = {
            "score_bias": network.head.bias.item(),
            "score_link": network.link,
            "score_offset": network.score_offset.item(),
        }
        _write_adapter(adapter, tokenizer, Path(directory), TaskType.SEQ_CLS, weights, numbers)
    config = type(trunk.config).from_dict(trunk.config.to_dict())
    config.num_labels = 1
    config.pad_token_id = tokenizer.pad_token_id
    config.eos_token_id = tokenizer.eos_token_id
    config.score_link = network.link
    config.score_offset = network.score_offset.item()
    with torch.random.fork_rng(
        devices=[]
    ):  # the classifier's own initialisation draws from the global stream
        classifier = AutoModelForSequenceClassification.from_config(config)
    classifier.base_model.load_state_dict(trunk.state_dict())
    with torch.no_grad():
        classifier.score.weight.copy_(network.head.weight)
        folded = _fold_bias(classifier.base_model, network.head)
    classifier.config.score_bias = 0.0 if folded else network.head.bias.item()
    with _written_beside(Path(directory)) as folder:
        classifier.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def _write_adapter(
    adapter: LoraAdapter,
    tokenizer: PreTrainedTokenizerBase,
    directory: Path,
    task: TaskType,
    weights: dict[str, Tensor],
    metadata: dict[str, Any] | None = None,
) -> None:
    """``<directory>-adapter`` in peft's format; `weights` are named from the model that it is loaded onto."""
    config = copy.deepcopy(adapter.config)
    config.task_type = task
    config.inference_mode = True
    if task == TaskType.SEQ_CLS:
        config.modules_to_save = ["score"]
    if isinstance(config.target_modules, str):  # an expression would not match names that begin otherwise
        config.target_modules = set(adapter.layer_names())
    stored = {
        f"base_model.model.{name}": weight.detach().cpu().contiguous() for name, weight in weights.items()
    }
    described = {name: str(value) for name, value in (metadata or {}).items()}
    with _written_beside(directory.with_name(f"{directory.name}-adapter")) as folder:
        save_file(stored, folder / "adapter_model.safetensors", metadata={"format": "pt", **described})
        config.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def _fold_bias(trunk: nn.Module, head: nn.Linear) -> bool:
    """Put the head's bias b into the final norm's: w·(h + δ) = w·h + b with δ = b·w/‖w‖²."""
    norm_bias = _final_norm_bias(trunk)
    squared_norm = head.weight.square().sum()
    if norm_bias is None or squared_norm == 0:
        return False
    norm_bias += (head.bias * head.weight / squared_norm).squeeze(0)
    return True


def _final_norm_bias(trunk: nn.Module) -> Tensor | None:
    for name in ("ln_f", "norm", "final_layernorm", "final_layer_norm"):
        norm = getattr(trunk, name, None)
        if norm is not None:
            return getattr(norm, "bias", None)
    return None


@contextmanager
def _written_beside(directory: Path) -> Iterator[Path]:
    """A fresh folder beside `directory` that takes its name once the block has ended without an error."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    staging.chmod(0o755)
    try:
        yield staging
        retired = staging.with_name(staging.name + "-old")
        if directory.exists():
            os.rename(directory, retired)
        os.rename(staging, directory)
        shutil.rmtree(retired, ignore_errors=True)
    finally:
        shutil.rmtree(staging, ignore_errors=True)

"""Networks to Hugging Face folders: safetensors, tokenizer, generation config. Read by transformers alone."""

from __future__ import annotations

import copy
import json
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
from torch import Tensor
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerBase

from lit_rlhf.models.final_norm import final_norm_bias, fold_bias
from lit_rlhf.models.lora import BASE_CHECKSUM, LoraAdapter, base_checksum
from lit_rlhf.models.policy import PolicyNetwork
from lit_rlhf.models.scorer import ScorerNetwork
from lit_rlhf.models.stored_scorer import one_head, score_numbers, warn_of_losses, write_components


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

    Gain, offset and the components' mean are folded into the one head. transformers' classification heads have no
    bias: where the final norm has one (GPT-2) the head's bias is folded into it, and plain transformers gives our
    scores. Else it stands in ``config.json`` as ``score_bias``: our loaders add it, and plain transformers' scores
    differ by exactly that constant. What is not linear (the luce link; components combined by other than their mean)
    is lost there, and a warning says what: :func:`lit_rlhf.models.stored_scorer.one_head`. Our loaders restore all of
    it, from ``config.json`` (``score_link``, ``score_gain``, ``score_offset``, ``score_components``) and, of several
    components, from ``components.safetensors``.

    With adapters the folder holds a copy that they are merged into, and ``<directory>-adapter`` holds them and the
    head's weights, as ``PeftModel`` loads them onto a sequence classifier with one label of the model that they were
    trained on. The numbers then stand in the metadata of its safetensors file, the bias never folded.
    """
    warn_of_losses(network)
    trunk, (weight, bias) = network.trunk, one_head(network)
    if adapter is not None:
        trunk = adapter.merged()
        prefix = trunk.base_model_prefix
        weights = {f"{prefix}.{name}": stored for name, stored in adapter.weights().items()}
        weights["score.weight"] = weight.to(network.head.weight.dtype)
        numbers = {**score_numbers(network, folded=False), BASE_CHECKSUM: base_checksum(adapter.tuner.model)}
        _write_adapter(adapter, tokenizer, Path(directory), TaskType.SEQ_CLS, weights, numbers, network)
    config = type(trunk.config).from_dict(trunk.config.to_dict())
    config.num_labels = 1
    config.pad_token_id = tokenizer.pad_token_id
    config.eos_token_id = tokenizer.eos_token_id
    with torch.random.fork_rng(
        devices=[]
    ):  # the classifier's own initialisation draws from the global stream
        classifier = AutoModelForSequenceClassification.from_config(config)
    classifier.base_model.load_state_dict(trunk.state_dict())
    with torch.no_grad():
        classifier.score.weight.copy_(weight)
        folded = fold_bias(classifier.base_model, weight, bias)
    for name, number in score_numbers(network, folded).items():
        setattr(classifier.config, name, number)
    with _written_beside(Path(directory)) as folder:
        classifier.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        write_components(network, folder, final_norm_bias(trunk))


def _write_adapter(
    adapter: LoraAdapter,
    tokenizer: PreTrainedTokenizerBase,
    directory: Path,
    task: TaskType,
    weights: dict[str, Tensor],
    numbers: dict[str, Any] | None = None,
    scorer: ScorerNetwork | None = None,
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
    described = {
        n: value if isinstance(value, str) else json.dumps(value) for n, value in (numbers or {}).items()
    }
    with _written_beside(directory.with_name(f"{directory.name}-adapter")) as folder:
        save_file(stored, folder / "adapter_model.safetensors", metadata={"format": "pt", **described})
        config.save_pretrained(folder)
        if scorer is not None:
            write_components(scorer, folder)
        tokenizer.save_pretrained(folder)


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

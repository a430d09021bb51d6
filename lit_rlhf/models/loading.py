"""Open a model folder in Hugging Face layout (or a hub name) as the network a phase needs."""

from __future__ import annotations

import difflib
import json
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedModel,
)

from lit_rlhf.models.deferred_weights import open_without_weights
from lit_rlhf.models.reading import Attention, choose_attention

Network = TypeVar("Network", bound=nn.Module)


def looks_local(name: str) -> bool:
    """Whether `name` means a folder here; such a name never touches the network.

    ``models/gpt`` could be a hub name; where there is a folder ``models`` here it is taken as a path.
    """
    if name.startswith((".", "/", "~")) or name.endswith("/") or name.count("/") > 1:
        return True
    return Path(name).exists() or ("/" in name and Path(name).parent.is_dir())


def resolve_model_name(name: str) -> str:
    """The folder's path, checked, or the hub name as it is.

    Raises:
        FileNotFoundError: a local name without a ``config.json``, with near names beside it.
    """
    if not looks_local(name):
        return name
    folder = Path(name).expanduser()
    if (folder / "config.json").is_file():
        return str(folder)
    if (folder / "adapter_config.json").is_file():
        raise FileNotFoundError(
            f"model {name!r}: expected a whole model, found a LoRA adapter without the model under it. Give the merged "
            "export that stands beside it (export/ beside export-adapter/)."
        )
    if folder.is_dir():
        raise FileNotFoundError(
            f"model {name!r}: expected a Hugging Face folder with config.json in it, found "
            f"{sorted(p.name for p in folder.iterdir())[:8]}. An export of an earlier phase is in <run>/export."
        )
    parent = folder.parent
    beside = [p.name for p in parent.iterdir()] if parent.is_dir() else []
    near = difflib.get_close_matches(folder.name, beside, n=3)
    hint = f"; near names there: {', '.join(near)}" if near else ""
    raise FileNotFoundError(f"model {name!r}: no such folder{hint}.")


def load_causal_lm(model: str | nn.Module, attention: Attention = "auto") -> PreTrainedModel:
    """A causal language model: in fp32 and train mode from a folder or hub name; one already built as it is.

    Args:
        model: the folder, the name, or the model, whose attention is then replaced in place.
        attention: over trees or over padded rows; see :func:`lit_rlhf.models.reading.choose_attention`.

    Raises:
        FileNotFoundError: see :func:`resolve_model_name`.
        ValueError: the folder holds a reward model, which has no language-model head.
    """
    if isinstance(model, nn.Module):
        if hasattr(model, "peft_config"):
            raise ValueError(
                f"model is a {type(model).__name__} with adapters of its own: give the model without them, and theirs "
                "as model.lora; or merge them first (merge_and_unload)."
            )
        return choose_attention(check_output_head(model), attention)
    name = resolve_model_name(model)
    if is_scorer_folder(name):
        raise ValueError(
            f"model {model!r} is a reward model (its config.json names a SequenceClassification architecture): "
            "it has no language-model head. Give the folder of a policy, such as the export of an SFT run."
        )
    return choose_attention(check_output_head(_open(AutoModelForCausalLM, name)), attention)


def _open(auto_class: Any, name: str) -> PreTrainedModel:
    loaded: PreTrainedModel | None = open_without_weights(auto_class, name)
    if loaded is None:
        # fp32 master weights whatever the folder's dtype
        loaded = auto_class.from_pretrained(name, dtype=torch.float32)
    # from_pretrained returns eval mode, and Lightning keeps it
    return loaded.train()


def is_scorer_folder(name: str) -> bool:
    """Whether the model is stored as a sequence classifier, as our reward exports are."""
    config_file = Path(name) / "config.json"
    if config_file.is_file():
        architectures = json.loads(config_file.read_text()).get("architectures")
    else:
        architectures = AutoConfig.from_pretrained(name).architectures
    return any(a.endswith("ForSequenceClassification") for a in architectures or [])


def resolve_scorer(name: str) -> str:
    """The folder's path, checked, or the hub name as it is.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it holds no reward model.
    """
    model = resolve_model_name(name)
    if not is_scorer_folder(model):
        raise ValueError(
            f"{name} is no reward model: its config.json names no SequenceClassification architecture. "
            "Give the export of a reward run, such as runs/reward/export."
        )
    return model


def load_sequence_classifier(name: str, attention: Attention = "auto") -> PreTrainedModel:
    """A stored scorer in fp32 and train mode.

    Raises:
        ValueError: it gives more than one score.
    """
    loaded = _open(AutoModelForSequenceClassification, resolve_model_name(name))
    if loaded.config.num_labels != 1:
        raise ValueError(
            f"model {name!r} is a classifier with {loaded.config.num_labels} labels; a reward model has one. "
            "Start from a causal language model instead, which gets a new head."
        )
    return choose_attention(loaded, attention)


def check_output_head(causal_lm: nn.Module) -> PreTrainedModel:
    """Refuse, by name, models that rescale logits in a way that `output_logits` does not repeat."""
    config = causal_lm.config
    for field in ("logit_scale", "logits_scaling", "lm_head_multiplier"):
        value = getattr(config, field, None)
        if value not in (None, 1, 1.0):
            raise ValueError(
                f"{type(causal_lm).__name__} rescales its logits (config.{field} = {value}), "
                "which is not supported: log-probabilities would be wrong."
            )
    return causal_lm


def check_same_vocabulary(name: str, model: PreTrainedModel, policy: PreTrainedModel) -> None:
    """Refuse a model that is to read the policy's ids and has another vocabulary; `name` is its config key."""
    theirs, ours = model.config.vocab_size, policy.config.vocab_size
    if theirs != ours:
        raise ValueError(
            f"model.{name}: expected the policy's vocabulary of {ours} tokens, found {theirs}: it reads the ids of "
            "the policy. (A reward model may have a tokenizer of its own.)"
        )


def has_dropout(network: nn.Module) -> bool:
    """Whether anything of `network` drops out while it trains."""
    return any(
        (isinstance(module, nn.Dropout) and module.p > 0)
        or any(
            "dropout" in name and isinstance(rate, float) and rate > 0 for name, rate in vars(module).items()
        )
        for module in network.modules()
    )


def disable_dropout(network: Network) -> Network:
    """Set every dropout rate of `network` to 0, so that train and eval mode give the same numbers.

    Log-probability ratios and score differences would else be noise at the start (Huang et al. 2024, the
    N+ implementation details, detail 7).
    """
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name, value in vars(module).items():
            if "dropout" in name and isinstance(value, float):  # rates that layers hold as plain numbers
                setattr(module, name, 0.0)
    return network

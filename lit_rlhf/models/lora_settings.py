"""What ``lora:`` takes: the fields of peft's LoraConfig, checked, as plain values."""

from __future__ import annotations

import difflib
from dataclasses import fields
from typing import Any, TypeAlias

from peft import LoraConfig

Lora: TypeAlias = dict[str, Any] | LoraConfig
"""What ``lora:`` takes: peft's fields, as plain values or as peft's own object."""

SUPPORTED = (
    "r",
    "lora_alpha",
    "lora_dropout",
    "target_modules",
    "exclude_modules",
    "layers_to_transform",
    "layers_pattern",
    "rank_pattern",
    "alpha_pattern",
    "use_rslora",
    "use_dora",
    "init_lora_weights",
)
"""peft's fields that may differ from their defaults."""

OURS = {"base_weights": ("full", "nf4")}
"""Fields beside peft's, with what they take: ``nf4`` holds the frozen weights in 4 bits (needs bitsandbytes)."""

NOT_READ = (
    "task_type",
    "inference_mode",
    "base_model_name_or_path",
    "revision",
    "auto_mapping",
    "peft_version",
    "fan_in_fan_out",
    "loftq_config",
    "runtime_config",
)
"""Settled here, or without effect on what is supported: a stored adapter's own config can be given."""

REFUSED = {
    "modules_to_save": "train full weights with lora: null instead; a reward model's head is always trained in full",
    "bias": "the adapters would then not be all that is trained, and taking them off not be the model as it was",
}
"""Reasons, where there is a better one than that it was not tried."""


def lora_settings(lora: Lora | None, dropout: bool = True) -> dict[str, Any] | None:
    """`lora` as plain values that a checkpoint can hold, checked; None stays None.

    Args:
        lora: peft's fields, and :data:`OURS`; of a ``LoraConfig`` those that differ from its defaults are kept.
        dropout: whether the phase has dropout.

    Raises:
        ValueError: a field that peft does not have, or that is not supported, or a value that makes no sense;
            named as ``model.lora.<field>``.
    """
    if lora is None:
        return None
    defaults = _defaults()
    if isinstance(lora, LoraConfig):
        if type(lora) is not LoraConfig:
            raise ValueError(f"model.lora: expected a LoraConfig, found {type(lora).__name__}.")
        given = {name: getattr(lora, name) for name in defaults}
        lora = {name: value for name, value in given.items() if value != defaults[name]}
    if "class_path" in lora:  # as a config file has an object
        lora = lora.get("init_args", {})
    settings = {}
    for name, value in lora.items():
        if name in OURS:
            _check(name, value, value in OURS[name], " or ".join(OURS[name]))
            settings[name] = value
            continue
        if name not in defaults:
            near = difflib.get_close_matches(name, [*SUPPORTED, *OURS], n=1)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            raise ValueError(
                f"model.lora.{name}: no such field of peft's LoraConfig.{hint} There are: "
                f"{', '.join([*SUPPORTED, *OURS])}."
            )
        if name in SUPPORTED:
            settings[name] = sorted(value) if isinstance(value, set) else value
        elif name == "peft_type":
            _check(name, value, getattr(value, "value", value) in ("LORA", None), "LORA")
        elif name not in NOT_READ and value and value != defaults[name]:
            reason = REFUSED.get(name, f"supported are {', '.join(SUPPORTED)}")
            raise ValueError(f"model.lora.{name}: {value!r} is not supported: {reason}.")
    _check_values(settings, dropout)
    return settings


def peft_fields(settings: dict[str, Any]) -> dict[str, Any]:
    """Those of the settings that peft's config takes."""
    return {name: value for name, value in settings.items() if name not in OURS}


def _defaults() -> dict[str, Any]:
    """Every field of peft's config with its default, as it is in an instance."""
    plain = LoraConfig()
    return {field.name: getattr(plain, field.name) for field in fields(plain)}


def _check_values(settings: dict[str, Any], dropout: bool) -> None:
    rank, alpha = settings.get("r", 8), settings.get("lora_alpha", 8)
    _check("r", rank, type(rank) is int and rank > 0, "a whole number of at least 1")
    _check("lora_alpha", alpha, type(alpha) in (int, float) and alpha > 0, "a number over 0")
    rate = settings.get("lora_dropout", 0.0)
    _check("lora_dropout", rate, type(rate) in (int, float) and 0 <= rate < 1, "0 to less than 1")
    _check("lora_dropout", rate, dropout or rate == 0, "0, since dropout is off in this phase")
    for name in ("use_rslora", "use_dora"):
        value = settings.get(name, False)
        _check(name, value, type(value) is bool, "true or false")
    start = settings.get("init_lora_weights", True)
    # The others begin away from the model as it is, or change the frozen weights.
    _check("init_lora_weights", start, start is True or start == "gaussian", "true or gaussian")


def _check(name: str, value: Any, fits: bool, expected: str) -> None:
    if not fits:
        raise ValueError(f"model.lora.{name}: expected {expected}, found {value!r}.")

"""In which settings the methods of a comparison differ."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lit_rlhf import DPOModule, OnlineDPOModule
from lit_rlhf.cli.compare.methods import Method, find_class
from lit_rlhf.modules.direct_methods import METHODS
from lit_rlhf.modules.iteration_phase import IterationPhase

Settings = dict[str, Any]

LEFT_OUT = {
    "model.model", "model.reward", "model.reference", "model.seed", "model.tokenizer", "model.loss", "data.path",
    "data.seed", "trainer.max_epochs", "trainer.max_steps", "trainer.max_time", "trainer.min_epochs",
    "trainer.min_steps", "trainer.log_every_n_steps", "trainer.check_val_every_n_epoch", "trainer.limit_val_batches",
    "trainer.num_sanity_val_steps", "trainer.enable_progress_bar", "trainer.enable_model_summary",
}  # fmt: skip
"""What the comparison decides, what stands elsewhere in the results, and what is only shown."""
OF_PREDICTED_SAMPLES = ("max_new_tokens", "temperature")
"""What trains nothing where a module draws no responses in training."""


def differing(methods: list[Method]) -> dict[str, Settings]:
    """Of each method the settings in which it may differ from the others, by their dotted names.

    Those are the ones that its config gives, and those in which it differs from another method that has them too;
    without those that all methods have alike.
    """
    flat = {one.name: flattened(one) for one in methods}
    given = {one.name: given_names(one.config) for one in methods}
    found: dict[str, Settings] = {}
    for name, settings in flat.items():
        found[name] = {}
        for key, value in settings.items():
            others = [other[key] for other in flat.values() if key in other]
            differs = any(other != value for other in others)
            alike_in_all = len(others) == len(flat) and not differs
            if (differs or key in given[name]) and not (alike_in_all or key in LEFT_OUT):
                found[name][key.removeprefix("model.")] = value
    return found


def flattened(method: Method) -> Settings:
    """A method's settings by dotted names, a class's arguments without the word ``init_args``."""
    found: Settings = {}
    flatten(in_force(method), "model", found)
    flatten(method.arguments("data"), "data", found)
    flatten(
        {k: v for k, v in method.read["trainer"].items() if k not in ("callbacks", "logger")},
        "trainer",
        found,
    )
    return found


def in_force(method: Method) -> Settings:
    """The arguments of a method's module that train it; where null stands for the loss's own value, this one."""
    found = dict(method.arguments("model"))
    module = find_class(str(method.read["model"]["class_path"]))
    if module is not None and not issubclass(module, IterationPhase):
        for name in OF_PREDICTED_SAMPLES:
            found.pop(name, None)
    if module is None or not issubclass(module, DPOModule | OnlineDPOModule):
        return found
    own = METHODS[found["loss"]]
    if found["beta"] is None:
        found["beta"] = own.beta
    if found["beta"] is None:
        del found["beta"]  # the loss has none
    if found["margin"] is None:
        found["margin"] = own.margin(found.get("beta", 1.0))
    if found["sft_coef"] is None:
        found["sft_coef"] = own.sft_coef
    return found


def flatten(value: Any, name: str, into: Settings) -> None:
    """Put what a value holds under dotted names."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            flatten(inner, name if key == "init_args" else f"{name}.{key}", into)
    else:
        into[name] = value


def given_names(config: Path) -> set[str]:
    """The dotted names that a config itself gives."""
    import yaml

    found: Settings = {}
    content = yaml.safe_load(config.read_text(encoding="utf-8"))
    for part in ("model", "data", "trainer"):
        flatten(content.get(part), part, found)
    return set(found)

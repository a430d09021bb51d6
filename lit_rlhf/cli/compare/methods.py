"""The configs of a comparison, read in full before anything is trained."""

from __future__ import annotations

import inspect
import io
import re
import sys
from collections.abc import Mapping
from contextlib import redirect_stderr
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import lit_rlhf
from lit_rlhf.cli.compare.settings import Comparison
from lit_rlhf.cli.fit import CommandLine
from lit_rlhf.cli.refusal import refuse
from lit_rlhf.cli.steps.configs import class_in, find_config, flag_value

Flags = dict[str, Any]

ENDS = {"max_time": None, "min_epochs": None, "min_steps": None}
"""What else may end a fit early, or keep it from ending, and what takes its place."""


@dataclass(frozen=True)
class Method:
    """One config, called like its file."""

    name: str
    config: Path
    learns_from: str
    """``comparisons``, ``prompts``, or ``rows`` of another kind."""
    flags: Flags
    """What the comparison says over the config, but for the seed."""
    read: Mapping[str, Any]
    """The whole config with these flags, every default filled in."""

    def arguments(self, part: str) -> Mapping[str, Any]:
        """Of the `model`'s or the `data`'s class."""
        found: Mapping[str, Any] = self.read[part].get("init_args") or {}
        return found

    @property
    def class_name(self) -> str:
        """The module's."""
        return str(self.read["model"]["class_path"]).rsplit(".", 1)[-1]

    @property
    def reward(self) -> Any:
        """What judges its responses; None where it draws none, or an annotator does."""
        return self.arguments("model").get("reward")

    @property
    def seed_flags(self) -> tuple[str, ...]:
        """Seeds of its own that the config has, and that the comparison's take the place of."""
        own = [f"{part}.seed" for part in ("model", "data") if self.arguments(part).get("seed") is not None]
        return ("seed_everything", *own)


class ReadOnly(CommandLine):
    """Reads a config and its flags as ``fit`` does, every type and name checked, and builds nothing of it."""

    def _set_seed(self) -> None: ...

    def before_instantiate_classes(self) -> None:
        """Nothing."""

    def instantiate_classes(self) -> None:
        """Nothing."""

    def _run_subcommand(self, subcommand: str) -> None: ...


def read_methods(comparison: Comparison) -> list[Method]:
    """Every config, read as its fit will read it.

    Raises:
        Refusal: two have the same name, or one cannot be read.
    """
    files = [find_config(config, "--configs") for config in comparison.configs]
    names = [file.stem for file in files]
    for place, name in enumerate(names):
        if name in names[:place]:
            other = files[names.index(name)]
            refuse(
                f"--configs: {other} and {files[place]} are both called {name}, and a method is called like its file.",
                "Rename one of them.",
            )
    return [read_method(comparison, name, file) for name, file in zip(names, files, strict=True)]


def read_method(comparison: Comparison, name: str, config: Path) -> Method:
    """One config, with what the comparison says over it."""
    said = f"--configs {config}"
    module, data = (find_class(class_in(config, part, said)) for part in ("model", "data"))
    learns_from = kind_of(data)
    flags = flags_over(comparison, learns_from, module is not None and takes_reward(module))
    read = read_config(config, flags)
    if flags.get("model.reward") is not None and read["model"]["init_args"].get("annotator") is not None:
        del flags["model.reward"]  # its annotator judges
        read = read_config(config, flags)
    method = Method(name, config, learns_from, flags, read)
    late: Flags = {
        f"trainer.{key}": value for key, value in ENDS.items() if read["trainer"].get(key) is not None
    }
    if not waits_for_validation(method):
        late["trainer.limit_val_batches"] = 0
    if budgets := [one for one in callbacks_of(method)[:-1] if one.endswith("TrainingBudget")]:
        refuse(
            f"{said}: has a budget of its own, {budgets[0]}.",
            "Take it out: the comparison gives all the same one.",
        )
    return replace(method, flags={**flags, **late})


def flags_over(comparison: Comparison, learns_from: str, takes_reward: bool) -> Flags:
    """What the comparison says over every config of a kind: start, data, budget."""
    flags: Flags = {}
    if comparison.model is not None:
        flags["model.model"] = comparison.model
    file = {"comparisons": comparison.data, "prompts": comparison.prompts}.get(learns_from)
    if file is not None:
        flags |= {"data.path": file, "data.val_path": None, "data.val_fraction": 0}
    if takes_reward and comparison.reward is not None:
        flags["model.reward"] = comparison.reward
    flags |= {"trainer.max_epochs": -1, "trainer.max_steps": comparison.updates or -1}
    flags["trainer.callbacks+"] = "TrainingBudget"
    if comparison.seconds is not None:
        flags["trainer.callbacks.seconds"] = comparison.seconds
        flags["trainer.callbacks.clock"] = comparison.clock
    return flags


def flag_words(flags: Flags) -> tuple[str, ...]:
    """Flags as words of a command line."""
    return tuple(f"--{name}={flag_value(value)}" for name, value in flags.items())


def read_config(config: Path, flags: Flags) -> Mapping[str, Any]:
    """A config and flags over it, every default filled in.

    Raises:
        SystemExit: 2, something in it is wrong, which has been said.
    """
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            found = ReadOnly("fit", ["--config", str(config), *flag_words(flags)])
    except SystemExit:
        print(
            in_our_words(said.getvalue()),
            f"in {config}; nothing has been trained yet",
            sep="",
            file=sys.stderr,
        )
        raise
    sys.stderr.write(said.getvalue())
    content: Mapping[str, Any] = found.config["fit"].as_dict()
    return content


def in_our_words(error: str) -> str:
    """A message of `fit` with the comparison's options in place of its own.

    >>> in_our_words("error: no model: expected --config FILE, or --model")
    'error: no model: give --model START, or model.init_args.model in the config'
    """
    for name, option in (("model", "--model START"), ("reward", "--reward SPEC")):
        error = re.sub(
            rf"\bno {name}: expected --config FILE, or --{name}\b",
            f"no {name}: give {option}, or model.init_args.{name} in the config",
            error,
        )
    return error


# --- what the classes are


def find_class(name: str) -> type | None:
    """The class of a dotted or one of our short names; None where there is none, which reading the config says."""
    module, _, short = name.rpartition(".")
    try:
        found = getattr(import_module(module), short) if module else getattr(lit_rlhf, short)
    except (ImportError, AttributeError, ValueError):
        return None
    return found if isinstance(found, type) else None


def kind_of(data: type | None) -> str:
    """What a data class reads."""
    if data is not None and issubclass(data, lit_rlhf.PairDataModule | lit_rlhf.RankingDataModule):
        return "comparisons"
    return "prompts" if data is not None and issubclass(data, lit_rlhf.PromptDataModule) else "rows"


def takes_reward(module: type) -> bool:
    """Whether its `reward` can be given."""
    return "reward" in inspect.signature(module).parameters


def callbacks_of(method: Method) -> list[str]:
    """The classes of its callbacks; the budget is the last."""
    return [str(one["class_path"]) for one in method.read["trainer"].get("callbacks") or []]


def waits_for_validation(method: Method) -> bool:
    """Whether a callback of the config monitors a number of validation, so that it must be there."""
    arguments = [one.get("init_args") or {} for one in method.read["trainer"].get("callbacks") or []]
    return any(str(one.get("monitor") or "").startswith("val") for one in arguments)

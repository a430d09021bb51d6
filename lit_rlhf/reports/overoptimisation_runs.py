"""What a run of PPO has logged, by iteration, and how its settings differ from those of others.

The horizontal axis is what stands behind the policy when a number was measured: a rollout of iteration i is drawn
by the policy after i iterations, so it stands at i, and 0 is the start; a validation at the end of iteration i
measures the policy after i + 1.
"""

from __future__ import annotations

import json
import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
    SCALARS,
    TENSORS,
    EventAccumulator,
)

VALIDATION = "val/"
_NAMED = 12
"""Of a folder's entries, in an error."""
_ITERATION = "epoch"
_SEEDS = ("seed", "seed_everything")
_NOT_TRAINING = {"out", "ckpt_path", "weights_only"}
_NOT_TRAINING |= {f"trainer.{name}" for name in (
    "logger", "callbacks", "default_root_dir", "enable_progress_bar", "enable_model_summary", "enable_checkpointing",
    "log_every_n_steps", "profiler", "num_sanity_val_steps", "enable_autolog_hparams",
)}  # fmt: skip
"""Settings that change nothing of what is trained."""


class Quantity(NamedTuple):
    """A number of the report; `name` is its logged name, ``val/`` before it on the validation prompts."""

    name: str
    title: str
    unit: str
    meaning: str


SCORE = Quantity("objective/scores", "Score", "units of the reward", "what the policy is trained on")
GOLD = Quantity(
    "objective/gold", "Gold reward", "units of the gold reward", "what the policy is not trained on"
)
KL = Quantity("objective/kl", "KL from the reference", "nats a response", "how far the policy has moved")
ENTROPY = Quantity("objective/entropy", "Entropy", "nats a token", "near 0 all samples are alike")
LENGTH = Quantity(
    "rollout/response_length", "Response length", "tokens", "a reward that likes length shows here"
)
COEFFICIENT = Quantity("objective/kl_coef", "KL coefficient", "score a nat", "the price of moving")
EXPLAINED = Quantity(
    "value/explained_variance", "Explained variance of the critic", "share",
    "1 foresees every return, 0 is worth as much as their mean, less is worse",
)  # fmt: skip
LOWEST_EXPLAINED = -1.0
"""Where its figure ends: a critic that has learned nothing yet can be at minus hundreds."""
QUANTITIES = (SCORE, GOLD, KL, ENTROPY, LENGTH, COEFFICIENT, EXPLAINED)


@dataclass(frozen=True)
class Series:
    """One logged number over a run; iterations rise."""

    iterations: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.values)

    def at(self, iteration: int) -> float | None:
        """The value of an iteration, if there is one."""
        place = bisect_right(self.iterations, iteration) - 1
        return self.values[place] if place >= 0 and self.iterations[place] == iteration else None


@dataclass(frozen=True)
class Run:
    """What one run folder holds."""

    name: str
    folder: Path
    settings: Mapping[str, str] | None
    """The config, one entry a leaf, by dotted names; None where the folder has no config.yaml."""
    series: Mapping[str, Series]
    """By logged name; those that the report draws."""
    iterations: int
    """Finished ones."""
    updates: int
    """Optimizer updates so far, those of an unfinished iteration among them."""
    updates_per_iteration: float
    not_finite: Mapping[str, int]
    """Values left out of each series, by logged name."""
    alarms: Sequence[tuple[int, str]] = ()
    """Iteration and text of what was said while training."""

    def get(self, quantity: Quantity, validation: bool = False) -> Series:
        """The quantity's series, empty where it was not logged."""
        return self.series.get((VALIDATION if validation else "") + quantity.name, Series())

    def setting(self, name: str) -> str | None:
        """A leaf of the config, by its dotted name."""
        return None if self.settings is None else self.settings.get(name)


class RunError(ValueError):
    """A folder that is no run to report on: what it lacks, and what there is."""


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """The runs of some folders, each named by as much of its path as tells it from the others.

    Raises:
        RunError: a folder lacks its event files, or they lack the numbers of a policy.
    """
    return [read_run(folder, name) for folder, name in zip(folders, short_names(folders), strict=True)]


def read_run(folder: Path, name: str) -> Run:
    """Read ``<run>/tensorboard`` and ``<run>/config.yaml``; a run that is still going is read as far as it is.

    Of a step that was logged twice, as after a kill, the last value counts, and what a continued run has purged does
    not; an event that is cut off ends its file.

    Raises:
        RunError: as :func:`read_runs`.
    """
    events = _read_events(folder)
    scalars = events.Tags()[SCALARS]
    kl = KL.name if KL.name in scalars or VALIDATION + KL.name not in scalars else VALIDATION + KL.name
    lacking = [tag for tag in (_ITERATION, kl) if tag not in scalars]
    if lacking:
        raise RunError(_lacks_numbers(folder, lacking, scalars))
    clock = _Clock(events.Scalars(_ITERATION))
    series: dict[str, Series] = {}
    not_finite: dict[str, int] = {}
    for tag in (prefix + quantity.name for quantity in QUANTITIES for prefix in ("", VALIDATION)):
        if tag not in scalars:
            continue
        logged = {clock.iteration(event.step, tag): float(event.value) for event in events.Scalars(tag)}
        finite = {at: value for at, value in sorted(logged.items()) if math.isfinite(value)}
        series[tag] = Series(list(finite), list(finite.values()))
        if len(finite) < len(logged):
            not_finite[tag] = len(logged) - len(finite)
    finished = max([at + (tag == KL.name) for tag in series for at in series[tag].iterations[-1:]], default=0)
    return Run(
        name,
        folder,
        _settings(folder),
        series,
        finished,
        clock.updates,
        clock.updates_in(finished) / finished,
        not_finite,
        _alarms(events, clock),
    )


class _Clock:
    """Which iteration an optimizer step belongs to."""

    def __init__(self, events: Iterable[Any]) -> None:
        found = dict(sorted((event.step, int(event.value)) for event in events))
        self._steps, self._iterations = list(found), list(found.values())
        self.updates = self._steps[-1] + 1

    def updates_in(self, iterations: int) -> int:
        """Updates of the first so many iterations."""
        return self._steps[bisect_left(self._iterations, iterations) - 1] + 1

    def iteration(self, step: int, tag: str = "") -> int:
        """Finished iterations behind the policy that `tag` measured at `step`."""
        at = self._iterations[max(0, bisect_right(self._steps, step) - 1)]
        return at + 1 if tag.startswith(VALIDATION) else at


def short_names(folders: Sequence[Path]) -> list[str]:
    """The last part of each path, or as many parts as tell them apart.

    >>> short_names([Path("runs/a/ppo"), Path("runs/b/ppo")])
    ['a/ppo', 'b/ppo']
    """
    parts = [folder.resolve().parts for folder in folders]
    for count in range(1, max(map(len, parts))):
        names = ["/".join(path[-count:]) for path in parts]
        if len(set(names)) == len(names):
            return names
    return [str(folder) for folder in folders]


def differing_settings(runs: Sequence[Run]) -> list[str]:
    """The dotted names of the settings in which runs with a config differ, in the order of the first that has each."""
    known = [run.settings for run in runs if run.settings is not None]
    names = dict.fromkeys(name for settings in known for name in settings)
    return [name for name in names if len({settings.get(name) for settings in known}) > 1]


def is_seed(name: str) -> bool:
    """Whether a setting, by its dotted name, seeds what is random."""
    return name.rpartition(".")[2] in _SEEDS


def _settings(folder: Path) -> dict[str, str] | None:
    path = folder / "config.yaml"
    if not path.is_file():
        return None
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RunError(f"{path}: expected YAML, found {' '.join(str(error).split())}") from None
    found = dict(_leaves(content if isinstance(content, Mapping) else {}, ""))
    return {name: value for name, value in found.items() if name not in _NOT_TRAINING}


def _leaves(content: Mapping[str, Any], before: str) -> Iterable[tuple[str, str]]:
    for key, value in content.items():
        name = f"{before}{key}"
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{name}.")
        else:
            yield name, value if isinstance(value, str) else json.dumps(value, default=str)


def _read_events(folder: Path) -> EventAccumulator:
    for place in (folder / "tensorboard", folder):
        if place.is_dir() and any(".tfevents." in entry.name for entry in place.iterdir()):
            events = EventAccumulator(str(place), size_guidance={SCALARS: 0, TENSORS: 0})  # 0: all of them
            return events.Reload()
    holds = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
    runs = [name for name in holds if (folder / name / "tensorboard").is_dir()]
    message = f"{folder}: expected a run folder, with TensorBoard's event files in {folder / 'tensorboard'}; "
    if runs:
        raise RunError(f"{message}found folders of runs: {', '.join(str(folder / name) for name in runs)}")
    more = f" and {len(holds) - _NAMED} more" if len(holds) > _NAMED else ""
    raise RunError(f"{message}found {', '.join(holds[:_NAMED]) or 'nothing'}{more}")


def _lacks_numbers(folder: Path, lacking: Sequence[str], scalars: Sequence[str]) -> str:
    settings = _settings(folder) or {}
    kind = settings.get("model.class_path", "").rpartition(".")[2]
    return (
        f"{folder}{f', a run of {kind},' if kind else ''} has not logged {' and '.join(lacking)}: a report on "
        "over-optimisation needs a run of PPO, online DPO or RAFT, or one that logs val/objective/kl, with an "
        "iteration finished. "
        f"Logged so far: {', '.join(sorted(scalars)) or 'nothing'}."
    )


def _alarms(events: EventAccumulator, clock: _Clock) -> list[tuple[int, str]]:
    """What was said in TensorBoard's text tab under a name that starts with ``alarm``."""
    return sorted(
        (clock.iteration(event.step - 1), part.decode("utf-8", "replace"))
        for tag in events.Tags()[TENSORS]
        if tag.startswith("alarm")
        for event in events.Tensors(tag)
        for part in event.tensor_proto.string_val
    )

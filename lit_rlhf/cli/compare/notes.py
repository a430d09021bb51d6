"""What a comparison sets aside, and what may still differ: said before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lit_rlhf.cli.compare.equal_terms import rewarded
from lit_rlhf.cli.compare.methods import ENDS, Method, callbacks_of
from lit_rlhf.cli.compare.settings import Comparison
from lit_rlhf.cli.steps.configs import flag_value


def notes_on(comparison: Comparison, methods: Sequence[Method]) -> list[str]:
    """What the comparison sets aside, and what may still differ."""
    said = []
    own = [one.name for one in methods if ends_of(one.config)]
    if own:
        budget = (
            f"{comparison.updates} updates"
            if comparison.updates
            else f"{comparison.seconds:g} {comparison.clock} seconds"
        )
        said.append(
            f"{', '.join(own)}: what the config says of epochs, steps and time is set aside; {budget} end each fit"
        )
    for one in methods:
        stops = [name.rsplit(".", 1)[-1] for name in callbacks_of(one)[:-1]]
        if early := [name for name in stops if name in ("EarlyStopping", "Timer")]:
            said.append(f"{one.name}: {', '.join(early)} may end it before its budget is spent")
        if len(one.seed_flags) > 1:
            said.append(f"{one.name}: {', '.join(one.seed_flags[1:])} of the config gives way to --seeds")
    judged = [
        one.name
        for one in methods
        if comparison.reward is not None and one.arguments("model").get("annotator")
    ]
    specs = {flag_value(one.reward) for one in rewarded(methods) if not isinstance(one.reward, str)}
    if comparison.reward is None and specs and comparison.evaluation is not None:
        said.append(
            f"the configs' reward {', '.join(specs)} trains and is not measured: only a folder or a path is"
        )
    if judged:
        said.append(f"{', '.join(judged)}: an annotator judges, so --reward is not given to it")
    return said


def ends_of(config: Path) -> list[str]:
    """What a config itself says of its trainer's end."""
    import yaml

    trainer = yaml.safe_load(config.read_text(encoding="utf-8")).get("trainer") or {}
    return [key for key in ("max_epochs", "max_steps", *ENDS) if trainer.get(key) is not None]

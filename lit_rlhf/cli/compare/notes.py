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
            else f"{comparison.seconds:g} s"
            + (" of its own processor time" if comparison.clock == "cpu" else " that pass")
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
    if len(methods) == 1:
        said.append(f"{methods[0].name} is the only method: it is compared with the start alone")
    given = [name for name in ("data", "prompts") if getattr(comparison, name) is not None]
    if given and (others := [one.name for one in methods if one.learns_from == "rows"]):
        options = " and ".join(f"--{name}" for name in given)
        said.append(
            f"{', '.join(others)}: learns from rows of its config's own; {options} are not given to it"
        )
    if comparison.seconds is not None and comparison.clock == "cpu":
        said += [note for one in methods for note in work_elsewhere(one)]
    if judged:
        said.append(f"{', '.join(judged)}: an annotator judges, so --reward is not given to it")
    return said


def work_elsewhere(method: Method) -> list[str]:
    """A note on what other processes do for a fit, which its own processor time does not count."""
    model = method.arguments("model")
    what = []
    if any(
        scheme in flag_value([model.get("reward"), model.get("annotator")])
        for scheme in ("http://", "https://")
    ):
        what.append("the server that judges")
    if method.arguments("data").get("num_workers"):
        what.append("data workers")
    return [f"{method.name}: the time of {' and '.join(what)} is not in --seconds"] if what else []


def ends_of(config: Path) -> list[str]:
    """What a config itself says of its trainer's end."""
    import yaml

    trainer = yaml.safe_load(config.read_text(encoding="utf-8")).get("trainer") or {}
    return [key for key in ("max_epochs", "max_steps", *ENDS) if trainer.get(key) is not None]

"""The fits of a round as command lines: the user's config, what the loop decides over it, and the user's own flags."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lit_rlhf.cli.loop.settings import Fit
from lit_rlhf.cli.steps.configs import class_in, find_config, flag_value


def config_file(fit: Fit, name: str) -> Path:
    """The config's file: as it is named, or the shipped one of that name.

    Raises:
        Refusal: there is neither.
    """
    return find_config(fit.config, f"{name}.config")


def class_of(fit: Fit, part: str, name: str) -> str:
    """The short name of the class that a fit's config, or a flag over it, gives as `model` or `data`.

    Raises:
        Refusal: neither does.
    """
    if part in fit.set:
        return str(fit.set[part]).rsplit(".", 1)[-1]
    return class_in(config_file(fit, name), part, f"{name}.config {fit.config}").rsplit(".", 1)[-1]


def fit_command(
    fit: Fit, name: str, run: Path, given: Mapping[str, Any], data: str | None = None
) -> tuple[str, ...]:
    """The words of ``lit-rlhf fit``.

    Args:
        fit: the user's.
        name: of it in the loop's config, for errors.
        run: the run folder.
        given: flags that the loop decides.
        data: a data class that takes the config's place.
    """
    words = ["fit", "--config", str(config_file(fit, name))]
    if data is not None:
        words += ["--data", data]
    for key, value in {**given, **fit.set}.items():
        words += [f"--{key}", flag_value(value)]
    return (*words, "--out", str(run))

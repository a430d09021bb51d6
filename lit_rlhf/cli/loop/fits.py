"""The fits of a round as command lines: the user's config, what the loop decides over it, and the user's own flags."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lit_rlhf.cli.loop.settings import Fit
from lit_rlhf.cli.refusal import near_files, refuse


def config_file(fit: Fit, name: str) -> Path:
    """The config's file: as it is named, or the shipped one of that name.

    Raises:
        Refusal: there is neither.
    """
    from lit_rlhf.cli.configs import shipped

    if Path(fit.config).is_file():
        return Path(fit.config)
    plain = fit.config.removeprefix("configs/").removesuffix(".yaml")
    found = shipped().get(plain)
    if found is None:
        refuse(f"{name}.config {fit.config}: no such file, and no config that comes with lit-rlhf.",
               *near_files(fit.config), "help: lit-rlhf ls")  # fmt: skip
    return found


def class_of(fit: Fit, part: str, name: str) -> str:
    """The short name of the class that a fit's config, or a flag over it, gives as `model` or `data`.

    Raises:
        Refusal: neither does.
    """
    import yaml

    if part in fit.set:
        return str(fit.set[part]).rsplit(".", 1)[-1]
    content: Any = yaml.safe_load(config_file(fit, name).read_text(encoding="utf-8"))
    found = content.get(part) if isinstance(content, Mapping) else None
    if not isinstance(found, Mapping) or "class_path" not in found:
        refuse(f"{name}.config {fit.config}: expected `{part}: {{class_path: …}}`, found none.")
    return str(found["class_path"]).rsplit(".", 1)[-1]


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


def options(values: Mapping[str, Any]) -> tuple[str, ...]:
    """Flags of a command from their names and values; true stands alone, a list is several values, null is left out.

    >>> options({"top_p": 0.9, "both-orders": True, "columns": ["a", "b"], "limit": None})
    ('--top-p', '0.9', '--both-orders', '--columns', 'a', 'b')
    """
    words: list[str] = []
    for name, value in values.items():
        if value is None or value is False:
            continue
        words.append(f"--{name.replace('_', '-')}")
        if value is not True:
            words += [flag_value(each) for each in (value if isinstance(value, list) else [value])]
    return tuple(words)


def flag_value(value: Any) -> str:
    """A setting as a flag's value.

    >>> [flag_value(value) for value in (True, None, 0.5, ["a", "b"], "text")]
    ['true', 'null', '0.5', '["a", "b"]', 'text']
    """
    import json

    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def paths(files: Sequence[Path]) -> str | list[str]:
    """One file as it is, several as a list."""
    return str(files[0]) if len(files) == 1 else [str(file) for file in files]

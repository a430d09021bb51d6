"""Configs of `lit-rlhf fit` as steps need them: where they are, which classes they name, what flags look like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lit_rlhf.cli.refusal import near_files, refuse


def find_config(given: str, said: str) -> Path:
    """The config's file: as it is named, or the shipped one of that name.

    Args:
        given: a path, or a name as `lit-rlhf ls` lists it.
        said: the option or field that it was given as, for the error.

    Raises:
        Refusal: there is neither.
    """
    from lit_rlhf.cli.configs import shipped

    if Path(given).is_file():
        return Path(given)
    found = shipped().get(given.removeprefix("configs/").removesuffix(".yaml"))
    if found is None:
        refuse(f"{said} {given}: no such file, and no config that comes with lit-rlhf.",
               *near_files(given), "help: lit-rlhf ls")  # fmt: skip
    return found


def class_in(config: Path, part: str, said: str) -> str:
    """The dotted or short name of the class that a config gives as `model` or `data`.

    Raises:
        Refusal: it gives none.
    """
    import yaml

    content: Any = yaml.safe_load(config.read_text(encoding="utf-8"))
    found = content.get(part) if isinstance(content, Mapping) else None
    if not isinstance(found, Mapping) or "class_path" not in found:
        refuse(f"{said}: expected `{part}: {{class_path: …}}`, found none.")
    return str(found["class_path"])


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

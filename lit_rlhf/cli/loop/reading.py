"""A loop's config: YAML and flags into settings, everything unknown or of a wrong kind refused by its dotted name."""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from lit_rlhf.cli.loop.describing import documentation
from lit_rlhf.cli.loop.settings import Loop
from lit_rlhf.cli.refusal import did_you_mean, near_files, refuse


class SettingError(ValueError):
    """A field of the config that cannot be so; the message begins with its dotted name."""


def read_settings(path: Path, flags: Sequence[tuple[str, str]]) -> Loop:
    """The settings in a config, flags over it.

    Args:
        path: YAML file.
        flags: dotted names of fields with their values, as YAML spells them; later ones win.

    Raises:
        Refusal: no such file, no YAML, or a field that is not known, missing, or of a wrong kind.
    """
    import yaml

    from lit_rlhf.cli.given_files import check_yaml

    if not path.is_file():
        refuse(
            f"--config {path}: no such file.",
            *near_files(str(path)),
            "`lit-rlhf cp loop loop.yaml` writes one.",
        )
    check_yaml(str(path))
    content: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    for name, value in flags:
        try:
            set_dotted(content, name, yaml.safe_load(value))
        except yaml.YAMLError as error:
            refuse(f"--{name} {value}: not YAML: {error}.")
    try:
        settings: Loop = read_value(content, Loop, "")
        check_settings(settings)
    except SettingError as error:
        refuse(f"{path}: {error}", "fields: lit-rlhf loop --help")
    return settings


def set_dotted(content: dict[str, Any], name: str, value: Any) -> None:
    """Put a value at a dotted name; what lies under `set`, `sampling` and the like keeps its dots.

    >>> content = {"policy": {"config": "dpo.yaml"}}
    >>> set_dotted(content, "policy.set.model.beta", 0.2)
    >>> content
    {'policy': {'config': 'dpo.yaml', 'set': {'model.beta': 0.2}}}
    """
    free = {"set", "sampling", "serve", "options"}
    first, _, rest = name.partition(".")
    if not rest:
        content[first] = value
    elif first in free:
        content[first] = {**(content.get(first) or {}), rest: value}
    else:
        inner = content.get(first)
        content[first] = dict(inner) if isinstance(inner, Mapping) else {}
        set_dotted(content[first], rest, value)


def read_value(value: Any, kind: Any, name: str) -> Any:
    """`value` as `kind`: a dataclass of these settings, or what its fields are annotated with.

    Raises:
        SettingError: it is no such thing.
    """
    options = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
    if value is None and type(None) in options:
        return None
    options = tuple(option for option in options if option is not type(None))
    if len(options) > 1:  # told apart by whether a list, a mapping or a plain value is found
        options = tuple(option for option in options if shape_of(option) == shape_of_value(value)) or options
    option = options[0]
    origin = get_origin(option)
    if is_dataclass(option):
        return read_record(value, option, name)
    if origin is Literal:
        if value not in get_args(option):
            raise SettingError(f"{name}: expected {expected(kind)}, found {shown(value)}. "
                               + did_you_mean(str(value), [str(word) for word in get_args(option)]))  # fmt: skip
        return value
    if origin is tuple:
        if not isinstance(value, list) or not value:
            raise SettingError(f"{name}: expected {expected(kind)}, found {shown(value)}")
        inner = get_args(option)[0]
        return tuple(read_value(each, inner, f"{name}[{place}]") for place, each in enumerate(value))
    if origin is not None:  # a mapping of flags
        if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
            raise SettingError(
                f"{name}: expected names with values, such as {{temperature: 1.0}}, found {shown(value)}"
            )
        return dict(value)
    if option is float and type(value) is int:
        return float(value)
    if type(value) is not option:
        raise SettingError(f"{name}: expected {expected(kind)}, found {shown(value)}")
    return value


def read_record(value: Any, kind: Any, name: str) -> Any:
    """A mapping as a dataclass.

    Raises:
        SettingError: a field that is not known, or one that is missing.
    """
    inside = f"{name}." if name else ""
    if not isinstance(value, Mapping):
        raise SettingError(f"{name}: expected {expected(kind)}, found {shown(value)}")
    known = [field.name for field in fields(kind)]
    for key in value:
        if key not in known:
            hint = did_you_mean(str(key), known) or f"It has {', '.join(known)}."
            raise SettingError(f"{inside}{key}: there is no such field. {hint}")
    hints = get_type_hints(kind)
    found = {key: read_value(each, hints[key], f"{inside}{key}") for key, each in value.items()}
    for field in fields(kind):
        needed = field.default is MISSING and field.default_factory is MISSING
        if needed and field.name not in found:
            raise SettingError(f"{inside}{field.name}: is missing. {documentation(kind)[field.name]}")
    return kind(**found)


def check_settings(loop: Loop) -> None:
    """What no single field's kind says.

    Raises:
        SettingError: with the field.
    """

    def check(name: str, holds: bool, wanted: str, found: Any) -> None:
        if not holds:
            raise SettingError(f"{name}: expected {wanted}, found {shown(found)}")

    check("rounds", loop.rounds >= 1, "1 or more", loop.rounds)
    check("prompts_per_round", loop.prompts_per_round >= 2, "2 or more", loop.prompts_per_round)
    check("responses", 2 <= loop.responses <= 9, "2 to 9", loop.responses)
    check("overlap", loop.overlap >= 1, "1 or more", loop.overlap)
    check("held_out", 0 <= loop.held_out < 1, "0 to less than 1", loop.held_out)
    check("people.seconds", loop.people.seconds > 0, "more than 0", loop.people.seconds)
    check("seed", loop.seed >= 0, "0 or more", loop.seed)
    if not isinstance(loop.annotators, str):
        names = [program.name for program in loop.annotators]
        check("annotators", len(set(names)) == len(names), "a name of its own for each", names)
        check("overlap", loop.overlap in (1, len(names)), f"1, or all {len(names)} programs", loop.overlap)
    wants_count = loop.export.votes == "min-agree"
    if wants_count != (loop.export.min_agree is not None):
        raise SettingError("export.min_agree: goes with `votes: min-agree`, and that needs it")
    if loop.gold is not None and loop.evaluation is None:
        raise SettingError("gold: needs `evaluation`, the prompts that it is measured on")
    if loop.evaluation is not None and loop.evaluation.judged < 0:
        raise SettingError(f"evaluation.judged: expected 0 or more, found {loop.evaluation.judged}")
    for name, reserved, where in (
        ("sampling", {"seed", "out", "prompts", "k", "limit"}, loop.sampling),
        ("policy.set", RESERVED_FLAGS | {"model.reward", "model.reference"}, loop.policy.set),
        ("reward.set", RESERVED_FLAGS, loop.reward.set if loop.reward else {}),
        ("people.serve", {"db", "overlap"}, loop.people.serve),
    ):
        for key in where:
            if key.replace("_", "-") in {word.replace("_", "-") for word in reserved}:
                raise SettingError(f"{name}.{key}: the loop decides it")


RESERVED_FLAGS = {
    "config",
    "out",
    "ckpt_path",
    "model.model",
    "data.path",
    "data.val_path",
    "data.val_fraction",
}
"""Flags of a fit that a loop gives itself."""


def shape_of(kind: Any) -> str:
    """``list``, ``mapping`` or ``plain``: by which a value chooses among the kinds it may have."""
    if get_origin(kind) is tuple:
        return "list"
    return "mapping" if is_dataclass(kind) else "plain"


def shape_of_value(value: Any) -> str:
    """The same of a value."""
    if isinstance(value, list):
        return "list"
    return "mapping" if isinstance(value, Mapping) else "plain"


def expected(kind: Any) -> str:
    """A kind in words."""
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return " or ".join(expected(option) for option in get_args(kind))
    if origin is Literal:
        return " or ".join(str(word) for word in get_args(kind))
    if origin is tuple:
        return f"a list of {expected(get_args(kind)[0])}"
    if is_dataclass(kind):
        return f"fields ({', '.join(field.name for field in fields(kind))})"
    names = {str: "text", int: "a whole number", float: "a number", bool: "true or false", type(None): "null"}
    return names.get(kind, "names with values")


def shown(value: Any) -> str:
    """What was found, cut short."""
    text = repr(value)
    return text if len(text) <= 80 else text[:79] + "…"

"""The fields of a loop's config in words: each with the string that stands under it in the settings."""

from __future__ import annotations

import ast
import inspect
import textwrap
import types
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from itertools import pairwise
from typing import Any, Union, get_args, get_origin, get_type_hints

from lit_rlhf.cli.loop.settings import Loop


def documentation(kind: Any) -> dict[str, str]:
    """The string under each field, by the field's name; those of a base class too."""
    said: dict[str, str] = {}
    bases: list[type[Any]] = list(reversed(kind.__mro__))
    for base in bases:
        if not is_dataclass(base):
            continue
        (node,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(node, ast.ClassDef)
        for statement, after in pairwise(node.body):
            if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
                continue
            if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                said[statement.target.id] = " ".join(str(after.value.value).split())
    return said


def describe_fields(kind: Any = Loop, name: str = "") -> Iterator[tuple[str, str]]:
    """Every field's dotted name, with its kind, default and sentence."""
    hints, said = get_type_hints(kind), documentation(kind)
    for field in fields(kind):
        hint = hints[field.name]
        options = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
        inner = [option for option in options if is_dataclass(option)]
        lists = [get_args(option)[0] for option in options if get_origin(option) is tuple]
        records = [*inner, *(each for each in lists if is_dataclass(each))]
        yield f"{name}{field.name}", f"{said[field.name]}{default_of(field)}"
        for record in records:
            mark = "" if record in inner else "[]"
            yield from describe_fields(record, f"{name}{field.name}{mark}.")


def default_of(field: Any) -> str:
    """`` (default: 3)``, or nothing where there is none to say in a word."""
    if field.default is MISSING:
        return "" if field.default_factory is not MISSING else " (needed)"
    words = {None: "null", True: "true", False: "false"}
    value = field.default
    return f" (default: {words[value] if value is None or isinstance(value, bool) else value})"

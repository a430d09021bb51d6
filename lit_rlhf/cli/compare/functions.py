"""Functions that a comparison names by dotted paths: looked up before anything is trained, their code watched."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from importlib import invalidate_caches
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lit_rlhf.cli.compare.methods import Method
from lit_rlhf.cli.refusal import did_you_mean, refuse

DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")
"""A function's or class's path."""


def is_function(spec: Any) -> bool:
    """Whether a reward or annotator is a dotted path, and no folder."""
    return isinstance(spec, str) and DOTTED.fullmatch(spec) is not None and not Path(spec).exists()


def functions_of(method: Method) -> dict[str, str]:
    """The dotted paths that judge in a fit, by their config keys."""
    found: dict[str, str] = {}
    for key in ("reward", "gold_reward", "annotator"):
        for inner, path in _paths_in(method.arguments("model").get(key), f"model.{key}"):
            found[inner] = path
    return found


def _paths_in(spec: Any, key: str) -> Iterator[tuple[str, str]]:
    """Every dotted path that a reward of whatever form names; ensembles and lists are gone through."""
    if isinstance(spec, str):
        if is_function(spec):
            yield key, spec
    elif isinstance(spec, dict):
        for inner in ("class_path", "reward", "annotator", "ensemble"):
            yield from _paths_in(spec.get(inner), f"{key}.{inner}")
    elif isinstance(spec, list | tuple):
        for place, inner in enumerate(spec):
            yield from _paths_in(inner, f"{key}.{place}")


def check_function(said: str, path: str) -> None:
    """Refuse a function that no step could import; only its package is imported here, since code may be heavy.

    Args:
        said: the option, or the config and key, that names it.
        path: its dotted path.

    Raises:
        Refusal: there is no such module, it is not Python, or nothing in it has that name.
    """
    module, _, name = path.rpartition(".")
    file = file_of(path)
    if file is None:
        refuse(
            f"{said} {path}: there is no module {module}, in the current folder or on PYTHONPATH.",
            "A function's path looks like my_module.my_function",
        )
    if file.suffix != ".py" or not file.is_file():
        return
    try:
        names = names_in(ast.parse(file.read_text(encoding="utf-8")))
    except SyntaxError as error:
        refuse(f"{said} {path}: {file}:{error.lineno}: not Python: {error.msg}.")
    if name not in names and not {"*", "__getattr__"} & names:
        refuse(f"{said} {path}: {file} has no {name}. {did_you_mean(name, sorted(names))}".rstrip())


def names_in(code: ast.Module) -> set[str]:
    """Whatever a module may have by name: what it defines, assigns or imports, on whatever level."""
    names: set[str] = set()
    for node in ast.walk(code):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.alias):
            names.add((node.asname or node.name).split(".")[0])
    return names


def file_of(path: str) -> Path | None:
    """The file of a dotted path's module, an empty path where it has none; None where there is no such module."""
    invalidate_caches()
    try:
        spec = find_spec(path.rpartition(".")[0])
    except (ImportError, ValueError, AttributeError):
        return None
    if spec is None:
        return None
    return Path(spec.origin) if spec.has_location and spec.origin else Path()


def code_of(path: str | None) -> tuple[str, ...]:
    """The file that a function stands in, where it is the user's: in the current folder and not installed."""
    file = file_of(path) if path is not None and is_function(path) else None
    here = Path.cwd()
    if file is None or not file.is_file() or not file.is_relative_to(here):
        return ()
    inside = file.relative_to(here)
    return () if {"site-packages", "dist-packages"} & set(inside.parts) else (str(inside),)

"""An argument parser whose errors fit one screen: the error first, the nearest name, where help is."""

from __future__ import annotations

import ast
import difflib
import inspect
import re
import sys
from dataclasses import is_dataclass
from importlib import import_module
from typing import Any, NoReturn

import lightning as L
import torch
from lightning.pytorch.cli import LightningArgumentParser

from lit_rlhf.modules.base import not_settings

MAXIMUM_LINES = 14
"""Lines of an error that are shown."""

NOISE = (
    "Does not validate against any of the Union subtypes",
    "Subtypes:",
    "Errors:",
    "Expected a <class 'NoneType'>",
    "Given value type:",
    "Given value: NestedArg",
    "Given value: Namespace",
    "Given value: {",
    "either not accessible or invalid",
)
"""What jsonargparse says about its own search, line by line, and nobody can act on."""

UNKNOWN_PATTERNS = (
    r"[Uu]nrecognized arguments?: (\S+)",
    r"Option '([^']+)' is not accepted",
    r"does not accept option '([^']+)'",
    r"Key '([^']+)' is not (?:expected|defined|accepted)",
    r"Expected a dot import path string: (\S+)",
    r"[Pp]roblem with given class_path '([^']+)'",
    r"import(?:ing)? (?:path )?['\"]?([\w.]+)['\"]?",
)
"""Where a message names what was not known."""

BASES = (
    L.LightningModule,
    L.LightningDataModule,
    L.Callback,
    torch.optim.Optimizer,
    torch.optim.lr_scheduler.LRScheduler,
)
"""Classes whose subclasses can stand in a config by their short names."""


class QuietParser(LightningArgumentParser):
    """LightningCLI's parser, without the pages of usage before an error."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # A shortened option would be taken for the one it begins, and a typing mistake with it.
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print the error and what to do, and leave with exit code 2 (or raise, where the parser is told to)."""
        if not self.exit_on_error:
            super().error(message, ex)
        print(explain(message, option_names(self), command_of(self)), file=sys.stderr)
        raise SystemExit(2)


def explain(message: str, options: list[str], command: str) -> str:
    """`message` with jsonargparse's nesting taken off, the nearest known name, and the help command.

    Args:
        message: what the parser said.
        options: the dotted options of the command.
        command: ``fit`` etc., for the help command.
    """
    misplaced = misplaced_value(message)
    if misplaced is not None:
        return "\n".join([f"error: {misplaced}", help_line(message, command)])
    lines = simplify(message)
    dropped = len(lines) - MAXIMUM_LINES
    if dropped > 0:
        lines = [*lines[:MAXIMUM_LINES], f"… and {dropped} more lines"]
    hint = nearest(message, options)
    return "\n".join(
        [f"error: {lines[0]}", *lines[1:], *([hint] if hint else []), help_line(message, command)]
    )


def misplaced_value(message: str) -> str | None:
    """What to say where one value stands for a group of settings, in which jsonargparse sees the name of a class."""
    found = re.search(
        r'Parser key "(\w+)":(?:(?!Parser key).)*?Subtypes: \[<class \'([\w.]+)\'>, <class \'NoneType\'>\]'
        r"(?:(?!Parser key).)*?Given value type: <class '(str|int|float|bool|list)'>\s+Given value: ([^\n]*)",
        message,
        re.DOTALL,
    )
    kind = None if found is None else imported(found[2])
    if found is None or not is_dataclass(kind):
        return None
    value = found[4] if found[3] == "str" else ast.literal_eval(found[4])
    return f"model.{found[1]}: {not_settings(kind, value)}"  # type: ignore[arg-type]  # a class, of its name


def simplify(message: str) -> list[str]:
    """The message's lines that say something, behind the dotted key they are about.

    >>> simplify('''Parser key "model":
    ...   Problem with given class_path 'lit_rlhf.DPOModule':
    ...     Parser key "beta":
    ...       Expected a <class 'float'>. Got value: abc''')
    ['model.beta: expected float, found: abc']
    """
    keys: list[str] = []
    said: list[str] = []
    for raw in message.splitlines():
        line = readable(raw.strip().removeprefix("- "))
        key = re.match(r'Parser key "([^"]+)":\s*(.*)', line)
        if key:
            keys += [key[1]] if key[1] not in keys else []
            line = key[2]
        owner = re.match(r"Problem with given class_path '([\w.]+)':\s*(.*)", line)
        if owner:
            line = owner[2] if owner[2] and owner[2] != "Problem" else ""
        if line and not any(noise in raw for noise in NOISE) and line not in said:
            said.append(line)
    if not said:
        return [message.strip()]
    missing = re.match(r"the following arguments are required: (.*)", said[0])
    if missing and len(keys) > 1:
        return [f"{'.'.join(keys)}: expected {{{missing[1]}: …}}, found no {missing[1]}"]
    if missing:
        names = ", ".join("--" + name.strip().split(".", 1)[-1] for name in missing[1].split(","))
        return [f"no {names.replace('--', '').replace(', ', ' and no ')}: expected --config FILE, or {names}"]
    place = ".".join(keys)
    return [f"{place}: {said[0]}" if place else said[0], *said[1:]]


def readable(line: str) -> str:
    """One line of a message in plainer words."""
    line = re.sub(r"<class '([\w.]+)'>", r"\1", line)
    line = re.sub(r"Type typing\.\S+\[.*\] expects a function or a callable class: ", "", line)
    line = re.sub(r"\.? Got value: (Namespace|\{).*", "", line)
    line = line.replace("Expected a dot import path string:", "no class is called")
    line = re.sub(r"\. Got value: ", ", found: ", line)
    line = re.sub(r"^Given value: ", "found: ", line)
    return re.sub(r"\bExpected an? (?:typing\.)?", "expected ", line)


def nearest(message: str, options: list[str]) -> str:
    """``Did you mean …?`` for the option, key or class name that the message complains of."""
    classes, arguments = class_names(), accepted_arguments(message)
    for pattern in UNKNOWN_PATTERNS:
        for found in re.findall(pattern, message):
            word = found.lstrip("-").split("=", 1)[0]
            leaf = word.rsplit(".", 1)[-1]
            if word in options or leaf in classes or leaf in arguments or imported(word) is not None:
                continue
            near = difflib.get_close_matches(word, options, n=1, cutoff=0.75)
            near = near or difflib.get_close_matches(leaf, [*arguments, *classes], n=1, cutoff=0.6)
            if "." in word and not any(name.startswith(word.split(".")[0] + ".") for name in options):
                first = difflib.get_close_matches(word.split(".")[0], ["model", "data", "trainer"], n=1)
                near = [".".join([first[0], *word.split(".")[1:]])] if first else near
            if near and near[0] != word:
                return f"Did you mean '{near[0]}'?"
    return ""


def class_names() -> list[str]:
    """Every class that a config can name by its short name."""
    names: set[str] = set()
    waiting: list[type] = list(BASES)
    while waiting:
        found = waiting.pop()
        names.add(found.__name__)
        waiting += found.__subclasses__()
    return sorted(names)


def accepted_arguments(message: str) -> list[str]:
    """The arguments of the classes that the message speaks of."""
    names: list[str] = []
    for path in re.findall(r"class_path[= ]'([\w.]+)'", message):
        found = imported(path)
        if found is not None:  # the class itself may be what is wrong
            names += [name for name in inspect.signature(found).parameters if name not in ("args", "kwargs")]
    return names


def imported(path: str) -> Any:
    """What a dotted path leads to; None where that is nothing."""
    module_name, _, name = path.rpartition(".")
    try:
        return getattr(import_module(module_name), name)
    except (ImportError, AttributeError, ValueError):
        return None


def help_line(message: str, command: str) -> str:
    """The narrowest help command for the error."""
    group = "data" if re.search(r'key "(\w+\.)?data|--data', message) else "model"
    classes = re.findall(r"class_path '([\w.]+)'", message)
    if classes and classes[0].rsplit(".", 1)[-1] in class_names():
        return f"help: lit-rlhf {command} --{group}.help {classes[0].rsplit('.', 1)[-1]}"
    return f"help: lit-rlhf {command} --help"


def option_names(parser: Any) -> list[str]:
    """Every dotted option of `parser` and of its subcommand, without the dashes."""
    names: set[str] = set()
    for action in parser._actions:
        names.update(option[2:] for option in action.option_strings if option.startswith("--"))
        for sub_parser in (getattr(action, "_name_parser_map", None) or {}).values():
            names.update(option_names(sub_parser))
    return sorted(names)


def command_of(parser: Any) -> str:
    """The subcommand that `parser` was built for; this command line builds one at a time."""
    for action in parser._actions:
        for name in getattr(action, "_name_parser_map", None) or {}:
            return str(name)
    return str(parser.prog).replace(" [options]", "").split()[-1]

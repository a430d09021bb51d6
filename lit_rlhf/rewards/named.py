"""Rewards by their name: a model, or what a dotted path leads to."""

from __future__ import annotations

import inspect
from importlib import import_module
from pathlib import Path
from typing import Any

from lit_rlhf.models.loading import looks_local
from lit_rlhf.rewards.function import FunctionReward, ObjectReward
from lit_rlhf.rewards.remote import RemoteReward
from lit_rlhf.rewards.scoring import PartialReward


def names_model(spec: str) -> bool:
    """Whether a reward that is no address is a model's folder or hub name, and not a dotted path."""
    return looks_local(spec) or "/" in spec or Path(spec).is_dir()


def reward_at_path(path: str, timeout: float | None, key: str) -> PartialReward:
    """The reward that a dotted path leads to: a function, or an object of a class, made without arguments.

    Args:
        path: such as ``package.module.function``.
        timeout: seconds that a call may take; None = as long as it likes.
        key: what gave the path, for errors.

    Raises:
        ValueError: it cannot be imported.
    """
    found = _import(path, key)
    return as_reward(found() if isinstance(found, type) else found, path, timeout)


def made_by_class_path(spec: dict[str, Any], key: str) -> Any:
    """The object of ``{class_path, init_args}``.

    Raises:
        ValueError: there is no such class, or it does not take these arguments.
    """
    found, arguments = _import(spec["class_path"], key), spec.get("init_args", {})
    try:
        inspect.signature(found).bind(**arguments)
    except TypeError as error:
        raise ValueError(f"{key}.init_args: {spec['class_path']}: {error}.") from error
    except ValueError:  # some built-in ones have no signature
        pass
    return found(**arguments)


def as_reward(made: Any, name: str | None, timeout: float | None = None) -> PartialReward:
    """What has a `score` is a reward already; anything else is called.

    Args:
        made: the function or object.
        name: what to call a function in errors; None = by its own name.
        timeout: seconds that a call may take; None = as long as it likes.
    """
    if isinstance(made, RemoteReward) and timeout is not None:
        made.call_timeout = timeout
    if isinstance(made, PartialReward):
        return made
    return ObjectReward(made, timeout) if hasattr(made, "score") else FunctionReward(made, name, timeout)


def _import(path: str, key: str) -> Any:
    module_name, _, attribute = path.rpartition(".")
    try:
        return getattr(import_module(module_name), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{key}: {path!r} is neither a folder here nor a dotted path that can be imported ({error}). "
            "A function's path looks like my_package.my_module.my_function, in the current folder or on PYTHONPATH."
        ) from error

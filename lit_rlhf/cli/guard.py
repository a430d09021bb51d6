"""What stands around a command: messages without tracebacks where the message is enough, and no adverts."""

from __future__ import annotations

import logging
import os
import sys
import traceback
import warnings
from collections.abc import Callable
from typing import Any, NoReturn

from lightning.pytorch.utilities import rank_zero_only
from transformers.utils import logging as transformers_logging

TRACEBACK_VARIABLE = "LIT_RLHF_TRACEBACK"
"""Set to anything, it shows where an error came from instead of its message alone."""

SIGNS_OF_A_LOST_RANK = (
    "gloo/transport",
    "Connection closed by peer",
    "Connection reset by peer",
    "ncclRemoteError",
)
"""What is in the error of a collective whose other side has gone."""

LOST_RANK = (
    "another rank has gone, so this one stops too: it was killed, ran out of memory, lost its machine, or has said "
    "itself what went wrong. Checkpoints are as they were: continue with the same command and --ckpt_path last."
)

HUB_CALLS = {"from_pretrained": "pretrained_model_name_or_path", "load_dataset": "path"}
"""Functions of Hugging Face that take a folder or a name on the hub, and the argument that it is."""


def run_guarded(command: str, work: Callable[[], Any]) -> None:
    """Run `work`; of an error that its reader can mend, show the message alone, and warnings as one line each.

    What our own rooms log is shown meanwhile, such as the attention that a model takes.
    """
    silence_adverts()
    log, handler = logging.getLogger("lit_rlhf"), logging.StreamHandler()
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.WARNING if getattr(rank_zero_only, "rank", 0) else logging.INFO)
    formatter, warnings.formatwarning = warnings.formatwarning, one_line
    try:
        work()
    except Exception as error:
        spoken = without_wrappers(error)
        if os.environ.get(TRACEBACK_VARIABLE):
            raise
        if is_lost_rank(spoken):
            refuse_at_run_time(RuntimeError(LOST_RANK), command)
        if not is_users_mistake(spoken):
            raise
        refuse_at_run_time(spoken, command)
    finally:
        warnings.formatwarning = formatter
        log.removeHandler(handler)
        log.setLevel(level)


def is_lost_rank(error: BaseException) -> bool:
    """Whether `error` is what is left to the others when a rank has gone: gloo's, NCCL's or the store's."""
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS_OF_A_LOST_RANK)


def one_line(message: Warning | str, *_: Any, **__: Any) -> str:
    """A warning without the line of code that gave it; takes the place of `warnings.formatwarning`."""
    return f"warning: {' '.join(str(message).split())}\n"


def without_wrappers(error: BaseException) -> BaseException:
    """What a constructor raised, out of what jsonargparse made of it.

    It raises a ValueError of its own from an error in a class that it builds, once a level of nesting, and
    lists there everything it was given.
    """
    inner: BaseException | None = error
    while inner is not None and raised_in(inner).startswith("jsonargparse."):
        inner = inner.__cause__ or inner.__context__
    return inner or error


def is_users_mistake(error: BaseException) -> bool:
    """Whether the message alone says what to do: a file that is missing, or a check of ours that spoke."""
    if isinstance(error, FileNotFoundError) or type(error).__module__.startswith("lit_rlhf."):
        return True
    if type(error).__name__ == "MisconfigurationException":
        return True
    if raised_in(error) == "lightning.pytorch.trainer.connectors.accelerator_connector":
        return True  # a strategy, precision or accelerator that there is not
    if isinstance(error, OSError):
        return raised_in(error).startswith(("transformers.", "huggingface_hub.", "datasets."))
    return isinstance(error, ValueError | FloatingPointError) and raised_in(error).startswith("lit_rlhf.")


def raised_in(error: BaseException) -> str:
    """The module whose code raised `error`; empty for one that was never raised."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return str(frames[-1].f_globals.get("__name__", "")) if frames else ""


def refuse_at_run_time(error: BaseException, command: str) -> NoReturn:
    """Print the message of an error that its reader can mend, and leave with exit code 1."""
    rank = int(getattr(rank_zero_only, "rank", 0) or 0)
    message = hub_message(error) or str(error)
    print(f"[rank {rank}] error: {message}" if rank else f"error: {message}", file=sys.stderr)
    print(f"({TRACEBACK_VARIABLE}=1 lit-rlhf {command} … shows where it came from)", file=sys.stderr)
    raise SystemExit(1) from None


def hub_message(error: BaseException) -> str:
    """One line for a name that was taken for one of the Hugging Face hub's and not found; else empty."""
    name = name_on_hub(error)
    if name is None or not isinstance(error, OSError):
        return ""
    causes: list[BaseException] = [error]
    while (deeper := causes[-1].__cause__ or causes[-1].__context__) is not None and deeper not in causes:
        causes.append(deeper)
    kinds = {base.__name__ for cause in causes for base in type(cause).__mro__}
    if kinds & {"RepositoryNotFoundError", "DatasetNotFoundError"}:
        outcome = "has nothing of that name, or not for you"
    elif kinds & {"LocalEntryNotFoundError", "OfflineModeIsEnabled", "ConnectionError", "ConnectError"}:
        outcome = "cannot be reached, and no copy is in its cache"
    else:
        return ""
    return (
        f"{name!r} is no file or folder here, so it was looked for on the Hugging Face hub, which {outcome}. "
        f"One of your own is written with its path, such as ./{name} or /data/{name}."
    )


def name_on_hub(error: BaseException) -> str | None:
    """The name that Hugging Face's loading was called with when it raised `error`, unless it is a place here.

    Their messages mostly leave it out, so it is read off the call itself.
    """
    for frame, _ in traceback.walk_tb(error.__traceback__):
        argument = HUB_CALLS.get(frame.f_code.co_name)
        name = frame.f_locals.get(argument) if argument else None
        if isinstance(name, str):
            return None if os.path.exists(os.path.expanduser(name)) else name
    return None


def silence_adverts() -> None:
    """Drop messages that say nothing about the run."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*Checkpoint directory .* exists and is not empty.*")
    warnings.filterwarnings(
        "ignore", message=".*callbacks used to create the checkpoint need to be provided.*"
    )
    warnings.filterwarnings("ignore", message=".*The dirpath has changed from.*")

    transformers_logging.disable_progress_bar()  # of loading and saving, which takes no time here

    def keep(record: logging.LogRecord) -> bool:
        text = record.getMessage()
        return "litlogger" not in text and "litmodels" not in text

    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.rank_zero"):
        logger = logging.getLogger(name)
        if not any(getattr(old, "__name__", "") == "keep" for old in logger.filters):
            logger.addFilter(keep)

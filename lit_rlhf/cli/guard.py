"""What stands around a command: messages without tracebacks where the message is enough, and no adverts."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable
from typing import Any, NoReturn

from lightning.pytorch.utilities import rank_zero_only
from transformers.utils import logging as transformers_logging

TRACEBACK_VARIABLE = "LIT_RLHF_TRACEBACK"
"""Set to anything, it shows where an error came from instead of its message alone."""


def run_guarded(command: str, work: Callable[[], Any]) -> None:
    """Run `work`; of an error that its reader can mend, show the message alone."""
    silence_adverts()
    try:
        work()
    except Exception as error:
        if os.environ.get(TRACEBACK_VARIABLE) or not is_users_mistake(error):
            raise
        refuse_at_run_time(error, command)


def is_users_mistake(error: BaseException) -> bool:
    """Whether the message alone says what to do: a file that is missing, or a check of ours that spoke."""
    if isinstance(error, FileNotFoundError) or type(error).__module__.startswith("lit_rlhf."):
        return True
    if type(error).__name__ == "MisconfigurationException":
        return True
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    raised_in = frame.tb_frame.f_globals.get("__name__", "") if frame is not None else ""
    return isinstance(error, ValueError) and raised_in.startswith("lit_rlhf.")


def refuse_at_run_time(error: BaseException, command: str) -> NoReturn:
    """Print the message of an error that its reader can mend, and leave with exit code 1."""
    rank = int(getattr(rank_zero_only, "rank", 0) or 0)
    print(f"[rank {rank}] error: {error}" if rank else f"error: {error}", file=sys.stderr)
    print(f"({TRACEBACK_VARIABLE}=1 lit-rlhf {command} … shows where it came from)", file=sys.stderr)
    raise SystemExit(1) from None


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

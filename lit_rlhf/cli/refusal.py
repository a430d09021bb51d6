"""How the command line says no: the error first, then what to do. Imports nothing heavy."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn


class Refusal(SystemExit):
    """A mistake of the user's, said on stderr: the error first, then what to do. Exit code 2."""


def refuse(message: str, *hints: str) -> NoReturn:
    """Print ``error: message`` and one line a hint on stderr, and leave with exit code 2."""
    print("\n".join([f"error: {message}", *hints]), file=sys.stderr)
    raise Refusal(2)


def did_you_mean(word: str, known: Sequence[str], cutoff: float = 0.6) -> str:
    """``Did you mean 'x'?`` for the nearest of `known`, or an empty string."""
    near = difflib.get_close_matches(word, known, n=1, cutoff=cutoff)
    return f"Did you mean '{near[0]}'?" if near else ""


def near_files(value: str) -> list[str]:
    """One line about where the search ends and which names are near; empty if there is nothing to say."""
    folder = Path(value).parent
    if not folder.is_dir():
        return [f"There is no folder {folder} in {Path.cwd()}."]
    entries = sorted(entry.name for entry in folder.iterdir())
    near = difflib.get_close_matches(Path(value).name, entries, n=3, cutoff=0.5)
    if not near:
        near = [name for name in entries if Path(name).suffix == Path(value).suffix and Path(name).suffix][:5]
    names = ", ".join(str(folder / name) for name in near)
    return [f"Near it: {names}"] if names else []

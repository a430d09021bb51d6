"""``commands.sh``: the steps of a whole work as lines that do the same by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lit_rlhf.callbacks import write_beside_and_rename
from lit_rlhf.cli.steps.step import Step


def write_command(file: Path, title: str, step: Step, behind: Sequence[str] = ()) -> None:
    """Put a step's command into a file of commands: in its place, or at the end with `behind` after it.

    Args:
        file: made where there is none.
        title: its first line, a comment.
        step: known again by its title, which stands above the command.
        behind: further lines that belong to it.
    """
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else [title]
    mark = f"# {step.title}"
    if mark in lines:
        lines[lines.index(mark) + 1] = step.command
    else:
        lines += [mark, step.command, *behind]
    write_beside_and_rename(file, "\n".join(lines) + "\n")

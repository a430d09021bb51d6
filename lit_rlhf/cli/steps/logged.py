"""Child processes that write to files of their own: little on the terminal, and the reason where one failed."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Callable, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from lit_rlhf.cli.steps.children import Children

SECONDS_BETWEEN = 30.0
"""At most one line of a child's in so many seconds."""
TAIL_BYTES = 1 << 16
"""Of a log, read from its end."""
SAID = re.compile(r"^(\[rank \d+\] )?error: |^[\w.]*(Error|Exception|Interrupt|Exit)\b")
"""How the line begins that says why a command failed: one of ours, or the last of a traceback."""
LONGEST_REASON = 400


class LoggedChildren(Children):
    """Runs one command after another, each into the file that :attr:`log` names.

    Args:
        lock: descriptor of the locked file; see :func:`~lit_rlhf.cli.steps.children.only_one_in`.
        say: prints a line: now and then the newest of the child's.
    """

    def __init__(self, lock: int, say: Callable[[str], None]) -> None:
        super().__init__(lock)
        self.say = say
        self.log = Path()
        """Where the next command writes to, behind what is there; its folder is made."""
        self._begun_at = 0

    def run(self, argv: Sequence[str]) -> int:
        """Run a command; see :meth:`Children.run`."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with open(self.log, "ab") as self._file:
            self._begun_at = self._file.tell()
            return super().run(argv)

    def reason(self, code: int) -> str:
        """Why the last command ended with this exit code, as its log says it."""
        return reason_of(tail_of(self.log, self._begun_at), code)

    def _outputs(self) -> dict[str, Any]:
        return {"stdout": self._file, "stderr": subprocess.STDOUT}

    def _wait(self, child: subprocess.Popen[bytes]) -> int:
        shown = ""
        while True:
            try:
                return child.wait(SECONDS_BETWEEN)
            except subprocess.TimeoutExpired:
                lines = tail_of(self.log, self._begun_at)
                if lines and lines[-1] != shown:
                    shown = lines[-1]
                    self.say(f"  {shown[:LONGEST_REASON]}")


def tail_of(log: Path, begun_at: int = 0) -> list[str]:
    """The last lines of a log that say something, from a position on."""
    with open(log, "rb") as file:
        size = file.seek(0, 2)
        file.seek(max(begun_at, size - TAIL_BYTES))
        text = file.read().decode(errors="replace")
    # what a progress line has written over itself
    return [line.rsplit("\r", 1)[-1].strip() for line in text.rstrip("\r\n ").split("\n") if line.strip()]


def reason_of(lines: Sequence[str], code: int) -> str:
    """Why a command failed, in a line.

    >>> reason_of(["epoch 1/3", "error: 1 bad row:", "data.jsonl:3: no prompt", "(… shows where it came from)"], 1)
    '1 bad row: data.jsonl:3: no prompt'
    >>> reason_of(["epoch 1/3, batch 2/6"], 137)
    'killed by SIGKILL, as it is where memory runs out; its last line: epoch 1/3, batch 2/6'
    """
    if code > 128 and code - 128 in {number.value for number in signal.Signals}:
        name = signal.Signals(code - 128).name
        memory = ", as it is where memory runs out" if name == "SIGKILL" else ""
        last = f"; its last line: {lines[-1]}" if lines else ""
        return f"killed by {name}{memory}{last}"[:LONGEST_REASON]
    places = [place for place, line in enumerate(lines) if SAID.match(line)]
    if not places:
        return f"exit code {code}" + (f"; its last line: {lines[-1]}" if lines else "")[:LONGEST_REASON]
    message = takewhile(
        lambda line: not line.startswith("("), lines[places[-1] :]
    )  # what follows says how to look on
    return re.sub(r"^(\[rank \d+\] )?error: ", "", " ".join(message))[:LONGEST_REASON]

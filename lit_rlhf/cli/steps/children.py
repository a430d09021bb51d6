"""Our own commands as child processes: their signals and exit codes passed on, and one at work in a folder."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from lit_rlhf.cli.refusal import refuse

PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Children:
    """Runs one command after another.

    A child has a process group of its own, so that Ctrl-C reaches it once, through us: a second Ctrl-C means "at once"
    to a fit. It holds the folder's lock too, so that one which outlives a killed parent keeps a second one out.

    Args:
        lock: descriptor of the locked file; see :func:`only_one_in`.
    """

    def __init__(self, lock: int) -> None:
        self.lock = lock
        self._child: subprocess.Popen[bytes] | None = None
        self._stopped: int | None = None

    def run(self, argv: Sequence[str]) -> int:
        """Run ``lit-rlhf ARGV``, or ``python -m MODULE …`` where `argv` begins with ``-m``; returns its exit code.

        A child that a signal ended counts as 128 and the signal, as in a shell.

        Raises:
            KeyboardInterrupt: we were told to stop, and the child has ended, or there was none.
        """
        words = [*argv] if argv[0] == "-m" else ["-m", "lit_rlhf", *argv]
        before = {number: signal.signal(number, self._pass_on) for number in PASSED_ON}
        try:
            self._child = self._start([sys.executable, *words])
            code = self._wait(self._child)
        finally:
            self._child = None
            for number, handler in before.items():
                signal.signal(number, handler)
        if self._stopped is not None:
            raise KeyboardInterrupt
        return 128 - code if code < 0 else code

    def _start(self, words: Sequence[str]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            words, stdin=subprocess.DEVNULL, process_group=0, pass_fds=[self.lock], **self._outputs()
        )

    def _outputs(self) -> dict[str, Any]:
        """Where a child writes to: what our own output is."""
        return {}

    def _wait(self, child: subprocess.Popen[bytes]) -> int:
        return child.wait()

    @property
    def exit_code(self) -> int:
        """Of a parent that was told to stop."""
        return 128 + (self._stopped or signal.SIGINT)

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        self._stopped = number
        if self._child is not None and self._child.poll() is None:
            self._child.send_signal(number)


@contextmanager
def only_one_in(folder: Path, work: str) -> Iterator[int]:
    """Hold the folder's lock; gives its descriptor.

    Args:
        folder: made where there is none.
        work: what is done in it, in a word, such as ``loop``.

    Raises:
        Refusal: another one works there, or a step that one left behind.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / f"{work}.lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            found = os.pread(descriptor, 64, 0).decode(errors="replace").strip()
            refuse(
                f"{folder}: another {work} works in this folder, or a step of one that was killed "
                f"({found or 'unknown'}).",
                "Wait for it, end it, or give another folder with --out.",
            )
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"begun by process {os.getpid()}\n".encode(), 0)
        yield descriptor
    finally:
        os.close(descriptor)

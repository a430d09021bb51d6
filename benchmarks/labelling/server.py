"""The real server in a process of its own, on a file of its own."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType

from lit_rlhf.labelling.items import Item, Settings
from lit_rlhf.labelling.store import LabelStore

SECONDS_TO_START = 120.0
WORDS = (
    *(
        "the",
        "a",
        "soup",
        "train",
        "lamp",
        "hotel",
        "is",
        "was",
        "seems",
        "very",
        "tasty",
        "late",
        "bright",
        "and",
    ),
    *("because", "people", "when", "made", "of", "it"),
)


def make_store(path: Path, items: int, settings: Settings, seed: int = 0) -> None:
    """Half pairs, half rankings of four, about as long as what assistants write: 100 to 2,000 characters."""
    generator = random.Random(seed)

    def text() -> str:
        return " ".join(generator.choices(WORDS, k=generator.randint(20, 400)))

    with LabelStore(path) as store:
        store.configure(settings)
        store.add_items(
            [
                Item("pairwise", f"{number}: {text()[:400]}", (text(), text()))
                if number % 2
                else Item("ranking", f"{number}: {text()[:400]}", (text(), text(), text(), text()))
                for number in range(items)
            ]
        )


class Server:
    """``lit-rlhf label serve`` while the block runs; ended by SIGTERM.

    Args:
        store: the labelling file.
    """

    def __init__(self, store: Path) -> None:
        self.store = store

    def __enter__(self) -> Server:
        command = [sys.executable, "-m", "lit_rlhf", "label", "serve", "--db", str(self.store), "--port", "0"]
        root = str(Path(__file__).parents[2])
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH")))),
            "PYTHONUNBUFFERED": "1",
        }
        self._process = subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.said: list[str] = []
        self.address = ""
        self._found = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        if not self._found.wait(SECONDS_TO_START) or not self.address:
            self._process.kill()
            self._process.wait()
            raise RuntimeError(f"the server printed no address:\n{''.join(self.said)}")
        return self

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.said.append(line)
            if line.startswith("open ") and "/?token=" in line:
                self.address = line.split()[1]
                self._found.set()
        self._found.set()

    def cpu_seconds(self) -> float:
        """User and system time of the process so far."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def peak_mib(self) -> float:
        """The most resident memory so far."""
        for line in Path(f"/proc/{self._process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) / 1024
        raise RuntimeError("this system does not say how much memory a process has had")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self.code: int | None = self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self.code = None
        self._process.wait()
        self._reader.join(10)
        assert self._process.stdout is not None
        self._process.stdout.close()

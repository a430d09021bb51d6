"""Rows that stay in their file: ``python -m benchmarks.data_scale --rows 10000000 --out FILE.json``.

A file of so many short demonstrations is generated in a temporary folder and streamed: the pass that measures it, a
part of an epoch under a budget of tokens, and going on from the epoch's middle, each in a process of its own. For
comparison rows of the same file are held in memory as without streaming, as many of them as `--held` says.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import resource
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

MAX_TOKENS = 8192
BATCHES = 2000
"""Of the epoch, read by the workers."""
_WORDS = (
    "a",
    "the",
    "this",
    "train",
    "cake",
    "soup",
    "hotel",
    "lamp",
    "is",
    "was",
    "looks",
    "seems",
    "tasty",
    "fresh",
    "late",
    "lovely",
    "and",
    "but",
    "or",
)
_SAMPLED_EVERY_SECONDS = 0.5


def main() -> None:
    """Generate, measure each part, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--held", type=int, default=100_000, help="rows held in memory for comparison")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path, few = Path(folder) / "rows.jsonl", Path(folder) / "few.jsonl"
        write_rows(path, arguments.rows)
        write_rows(few, arguments.held)
        size = path.stat().st_size
        print(f"{arguments.rows:,} rows, {size / 1e9:.2f} GB", flush=True)
        found: dict[str, dict[str, Any]] = {}
        for name, function, given in (
            ("pass", measure_pass, (path, arguments.workers)),
            ("epoch", measure_epoch, (path, arguments.workers)),
            ("held", measure_held, (few, 0)),
        ):
            # Forked before anything large is imported; its own workers are forked then too, as in a run.
            with ProcessPoolExecutor(1, mp_context=get_context("fork")) as alone:
                found[name] = alone.submit(function, str(given[0]), given[1]).result()
            print(name, json.dumps(found[name]), flush=True)
    lines = rows_of(found, arguments.rows, arguments.held, conditions(arguments.workers, size))
    arguments.out.write_text(json.dumps(lines, indent=2) + "\n", encoding="utf-8")
    for line in lines:
        print(f"{line['work']:48} {line['ours']:>14,} {line['unit']:12} {line['ratio'] or ''}")


def write_rows(path: Path, count: int) -> None:
    """Demonstrations of 5 to 24 words of which no two are alike."""
    draw = random.Random(0)
    sentences = [" ".join(draw.choices(_WORDS, k=draw.randint(2, 12))) for _ in range(4096)]
    with path.open("w", encoding="utf-8") as stream:
        for number in range(count):
            prompt, response = sentences[number % 4096], sentences[draw.getrandbits(12)]
            stream.write(f'{{"prompt": "{number} {prompt}", "response": " {response} ."}}\n')


def measure_pass(path: str, workers: int) -> dict[str, Any]:
    """What the first use of a file costs: every row parsed and tokenized once."""
    data = _data_module(path, workers)
    with _memory() as memory, _cost() as cost:
        data.setup("fit")
    report = data.report["train"]
    return {"rows": report.rows, "tokens": report.prompt_tokens + report.response_tokens, **cost, **memory}


def measure_epoch(path: str, workers: int) -> dict[str, Any]:
    """A measured file: the start, so many batches of an epoch, and the first batch from the epoch's middle."""
    data = _data_module(path, workers)
    rows = tokens = 0
    with _memory() as memory:
        with _cost() as start:
            data.setup("fit")
            loader: Any = data.train_dataloader()
            first = next(iter(loader))
        with _cost() as cost:
            batches = iter(loader)
            for _ in range(min(BATCHES, len(loader))):
                batch = next(batches)
                rows += batch.num_trees
                tokens += len(batch.input_ids)
            del batches
        state = loader.state_dict()
        with _cost() as resume:
            loader.load_state_dict({**state, "position": len(loader) // 2})
            next(iter(loader))
    return {
        "batches_an_epoch": len(loader),
        "tokens_of_a_batch": round(tokens / min(BATCHES, len(loader))),
        "first_batch_rows": first.num_trees,
        "start_seconds": start["seconds"],
        "resume_seconds": resume["seconds"],
        "rows": rows,
        **cost,
        **memory,
    }


def measure_held(path: str, workers: int) -> dict[str, Any]:
    """Rows read, tokenized and held, as without streaming."""
    data = _data_module(path, workers, streaming=False)
    with _memory() as memory, _cost() as cost:
        data.setup("fit")
    return {"rows": data.report["train"].rows, **cost, **memory}


def rows_of(found: dict[str, Any], rows: int, held: int, conditions: dict[str, Any]) -> list[dict[str, Any]]:
    """The results in the form of all benchmarks; memory over what the process had before it began."""
    per_row = found["held"]["peak_added_bytes"] / held
    streamed = max(found["pass"]["peak_added_bytes"], found["epoch"]["peak_added_bytes"])
    small = f"{rows} rows"

    def line(
        work: str, ours: float, unit: str, theirs: float | None = None, note: str = ""
    ) -> dict[str, Any]:
        return {
            "work": work,
            "size": small,
            "against": "rows held in memory" if theirs is not None else None,
            "ours": ours,
            "theirs": theirs,
            "ratio": round(theirs / ours, 1) if theirs is not None and ours else None,
            "unit": unit,
            "repeats": 1,
            "spread": None,
            "conditions": {**conditions, "note": note},
        }

    measured, epoch = found["pass"], found["epoch"]
    note = "resident memory of the main process and its workers, over the interpreter with its imports before"
    return [
        line(
            "peak memory",
            round(streamed / 1e6),
            "MB",
            round(per_row * rows / 1e6),
            f"{note}; held: {held} rows measured, {per_row:.0f} bytes a row, scaled up",
        ),
        line("peak memory, the pass", round(measured["peak_added_bytes"] / 1e6), "MB", note=note),
        line("peak memory, the epoch", round(epoch["peak_added_bytes"] / 1e6), "MB", note=note),
        line("peak resident, main process of the pass", round(measured["peak_resident_bytes"] / 1e6), "MB"),
        line("peak resident, main process of the epoch", round(epoch["peak_resident_bytes"] / 1e6), "MB"),
        line("the pass", round(measured["rows"] / measured["seconds"]), "rows/s"),
        line("the pass, CPU", round(measured["cpu_seconds"] / measured["rows"] * 1e6, 1), "us/row"),
        line("an epoch's batches", round(epoch["rows"] / epoch["seconds"]), "rows/s"),
        line("an epoch's batches, CPU", round(epoch["cpu_seconds"] / epoch["rows"] * 1e6, 1), "us/row"),
        line("start with a measured file", epoch["start_seconds"], "s", note="to the first batch"),
        line("going on in the middle of an epoch", epoch["resume_seconds"], "s", note="to the first batch"),
        line("fill of a batch", round(100 * epoch["tokens_of_a_batch"] / MAX_TOKENS, 1), "%"),
    ]


def conditions(workers: int, size: int) -> dict[str, Any]:
    """What the numbers depend on."""
    return {
        "python": platform.python_version(),
        **{package: version(package) for package in ("torch", "transformers", "tokenizers")},
        "machine": f"CPU, {platform.machine()}, {os.cpu_count()} cores, shared",
        "load": round(os.getloadavg()[0], 1),
        "workers": workers,
        "file_bytes": size,
        "max_tokens": MAX_TOKENS,
    }


def _data_module(path: str, workers: int, streaming: bool = True) -> Any:
    from lit_rlhf import DemonstrationDataModule

    return DemonstrationDataModule(
        path, max_tokens=MAX_TOKENS, streaming=streaming, workers=workers, tokenizer=_tokenizer()
    )


def _tokenizer() -> Any:
    """Byte-level BPE over the words of the file."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<|bos|>", "<|eos|>", "<|pad|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator([" ".join(_WORDS)] * 4, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<|bos|>", eos_token="<|eos|>", pad_token="<|pad|>"
    )


@contextmanager
def _cost() -> Iterator[dict[str, float]]:
    """Seconds, and CPU seconds of this process and its children that have ended."""
    cost: dict[str, float] = {}
    wall, cpu = time.perf_counter(), _cpu_seconds()
    yield cost
    cost["seconds"] = round(time.perf_counter() - wall, 3)
    cost["cpu_seconds"] = round(_cpu_seconds() - cpu, 3)


def _cpu_seconds() -> float:
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in (own, children))


@contextmanager
def _memory() -> Iterator[dict[str, int]]:
    """The peak of what this process and its children hold together, pages they share counted once."""
    memory: dict[str, int] = {}
    before = _held_bytes()
    peak, done = [before], threading.Event()

    def watch() -> None:
        while not done.wait(_SAMPLED_EVERY_SECONDS):
            peak[0] = max(peak[0], _held_bytes())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield memory
    finally:
        peak[0] = max(peak[0], _held_bytes())
        done.set()
        watcher.join()
    memory["before_bytes"] = before
    memory["peak_added_bytes"] = peak[0] - before
    memory["peak_resident_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _held_bytes() -> int:
    """Proportional set sizes: a page that n processes share counts 1/n in each of them."""
    total = 0
    for pid in [os.getpid(), *_children(os.getpid())]:
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
        except OSError:  # it has ended meanwhile
            continue
        total += 1024 * next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))
    return total


def _children(pid: int) -> list[int]:
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        return [int(child) for task in tasks for child in (task / "children").read_text().split()]
    except OSError:
        return []


if __name__ == "__main__":
    main()

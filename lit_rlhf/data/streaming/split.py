"""A split that is streamed: its files found, measured and put together, or refused with what to do."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedConfig

from lit_rlhf.data.files import BadRows, BadRowsError, describe_bad_rows
from lit_rlhf.data.lengths import check_positions, check_streamed_budget
from lit_rlhf.data.ranks import Processes
from lit_rlhf.data.report import SplitReport
from lit_rlhf.data.sources import find_sources
from lit_rlhf.data.streaming.row_access import open_at_random
from lit_rlhf.data.streaming.row_index import RowIndex, find_or_make_index
from lit_rlhf.data.streaming.row_reader import RowReader
from lit_rlhf.data.streaming.streamed import Stream, Streamed
from lit_rlhf.data.tokenization import TextEncoder
from lit_rlhf.records import Row, Tree


@dataclass
class StreamedSplit:
    """A split of which the rows stay in their files; `rows`, `trees` and `places` are read when asked for."""

    stream: Stream
    rows: Streamed[Row]
    """Those that are used, with the comparisons that were made of them."""
    trees: Streamed[Tree]
    places: Streamed[str]
    """``file:line`` of each tree."""
    parts: Sequence[tuple[int, float]]
    """(trees, weight) of the files."""
    content: int
    """A checksum of all tokens."""
    longest: Sequence[int]
    """The trees with the longest sequences, the longest first."""
    tells_apart: bool
    """Whether some row says of two responses that one is better, or has labels that are of use."""

    def longest_trees(self) -> list[Tree]:
        """Those with the longest sequences, five at the most."""
        return self.trees.read(self.longest)

    def check(self, rows: int, compares: bool, max_tokens: int | None) -> None:
        """Refuse comparisons that say nothing, and trees that no batch can hold.

        Args:
            rows: How many are used, for messages.
            compares: Whether a row has to tell two responses apart.
            max_tokens: Tokens of a batch on one rank; None = batches are counted in prompts.

        Raises:
            ValueError: no row tells two responses apart, or a tree has more than `max_tokens`.
        """
        if compares and not self.tells_apart:
            raise ValueError(f"data.path: none of {rows} rows tells two responses apart")
        if max_tokens is not None:
            check_streamed_budget(self.stream.sizes(), max_tokens, self.trees, self.places)

    def check_positions(self, config: PreTrainedConfig) -> None:
        """Hold the longest sequences against a model's positions; see :func:`~lit_rlhf.data.lengths.check_positions`.

        Raises:
            ValueError: one is longer than the model's table of positions.
        """
        check_positions(self.longest_trees(), config, self.places.read(self.longest), among=len(self.stream))


def check_streaming(streaming: bool, workers: int, val_fraction: float) -> None:
    """Refuse settings that contradict `streaming`.

    Raises:
        ValueError: workers without streaming, or below 0; or a validation split of rows that nobody holds.
    """
    if workers < 0:
        raise ValueError(f"data.workers: expected 0 or more, found {workers}")
    if workers and not streaming:
        raise ValueError(
            f"data.workers {workers} read ahead with data.streaming true; without it rows are read once, before "
            "training. Set data.workers to 0, or data.streaming to true"
        )
    if streaming and val_fraction:
        raise ValueError(
            f"data.streaming holds no rows of which a share of {val_fraction} could be set aside: give data.val_path, "
            "or set data.val_fraction to 0"
        )


def stream_split(
    path: Any, reader: RowReader, workers: int, bad_rows: BadRows, processes: Processes
) -> tuple[StreamedSplit, SplitReport]:
    """The training rows as a stream, and what there is to say of them.

    Args:
        path: As :func:`~lit_rlhf.data.files.read_rows` takes it.
        reader: Makes trees of a row.
        workers: Processes that measure a new file, of each process of the run.
        bad_rows: Whether a row that cannot be read stops everything, or is left out and counted.
        processes: Of the run; all have to ask.

    Raises:
        FileNotFoundError: a local path that is not there, with names that come near.
        BadRowsError: there are bad rows, and `bad_rows` is ``"error"``; or no good one is left.
        ValueError: a format without a way to its rows other than from the start, or a module that learns ratings.
    """
    if reader.judging.rates:
        raise ValueError(
            "model.loss ratings needs every annotator's scale, from all rows at once, and data.streaming holds none: "
            "leave data.streaming false, or use loss: pairs"
        )
    sources = find_sources(path, "train")
    opened = [open_at_random(source) for source in sources]
    settings = f"{reader.settings}\n{encoder_fingerprint(reader.encoder)}"
    indices = [find_or_make_index(access, reader, settings, workers, processes) for access in opened]
    report = SplitReport("train")
    for source, index in zip(sources, indices, strict=True):
        report.merge(index.measured.report)
        report.notes += source.notes
    good, bad = sum(index.measured.good for index in indices), report.bad
    if bad and (bad_rows == "error" or not good):
        raise BadRowsError(describe_bad_rows([text for i in indices for text in i.measured.bad], bad, good))
    if not good:
        raise BadRowsError(f"no rows in {', '.join(source.name for source in sources)}")
    if report.duplicates:
        report.notes.append("repeated rows are counted within each file, not between files")
    if report.labelled:
        report.notes.append("labelled responses of one prompt stay apart; contradictions are not looked for")
    report.notes.append("rows stay in their files; prompts shared with validation rows are not counted")
    split = _put_together(indices, reader, [source.weight for source in sources])
    return split, report


def _put_together(indices: list[RowIndex], reader: RowReader, weights: list[float]) -> StreamedSplit:
    stream = Stream(indices, reader)
    firsts = stream.first_windows()

    def rows(numbers: Sequence[int]) -> list[Row]:
        return stream.planted(numbers if firsts is None else firsts[list(numbers)].tolist())[0]

    def trees(numbers: Sequence[int]) -> list[Tree]:
        return stream.planted(numbers)[1]

    def places(numbers: Sequence[int]) -> list[str]:
        return [stream.place(number) for number in numbers]

    starts, content = 0, 0
    longest = []
    for index in indices:
        longest += [(tokens, starts + tree) for tokens, tree in index.measured.longest]
        starts += len(index.trees)
        content = zlib.crc32(index.measured.content.to_bytes(4, "little"), content)
    return StreamedSplit(
        stream,
        rows=Streamed(rows, len(stream) if firsts is None else len(firsts)),
        trees=Streamed(trees, len(stream)),
        places=Streamed(places, len(stream)),
        parts=[(len(index.trees), weight) for index, weight in zip(indices, weights, strict=True)],
        content=content,
        longest=[tree for _, tree in sorted(longest, reverse=True)[:5]],
        tells_apart=any(index.measured.tells_apart for index in indices),
    )


def encoder_fingerprint(encoder: TextEncoder) -> str:
    """What decides which ids a text becomes."""
    tokenizer = encoder.tokenizer
    backend = getattr(tokenizer, "backend_tokenizer", None)
    said = [
        json.dumps(tokenizer.get_vocab(), sort_keys=True) if backend is None else backend.to_str(),
        repr(sorted(tokenizer.special_tokens_map.items(), key=str)),
        str(encoder.chat_template or tokenizer.chat_template),
    ]
    return hashlib.blake2b("\n".join(said).encode(), digest_size=16).hexdigest()

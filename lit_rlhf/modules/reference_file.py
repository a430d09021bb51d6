"""Reference log-probabilities on disk: one file per model, rows and precision, beside the data.

``pairs.jsonl.reference-3f2a90c41b7e.safetensors`` holds ``logprobs``, float32, one a response, and ``starts``, where
each row's responses begin; its header says what they are of and when they were made. The twelve digits are the
beginning of a digest over the model, the rows in tokens and the precision, so a change of any of these leads to
another file. While it is being computed, parts of it stand beside it. Every file is written beside and renamed: several
processes may write the same one, since what they write is the same.
"""

from __future__ import annotations

import glob
import hashlib
import os
import uuid
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from lit_rlhf.data.files import DataPath
from lit_rlhf.data.sources import looks_local
from lit_rlhf.records import Tree

FORMAT = "lit_rlhf.reference_logprobs/1"
SUFFIX = ".safetensors"


def rows_fingerprint(trees: Sequence[Tree]) -> str:
    """64 hex digits that change with any token or mask of the rows: so with data, tokenizer, template and limits."""
    digest = hashlib.sha256()
    for tree in trees:
        branches = (tree.prompt_ids, *tree.response_ids)
        digest.update(array("q", [len(branches), *map(len, branches)]).tobytes())
        for ids in branches:
            digest.update(array("q", ids).tobytes())
        for mask in tree.response_masks:
            digest.update(bytes(mask))
    return digest.hexdigest()


@dataclass(frozen=True)
class Identity:
    """What log-probabilities are of. Where one of these differs they are others."""

    model: str
    """Fingerprint of the reference."""
    rows: str
    """Of the rows, by :func:`rows_fingerprint`."""
    precision: str
    """The trainer's, such as ``bf16-mixed``."""

    @property
    def key(self) -> str:
        """64 hex digits."""
        return hashlib.sha256("\n".join([FORMAT, self.model, self.rows, self.precision]).encode()).hexdigest()

    def differs_in(self, header: Mapping[str, str]) -> list[str]:
        """What a file with this header has other than we."""
        named = {"model": self.model, "data": self.rows, "precision": self.precision}
        return [name for name, value in named.items() if header.get(name) != value]


def data_file_of(path: DataPath | None) -> Path | None:
    """The first local file or folder among the data's paths; None for hub names and rows given from Python."""
    for entry in path if isinstance(path, list) else [path]:
        name = entry.get("path") if isinstance(entry, Mapping) else entry
        if isinstance(name, str | Path) and looks_local(str(name)):
            found = Path(name).expanduser()
            if found.exists():
                return found if found.name not in ("", "..") else found.resolve()
    return None


class ReferenceFile:
    """The file of one identity, and its parts, wherever it may stand. For rank 0.

    Args:
        identity: what it is of.
        folders: where it may stand, the best first; it is written where that can be done.
        stem: how its name begins: the data file's name.
        responses: the number of responses of each row.
    """

    def __init__(
        self, identity: Identity, folders: Sequence[Path], stem: str, responses: Sequence[int]
    ) -> None:
        self.identity = identity
        self.folders = list(folders)
        self.stem = stem
        self.starts = torch.tensor([0, *responses], dtype=torch.long).cumsum(0)
        """Long ``[rows + 1]``: where each row's responses begin, and their number in all."""
        self.refused: list[str] = []
        """Folders that could not be written, and why."""

    @property
    def name(self) -> str:
        return f"{self.stem}.reference-{self.identity.key[:12]}{SUFFIX}"

    def read(self) -> tuple[Tensor, Path] | None:
        """Log-probabilities of all responses, float32 ``[N]``, and where they stand; None if there is no such file."""
        for folder in self.folders:
            content = self._content(folder / self.name)
            if content is not None:
                return content["logprobs"], folder / self.name
        return None

    def read_parts(self) -> Tensor:
        """What an interrupted run has left: float32 ``[N]``, NaN where nothing is known."""
        logprobs = torch.full((int(self.starts[-1]),), torch.nan)
        for path in self._parts():
            content = self._content(path)
            if content is not None:
                logprobs[content["responses"]] = content["logprobs"]
        return logprobs

    def write_part(self, logprobs: Tensor, responses: Tensor) -> None:
        """Keep some responses' log-probabilities until the file is whole.

        Args:
            logprobs: float32, of these responses.
            responses: Long, their numbers among the N.
        """
        name = f"{self.name.removesuffix(SUFFIX)}.part-{uuid.uuid4().hex[:8]}{SUFFIX}"
        self._write(name, {"logprobs": logprobs, "responses": responses}, {})

    def finish(self, logprobs: Tensor, described: Mapping[str, str]) -> Path | None:
        """Write the whole file and remove its parts; where it stands, None if no folder could be written.

        Args:
            logprobs: float32 ``[N]``.
            described: more for the header.
        """
        counts = {"rows": str(len(self.starts) - 1), "responses": str(len(logprobs))}
        path = self._write(self.name, {"logprobs": logprobs, "starts": self.starts}, {**counts, **described})
        if path is not None:
            self.remove_parts()
        return path

    def remove_parts(self) -> None:
        """Once the whole file is there, they are of no use to anybody."""
        for path in self._parts():
            path.unlink(missing_ok=True)

    def others(self) -> Iterator[tuple[Path, dict[str, str]]]:
        """Files and parts of the same data file under another key, with their headers."""
        beginning = glob.escape(f"{self.stem}.reference-")
        for folder in self.folders:
            for path in sorted(folder.glob(f"{beginning}*{SUFFIX}")):
                header = _header(path)
                if header is not None and header["key"] != self.identity.key:
                    yield path, header

    def _parts(self) -> list[Path]:
        pattern = glob.escape(self.name.removesuffix(SUFFIX)) + ".part-*" + SUFFIX
        return [path for folder in self.folders for path in sorted(folder.glob(pattern))]

    def _content(self, path: Path) -> dict[str, Tensor] | None:
        """The tensors of a file of this identity; None where it is missing, broken or of another."""
        header = _header(path)
        if header is None or header.get("key") != self.identity.key:
            return None
        try:
            return load_file(path)
        except (OSError, SafetensorError):
            return None  # another process has put the parts together meanwhile

    def _write(self, name: str, tensors: dict[str, Tensor], described: Mapping[str, str]) -> Path | None:
        """Into the first folder that can be written; one that cannot is not tried again."""
        header = {
            "format": FORMAT,
            "key": self.identity.key,
            "model": self.identity.model,
            "data": self.identity.rows,
            "precision": self.identity.precision,
            "made": datetime.now(UTC).isoformat(timespec="seconds"),
            **described,
        }
        while self.folders:
            beside = self.folders[0] / f"{name}.{uuid.uuid4().hex[:8]}.partial"
            try:
                self.folders[0].mkdir(parents=True, exist_ok=True)
                beside.write_bytes(save(tensors, metadata=header))
                os.replace(beside, self.folders[0] / name)
                return self.folders[0] / name
            except OSError as error:
                with suppress(OSError):
                    beside.unlink()
                self.refused.append(f"{self.folders.pop(0)} cannot be written ({error})")
        return None


def _header(path: Path) -> dict[str, str] | None:
    """What a file of ours says of itself; None for one that is missing, broken or not ours."""
    try:
        with safe_open(path, framework="pt") as content:
            header: dict[str, Any] = content.metadata() or {}
    except (OSError, SafetensorError):
        return None
    return header if header.get("format") == FORMAT else None

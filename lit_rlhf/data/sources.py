"""Where rows come from: the files, folders and hub data sets behind a path."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias

from lit_rlhf.data.readers import READERS, RawRows, number_rows, reader_of

Split: TypeAlias = Literal["train", "val", "test", "predict"]

_SPLIT_NAMES = {
    "train": ("train", "training"),
    "val": ("validation", "valid", "val", "dev", "eval"),
    "test": ("test", "heldout"),
    "predict": ("predict", "test"),
}
_HUB_NAME = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)(:(?P<config>[\w.-]+))?(@(?P<revision>[\w./-]+))?")


@dataclass
class Source:
    """One file or data set, found but not read yet."""

    name: str
    read: Callable[[], RawRows]
    weight: float = 1.0
    notes: list[str] = field(default_factory=list)
    file: Path | None = None
    """Of one file."""
    table: Callable[[], Any] | None = None
    """Of what has rows by number: opens it, without reading them."""


def find_sources(path: Any, split: Split) -> list[Source]:
    """Everything that `path` names, in order; nothing is read, so a missing file is known at once.

    Raises:
        FileNotFoundError: a local path that is not there.
        ValueError: an entry that is none of a path, ``{path, weight}`` or a row.
    """
    if isinstance(path, str | Path):
        return _named_sources(str(path), 1.0, split)
    if not isinstance(path, Sequence):
        raise ValueError(
            f"path: expected a path, a list of paths or a list of rows, found {type(path).__name__}"
        )
    if all(isinstance(entry, Mapping) and "path" not in entry for entry in path):
        return [Source("rows", partial(number_rows, "rows", path), table=lambda: path)]
    found = []
    for entry in path:
        if isinstance(entry, str | Path):
            found += _named_sources(str(entry), 1.0, split)
        elif isinstance(entry, Mapping) and "path" in entry and not entry.keys() - {"path", "weight"}:
            found += _named_sources(str(entry["path"]), _weight(entry), split)
        else:
            raise ValueError(f"path: expected a path or {{path, weight}}, found {entry!r}")
    return found


def looks_local(path: str) -> bool:
    """Whether a path means this machine: it exists, is written like a path, or has a known suffix."""
    return (
        path.startswith((".", "/", "~"))
        or reader_of(Path(path)) is not None
        or _HUB_NAME.fullmatch(path) is None
        or Path(path).exists()
    )


def _weight(entry: Mapping[str, Any]) -> float:
    weight = entry.get("weight", 1.0)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < float("inf"):
        raise ValueError(f"path: expected a weight above 0 for {entry['path']}, found {weight!r}")
    return float(weight)


def _named_sources(name: str, weight: float, split: Split) -> list[Source]:
    if not looks_local(name):
        table = partial(_open_hub, name, split)
        return [Source(name, partial(_read_table, table, name), weight, table=table)]
    path = Path(name).expanduser()
    if not path.exists():
        raise FileNotFoundError(not_there(name, path))
    if path.is_file():
        reader = reader_of(path)
        if reader is None:
            raise ValueError(
                f"{name}: expected one of {', '.join(READERS)}, found {path.suffix or 'no suffix'}"
            )
        return [Source(name, partial(reader, path, name), weight, file=path)]
    if (path / "state.json").exists() or (path / "dataset_dict.json").exists():
        table = partial(_open_datasets_folder, path, name, split)
        return [Source(name, partial(_read_table, table, name), weight, table=table)]
    return _folder_sources(path, name, weight, split)


def _folder_sources(path: Path, name: str, weight: float, split: Split) -> list[Source]:
    """The data files of a folder; where files are named after splits, those of this split only."""
    files = sorted(file for file in path.iterdir() if file.is_file() and reader_of(file) is not None)
    if not files:
        raise FileNotFoundError(f"{name}: no data file in this folder; known are {', '.join(READERS)}")
    mine = [file for file in files if _split_of(file.name, _SPLIT_NAMES[split])]
    every = [word for words in _SPLIT_NAMES.values() for word in words]
    taken = mine or [file for file in files if split == "train" and not _split_of(file.name, every)] or files
    left = [file.name for file in files if file not in taken]
    notes = (
        [f"{name}: took {', '.join(f.name for f in taken)} for {split}, left {', '.join(left)}"]
        if left
        else []
    )
    sources = []
    for file in taken:
        reader = reader_of(file)
        assert reader is not None
        sources.append(Source(str(file), partial(reader, file, str(file)), weight, file=file))
    sources[0].notes = notes
    return sources


def _split_of(file_name: str, words: Sequence[str]) -> bool:
    return re.match(rf"({'|'.join(words)})(?![a-z])", file_name.lower()) is not None


def not_there(name: str, path: Path) -> str:
    """What is missing, and what comes near it in the last folder that exists."""
    missing = path
    while not missing.parent.exists():
        missing = missing.parent
    siblings = [entry.name for entry in missing.parent.iterdir()]
    near = difflib.get_close_matches(missing.name, siblings, n=3, cutoff=0.5)
    message = f"{name}: no such file or folder"
    if missing != path:
        message += f" (there is no {missing})"
    if near:
        message += f"; in {missing.parent}/ there is {', '.join(near)}"
    return message


def _read_table(table: Callable[[], Any], name: str) -> RawRows:
    return number_rows(name, table())


def _open_datasets_folder(path: Path, name: str, split: Split) -> Any:
    import datasets

    return _one_split(datasets.load_from_disk(str(path)), name, split)


def _open_hub(name: str, split: Split) -> Any:
    import datasets

    parts = _HUB_NAME.fullmatch(name)
    assert parts is not None
    loaded = datasets.load_dataset(parts["name"], parts["config"], revision=parts["revision"])
    return _one_split(loaded, name, split)


def _one_split(loaded: Any, name: str, split: Split) -> Any:
    if not isinstance(loaded, Mapping):
        return loaded
    for key in loaded:
        if _split_of(key, _SPLIT_NAMES[split]):
            return loaded[key]
    if len(loaded) == 1:
        return next(iter(loaded.values()))
    raise ValueError(f"{name}: expected a split named {_SPLIT_NAMES[split][0]}, found {', '.join(loaded)}")

"""The files of all runs, and the runs of one process that the others are held against, made once."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.ranks.material import prepare
from tests.ranks.phases import QUIET
from tests.ranks.runs import Run, run

Fit = Callable[..., Run]


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files, made once."""
    folder = tmp_path_factory.mktemp("ranks")
    prepare(folder)
    return folder


@pytest.fixture
def here(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with files of its own: a precomputed reference is kept beside the data."""
    shutil.copytree(made, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


@pytest.fixture
def fit(here: Path) -> Fit:
    """``fit(words, ranks, strategy)`` to its end, in a run folder of its own."""
    count = 0

    def begin(words: Sequence[str], ranks: int = 1, strategy: str = "auto", **settings: object) -> Run:
        nonlocal count
        count += 1
        folder = here / f"run-{count}"
        return run(["fit", *words, *QUIET], folder, ranks, strategy, **settings).went_well()  # type: ignore[arg-type]

    return begin


@pytest.fixture(scope="session")
def alone(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Sequence[str]], Run]:
    """The same fit on one process, once for each list of words."""
    runs: dict[tuple[str, ...], Run] = {}

    def begin(words: Sequence[str]) -> Run:
        key = tuple(words)
        if key not in runs:
            folder = tmp_path_factory.mktemp("alone") / "work"
            shutil.copytree(made, folder)
            before = os.getcwd()
            os.chdir(folder)
            try:
                runs[key] = run(["fit", *words, *QUIET], folder / "run").went_well()
            finally:
                os.chdir(before)
        return runs[key]

    return begin

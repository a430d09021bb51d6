"""Runs that are repeats of one another, and in what the others differ."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from lit_rlhf.reports.overoptimisation_runs import Quantity, Run, Series, differing_settings, is_seed


@dataclass(frozen=True)
class Group:
    """One run, or several that differ in their seeds alone."""

    name: str
    runs: list[Run]

    def mean(self, quantity: Quantity) -> Series:
        """The mean over the runs that logged it on rollouts, at the iterations that all of these have."""
        series = [found for run in self.runs if len(found := run.get(quantity))]
        if not series:
            return Series()
        shared = sorted(set.intersection(*(set(each.iterations) for each in series)))
        columns = [[each.at(iteration) for each in series] for iteration in shared]
        return Series(shared, [sum(v for v in column if v is not None) / len(column) for column in columns])


def group_runs(runs: Sequence[Run]) -> list[Group]:
    """Runs with the same settings but for seeds together, in the order of their first; a run without settings alone."""
    found: dict[object, list[Run]] = {}
    for run in runs:
        settings = frozenset(
            (name, value) for name, value in (run.settings or {}).items() if not is_seed(name)
        )
        found.setdefault(run.name if run.settings is None else settings, []).append(run)
    return [Group(_name(members), members) for members in found.values()]


def _name(runs: Sequence[Run]) -> str:
    if len(runs) == 1:
        return runs[0].name
    seeds = any(is_seed(name) for name in differing_settings(runs))
    shared = os.path.commonprefix([run.name for run in runs])  # noqa: RUF071  # of letters, not of folders
    shared = shared.removesuffix("seed").rstrip("-_./ ")
    return f"{shared or runs[0].name} ({len(runs)} {'seeds' if seeds else 'repeats'})"


def what_differs(runs: Sequence[Run]) -> list[str]:
    """Per run, its settings that are not the same in all of them, by as much of their names as is clear.

    >>> from pathlib import Path
    >>> runs = [Run(str(b), Path(), {"model.beta": str(b)}, {}, 1, 1, 1.0, {}) for b in (0, 0.2)]
    >>> what_differs(runs)
    ['beta 0', 'beta 0.2']
    """
    names = differing_settings(runs)
    last = [name.rpartition(".")[2] for name in names]
    short = {name: end if last.count(end) == 1 else name for name, end in zip(names, last)}
    said = []
    for run in runs:
        if run.settings is None:
            said.append("not known: no config.yaml")
        else:
            said.append(", ".join(f"{short[name]} {run.settings.get(name, 'not set')}" for name in names))
    return said

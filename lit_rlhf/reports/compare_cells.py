"""What each method measured, from ``results.json``: its runs, and its numbers by seed and prompt."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lit_rlhf.reports.compare_resampling import Measured

Results = Mapping[str, Any]
"""``settings``, ``start``, and ``methods`` with their ``seeds``; what was not measured is null or missing.

``evaluation_prompts``, where it is there, has a key for each evaluation prompt: those that are repeated are resampled
together.
"""
DONE, FAILED, MISSING = "done", "failed", "missing"
THE_START = "the start"
_WHOLE_RUN = ("updates", "seconds", "wall_seconds", "episodes")


@dataclass(frozen=True)
class Undone:
    """A run without numbers."""

    method: str
    seed: int
    state: str
    why: str


def read_results(out: Path) -> Results:
    """The ``results.json`` of a comparison's folder.

    Raises:
        ValueError: it is no JSON, or has no methods with names.
    """
    path = out / "results.json"
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}:{error.lineno}: expected JSON, found {error.msg}") from error
    if not isinstance(results, dict) or not results.get("methods"):
        raise ValueError(f"{path}: expected 'methods', a list of one or more, found none")
    for place, method in enumerate(results["methods"]):
        if not isinstance(method, dict) or "name" not in method:
            raise ValueError(f"{path}: methods[{place}]: expected a 'name', found none")
    return results


def done_seeds(method: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The runs that have numbers, in the order of their seeds."""
    done = [cell for cell in method.get("seeds") or [] if cell.get("state") == DONE]
    return sorted(done, key=lambda cell: cell["seed"])


def asked_seeds(results: Results) -> list[int]:
    """The seeds that every method was to be trained with."""
    seeds = (results.get("settings") or {}).get("seeds")
    if seeds:
        return list(seeds)
    return sorted({cell["seed"] for method in results["methods"] for cell in method.get("seeds") or []})


def undone(results: Results) -> list[Undone]:
    """Runs that failed or are missing, those that the file does not name among them."""
    found = []
    for method in results["methods"]:
        cells = {cell["seed"]: cell for cell in method.get("seeds") or []}
        for seed in sorted({*asked_seeds(results), *cells}):
            cell = cells.get(seed, {"state": MISSING, "why": "results.json does not name it"})
            if cell.get("state") != DONE:
                state, why = str(cell.get("state") or MISSING), str(cell.get("why") or "no reason was given")
                found.append(Undone(str(method["name"]), seed, state, why))
    return found


def measured(results: Results, method: Mapping[str, Any], key: str) -> Measured | None:
    """One quantity of a method over the seeds that have it; None where none has.

    Args:
        results: the content of ``results.json``.
        method: of its ``methods``.
        key: ``accuracy``, ``gold``, ``reward``, ``kl``, ``tokens``, ``finished``, or a number of a whole run.

    Raises:
        ValueError: seeds have been measured on different prompts.
    """
    seeds: list[int] = []
    rows: list[list[float]] = []
    prompts: tuple[Hashable, ...] | None = None
    for cell in done_seeds(method):
        found = numbers_of_run(cell, key, results.get("evaluation_prompts"))
        if found is None:
            continue
        values, of = found
        if rows and (len(values) != len(rows[0]) or of != prompts):
            raise ValueError(
                f"results.json: method {method['name']!r}, seed {cell['seed']}, field {key!r}: expected the "
                f"{len(rows[0])} numbers of the same prompts as seed {seeds[0]} has, found {len(values)} of others; "
                "measure both on one file"
            )
        seeds.append(int(cell["seed"]))
        rows.append(values)
        prompts = of
    return Measured(tuple(seeds), np.array(rows), prompts) if rows else None


def measured_start(results: Results, key: str) -> Measured | None:
    """One quantity of the start, as of a method with one seed; None where it has not been measured."""
    found = numbers_of_run(results.get("start") or {}, key, results.get("evaluation_prompts"))
    return Measured((0,), np.array([found[0]]), found[1]) if found else None


def numbers_of_run(
    cell: Mapping[str, Any], key: str, prompts: Sequence[Hashable] | None
) -> tuple[list[float], tuple[Hashable, ...] | None] | None:
    """The numbers of a run with their prompts; None where there are none.

    Missing and infinite numbers of a list are NaN.

    Args:
        cell: the run, or the start.
        key: of a number.
        prompts: keys of the evaluation prompts; None where each is one of its own.
    """
    value = cell.get(key)
    if value is None:
        return None
    if key in _WHOLE_RUN:
        return [_number(value)], None
    of: tuple[Hashable, ...]
    if key == "accuracy":
        values = value.get("right") or []
        of = tuple(value.get("prompts") or range(len(values)))
    else:
        values, of = value, tuple(range(len(value)) if prompts is None else prompts)
    if len(values) != len(of):
        raise ValueError(
            f"results.json: seed {cell.get('seed', 'of the start')}, field {key!r}: expected as many prompts as "
            f"numbers, found {len(of)} and {len(values)}"
        )
    return ([_number(one) for one in values], of) if values else None


def minus(ours: Measured, theirs: Measured, what: str) -> Measured | None:
    """Differences on the seeds and prompts that both have; None where no seed is in both.

    Args:
        ours: less `theirs`.
        theirs: on the same prompts in the same order.
        what: the two and the quantity, for the error.

    Raises:
        ValueError: they have been measured on different prompts.
    """
    if ours.prompts != theirs.prompts:
        raise ValueError(
            f"results.json: {what}: expected numbers on the same prompts in the same order, found "
            f"{ours.values.shape[1]} and {theirs.values.shape[1]} on different ones; measure both on one file"
        )
    shared = [seed for seed in ours.seeds if seed in theirs.seeds]
    if not shared:
        return None
    left, right = (each.values[[each.seeds.index(seed) for seed in shared]] for each in (ours, theirs))
    return Measured(tuple(shared), left - right, ours.prompts)


def minus_start(ours: Measured, start: Measured, what: str) -> Measured | None:
    """Differences of every seed to the start, which has none."""
    same = Measured(ours.seeds, np.repeat(start.values, len(ours.seeds), axis=0), start.prompts)
    return minus(ours, same, what)


def seed_means(found: Measured) -> dict[int, float]:
    """The mean of every seed over what it has; seeds without any number are left out."""
    known = {seed: row[np.isfinite(row)] for seed, row in zip(found.seeds, found.values, strict=True)}
    return {seed: float(row.mean()) for seed, row in known.items() if len(row)}


def spread(values: Sequence[float]) -> float:
    """The largest less the smallest."""
    return max(values) - min(values)


def _number(value: Any) -> float:
    number = float("nan") if value is None else float(value)
    return number if np.isfinite(number) else float("nan")

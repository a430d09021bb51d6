"""Small comparisons, as `lit-rlhf compare` leaves them: numbers that a test can work out by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PROMPTS = 24


def cell(seed: int = 0, level: float = 0.0, prompts: int = PROMPTS, **changes: Any) -> dict[str, Any]:
    """A run that is done: gold is `level` on every prompt, reward twice that, KL 4, 10 tokens, all finished."""
    numbers: dict[str, Any] = {
        "seed": seed, "state": "done",
        "accuracy": {"mean": 0.75, "rows": 4, "right": [1, 1, 0.5, 0.5], "prompts": ["a", "b", "c", "d"]},
        "gold": [level] * prompts, "reward": [2 * level] * prompts, "kl": [4.0] * prompts,
        "tokens": [10] * prompts, "finished": [True] * prompts,
        "updates": 300, "seconds": 60.0, "wall_seconds": 70.0, "episodes": 0,
    }  # fmt: skip
    return {**numbers, **changes}


def undone(seed: int, state: str = "failed", why: str = "loss is NaN") -> dict[str, Any]:
    return {"seed": seed, "state": state, "why": why}


def method(name: str, *cells: dict[str, Any], **changes: Any) -> dict[str, Any]:
    about = {"name": name, "config": f"{name}.yaml", "class": "DPOModule", "loss": name, "settings": {}}
    return {**about, "seeds": list(cells), **changes}


def results(*methods: dict[str, Any], start: dict[str, Any] | None = None, **settings: Any) -> dict[str, Any]:
    given = {"model": "start", "data": "pairs.jsonl", "budget": {"updates": 300}, **settings}
    return {"settings": given, "start": start, "methods": list(methods)}


def write_rows(path: Path, prompts: Sequence[Any], responses: Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [
        {"id": str(place), "prompt": prompt, "responses": [response], "finished": [True]}
        for place, (prompt, response) in enumerate(zip(prompts, responses, strict=True))
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_comparison(out: Path, content: dict[str, Any], prompts: Sequence[Any] | None = None) -> Path:
    """``results.json`` and everybody's responses, which say whose they are."""
    asked = list(prompts) if prompts is not None else [f"prompt {place}" for place in range(PROMPTS)]
    out.mkdir(parents=True, exist_ok=True)
    (out / "results.json").write_text(json.dumps(content))
    write_rows(
        out / "start" / "responses.jsonl", asked, [f"start says {place}" for place in range(len(asked))]
    )
    for one in content["methods"]:
        for each in one["seeds"]:
            if each["state"] == "done":
                said = [f"{one['name']} {each['seed']} says {place}" for place in range(len(asked))]
                write_rows(out / one["name"] / f"seed-{each['seed']}" / "responses.jsonl", asked, said)
    return out

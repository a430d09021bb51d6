"""What the models of a ``lit-rlhf strength`` folder were trained with, so that others are not taken for them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lit_rlhf.callbacks import write_beside_and_rename
from lit_rlhf.cli.refusal import refuse
from lit_rlhf.records import Row

SETTINGS_FILE = "strength-settings.json"
"""In the folder."""

FREE = ("out", "ckpt_path", "data.path", "trainer.default_root_dir", "trainer.devices", "trainer.accelerator",
        "trainer.strategy", "trainer.num_nodes", "trainer.logger", "trainer.callbacks", "trainer.enable_progress_bar",
        "trainer.enable_model_summary", "trainer.log_every_n_steps")  # fmt: skip
"""Settings that may change between two calls; rows and model are compared themselves, not only their place."""

DIGESTS = ("rows", "judgements", "start model")
"""Settings whose values tell a reader nothing."""


def judgements_fingerprint(rows: Iterable[Row]) -> str:
    """64 hex digits that change with anything that is said of the rows' responses, or by whom."""
    digest = hashlib.sha256()
    for row in rows:
        comparisons, votes = ([asdict(each) for each in said] for said in (row.comparisons, row.votes))
        said = [comparisons, row.ranks, row.ratings, votes, row.domain, row.annotator]
        digest.update(json.dumps(said).encode() + b"\n")
    return digest.hexdigest()


def settle_settings(out: Path, settings: dict[str, Any]) -> None:
    """Write the settings into a new folder; refuse one whose models were trained with others."""
    file = out / SETTINGS_FILE
    if not file.exists():
        write_beside_and_rename(file, json.dumps(settings, indent=1, default=str) + "\n")
        return
    before = json.loads(file.read_text(encoding="utf-8"))
    now = json.loads(json.dumps(settings, default=str))
    differ = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    if differ:
        said = "; ".join(
            name if name in DIGESTS else f"{name} was {before.get(name)} and is {now.get(name)}"
            for name in differ[:5]
        )
        refuse(
            f"{out} holds models that were trained otherwise: {said}.",
            "Give another --out, or the same arguments.",
        )


def flatten(values: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """Nested settings under dotted names, without ``init_args``.

    >>> flatten({"model": {"class_path": "A", "init_args": {"link": None}}})
    [('model.class_path', 'A'), ('model.link', None)]
    """
    if not isinstance(values, dict):
        return [(prefix, values)]
    found = []
    for name, value in values.items():
        found += flatten(value, prefix if name == "init_args" else f"{prefix}.{name}".lstrip("."))
    return found

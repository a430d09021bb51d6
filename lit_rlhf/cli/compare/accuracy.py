"""How often a policy's implicit reward agrees with held-out comparisons, one by one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lit_rlhf.cli.score_reading import read_files
from lit_rlhf.cli.score_sides import response_order


def accuracy_of(scored: Path) -> dict[str, Any] | None:
    """The strict comparisons of a file that `lit-rlhf score` wrote, in its order; None where it holds none.

    Returns:
        ``right`` (1 where the better response scores higher, 0 where lower, 1/2 where equal), ``prompts`` (of each,
        for resampling), ``rows`` (how many), ``mean``, and how many comparisons were left out: ``ties``, and
        ``unscored``, of which a response has no score.
    """
    read = read_files([str(scored)])
    right: list[float] = []
    prompts: list[str] = []
    ties = unscored = 0
    for row, fields in zip(read.rows, read.fields, strict=True):
        given = fields["reward_scores"]
        order = response_order(fields, len(given))
        scores = [given[order.index(place)] for place in range(len(given))]
        for said in row.comparisons:
            if said.target == 0.5:
                ties += 1
                continue
            sides = (said.better, said.worse) if said.target > 0.5 else (said.worse, said.better)
            better, worse = (scores[side] for side in sides)
            if better is None or worse is None:
                unscored += 1
                continue
            right.append(0.5 if better == worse else float(better > worse))
            prompts.append(json.dumps(row.prompt, sort_keys=True))
    if not right:
        return None
    return {"mean": sum(right) / len(right), "rows": len(right), "right": right, "prompts": prompts, "ties": ties,
            "unscored": unscored}  # fmt: skip

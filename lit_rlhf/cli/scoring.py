"""Scores of many rows by one reward model, kept on disk as they come, so that an interrupted pass goes on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor

from lit_rlhf.cli.row_progress import RowProgress
from lit_rlhf.cli.score_lines import RowScores, appending, read_part
from lit_rlhf.data.trees import pack_trees
from lit_rlhf.models.components import disagreement
from lit_rlhf.models.fingerprint import fingerprint_of_stored
from lit_rlhf.models.implicit_scorer import ImplicitScorer
from lit_rlhf.models.scorer import ScorerNetwork
from lit_rlhf.modules.reference_file import rows_fingerprint
from lit_rlhf.records import ResponseTrees, Tree

Scorer: TypeAlias = ScorerNetwork | ImplicitScorer
"""A reward model, or a policy with its reference."""

BATCHES_AT_ONCE = 16
"""Batches whose rows are sorted by length together, and whose scores reach the disk together."""


def scoring_key(model: str, trees: Sequence[Tree], *more: str) -> str:
    """64 hex digits that change with the model's content, the rows in tokens, or what is compared in them.

    Args:
        model: a folder in Hugging Face layout, or a hub name.
        trees: all rows, in order.
        more: what else the scores depend on.
    """
    compared = [[(one.better, one.worse) for one in tree.comparisons] for tree in trees]
    parts = [fingerprint_of_stored(model), rows_fingerprint(trees), json.dumps(compared), *more]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def score_rows(
    network: Scorer,
    trees: Sequence[Tree],
    part: Path,
    max_tokens: int,
    device: torch.device | str = "cpu",
    what: str = "scoring",
) -> list[RowScores]:
    """The scores of all rows, in order; those that `part` holds already are not computed again.

    Args:
        network: the reward model; moved to `device` and set to eval mode.
        trees: the rows. One without responses has no scores.
        part: where scores are kept, a line a row, until the caller removes the file. Its name has to say of
            which model and rows it is: see :func:`scoring_key`.
        max_tokens: tokens of a forward at the most, prompts and responses together; a longer row is a forward of
            its own.
        device: where the model computes.
        what: is being done, for the progress on stderr.

    Raises:
        FloatingPointError: a score is not finite.
        ValueError: another process writes `part`.
    """
    fitting = [without_too_long(tree, network) for tree in trees]
    network.to(device).eval()
    with (
        appending(part, "scored") as file,
        RowProgress(what, len(trees), len(known := read_part(part, len(trees)))) as progress,
    ):
        for window in windows(trees, max_tokens, len(known)):
            found: dict[int, RowScores] = {}
            for batch in window:
                found |= score_batch(network, trees, fitting, batch, device)
                progress.advance(len(batch))
            for number in sorted(found):  # a window is a run of the file: the part's lines are in its order
                file.write(json.dumps(asdict(found[number])) + "\n")
                known.append(found[number])
            file.flush()
    return known


def positions_of(network: Scorer) -> tuple[int | None, bool]:
    """The positions that the model was made for, None for no limit, and whether it fails past them.

    One with rotary positions goes on; one with a table of them cannot.
    """
    models = network.models if isinstance(network, ImplicitScorer) else [network.trunk]
    configs = [model.config.get_text_config() for model in models]
    positions = [getattr(config, "max_position_embeddings", None) for config in configs]
    fails = any(getattr(config, "rope_parameters", None) is None for config in configs)
    return min((limit for limit in positions if limit is not None), default=None), fails


def too_long(tree: Tree, positions: int | None) -> list[int]:
    """The row's responses that run past the model's positions."""
    return [
        place
        for place, ids in enumerate(tree.response_ids)
        if positions is not None and len(tree.prompt_ids) + len(ids) > positions
    ]


def without_too_long(tree: Tree, network: Scorer) -> list[int]:
    """The row's responses that the model can score."""
    positions, fails = positions_of(network)
    over = too_long(tree, positions) if fails else []
    return [place for place in range(len(tree.response_ids)) if place not in over]


def windows(trees: Sequence[Tree], max_tokens: int, start: int) -> Iterator[list[list[int]]]:
    """Runs of rows from `start` on, each cut into batches of rows of like length."""
    number = start
    while number < len(trees):
        tokens, first = 0, number
        while number < len(trees) and (number == first or tokens < BATCHES_AT_ONCE * max_tokens):
            tokens += trees[number].num_tokens
            number += 1
        batches: list[list[int]] = []
        room = 0
        for place in sorted(range(first, number), key=lambda place: -trees[place].num_tokens):
            size = trees[place].num_tokens
            if not batches or size > room:
                batches.append([])
                room = max_tokens
            batches[-1].append(place)
            room -= size
        yield batches


def score_batch(
    network: Scorer,
    trees: Sequence[Tree],
    fitting: Sequence[Sequence[int]],
    batch: Sequence[int],
    device: torch.device | str,
) -> dict[int, RowScores]:
    """The scores of some rows, by their number.

    Args:
        network: in eval mode and on `device`.
        trees: all rows.
        fitting: of each row, the responses that the model can score.
        batch: the rows that are meant.
        device: where the model is.
    """
    scored = [number for number in batch if fitting[number]]
    if not scored:
        return {number: blank(trees[number]) for number in batch}
    packed = pack_trees([_only(trees[number], fitting[number]) for number in scored]).to(device)
    with torch.no_grad():
        scores, disagreement, probability = judge(network, packed)
    counts = torch.bincount(packed.tree_index, minlength=len(scored)).tolist()
    compared = [len(_kept(trees[number], fitting[number])) for number in scored]
    found = {number: blank(trees[number]) for number in batch}
    parts = zip(
        scores.split(counts), disagreement.split(counts), probability.split(compared), scored, strict=True
    )
    for row_scores, row_disagreement, row_probability, number in parts:
        tree = trees[number]
        if not torch.isfinite(row_scores).all():
            raise FloatingPointError(
                f"{tree.id}: the score is {row_scores.tolist()}: is the model's folder whole?"
            )
        _fill(found[number].scores, fitting[number], row_scores)
        _fill(found[number].disagreement, fitting[number], row_disagreement)
        _fill(found[number].probability, _kept(tree, fitting[number]), row_probability)
    return found


def judge(network: Scorer, batch: ResponseTrees) -> tuple[Tensor, Tensor, Tensor]:
    """Scores ``[N]``, disagreement ``[N]`` and P(better ≻ worse) ``[C]`` of a batch, on the CPU."""
    if isinstance(network, ImplicitScorer):
        scores = network(batch).cpu()
        return (
            scores,
            torch.zeros_like(scores),
            (scores[batch.better.cpu()] - scores[batch.worse.cpu()]).sigmoid(),
        )
    reading = network.read(batch)
    raw = network.raw(reading.states)
    gates = None if network.gate is None else network.gate_logits(reading)[batch.tree_index]
    weights = None if gates is None else gates[batch.better].softmax(-1)
    probability = network.preference(raw[batch.better], raw[batch.worse], weights)
    scores = network.combined(raw, gates)
    return scores.cpu(), disagreement(network.normalized(raw)).cpu(), probability.cpu()


def blank(tree: Tree) -> RowScores:
    """Nothing said of any response."""
    count = len(tree.response_ids)
    return RowScores([None] * count, [None] * count, [None] * len(tree.comparisons))


def _only(tree: Tree, responses: Sequence[int]) -> Tree:
    """The tree with these responses alone, and the comparisons among them."""
    if len(responses) == len(tree.response_ids):
        return tree
    comparisons = [
        replace(one, better=responses.index(one.better), worse=responses.index(one.worse))
        for place, one in enumerate(tree.comparisons)
        if place in _kept(tree, responses)
    ]
    return Tree(
        tree.prompt_ids,
        [tree.response_ids[place] for place in responses],
        [tree.response_masks[place] for place in responses],
        comparisons,
        id=tree.id,
    )


def _kept(tree: Tree, responses: Sequence[int]) -> list[int]:
    """The comparisons, by their number, whose two responses are among these."""
    return [
        place
        for place, one in enumerate(tree.comparisons)
        if one.better in responses and one.worse in responses
    ]


def _fill(values: list[float | None], places: Sequence[int], numbers: Tensor) -> None:
    for place, number in zip(places, numbers.tolist(), strict=True):
        values[place] = number


def ranks_of(scores: Sequence[float | None]) -> list[int | None]:
    """1 = the highest score; equal scores share a rank, and what has no score has none.

    >>> ranks_of([0.5, 2.0, None, 0.5])
    [2, 1, None, 2]
    """
    given = [score for score in scores if score is not None]
    return [None if score is None else 1 + sum(other > score for other in given) for score in scores]

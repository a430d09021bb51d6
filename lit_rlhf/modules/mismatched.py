"""Prompts with the responses of other prompts, on which KTO sees how far the policy is from its reference."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lit_rlhf.data.trees import pack_trees
from lit_rlhf.records import ResponseTrees, Tree


class Mismatched(NamedTuple):
    """A batch with its responses changed about."""

    trees: ResponseTrees
    counted: Tensor
    """Bool ``[M]``: whether the response was another prompt's."""


def mismatched(batch: ResponseTrees, positions: int | None = None) -> Mismatched:
    """Each prompt with the responses of the next prompt of the batch that is another one; of the last, the first.

    Rotated by prompts and not by responses, which would give most prompts of a pair their own other response. A
    response that runs past the positions behind its new prompt is left out. A prompt that is left with none has one of
    its own, which does not count: every rank has something to compute.

    Args:
        batch: on any device; the result is on the same.
        positions: of the model, in tokens; None = no limit.

    Source:
        Ethayarajh et al. 2024, arXiv 2402.01306, section 4.1, "Implementation" in its first version.
    """
    trees = list(trees_of(batch))
    changed: list[Tree] = []
    counted: list[bool] = []
    for place, tree in enumerate(trees):
        following = (trees[(place + step) % len(trees)] for step in range(1, len(trees)))
        other = next((one for one in following if one.prompt_ids != tree.prompt_ids), None)
        room = None if positions is None else positions - len(tree.prompt_ids)
        taken = [
            (ids, mask)
            for ids, mask in (
                [] if other is None else zip(other.response_ids, other.response_masks, strict=True)
            )
            if room is None or len(ids) <= room
        ]
        counted += [True] * len(taken) or [False]
        ids, masks = zip(*taken or [(tree.response_ids[0], tree.response_masks[0])], strict=True)
        changed.append(Tree(tree.prompt_ids, list(ids), list(masks), id=tree.id))
    device = batch.input_ids.device
    return Mismatched(pack_trees(changed).to(device), torch.tensor(counted, device=device))


def trees_of(batch: ResponseTrees) -> Iterator[Tree]:
    """Prompts and responses of a batch, without what was said of them."""
    segments = zip(
        batch.input_ids.cpu().split(batch.segment_lengths),
        batch.response_mask.cpu().split(batch.segment_lengths),
        strict=True,
    )
    counts = torch.bincount(batch.tree_index.cpu(), minlength=batch.num_trees).tolist()
    for name, count in zip(batch.row_ids, counts, strict=True):
        prompt, _ = next(segments)
        responses = [next(segments) for _ in range(count)]
        yield Tree(
            prompt.tolist(),
            [ids.tolist() for ids, _ in responses],
            [mask.tolist() for _, mask in responses],
            id=name,
        )


def refuse_one_prompt(data: Any, ranks: int) -> None:
    """Refuse data in which no batch has a second prompt, as far as the data module says.

    Args:
        data: the trainer's data module; None = there is none.
        ranks: that share out its batches.

    Raises:
        ValueError: there is one prompt only, or batches have one.
    """
    size = getattr(data, "batch_size", None)
    if size is not None and getattr(data, "max_tokens", None) is None and size < 2 * ranks:
        raise ValueError(
            f"data.batch_size: kto's reference point takes responses of other prompts of the batch; expected "
            f"{2 * ranks} or more, two for each rank, found {size}."
        )
    if data is None or not hasattr(data, "trees") or getattr(data, "streaming", False):
        return
    trees = data.trees("train")
    if trees and all(tree.prompt_ids == trees[0].prompt_ids for tree in trees):
        raise ValueError(
            "model.loss: kto's reference point takes responses of other prompts, and all training rows have one "
            "prompt. Give more prompts, or take apo_zero, which is kto with the point at 0."
        )

"""Rows to response trees: tokens, limits, and the packing into one flat batch."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from lit_rlhf.data.tokenization import AssistantTurns, TextEncoder, TokenizationError
from lit_rlhf.records import Message, Prompt, Response, ResponseTrees, Row, Tree


@dataclass
class Truncation:
    """What one row lost on its way into tokens."""

    prompts: int = 0
    """1 where the prompt was cut on its left."""
    messages: int = 0
    """Whole turns dropped from the left of a conversation."""
    responses: int = 0
    """Responses cut on their right, their EOS with it."""
    identical: int = 0
    """Comparisons dropped because the cut made both sides the same."""
    contradicted: int = 0
    """Responses with labels of both kinds, their own or those of others that are the same tokens."""
    doubled_bos: int = 0
    """1 where the prompt came with more than one BOS; the surplus was taken off."""
    unanswered: int = 0
    """Turns behind the last assistant turn of a demonstration, left out."""


def plant_tree(
    row: Row,
    encoder: TextEncoder,
    max_prompt_tokens: int | None = None,
    max_response_tokens: int | None = None,
    assistant_turns: AssistantTurns = "all",
) -> tuple[list[Tree], Truncation]:
    """The tree of a row, or one tree per window where a `text` row is longer than the limit.

    Args:
        row: Text and judgements.
        encoder: Says what the ids are.
        max_prompt_tokens: Longer prompts lose whole turns, then tokens, on their left (never the BOS).
        max_response_tokens: Longer responses lose tokens on their right, and their EOS; `text` rows are
            cut into windows of this many tokens instead.
        assistant_turns: Whether every assistant turn of a conversation counts, or the last only.

    Raises:
        TokenizationError: the row cannot be rendered, no token would count, or the prompt is empty and
            there is no BOS; the message ends with the row's place.
    """
    lost = Truncation()
    doubled_before = encoder.doubled_bos
    try:
        if row.is_text:
            return _text_windows(row, encoder, max_response_tokens), lost
        row = _last_turn_row(row, lost, assistant_turns)
        prompt = _shorten_conversation(row.prompt, encoder, max_prompt_tokens, lost)
        prompt_ids = _cut_left(encoder.prompt_ids(prompt), encoder.bos_token_id, max_prompt_tokens, lost)
        if not prompt_ids:
            raise TokenizationError("the prompt is empty and the tokenizer has no BOS to stand in for it")
        branches = [encoder.response_ids(prompt, response, assistant_turns) for response in row.responses]
    except TokenizationError as error:
        raise TokenizationError(f"{row.place}: {error}" if row.place else str(error)) from None
    lost.doubled_bos = min(1, encoder.doubled_bos - doubled_before)
    limit = max_response_tokens
    if limit is not None:
        lost.responses = sum(len(ids) > limit for ids, _ in branches)
        branches = [(ids[:limit], mask[:limit]) for ids, mask in branches]
    tree = Tree(
        prompt_ids,
        [ids for ids, _ in branches],
        [mask for _, mask in branches],
        row.comparisons,
        row.ranks,
        row.ratings,
        row.domain,
        row.annotator,
        row.id or row.place,
        row.labels,
    )
    _drop_identical(tree, lost)
    lost.contradicted = _contradicted(tree)
    return [tree], lost


def join_branches(trees: Sequence[Tree]) -> list[Tree]:
    """Neighbours with one prompt and one id as one tree with the responses of all, so that the prompt is packed once.

    Args:
        trees: not judged, as sampled responses are; their responses keep their order.
    """
    joined: list[Tree] = []
    for tree in trees:
        last = joined[-1] if joined else None
        if last is not None and (last.id, last.prompt_ids) == (tree.id, tree.prompt_ids):
            last.response_ids += tree.response_ids
            last.response_masks += tree.response_masks
        else:
            joined.append(
                replace(tree, response_ids=[*tree.response_ids], response_masks=[*tree.response_masks])
            )
    return joined


def pack_trees(trees: Sequence[Tree], row_indices: Sequence[int] | None = None) -> ResponseTrees:
    """Trees end to end in one flat row; see :class:`~lit_rlhf.records.ResponseTrees`.

    Args:
        trees: At least one; trees without responses (prompts for a rollout) are welcome.
        row_indices: The place of each tree in its data set; -1 everywhere where left out.

    Raises:
        ValueError: there is no tree, or one has an empty prompt or response.
    """
    if not trees:
        raise ValueError("pack_trees: expected at least one tree, found none")
    # Buffers that tensors are laid over: a tensor from a list of 2000 numbers takes longer than all the rest.
    input_ids, response_mask = array("q"), bytearray()
    segments: list[int] = []
    responses: list[int] = []
    starts: list[int] = []
    tree_index: list[int] = []
    comparisons: list[tuple[int, int, float, float, float, float]] = []
    ranks: list[float] = []
    ratings: list[float] = []
    desirable: list[float] = []
    label_weight: list[float] = []
    for place, tree in enumerate(trees):
        first, length = len(tree_index), len(tree.prompt_ids)
        if not length or not all(tree.response_ids):
            raise ValueError(f"{tree.id}: expected a token in the prompt and in every response, found none")
        input_ids.extend(tree.prompt_ids)
        response_mask.extend(bytes(length))
        segments.append(length)
        responses.append(-1)
        starts.append(0)
        for ids, mask in zip(tree.response_ids, tree.response_masks, strict=True):
            input_ids.extend(ids)
            response_mask.extend(mask)
            segments.append(len(ids))
            responses.append(len(tree_index))
            starts.append(length)
            tree_index.append(place)
        comparisons += [
            (first + c.better, first + c.worse, c.target, c.margin, c.weight, c.tie) for c in tree.comparisons
        ]
        ranks += _numbers(tree.ranks, len(tree.response_ids))
        ratings += _numbers(tree.ratings, len(tree.response_ids))
        unlabelled = len(tree.response_ids) - len(tree.labels)  # all of them, or none
        desirable += [float(label.desirable) for label in tree.labels] or [math.nan] * unlabelled
        label_weight += [label.weight for label in tree.labels] or [0.0] * unlabelled
    lengths = torch.tensor(segments, dtype=torch.long)
    # Of each segment: the position of its first token less that token's place in the row.
    shifts = torch.tensor(starts, dtype=torch.long) - lengths.cumsum(0) + lengths
    better, worse, target, margin, weight, tie = zip(*comparisons, strict=True) if comparisons else ((),) * 6
    return ResponseTrees(
        input_ids=torch.frombuffer(input_ids, dtype=torch.long),
        position_ids=torch.arange(len(input_ids)) + shifts.repeat_interleave(lengths),
        response_index=torch.tensor(responses, dtype=torch.long).repeat_interleave(lengths),
        response_mask=torch.frombuffer(response_mask, dtype=torch.bool),
        prompt_lengths=[len(tree.prompt_ids) for tree in trees],
        response_lengths=[len(ids) for tree in trees for ids in tree.response_ids],
        tree_index=torch.tensor(tree_index, dtype=torch.long),
        better=torch.tensor(better, dtype=torch.long),
        worse=torch.tensor(worse, dtype=torch.long),
        target=torch.tensor(target, dtype=torch.float32),
        margin=torch.tensor(margin, dtype=torch.float32),
        weight=torch.tensor(weight, dtype=torch.float32),
        tie=torch.tensor(tie, dtype=torch.float32),
        ranks=torch.tensor(ranks, dtype=torch.float32),
        ratings=torch.tensor(ratings, dtype=torch.float32),
        desirable=torch.tensor(desirable, dtype=torch.float32),
        label_weight=torch.tensor(label_weight, dtype=torch.float32),
        domains=[tree.domain for tree in trees],
        annotators=[tree.annotator for tree in trees],
        row_ids=[tree.id for tree in trees],
        row_indices=torch.tensor(
            [-1] * len(trees) if row_indices is None else list(row_indices), dtype=torch.long
        ),
    )


def _numbers(values: Sequence[float | None] | None, count: int) -> list[float]:
    """One number a response, NaN where there is none."""
    if values is None:
        return [math.nan] * count
    return [math.nan if value is None else float(value) for value in values]


def _text_windows(row: Row, encoder: TextEncoder, window: int | None) -> list[Tree]:
    """Language modelling: BOS as the prompt, the text as the response, in windows.

    Without a BOS the first token of a window is its prompt, and is the last one of the window before, so
    that every token but the very first is predicted once.
    """
    text = row.responses[0]
    assert isinstance(text, str)
    ids = [*encoder.token_ids(text), encoder.eos_token_id]
    overlap = 0 if encoder.bos_token_id is not None else 1
    if len(ids) <= overlap:
        raise TokenizationError("the text has no token")
    step = window or len(ids)
    trees = []
    for number, start in enumerate(range(0, len(ids) - overlap, step)):
        prompt = ids[start : start + 1] if encoder.bos_token_id is None else [encoder.bos_token_id]
        part = ids[start + overlap : start + overlap + step]
        name = (row.id or row.place) + (f"#{number}" if number else "")
        trees.append(Tree(prompt, [part], [[True] * len(part)], domain=row.domain, id=name))
    return trees


def _last_turn_row(row: Row, lost: Truncation, assistant_turns: AssistantTurns) -> Row:
    """A single conversation with its trailing turns off and, for ``"last"``, all but its last answer in
    the prompt, where the limits of prompts apply to it."""
    if len(row.responses) != 1 or isinstance(row.responses[0], str) or isinstance(row.prompt, str):
        return row
    turns = row.responses[0]
    answered = [place for place, turn in enumerate(turns) if turn["role"] == "assistant"]
    if not answered:
        return row
    last = answered[-1]
    lost.unanswered = len(turns) - 1 - last
    first = last if assistant_turns == "last" else 0
    response: Response = turns[first : last + 1]
    return replace(row, prompt=[*row.prompt, *turns[:first]], responses=[response])


def _shorten_conversation(
    prompt: Prompt, encoder: TextEncoder, limit: int | None, lost: Truncation
) -> Prompt:
    """The conversation without its oldest turns, until it fits or one is left; a system turn stays."""
    if isinstance(prompt, str) or limit is None:
        return prompt
    system: list[Message] = prompt[:1] if prompt and prompt[0]["role"] == "system" else []
    turns = prompt[len(system) :]
    while len(turns) > 1 and len(encoder.token_ids(encoder.prompt_text([*system, *turns]))) > limit:
        # What is left has to open with the user: most templates refuse anything else.
        drop = next((place for place, turn in enumerate(turns) if place and turn["role"] == "user"), None)
        if drop is None:
            break
        turns = turns[drop:]
        lost.messages += drop
        lost.prompts = 1
    return [*system, *turns]


def _cut_left(ids: list[int], bos: int | None, limit: int | None, lost: Truncation) -> list[int]:
    if limit is None or len(ids) <= limit:
        return ids
    lost.prompts = 1
    if bos is not None and ids[0] == bos and limit > 1:
        return [bos, *ids[len(ids) - limit + 1 :]]
    return ids[len(ids) - limit :]


def _drop_identical(tree: Tree, lost: Truncation) -> None:
    """Take off comparisons of two responses that are the same tokens: nothing can be learnt from them."""
    kept = [c for c in tree.comparisons if tree.response_ids[c.better] != tree.response_ids[c.worse]]
    lost.identical = len(tree.comparisons) - len(kept)
    tree.comparisons = kept


def _contradicted(tree: Tree) -> int:
    """Distinct responses that are called desirable and undesirable."""
    said: dict[tuple[int, ...], set[bool]] = {}
    for ids, label in zip(tree.response_ids, tree.labels):
        said.setdefault(tuple(ids), set()).add(label.desirable)
    return sum(len(kinds) > 1 for kinds in said.values())

"""Rows that are too long: for a batch's budget of tokens, the model's positions, or what sampling may hold."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn
from numpy.typing import NDArray
from transformers import PreTrainedConfig

from lit_rlhf.records import Tree

_NAMED = 5
"""Rows that a message names; the others are counted."""
_LIMITS = "data.max_prompt_tokens or data.max_response_tokens"


def check_budget(trees: Sequence[Tree], max_tokens: int, places: Sequence[str] | None = None) -> None:
    """Refuse trees that no batch can hold.

    Args:
        trees: All trees of a split.
        max_tokens: Tokens of a batch on one rank.
        places: ``file:line`` of each tree, for the message; without them trees are named by their id.

    Raises:
        ValueError: a tree, its prompt and all its responses together, has more than `max_tokens`.
    """
    over = [number for number, tree in enumerate(trees) if tree.num_tokens > max_tokens]
    if over:
        named = _named(over, trees, places)
        longest = max(trees[number].num_tokens for number in over)
        raise over_budget(max_tokens, longest, f"{_share(over, trees)}: {named}")


def check_streamed_budget(
    sizes: NDArray[np.int32], max_tokens: int, trees: Sequence[Tree], places: Sequence[str]
) -> None:
    """Refuse trees of a stream that no batch can hold, of which those that are named are read.

    Args:
        sizes: Tokens of each tree, ``[n]``.
        max_tokens: Tokens of a batch on one rank.
        trees: The trees.
        places: ``file:line`` of each tree.

    Raises:
        ValueError: a tree has more than `max_tokens`.
    """
    over = np.flatnonzero(sizes > max_tokens).tolist()
    if over:
        share = f"{len(over)} of {len(sizes)} rows"
        raise over_budget(max_tokens, int(sizes.max()), f"{share}: {_named(over, trees, places)}")


def over_budget(max_tokens: int, longest: int, which: str) -> ValueError:
    """What to do about rows that no batch can hold."""
    return ValueError(
        f"data.max_tokens: a batch of {max_tokens} tokens cannot hold {which}. Raise data.max_tokens to {longest}, the "
        f"longest with all its responses, or lower {_LIMITS}"
    )


def check_positions(
    trees: Sequence[Tree],
    config: PreTrainedConfig,
    places: Sequence[str] | None = None,
    new_tokens: int = 0,
    among: int | None = None,
) -> None:
    """Refuse sequences that run past the model's table of positions; warn where positions are rotary.

    A sequence is a prompt with one of its responses: positions restart for each of them. Past its table a model
    such as GPT-2 fails in the middle of an epoch; one with rotary positions goes on where it was not trained.

    Args:
        trees: All trees that the model is to read.
        config: The model's; one without a number of positions has no limit.
        places: ``file:line`` of each tree, for the message; without them trees are named by their id.
        new_tokens: How many tokens the model draws itself, at the most, to a prompt without responses.
        among: How many trees there are, of which `trees` are the longest ones; by default there are no others.

    Raises:
        ValueError: a sequence is longer than the model's table of positions.
    """
    config = config.get_text_config()
    positions = getattr(config, "max_position_embeddings", None)
    over = [n for n, tree in enumerate(trees) if positions and sequence_tokens(tree, new_tokens) > positions]
    if not over:
        return
    longest = max(sequence_tokens(trees[number], new_tokens) for number in over)
    drawn = any(not trees[number].response_ids for number in over) and new_tokens
    share = _share(over, trees)
    if among is not None:
        least = "at least " if len(over) == len(trees) < among else ""
        share = f"{least}{len(over)} of {among} rows"
    message = (
        f"the model has {positions} positions, too few for {share}: "
        f"{_named(over, trees, places, new_tokens)}; the longest sequence has {longest}. Lower "
        + ("data.max_prompt_tokens or model.max_new_tokens" if drawn else _LIMITS)
    )
    if getattr(config, "rope_parameters", None) is None:
        raise ValueError(message)
    rank_zero_warn(f"{message}; its positions are rotary, so it goes on past the lengths it was trained on")


def check_cached(
    trees: Sequence[Tree], max_cached_tokens: int, new_tokens: int, places: Sequence[str] | None = None
) -> None:
    """Refuse prompts that a budget of cached tokens cannot hold with their longest response.

    Args:
        trees: Prompts; those that have responses draw none.
        max_cached_tokens: The budget.
        new_tokens: How many tokens the model draws to each, at the most.
        places: ``file:line`` of each tree, for the message.

    Raises:
        ValueError: a prompt does not fit.
    """
    over = [
        n
        for n, tree in enumerate(trees)
        if not tree.response_ids and sequence_tokens(tree, new_tokens) > max_cached_tokens
    ]
    if over:
        longest = max(sequence_tokens(trees[number], new_tokens) for number in over)
        raise ValueError(
            f"model.max_cached_tokens: {max_cached_tokens} cannot hold {_share(over, trees)}: "
            f"{_named(over, trees, places, new_tokens)}. Raise it to {longest}, or lower data.max_prompt_tokens or "
            "model.max_new_tokens"
        )


def sequence_tokens(tree: Tree, new_tokens: int = 0) -> int:
    """Tokens of a tree's prompt with its longest response, or with `new_tokens` where it has none."""
    return len(tree.prompt_ids) + max(map(len, tree.response_ids), default=new_tokens)


def _share(over: Sequence[int], trees: Sequence[Tree]) -> str:
    return f"{len(over)} of {len(trees)} rows"


def _named(
    over: Sequence[int], trees: Sequence[Tree], places: Sequence[str] | None, new_tokens: int = 0
) -> str:
    """The first few of the trees, each with its place, its id where that is another, and its lengths."""
    said = []
    for number in over[:_NAMED]:
        tree, place = trees[number], places[number] if places else ""
        name = tree.id if not place or tree.id.startswith(place) else f"{place} with id {tree.id}"
        parts = [f"prompt {len(tree.prompt_ids)}"]
        if tree.response_ids:
            word = "response" if len(tree.response_ids) == 1 else "responses"
            parts.append(f"{word} {'+'.join(str(len(ids)) for ids in tree.response_ids)}")
        elif new_tokens:
            parts.append(f"and {new_tokens} to be drawn")
        said.append(f"{name} ({', '.join(parts)})")
    more = len(over) - _NAMED
    return ", ".join(said) + (f" and {more} more" if more > 0 else "")

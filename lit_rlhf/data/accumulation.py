"""Gradient accumulation by tokens: how many batches make an update, so that more ranks do not make it larger."""

from __future__ import annotations

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from lightning.pytorch.utilities import rank_zero_info

from lit_rlhf.data.ranks import data_rank


def batches_an_update(tokens_per_update: int, max_tokens: int, ranks: int) -> int:
    """Batches of each rank that come nearest to so many tokens over all ranks, at least one.

    Args:
        tokens_per_update: Tokens of an update, over all ranks.
        max_tokens: Tokens of a batch on one rank.
        ranks: Those that get different data.

    Example:
        >>> batches_an_update(262_144, max_tokens=8192, ranks=8)
        4
    """
    return max(1, round(tokens_per_update / (max_tokens * ranks)))


def accumulate_tokens(trainer: Trainer, tokens_per_update: int, max_tokens: int, own: int | None) -> int:
    """Set the trainer's ``accumulate_grad_batches`` to so many tokens an update, and say what was set.

    Args:
        trainer: Before its first batch.
        tokens_per_update: Tokens of an update, over all ranks.
        max_tokens: Tokens of a batch on one rank.
        own: What an earlier call for the same trainer has set; None = none has.

    Returns:
        What was set.

    Raises:
        ValueError: the trainer was told another number of batches, or a schedule of them.
    """
    given: int = trainer.accumulate_grad_batches
    if given not in (1, own):
        raise ValueError(
            f"data.tokens_per_update {tokens_per_update} and trainer.accumulate_grad_batches {given} both say how "
            "long an update accumulates: give one of them"
        )
    # attached by the trainer; absent from its type
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    if any(isinstance(callback, GradientAccumulationScheduler) for callback in callbacks):
        raise ValueError(
            "data.tokens_per_update and the callback GradientAccumulationScheduler both say how long an update "
            "accumulates: give one of them"
        )
    ranks = data_rank(trainer)[1]
    batches = batches_an_update(tokens_per_update, max_tokens, ranks)
    trainer.accumulate_grad_batches = batches
    rank_zero_info(
        f"data.tokens_per_update {tokens_per_update}: trainer.accumulate_grad_batches is {batches}, so an update has "
        f"{batches * ranks * max_tokens} tokens at the most ({batches} x {max_tokens}"
        + (f" on each of {ranks} ranks)" if ranks > 1 else ")")
    )
    return batches

"""What is made of a reward's scores before they are trained on: missing EOS, over-length, running scale, clip."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from lit_rlhf.ops.moments import Moments, merge_moments

Scale = Literal["none", "std", "mean_std"]

EPSILON = 1e-8
"""Added to the running deviation; scores that differ by no more than this are not scaled."""


@dataclass(frozen=True)
class ScoreShaping:
    """What is made of scores before training, in the order of the fields; as it stands, nothing.

    Args:
        missing_eos_score: score of a response without an EOS, in place of what the reward says of it; null = no such
            thing. −1 in Huang et al. 2024 (detail 23), where scores have mean 0 and variance 1.
        missing_eos_penalty: taken off the score of a response without an EOS (0). The other way to the same end: it
            leaves apart what the reward tells apart.
        overlong_buffer: response tokens before max_new_tokens in which length costs, rising evenly from 0 to
            `overlong_penalty` (0 = free; 4096 of 20480 in DAPO, eq. 13). It comes on top of the two above.
        overlong_penalty: the most that length costs, in units of the score (1, DAPO).
        scale: ``std`` divides by the standard deviation of all scores until now, those of this rollout among them,
            ``mean_std`` takes their mean off before; ``none`` leaves them. Engstrom et al. 2020 find that scaling
            matters much (in control tasks, where discounted sums are scaled); Zheng et al. 2023 (PPO-max) scale by
            mean and deviation and find that without the clip it changes nothing. Off, as in Huang et al. 2024.
        clip: scores are kept within ±this, after scaling; null = as they are. 5 or 10 in Engstrom et al. 2020,
            0.3 and 0.8 shown in Zheng et al. 2023, which recommends a wide one.

    Raises:
        ValueError: a number below 0, an unknown scale, or both ways to treat a missing EOS.
    """

    missing_eos_score: float | None = None
    missing_eos_penalty: float = 0.0
    overlong_buffer: int = 0
    overlong_penalty: float = 1.0
    scale: Scale = "none"
    clip: float | None = None

    def __post_init__(self) -> None:
        for name in ("missing_eos_penalty", "overlong_buffer", "overlong_penalty"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"model.shaping.{name}: expected 0 or more, found {getattr(self, name)}.")
        if self.clip is not None and not self.clip > 0:
            raise ValueError(f"model.shaping.clip: expected more than 0, found {self.clip}.")
        if self.scale not in get_args(Scale):
            raise ValueError(
                f"model.shaping.scale: expected one of {', '.join(get_args(Scale))}, found {self.scale!r}."
            )
        if self.missing_eos_score is not None and self.missing_eos_penalty:
            raise ValueError(
                "model.shaping.missing_eos_penalty: missing_eos_score replaces the scores that it would be taken "
                "off. Give one of the two."
            )


def shape_scores(
    scores: Tensor,
    truncated: Tensor,
    lengths: Tensor,
    settings: ScoreShaping,
    max_new_tokens: int,
    moments: Moments | None,
) -> tuple[Tensor, Moments | None]:
    """The scores that are trained on, and the running moments with this rollout in them.

    In this order: a missing EOS; the soft over-long penalty −c·max(len − (L − b), 0)/b, with L the limit, b the
    buffer and c the penalty; the running scale; the clip.

    Args:
        scores: what the reward said of all ranks' responses, NaN where it failed: these stay NaN and enter nothing.
            Shape ``[N]``.
        truncated: no EOS within the limit. Bool ``[N]``.
        lengths: response tokens, the EOS among them. Long ``[N]``.
        settings: what to do.
        max_new_tokens: L.
        moments: of the scores of all earlier rollouts, as they were before scaling; None = there were none.

    Returns:
        Shaped scores ``[N]`` of the dtype given, and what to pass as `moments` for the next rollout: unchanged where
        nothing is scaled.

    Raises:
        ValueError: the buffer is longer than a response may be.

    Source:
        Yu et al. 2025 (DAPO), arXiv 2503.14476, eq. 13; Zheng et al. 2023 (Secrets of RLHF I), arXiv 2307.04964,
        section 5.3.1; Engstrom et al. 2020, arXiv 2005.12729.

    Example:
        >>> settings = ScoreShaping(missing_eos_penalty=1.0, overlong_buffer=4)
        >>> shape_scores(
        ...     torch.tensor([2.0, 2.0, 2.0]), torch.tensor([False, False, True]), torch.tensor([6, 9, 10]), settings,
        ...     max_new_tokens=10, moments=None,
        ... )[0]
        tensor([2.0000, 1.2500, 0.0000])
    """
    scores, failed = scores.detach(), scores.isnan()
    if settings.missing_eos_score is not None:
        scores = torch.where(truncated & ~failed, settings.missing_eos_score, scores)
    scores = scores - settings.missing_eos_penalty * truncated
    scores = scores - _overlong_penalties(lengths, settings, max_new_tokens)
    if settings.scale != "none":
        moments = merge_moments(moments, scores[~failed])
        # scores that are all the same have no deviation to divide by; they are left as large as they are
        deviation = moments.std + EPSILON if moments.std > EPSILON else 1.0
        scores = (scores - (moments.mean if settings.scale == "mean_std" else 0.0)) / deviation
    if settings.clip is not None:
        scores = scores.clamp(-settings.clip, settings.clip)
    return scores, moments


def _overlong_penalties(lengths: Tensor, settings: ScoreShaping, max_new_tokens: int) -> Tensor | float:
    """What each response's length costs ``[N]``."""
    buffer = settings.overlong_buffer
    if buffer > max_new_tokens:
        raise ValueError(
            f"model.shaping.overlong_buffer: expected at most model.max_new_tokens ({max_new_tokens}), found {buffer}."
        )
    if not buffer:
        return 0.0
    over = (lengths - (max_new_tokens - buffer)).clamp(min=0)
    return settings.overlong_penalty * over / buffer

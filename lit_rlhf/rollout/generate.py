"""The engine for models that only transformers' own ``generate`` can decode: padded rows until the longest is done."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)

from lit_rlhf.models.policy import PolicyNetwork
from lit_rlhf.rollout.responses import Recorder


def generate_responses(
    policy: PolicyNetwork,
    prompts: list[list[int]],
    keys: Tensor,
    limits: list[int],
    record: Recorder,
    device: torch.device,
    progress: Callable[[int], None],
) -> None:
    """Decode with ``generate``, which is handed every token that `record` draws; so the draws are the engine's own.

    Args:
        policy: of a model that transformers can generate with.
        prompts: N lists of ids.
        keys: Long ``[N]``.
        limits: most tokens of each response.
        record: draws, keeps and judges the tokens.
        device: where the model is.
        progress: told how many responses are over.
    """
    input_ids, mask = left_padded(prompts, device)
    drawing = _Drawing(record, prompts, keys, torch.tensor(limits, device=device), progress)
    policy.causal_lm.generate(
        input_ids=input_ids,
        attention_mask=mask.long(),
        logits_processor=LogitsProcessorList([drawing]),
        stopping_criteria=StoppingCriteriaList([drawing.over]),
        generation_config=GenerationConfig(
            max_new_tokens=max(limits), do_sample=False, eos_token_id=None, pad_token_id=0, bos_token_id=None
        ),
    )


class _Drawing(LogitsProcessor):
    """Draws a token from the logits and leaves ``generate`` no other to take."""

    def __init__(
        self,
        record: Recorder,
        prompts: list[list[int]],
        keys: Tensor,
        limits: Tensor,
        progress: Callable[[int], None],
    ) -> None:
        self.record, self.prompts, self.keys, self.limits, self.progress = (
            record,
            prompts,
            keys,
            limits,
            progress,
        )
        self.rows = torch.arange(len(prompts), device=keys.device)  # of the unfinished responses
        self.steps = 0
        self.over = _Over(self)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if not self.steps:
            self.record.begin(0, len(self.prompts), self.rows, self.prompts)
        rows = self.rows
        tokens, ended = self.record.draw(
            0, rows, torch.full_like(rows, self.steps), self.keys[rows], self.limits[rows], scores[rows], None
        )
        self.steps += 1
        chosen = torch.zeros(len(scores), dtype=torch.long, device=scores.device)
        chosen[rows] = tokens
        kept = ended.logical_not().nonzero().squeeze(1)
        self.record.move(kept, torch.arange(len(kept), device=kept.device))
        self.rows = rows[kept]
        self.progress(len(self.prompts) - len(self.rows))
        only = torch.full_like(scores, -torch.inf)
        return only.scatter_(1, chosen[:, None], 0.0)


class _Over(StoppingCriteria):
    """Ends ``generate`` once every response is over."""

    def __init__(self, drawing: _Drawing) -> None:
        self.drawing = drawing

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: object) -> Tensor:
        over = torch.ones(len(input_ids), dtype=torch.bool, device=input_ids.device)
        over[self.drawing.rows] = False
        return over


def left_padded(prompts: list[list[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Prompts with their ends aligned, Long ``[N, P]``, and the mask that tells them from the padding."""
    reversed_rows = [torch.tensor(prompt[::-1], device=device) for prompt in prompts]
    input_ids = pad_sequence(reversed_rows, batch_first=True).flip(1)
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
    width = input_ids.shape[1]
    return input_ids, torch.arange(width, device=device)[None, :] >= width - lengths[:, None]

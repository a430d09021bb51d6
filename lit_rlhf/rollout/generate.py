"""The engine for models that only transformers' own ``generate`` can decode: padded rows until the longest is done."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    StoppingCriteria,
    StoppingCriteriaList,
)

from lit_rlhf.models.decoding import most_positions
from lit_rlhf.models.policy import PolicyNetwork
from lit_rlhf.rollout.responses import Recorder
from lit_rlhf.rollout.settings import TOO_FEW_CACHED


def generate_responses(
    policy: PolicyNetwork,
    prompts: list[list[int]],
    keys: Tensor,
    limits: list[int],
    max_cached_tokens: int | None,
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
        max_cached_tokens: tokens, padding included, whose keys and values are held at once; None = any number.
        record: draws, keeps and judges the tokens.
        device: where the model is.
        progress: told how many responses are over.

    Raises:
        ValueError: `max_cached_tokens` is too small for one row.
    """
    done = 0
    pads = _keeps_padding_out(policy.causal_lm)
    for numbers in _batches(prompts, limits, max_cached_tokens, most_positions(policy.causal_lm), pads):
        batch = [prompts[number] for number in numbers]
        input_ids, mask = left_padded(batch, device)
        drawing = _Drawing(
            record,
            batch,
            torch.tensor(numbers, device=device),
            keys,
            torch.tensor(limits, device=device),
            partial(_report, progress, done),
        )
        with _own_generation_config(policy.causal_lm):
            policy.causal_lm.generate(
                input_ids=input_ids,
                attention_mask=mask.long(),
                logits_processor=LogitsProcessorList([drawing]),
                stopping_criteria=StoppingCriteriaList([drawing.over]),
                max_new_tokens=max(limits[number] for number in numbers),
                do_sample=False,
                pad_token_id=0,
            )
        done += len(numbers)


def _report(progress: Callable[[int], None], before: int, over: int) -> None:
    progress(before + over)


def _batches(
    prompts: list[list[int]], limits: list[int], budget: int | None, positions: int | None, pads: bool
) -> list[list[int]]:
    """Numbers of the prompts that are decoded together, short ones first; of one length unless `pads`.

    A row that is over goes on with the others, so the longest prompt and the longest response have to fit together.
    """
    batches: list[list[int]] = []
    longest_limit = 0
    for number in sorted(range(len(prompts)), key=lambda number: (len(prompts[number]), -limits[number])):
        prompt, longest_limit = len(prompts[number]), max(longest_limit, limits[number])
        rows = len(batches[-1]) + 1 if batches else 1
        fits = budget is None or rows * (prompt + longest_limit) <= budget
        # the last token is drawn and not fed
        fits = fits and (positions is None or prompt + longest_limit - 1 <= positions)
        if not batches or not fits or not (pads or len(prompts[batches[-1][-1]]) == prompt):
            batches.append([])
            longest_limit = limits[number]
            if budget is not None and prompt + longest_limit > budget:
                raise ValueError(TOO_FEW_CACHED.format(prompt + longest_limit, budget))
        batches[-1].append(number)
    return batches


def _keeps_padding_out(causal_lm: PreTrainedModel) -> bool:
    """Whether padding before a prompt changes nothing: what carries a state has to mask it, read off the source.

    RecurrentGemma, RWKV and xLSTM do not, in transformers 5.23.
    """
    if not causal_lm._is_stateful:
        return True
    source = inspect.getsource(sys.modules[type(causal_lm).__module__])
    return re.search(r"apply_mask_to_padding_states|\* attention_mask", source) is not None


@contextmanager
def _own_generation_config(causal_lm: PreTrainedModel) -> Iterator[None]:
    """The model's own is out of the way: it fills in what a call leaves open, a repetition penalty for one."""
    usual = causal_lm.generation_config
    causal_lm.generation_config = GenerationConfig()
    try:
        yield
    finally:
        causal_lm.generation_config = usual


class _Drawing(LogitsProcessor):
    """Draws a token from the logits and leaves ``generate`` no other to take."""

    def __init__(
        self,
        record: Recorder,
        prompts: list[list[int]],
        responses: Tensor,
        keys: Tensor,
        limits: Tensor,
        progress: Callable[[int], None],
    ) -> None:
        self.record, self.prompts, self.responses, self.progress = record, prompts, responses, progress
        self.keys, self.limits = keys, limits
        self.rows = torch.arange(len(prompts), device=keys.device)  # of the unfinished responses
        self.steps = 0
        self.over = _Over(self)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if not self.steps:
            self.record.begin(0, len(self.prompts), self.rows, self.prompts)
        rows = self.rows
        numbers = self.responses[rows]
        steps = torch.full_like(rows, self.steps)
        tokens, ended = self.record.draw(
            0, numbers, steps, self.keys[numbers], self.limits[numbers], scores[rows], None
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

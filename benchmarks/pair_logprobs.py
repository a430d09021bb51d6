"""Does a language model give the preferred answer the higher probability? Through transformers alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

BATCH = 64


def preferred_is_likelier(model: Path, pairs: Sequence[Mapping[str, Any]]) -> list[float]:
    """1 where log π(chosen|prompt) > log π(rejected|prompt), ½ where they are equal, else 0.

    Log-probabilities are summed over the response's tokens and its EOS, as DPO does.

    Args:
        model: a policy's export.
        pairs: rows with `prompt`, `chosen` and `rejected`, all strings.
    """
    chosen, rejected = ([(pair["prompt"], pair[side]) for pair in pairs] for side in ("chosen", "rejected"))
    logprobs = response_logprobs(model, [*chosen, *rejected])
    halves = zip(logprobs[: len(pairs)], logprobs[len(pairs) :], strict=True)
    return [0.5 if better == worse else float(better > worse) for better, worse in halves]


def response_logprobs(model: Path, texts: Sequence[tuple[str, str]]) -> list[float]:
    """log π(response|prompt) of each ``(prompt, response)``."""
    import torch
    from transformers import AutoModelForCausalLM

    from lit_rlhf.data.tokenization import TextEncoder, load_tokenizer

    encoder = TextEncoder(load_tokenizer(str(model)))
    network = AutoModelForCausalLM.from_pretrained(model).eval()
    found: list[float] = []
    for start in range(0, len(texts), BATCH):
        prompts = [encoder.prompt_ids(prompt) for prompt, _ in texts[start : start + BATCH]]
        responses = [encoder.response_ids(*text)[0] for text in texts[start : start + BATCH]]
        rows = [
            torch.tensor([*prompt, *response]) for prompt, response in zip(prompts, responses, strict=True)
        ]
        # Padding stands on the right, where no token of a causal model looks.
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=encoder.pad_token_id)
        with torch.no_grad():
            logprobs = network(ids).logits[:, :-1].log_softmax(-1).gather(2, ids[:, 1:, None]).squeeze(2)
        for row, prompt, response in zip(logprobs, prompts, responses, strict=True):
            first = len(prompt) - 1
            found.append(row[first : first + len(response)].sum().item())
    return found

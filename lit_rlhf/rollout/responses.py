"""What is drawn of each response, and whether that was its last token; the same for every engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lit_rlhf.ops.noise import counted_uniform
from lit_rlhf.rollout.drawing import Distribution, draw
from lit_rlhf.rollout.settings import SamplingSettings

MORE_TOKENS = 4
"""A stop string is looked for in as many tokens as it has bytes, and some that may stand for none."""
UNREADABLE, BYTES_OF_CHARACTER = "\ufffd", 4
"""What bytes are decoded to that begin within a character: some tokenizers then give up all bytes up to the next
token of text. One of four starts is not within a character."""


@dataclass
class SampledResponses:
    """N responses, in the order of the prompts given."""

    response_ids: list[list[int]]
    """With the EOS, or what else ended it, as the last."""
    logprobs: Tensor
    """Grid ``[N, R]``: of each token under the distribution it was drawn from."""
    entropy: Tensor | None
    """Grid ``[N, R]``: of that distribution, in nats; None where it was not asked for."""
    truncated: Tensor
    """Bool ``[N]``: the limit came before an end."""
    values: Tensor | None = None
    """Grid ``[N, R]``: the critic's value before each token, where it reads the policy's own states; ``generate``,
    where that samples, does not hand them out."""


class Recorder:
    """Draws tokens from logits, keeps them with what was seen of them, and says which responses are over.

    Args:
        count: N.
        limits: most tokens of each response.
        settings: how to draw.
        eos_token_id: ends a response, and is part of it.
        vocab_size: V, of the logits.
        device: where the logits are.
        decode: ids to text; needed for stop strings.
        with_entropy: whether the entropy is kept.
        on_tokens: told of every draw: numbers of responses, and the token that each got.

    Raises:
        ValueError: there are stop strings and nothing to decode with.
    """

    def __init__(
        self,
        count: int,
        limits: list[int],
        settings: SamplingSettings,
        eos_token_id: int,
        vocab_size: int,
        device: torch.device,
        decode: Callable[[list[int]], str] | None = None,
        with_entropy: bool = False,
        on_tokens: Callable[[list[int], list[int]], None] | None = None,
    ) -> None:
        if settings.stop_strings and decode is None:
            raise ValueError("stop_strings: expected `decode` to look for them in the text, found none.")
        self.settings, self.decode, self.with_entropy = settings, decode, with_entropy
        self.on_tokens, self.vocab_size, self.device = on_tokens, vocab_size, device
        stop_ids = sorted({eos_token_id, *settings.stop_token_ids})
        self.stop_ids = torch.tensor(stop_ids, device=device)
        self.distribution = Distribution(settings, stop_ids, vocab_size, device)
        shape = (count, max(limits, default=0))
        self.tokens = torch.zeros(shape, dtype=torch.long, device=device)
        # fp32 whatever the trainer's precision makes of the default
        self.logprobs = torch.zeros(shape, device=device, dtype=torch.float32)
        self.entropy = torch.zeros_like(self.logprobs)
        self.values: Tensor | None = None
        self.lengths = torch.zeros(count, dtype=torch.long, device=device)
        self.finished = torch.zeros(count, dtype=torch.bool, device=device)
        self._held: Tensor | None = None  # ids that prompt and response of each row hold, for the penalty

    def begin(self, first: int, behind: int, source: Tensor, prompts: list[list[int]]) -> None:
        """Rows `first` to `behind` are new; each follows the prompt at `source`."""
        if self.settings.repetition_penalty == 1:
            return
        new = torch.zeros(len(prompts), self.vocab_size, dtype=torch.bool, device=self.device)
        for held, prompt in zip(new, prompts, strict=True):
            held[prompt] = True
        before = new[:0] if self._held is None else self._held[:first]
        self._held = torch.cat([before, new[source]])

    def move(self, sources: Tensor, targets: Tensor) -> None:
        """Rows have moved over those that left."""
        if self._held is not None and len(sources):
            self._held[targets] = self._held[sources]

    def draw(
        self,
        first: int,
        responses: Tensor,
        steps: Tensor,
        keys: Tensor,
        limits: Tensor,
        logits: Tensor,
        values: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """One token for each of n rows, from row `first` on.

        Args:
            first: the number of the first row.
            responses: Long ``[n]``.
            steps: Long ``[n]``, tokens that each has.
            keys: Long ``[n]``.
            limits: Long ``[n]``.
            logits: ``[n, V]``.
            values: ``[n]``, before the token.
        Returns:
            Tokens, Long ``[n]``, and whether each was its response's last, Bool ``[n]``.
        """
        held = None if self._held is None else self._held[first : first + len(responses)]
        uniform = counted_uniform(keys, steps) if self.settings.temperature > 0 else None
        tokens, logprobs, entropy = draw(
            self.distribution.of(logits, steps, held), uniform, self.with_entropy
        )
        if held is not None:
            held[torch.arange(len(tokens), device=tokens.device), tokens] = True
        self.tokens[responses, steps] = tokens
        self.logprobs[responses, steps] = logprobs
        if self.with_entropy:
            self.entropy[responses, steps] = entropy
        if values is not None:
            if self.values is None:
                self.values = torch.zeros_like(self.logprobs)
            self.values[responses, steps] = values.float()
        stopped = torch.isin(tokens, self.stop_ids)
        if self.settings.stop_strings:
            stopped |= self._says_stop(responses, steps + 1)
        ended = stopped | (steps + 1 >= limits)
        self.lengths[responses] = steps + 1
        self.finished[responses] = stopped
        if self.on_tokens is not None:
            self.on_tokens(responses.tolist(), tokens.tolist())
        return tokens, ended

    def result(self) -> SampledResponses:
        """All responses, the grids as wide as the longest.

        Raises:
            FloatingPointError: a token was drawn from logits that are not finite.
        """
        wrong = self.logprobs.isfinite().logical_not().nonzero()
        if len(wrong):
            number, step = wrong[0].tolist()
            raise FloatingPointError(
                f"Token {step} of response {number}: expected a finite log-probability, found "
                f"{self.logprobs[number, step]}. The model's logits are not finite: its weights have diverged, or "
                "the precision is too narrow for it."
            )
        width = int(self.lengths.max()) if len(self.lengths) else 0
        lengths = self.lengths.tolist()
        return SampledResponses(
            response_ids=[row[:n] for row, n in zip(self.tokens.tolist(), lengths, strict=True)],
            # copies: a view would keep, and save, as many numbers as the longest response might have had
            logprobs=self.logprobs[:, :width].clone(),
            entropy=self.entropy[:, :width].clone() if self.with_entropy else None,
            truncated=~self.finished,
            values=None if self.values is None else self.values[:, :width].clone(),
        )

    def _says_stop(self, responses: Tensor, lengths: Tensor) -> Tensor:
        assert self.decode is not None
        strings = self.settings.stop_strings
        width = max(len(text.encode()) for text in strings) + MORE_TOKENS
        said = []
        for number, length in zip(responses.tolist(), lengths.tolist(), strict=True):
            tokens, start, end = self.tokens[number, :length].tolist(), max(0, length - width), ""
            for earlier in range(start, max(-1, start - BYTES_OF_CHARACTER), -1):
                end = self.decode(tokens[earlier:])
                if not end.startswith(UNREADABLE):
                    break
            said.append(any(text in end for text in strings))
        return torch.tensor(said, device=responses.device)

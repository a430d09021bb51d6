"""A conversation with a policy: its turns, what is drawn for each, and how that is counted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from jinja2 import TemplateError
from torch import Tensor

from lit_rlhf.cli.chat_stream import TextStream, cut_at_stop
from lit_rlhf.cli.row_progress import RowProgress
from lit_rlhf.cli.sample_best import Judge
from lit_rlhf.cli.sample_draws import Drawn, Increments
from lit_rlhf.cli.sample_policy import Policy
from lit_rlhf.data.tokenization import TokenizationError
from lit_rlhf.ops.noise import counter_key
from lit_rlhf.records import Message, Prompt
from lit_rlhf.rollout.settings import SamplingSettings


class TurnError(ValueError):
    """A turn that cannot be answered; the conversation is as it was before."""


@dataclass
class Answer:
    """What the policy said."""

    text: str
    """As it was shown."""
    ended: bool
    """An end was drawn."""
    stopped: bool = False
    """Somebody stopped it."""
    at_positions: bool = False
    """It was cut off where the model's positions end."""
    tokens: int = 0
    """Of the prompt, with what was drawn: the longest of several."""
    scores: list[float | None] = field(default_factory=list)
    """Of all that were drawn, best first, where the best of several was chosen."""


class Conversation:
    """Turns so far, and the answer to the last.

    What answers the i-th turn is drawn with the key (seed, i, attempt, sample), so that the same turns under the same
    seed get the same answers.

    Args:
        policy: what answers.
        seed: the first counter.
        system: what stands before the first turn, as the system's.
        judge: chooses among several answers, with `best_of`.
        best_of: how many; 1 = the first, shown as it is drawn.

    Raises:
        ValueError: a system text without a chat template that takes one.
    """

    def __init__(
        self,
        policy: Policy,
        seed: int,
        system: str | None = None,
        judge: Judge | None = None,
        best_of: int = 1,
    ) -> None:
        self.seed, self.judge, self.best_of = seed, judge, best_of
        encoder = policy.encoder
        self.is_plain = encoder.chat_template is None and not encoder.tokenizer.chat_template
        self.opening: list[Message] = [] if system is None else [{"role": "system", "content": system}]
        self.policy = policy if self.is_plain else replace(policy, settings=ending_turns(policy))
        if system is not None:
            self._check_system(system)
        self.reset()

    def reset(self) -> None:
        """Begin anew, behind the system's turn."""
        self.turns: list[Message] = list(self.opening)
        self.attempt = 0
        self.was_told_of_length = False

    def ask(self, text: str, write: Callable[[str], None]) -> Answer:
        """Answer `text`, handing every new part of the answer to `write`.

        Raises:
            TurnError: the model has too few positions, or the template refuses the turns.
        """
        self.attempt = 0
        return self._answer([*self.turns, {"role": "user", "content": text}], write)

    def regenerate(self, write: Callable[[str], None]) -> Answer:
        """Answer the last turn once more, otherwise.

        Raises:
            TurnError: there is none yet.
        """
        if not answers(self.turns):
            raise TurnError("there is no answer yet that could be drawn again")
        self.attempt += 1
        return self._answer(self.turns[:-1], write)

    def _answer(self, turns: list[Message], write: Callable[[str], None]) -> Answer:
        """Answer the last of `turns`; they become the conversation's if anything was said."""
        prompt: Prompt = turns[-1]["content"] if self.is_plain else turns
        ids = self._prompt_ids(prompt)
        keys = counter_key(self.seed, answers(turns), self.attempt, torch.arange(self.best_of))
        if self.judge is None:
            answer = self._streamed(ids, keys, write)
        else:
            answer = self._best(self.judge, prompt, ids, keys, write)
        if answer.text or not answer.stopped:
            self.turns = [*turns, {"role": "assistant", "content": answer.text}]
        return answer

    def _prompt_ids(self, prompt: Prompt) -> list[int]:
        try:
            ids = self.policy.encoder.prompt_ids(prompt)
        except (TokenizationError, TemplateError) as error:
            raise TurnError(f"the chat template refuses these turns: {error}") from None
        positions, settings = self.policy.positions, self.policy.settings
        if positions is not None and len(ids) > positions:
            raise TurnError(
                f"with this turn there are {len(ids)} tokens, and the model has {positions} positions. The turn was "
                + ("taken back." if self.is_plain else "taken back; /reset begins a new conversation.")
            )
        needed = len(ids) + settings.max_new_tokens
        if settings.max_cached_tokens is not None and settings.max_cached_tokens < needed:
            raise TurnError(
                f"with this turn and an answer there are {needed} tokens, and --max-cached-tokens is "
                f"{settings.max_cached_tokens}. The turn was taken back."
            )
        return ids

    def _streamed(self, ids: list[int], keys: Tensor, write: Callable[[str], None]) -> Answer:
        settings = self.policy.settings
        stream = TextStream(self.policy.encoder.decode, settings.stop_strings, write)
        try:
            sampled = self.policy.draw([ids], keys, on_tokens=lambda _, tokens: stream.add(tokens[0]))
        except KeyboardInterrupt:
            return Answer(stream.finish(), ended=False, stopped=True, tokens=len(ids) + stream.tokens)
        ended = not bool(sampled.truncated[0])
        at_positions = not ended and self._is_at_positions(ids)
        return Answer(stream.finish(), ended, at_positions=at_positions, tokens=len(ids) + stream.tokens)

    def _best(
        self, judge: Judge, prompt: Prompt, ids: list[int], keys: Tensor, write: Callable[[str], None]
    ) -> Answer:
        stops, decode = self.policy.settings.stop_strings, self.policy.encoder.decode
        try:
            with RowProgress("drawing", self.best_of, unit="answer") as progress:
                sampled = self.policy.draw([ids] * self.best_of, keys, Increments(progress.advance))
            drawn = [
                Drawn(cut_at_stop(decode(some), stops), not cut_off)
                for some, cut_off in zip(sampled.response_ids, sampled.truncated.tolist(), strict=True)
            ]
            (best,), (scores,) = judge.best([prompt], [drawn], self.best_of)
        except KeyboardInterrupt:
            return Answer("", ended=False, stopped=True)
        except (TokenizationError, TemplateError) as error:
            raise TurnError(f"the reward model's chat template refuses these turns: {error}") from None
        write(best[0].text)
        ended = best[0].finished
        at_positions = not ended and self._is_at_positions(ids)
        tokens = len(ids) + max(map(len, sampled.response_ids))
        return Answer(best[0].text, ended, at_positions=at_positions, tokens=tokens, scores=scores)

    def _is_at_positions(self, ids: list[int]) -> bool:
        """Whether it is the positions, and not the settings, that limit a response."""
        positions = self.policy.positions
        return positions is not None and len(ids) + self.policy.settings.max_new_tokens > positions + 1

    def _check_system(self, system: str) -> None:
        if self.is_plain:
            raise ValueError(
                "--system: the model has no chat template that could hold it. Give --chat-template chatml, or a "
                ".jinja file."
            )
        try:
            rendered = self.policy.encoder.prompt_text([*self.opening, {"role": "user", "content": "x"}])
        except (TokenizationError, TemplateError) as error:
            raise ValueError(f"--system: the chat template refuses a system's turn: {error}") from None
        if system.strip() not in rendered:
            raise ValueError(
                "--system: the chat template leaves a system's turn out, so the model would not see it."
            )


def ending_turns(policy: Policy) -> SamplingSettings:
    """The policy's settings with an answer's end where the chat template closes a turn otherwise than by the EOS.

    In training both stand there, ``<|im_end|>`` and the EOS for one; the next prompt has the first from the template.
    """
    encoder, settings = policy.encoder, policy.settings
    mark = "what was said"
    turns = [{"role": "user", "content": mark}, {"role": "assistant", "content": mark}]
    try:
        closing = (
            encoder.tokenizer.apply_chat_template(turns, chat_template=encoder.chat_template, tokenize=False)
            .rpartition(mark)[2]
            .strip()
        )
    except TemplateError:
        return settings
    if not closing or closing.startswith(encoder.tokenizer.eos_token):
        return settings
    ids = encoder.token_ids(closing)
    if not encoder.decode(ids):  # special, so no text in which a string could be found
        return replace(settings, stop_token_ids=(*settings.stop_token_ids, ids[-1]))
    return replace(settings, stop_strings=(*settings.stop_strings, closing))


def answers(turns: Sequence[Message]) -> int:
    """How many of the turns are the policy's."""
    return sum(turn["role"] == "assistant" for turn in turns)

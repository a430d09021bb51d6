"""Annotators without a labelling file: ranks of the responses that a policy in training draws."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lit_rlhf.labelling.annotators.chat import Chat, ChatError, chat_with
from lit_rlhf.labelling.annotators.language_model import LanguageModel
from lit_rlhf.labelling.annotators.opinions import UNREADABLE_IN_A_ROW, Opinion, Tally, UnreadableError
from lit_rlhf.labelling.annotators.reward_scores import load_reward, score_annotator
from lit_rlhf.labelling.annotators.settings import Annotator
from lit_rlhf.labelling.items import Item, Prompt, Task, shown_order
from lit_rlhf.labelling.verdicts import Mode
from lit_rlhf.models.sharding import is_sharded
from lit_rlhf.records import Row
from lit_rlhf.rewards.calls import begin_call
from lit_rlhf.rewards.protocol import Completions, RewardError
from lit_rlhf.rewards.scoring import PartialReward


@dataclass(frozen=True)
class Question:
    """A prompt, and its responses that are to be ranked."""

    prompt: Prompt
    responses: Sequence[str]
    finished: Sequence[bool]
    """Whether each response came to its end."""
    name: str
    """Of the prompt, for errors."""
    number: int
    """Of the draw: the noise, and the order in which responses are shown, follow from it, the seed and the texts."""
    columns: Mapping[str, Any] = field(default_factory=dict)
    """The other fields of the prompt's row."""


class Judge:
    """Ranks responses as an annotator of the labelling tool does: blind, with its noise, and asked in the same words.

    Where ranks share a reward model out, each of them has to ask when one does, if only about nothing.

    The same questions are answered the same way again, by whoever answers so: a rule, a reward model, or a language
    model at temperature 0 on a server that repeats itself.

    Args:
        settings: who judges.

    Raises:
        FileNotFoundError: no such reward model, or no such guidelines.
        ValueError: a path that cannot be imported, or a folder without a reward model.
    """

    def __init__(self, settings: Annotator) -> None:
        self.settings = settings
        self.tally = Tally()
        """Of all questions so far; in training of those of all processes."""
        self._reward: PartialReward | None = None
        if settings.llm_model is None:
            self._reward = load_reward(settings, "model.annotator.annotator")
            self._scores = score_annotator(settings, self._reward)
        self._guidelines = _read_guidelines(settings.guidelines)
        self._chat: Chat | None = None
        self._unreadable = 0

    def __call__(self, questions: Sequence[Question]) -> list[list[float] | None]:
        """The ranks of each question's responses: 1 = best, equal = tie, without gaps; None = skipped.

        Responses of the same text are one, have one rank, and are nothing to ask about where there is no other. Why
        questions were skipped is counted in `tally`.

        Raises:
            RewardError: there is no use in asking on: a server that does not answer or cannot be understood, a reward
                that has failed on everything so far, a row without a field that the reward is to be told.
        """
        asked = {place: one for place, one in enumerate(questions) if len(set(one.responses)) > 1}
        self.tally.alike += len(questions) - len(asked)
        try:
            opinions = self._opinions([self._task(place, one) for place, one in asked.items()])
        except (ChatError, UnreadableError) as error:
            raise RewardError(f"model.annotator: {error}") from error
        ranks: list[list[float] | None] = [[1.0] * len(one.responses) for one in questions]
        for place, opinion in zip(asked, opinions, strict=True):
            self.tally.count(opinion.verdict)
            ranks[place] = _dense_ranks(opinion)
        return ranks

    def to(self, device: torch.device | str) -> Judge:
        """Move a reward model there, unless the settings say where it is; find out whether there is the key."""
        if self._reward is None:
            self._chat = self._chat or chat_with(self.settings)
        else:
            self._reward.to(device if self.settings.device == "auto" else self.settings.device)
        return self

    def networks(self) -> list[nn.Module]:
        """The frozen networks that it holds, to be spread over ranks."""
        return [] if self._reward is None else self._reward.networks()

    @property
    def is_sharded(self) -> bool:
        """Whether its networks are spread over ranks, so that every rank must ask when one does."""
        return any(map(is_sharded, self.networks()))

    def check_columns(self, rows: Sequence[Row]) -> None:
        """Refuse prompts without a field that the reward is to be told, before anything is drawn for them.

        Raises:
            RewardError: by the config key, with the first of them.
        """
        for column in self.settings.columns:
            if lacking := [place for place, row in enumerate(rows) if column not in row.columns]:
                first = rows[lacking[0]]
                known = ", ".join(sorted(first.columns)) or "none"
                raise RewardError(
                    f"model.annotator.columns: {len(lacking)} of {len(rows)} prompts have no field {column!r} (first: "
                    f"{first.id or first.place or f'number {lacking[0]}'}, whose fields are: {known}). Add it to the "
                    "prompts' file, or leave it out of the columns."
                )

    def _opinions(self, tasks: Sequence[Task]) -> list[Opinion]:
        if self._reward is not None:
            return self._scores.opinions(tasks) if tasks else self._ask_nothing(self._reward)
        if not tasks:
            return []
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run(self._ask(tasks))  # in this thread, so that Ctrl-C ends what was asked
        return begin_call(partial(self._ask, tasks), {}, None)()  # in a notebook, whose loop is running

    def _ask_nothing(self, reward: PartialReward) -> list[Opinion]:
        if self.is_sharded:  # other ranks cannot gather its weights without this one
            reward.begin(Completions([], [], [], [], [], []), thorough=True)()
        return []

    async def _ask(self, tasks: Sequence[Task]) -> list[Opinion]:
        """What the language model says of each."""
        self._chat = self._chat or chat_with(self.settings)
        judge = LanguageModel(self._chat.ask, self._guidelines, self.settings.both_orders, self._mark)
        room = asyncio.Semaphore(self.settings.concurrency)

        async def opinion(task: Task) -> Opinion:
            async with room:
                said = await judge.opinion(task)
            self._unreadable = 0 if said.readable else self._unreadable + 1
            if self._unreadable >= UNREADABLE_IN_A_ROW:
                raise UnreadableError(self._unreadable, said)
            return said

        async with self._chat:
            asked = [asyncio.ensure_future(opinion(task)) for task in tasks]
            try:
                return await asyncio.gather(*asked)
            finally:
                for one in asked:
                    one.cancel()
                await asyncio.gather(*asked, return_exceptions=True)

    def _task(self, place: int, question: Question) -> Task:
        """The question as a labelling file would ask it, of an annotator who is another one for each draw."""
        columns = {**question.columns, "finished": list(question.finished)}
        if lacking := [name for name in self.settings.columns if name not in columns]:
            raise RewardError(
                f"model.annotator.columns: prompt {question.name} has no field {lacking[0]!r}; it has "
                f"{', '.join(sorted(question.columns)) or 'none'}."
            )
        responses = tuple(question.responses)
        mode: Mode = "pairwise" if len(set(responses)) == 2 else "ranking"
        item = Item(mode, question.prompt, responses, question.name, columns=columns)
        self.settings.check_samples(len(item.distinct))
        draw = f"draw {question.number}"
        return Task(place, item, draw, "label", shown_order(item, draw, self.settings.seed))

    def _mark(self, task: Task) -> str:
        # from the texts, so that none of them can spell it, and the same question is the same words again
        asked = f"{self.settings.seed}|{task.annotator}|{task.item.key}|{task.shown}"
        return hashlib.sha256(asked.encode()).hexdigest()[:16]


def _dense_ranks(opinion: Opinion) -> list[float] | None:
    """1 for the responses of the first tie group, 2 for those of the second, …; None where nothing was said."""
    ranking = opinion.verdict.ranking
    if ranking is None:
        return None
    by_response = {response: float(rank) for rank, group in enumerate(ranking, start=1) for response in group}
    return [by_response[response] for response in range(len(by_response))]


def _read_guidelines(path: str | None) -> str:
    if path is None:
        return ""
    try:
        return Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise FileNotFoundError(f"model.annotator.guidelines {path}: no such file.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"model.annotator.guidelines {path}: not a text file: {error}.") from None

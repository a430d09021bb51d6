"""What is judged, who is asked, and what came of it: the records that the store keeps and everybody else reads."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from lit_rlhf.labelling.verdicts import Mode, Verdict, renumbered

Prompt: TypeAlias = str | list[dict[str, Any]]
"""Text, or messages of `role` and `content`."""
Kind: TypeAlias = Literal["label", "repeat", "swap", "gold", "practice", "live"]
"""Why an item is asked: for its judgement; again in the same order, or in the reverse, to hold an annotator against
herself; because the answer is known, as a test or as an exercise; or because the prompt was typed into the page."""
KINDS: tuple[Kind, ...] = ("label", "repeat", "swap", "gold", "practice", "live")
JUDGED: tuple[Kind, ...] = ("label", "live")
"""The kinds whose judgements are exported and compared between annotators."""


@dataclass(frozen=True)
class Item:
    """A prompt with its responses."""

    mode: Mode
    prompt: Prompt
    responses: tuple[str, ...]
    """All of the row, identical ones too; `distinct` says which are shown."""
    row_id: str | None = None
    """`id` of the row in its file."""
    models: tuple[str, ...] | None = None
    """What wrote each response; never sent to a browser."""
    domain: str | None = None
    turns: tuple[Any, ...] | None = None
    """Each response as it stood in its file, where one has several turns; what is shown of these is text."""
    priority: float | None = None
    """How much is to be learned from a judgement, from a reward model's scores; higher first. None = not scored."""
    gold: Verdict | None = None
    """The known answer of a test item."""
    explanation: str = ""
    """Of the known answer, for practice."""
    columns: Mapping[str, Any] = field(default_factory=dict)
    """The row's other fields, handed through to exports."""
    number: int = 0
    """In the store; 0 before it is there."""

    @property
    def distinct(self) -> tuple[int, ...]:
        """The index of the first of each set of identical responses.

        >>> Item("ranking", "p", ("a", "b", "a")).distinct
        (0, 1)
        """
        return tuple(
            index for index, text in enumerate(self.responses) if self.responses.index(text) == index
        )

    @property
    def key(self) -> str:
        """64 hex digits that two items share where they ask the same.

        The order of the responses is no matter, and a prompt that is text is the same as one turn of a user.
        """
        prompt: Prompt = self.prompt
        if isinstance(prompt, str):
            prompt = [{"role": "user", "content": prompt}]
        asked = [self.mode, prompt, sorted(self.responses), self.gold is not None]
        return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()

    def places_of(self, responses: Sequence[str]) -> dict[int, list[int]]:
        """Where each of the same responses in another order stands here."""
        return {
            place: [index for index, text in enumerate(self.responses) if text == response]
            for place, response in enumerate(responses)
        }

    def written(self, index: int) -> Any:
        """A response as files have it: text, or its turns."""
        return self.responses[index] if self.turns is None else self.turns[index]

    def is_right(self, verdict: Verdict) -> bool:
        """Whether the known answer was given; by how much one response is better is a matter of taste."""
        if self.gold is None or verdict.skip is not None:
            return False
        if self.gold.ranking is None:
            return verdict.ratings == self.gold.ratings
        said, known = self._distinct_ranks(verdict), self._distinct_ranks(self.gold)
        return said == known and (verdict.both_bad or not self.gold.both_bad)

    def _distinct_ranks(self, verdict: Verdict) -> list[int] | None:
        """Ranks among the responses that are shown; identical ones cannot be told apart."""
        ranks = verdict.ranks()
        if ranks is None:
            return None
        of_shown = [ranks[index] for index in self.distinct]
        return [sum(other < rank for other in of_shown) for rank in of_shown]


def shown_order(item: Item, annotator: str, seed: int) -> tuple[int, ...]:
    """The order in which somebody sees an item's distinct responses, drawn from who sees what and nothing else."""
    draws = {
        index: hashlib.sha256(
            f"{seed}|{annotator}|{item.key}|{item.responses[index]}".encode(errors="replace")
        )
        for index in item.distinct
    }
    return tuple(sorted(item.distinct, key=lambda index: draws[index].digest()))


@dataclass(frozen=True)
class Task:
    """An item that was given to somebody, in some order."""

    number: int
    item: Item
    annotator: str
    kind: Kind
    shown: tuple[int, ...]
    """The index of the response that stands at each position."""
    seen: bool = True
    """Whether it was seen in that order; False where a judgement came from elsewhere and does not say."""

    def by_index(self, verdict: Verdict) -> Verdict:
        """What was said of positions, of all the item's responses; identical ones share what was said of one."""
        texts = self.item.responses
        return renumbered(
            verdict,
            {
                position: [index for index, text in enumerate(texts) if text == texts[first]]
                for position, first in enumerate(self.shown)
            },
        )

    def by_position(self, verdict: Verdict) -> Verdict:
        """What was said of the item's responses, of the positions at which they were shown."""
        position = {self.item.responses[first]: place for place, first in enumerate(self.shown)}
        return renumbered(
            verdict, {index: [position[text]] for index, text in enumerate(self.item.responses)}
        )


@dataclass(frozen=True)
class Judgement:
    """What an annotator said of an item; the store never changes or removes one."""

    number: int
    """1, 2, …, in the order in which they were written; exports `--since` a number."""
    task: Task
    verdict: Verdict | None
    """By the item's indices; None = taken back."""
    comment: str = ""
    flag: str = ""
    """What is wrong with the item itself."""
    seconds: float | None = None
    """From the moment that the item was shown, as the page measured it, pauses left out."""
    at: str = ""
    """UTC, ISO 8601."""
    replaces: int | None = None
    """The earlier judgement of the same task, which this one takes the place of."""

    @property
    def annotator(self) -> str:
        """Who said it."""
        return self.task.annotator


@dataclass(frozen=True)
class Settings:
    """How the items of a store are handed out; kept in the store."""

    seed: int = 0
    """Of the orders."""
    overlap: int = 1
    """Annotators that are asked for each item."""
    lease_seconds: float = 600.0
    """How long an item that was shown is kept for who saw it."""
    quota: int | None = None
    """Judgements of one annotator, tests and repeats among them; None = no limit."""
    repeats: float = 0.05
    """Share of an annotator's items that she sees twice, half of them in the reverse order."""
    gold_share: float = 0.1
    """Share of an annotator's items that are tests, as long as there are tests that she has not seen."""
    practice: int = 0
    """Test items that she begins with, told after each whether she was right."""
    order: Literal["random", "active"] = "random"
    """Random, or what a reward model is least sure of first."""
    guidelines: str = ""
    """Markdown."""


@dataclass(frozen=True)
class Progress:
    """How far the work is."""

    items: int
    """To be labelled; tests are not among them."""
    wanted: int
    """Judgements, `overlap` of each item."""
    given: int
    """Judgements that count towards it, at most `overlap` of an item."""
    by_annotator: Mapping[str, int]
    """All current judgements of each, tests and repeats among them."""
    machines: Sequence[str]
    """Annotators that are programs."""
    seconds_each: float | None
    """Median time of a judgement by a person; None before there is one."""
    skipped: int = 0
    flagged: int = 0

"""A language model as annotator: asked, read strictly, asked once more where it cannot be read, else skipped."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from lit_rlhf.labelling.annotators.answer import agreed, read_answer
from lit_rlhf.labelling.annotators.opinions import Opinion, shortened, skipped
from lit_rlhf.labelling.annotators.question import Message, question, repair
from lit_rlhf.labelling.items import Task
from lit_rlhf.labelling.verdicts import VerdictError

UNREADABLE = "the model's answer could not be read"
NO_ANSWER = "the model gave no answer"


class NoAnswerError(Exception):
    """The model does not answer this question, though it answers others: too long, say."""


@dataclass(frozen=True)
class LanguageModel:
    """Judges by asking a language model."""

    ask: Callable[[list[Message]], Awaitable[str]]
    """The text of the model's answer; :class:`NoAnswerError` where it has none for these messages, and any other error
    where it is of no use to ask on."""
    guidelines: str = ""
    both_orders: bool = False
    """Ask for the task's order and for its reverse, and say what both have in common, see
    :func:`lit_rlhf.labelling.annotators.answer.agreed`."""
    mark_of: Callable[[Task], str | None] = lambda task: None
    """What stands around the texts of a task and what none of them can know; drawn anew where it is None."""

    async def opinion(self, task: Task) -> Opinion:
        """Of one task; a skip where there is none, with the reason."""
        first = await self._asked(task)
        order_matters = len(task.shown) > 1 and task.item.mode != "rewrite"
        if not self.both_orders or not order_matters or first.verdict.skip is not None:
            return first
        # letters stand for other responses here, but verdicts are by the item's own numbers
        second = await self._asked(replace(task, shown=tuple(reversed(task.shown))))
        if not second.readable:
            return second
        comments = [one.comment for one in (first, second) if one.comment]
        return Opinion(agreed(first.verdict, second.verdict), shortened(" | reversed: ".join(comments)))

    async def _asked(self, task: Task) -> Opinion:
        messages = question(task, self.guidelines, self.mark_of(task))
        try:
            answer = await self.ask(messages)
            try:
                return read_answer(answer, task)
            except VerdictError as error:
                messages = repair(messages, answer, str(error), task.item.mode)
            try:
                return read_answer(await self.ask(messages), task)
            except VerdictError as error:
                return replace(skipped(f"{UNREADABLE}: {error}"), readable=False)
        except NoAnswerError as error:
            return skipped(f"{NO_ANSWER}: {error}")

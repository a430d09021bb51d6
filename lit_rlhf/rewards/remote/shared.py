"""One reward for several who ask at once: what waits together is scored together."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from lit_rlhf.rewards.protocol import Completions
from lit_rlhf.rewards.scoring import PartialReward, Scoring

SECONDS_TO_END = 10.0
"""How long closing waits for what is being scored; a reward that hangs is left behind."""


@dataclass
class _Asked:
    completions: Completions
    answer: Future[Scoring] = field(default_factory=Future)


class SharedReward:
    """Scores in a thread of its own, in the order in which it is asked.

    While one batch is scored others gather, and the next batch is all of them, up to `batch_size` responses: nobody
    waits for a batch to fill up. Only those with the same columns are scored together, since a function gets the
    columns by their names.

    Args:
        reward: the reward; used by the thread alone.
        batch_size: responses that are scored together; somebody's own request may have more.
    """

    def __init__(self, reward: PartialReward, batch_size: int) -> None:
        self.reward = reward
        self.batch_size = batch_size
        self._waiting: deque[_Asked] = deque()
        self._changed = threading.Condition()
        self._closed = False
        # a daemon, so that a function that hangs does not keep a server from ending
        self._thread = threading.Thread(target=self._work, name="shared reward", daemon=True)
        self._thread.start()

    def ask(self, completions: Completions) -> Future[Scoring]:
        """The scores, later, or what the reward raised; one that is cancelled before its turn is not scored.

        Raises:
            RuntimeError: it is closed.
        """
        asked = _Asked(completions)
        with self._changed:
            if self._closed:
                raise RuntimeError("the reward is closed")
            self._waiting.append(asked)
            self._changed.notify()
        return asked.answer

    def close(self) -> None:
        """Take no more; what waits is still scored, and then the thread ends."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        # a thread inside torch while the interpreter ends would abort the process
        self._thread.join(SECONDS_TO_END)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if not self._waiting:
                    return
                batch = self._take()
            if batch:
                self._answer(batch)

    def _take(self) -> list[_Asked]:
        """The next that are to be scored together, without those who have gone meanwhile."""
        batch: list[_Asked] = []
        count = 0
        while self._waiting:
            asked = self._waiting[0]
            fits = count + len(asked.completions) <= self.batch_size
            if batch and not (fits and _columns(asked) == _columns(batch[0])):
                break
            self._waiting.popleft()
            if asked.answer.set_running_or_notify_cancel():
                batch.append(asked)
                count += len(asked.completions)
        return batch

    def _answer(self, batch: list[_Asked]) -> None:
        try:
            scoring = self.reward.begin(joined([asked.completions for asked in batch]), thorough=True)()
        # SystemExit too: it would end this thread alone, and everybody would wait for ever
        except BaseException as error:
            if len(batch) > 1:  # what one of them did wrong is not for the others to answer for
                for asked in batch:
                    self._answer([asked])
                return
            spoken = error if isinstance(error, Exception) else RuntimeError(f"raised {error!r}")
            for asked in batch:
                asked.answer.set_exception(spoken)
            return
        start = 0
        for asked in batch:
            end = start + len(asked.completions)
            failures = {
                place - start: failure for place, failure in scoring.failures.items() if start <= place < end
            }
            asked.answer.set_result(Scoring(scoring.scores[start:end], failures))
            start = end


def joined(parts: Sequence[Completions]) -> Completions:
    """All responses of all `parts`, in order; their columns have the same names."""
    return Completions(
        prompts=[prompt for part in parts for prompt in part.prompts],
        texts=[text for part in parts for text in part.texts],
        prompt_ids=[ids for part in parts for ids in part.prompt_ids],
        response_ids=[ids for part in parts for ids in part.response_ids],
        finished=[finished for part in parts for finished in part.finished],
        prompt_names=[name for part in parts for name in part.prompt_names],
        columns={
            name: [value for part in parts for value in part.columns[name]] for name in parts[0].columns
        },
    )


def _columns(asked: _Asked) -> set[str]:
    return set(asked.completions.columns)

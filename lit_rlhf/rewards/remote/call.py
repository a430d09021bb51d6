"""The requests of one call of a remote reward: some at a time, tried again, given up."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING

import aiohttp
import torch

from lit_rlhf.rewards.protocol import BrokenRewardError, Completions
from lit_rlhf.rewards.remote.posting import PostError, open_session, post
from lit_rlhf.rewards.remote.wire import WireError, decode_answer, encode_request
from lit_rlhf.rewards.scoring import Failure, Scoring, raise_failure

if TYPE_CHECKING:
    from lit_rlhf.rewards.remote import RemoteReward

log = logging.getLogger(__name__)

ANSWER_BYTES = 1 << 20
SCORE_BYTES = 1 << 12
"""Bytes that an answer may have, and more for each response: a number, or a reason why there is none."""


class RemoteCall:
    """The requests about one set of responses.

    Args:
        reward: how they are to be asked for.
        completions: the responses, with columns that are JSON alone.
        thorough: ask about all of them, though some fail; else the first failure is the end.
        token: for the server, where it asks for one.
    """

    def __init__(
        self, reward: RemoteReward, completions: Completions, thorough: bool, token: str | None
    ) -> None:
        self.reward, self.completions, self.thorough, self.token = reward, completions, thorough, token
        count, size = len(completions), reward.batch_size
        self.parts = [range(start, min(start + size, count)) for start in range(0, count, size)]
        self.answers: dict[range, Scoring] = {}
        self.failed_in_a_row = 0
        self._warned = False
        self.over: Failure | None = None
        """Why the rest has no scores."""
        self.stopped_at: range | None = None
        """The part that failed, where one is enough."""

    async def run(self) -> None:
        """Send all requests, until one of them ends the call."""
        if not self.parts:
            return
        waiting = iter(self.parts)
        async with open_session(self.reward.timeout, self.token) as session:
            workers = [
                asyncio.ensure_future(self._work(session, waiting))
                for _ in range(min(self.reward.concurrency, len(self.parts)))
            ]
            try:
                await asyncio.wait(workers, return_when=asyncio.FIRST_EXCEPTION)
            finally:
                for worker in workers:
                    worker.cancel()
                ended = await asyncio.gather(*workers, return_exceptions=True)
        for error in ended:
            if isinstance(error, Exception) and not isinstance(error, _StopAsking):
                raise error

    def scoring(self) -> Scoring:
        """The answers in the order of the responses.

        Raises:
            RewardError: one part failed, and that is enough; names its prompt, and not one that was still in flight.
        """
        answers = dict(self.answers)  # a call that is out of time may still be writing
        if self.stopped_at is not None:
            raise_failure(answers[self.stopped_at], self.completions.select(self.stopped_at))
        scores = torch.full((len(self.completions),), torch.nan)
        failures: dict[int, Failure] = {}
        for part in self.parts:
            answer = answers.get(part)
            if answer is None:
                assert self.over is not None
                answer = Scoring.nothing(len(part), self.over)
            scores[part.start : part.stop] = answer.scores
            failures |= {part.start + place: failure for place, failure in answer.failures.items()}
        return Scoring(scores, failures)

    async def _work(self, session: aiohttp.ClientSession, waiting: Iterator[range]) -> None:
        for part in waiting:
            answer = self.answers[part] = await self._ask(session, self.completions.select(part))
            if answer.failures and not self.thorough:
                self.stopped_at = part
                raise _StopAsking

    async def _ask(self, session: aiohttp.ClientSession, part: Completions) -> Scoring:
        reward, body = self.reward, encode_request(part)
        for tries in range(1, reward.retries + 2):
            try:
                given = await post(session, reward.name, body, ANSWER_BYTES + SCORE_BYTES * len(part))
            except PostError as error:
                self._count(error)
                if not error.again or tries > reward.retries:
                    after = f" ({tries} tries)" if tries > 1 else ""
                    return Scoring.nothing(
                        len(part), Failure(f"Reward {reward.name}: {error}{after},", error)
                    )
                await reward.sleep(reward.pause(tries, error.retry_after))
                continue
            self.failed_in_a_row = 0
            try:
                return decode_answer(given, len(part), reward.name)
            except WireError as error:
                raise BrokenRewardError(f"Reward {reward.name}: {error}. Is it a reward server?") from error
        raise AssertionError("the last try returns or raises")

    def _count(self, error: PostError) -> None:
        if self.over is not None:  # another worker's try was the last one, in the same moment
            raise _StopAsking
        self.failed_in_a_row += 1
        if self.failed_in_a_row >= self.reward.max_failures:
            why = (
                f"{self.failed_in_a_row} tries in a row failed (max_failures), the last one so: {error}; is the server "
                "up? A run that this ends goes on with --ckpt_path last,"
            )
            self.over = Failure(f"Reward {self.reward.name}: {why}", error)
            raise _StopAsking
        if error.again and not self._warned:
            self._warned = True
            log.warning("Reward %s: %s; it is asked again.", self.reward.name, error)


class _StopAsking(Exception):
    """No more requests are to be made."""

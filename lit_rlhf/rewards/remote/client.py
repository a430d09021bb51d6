"""A reward that another process gives, over HTTP: one reward server for many trainers."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import random
from collections.abc import Awaitable, Callable
from dataclasses import replace
from urllib.parse import urlsplit

from lit_rlhf.rewards.calls import OutOfTimeError, begin_call
from lit_rlhf.rewards.protocol import BrokenRewardError, Completions, RewardError
from lit_rlhf.rewards.remote.call import RemoteCall
from lit_rlhf.rewards.remote.wire import is_address, unsendable
from lit_rlhf.rewards.scoring import Failure, PartialReward, Scoring

log = logging.getLogger(__name__)

LONGEST_PAUSE = 60.0
"""Seconds between two tries at the most, whatever `backoff` comes to and the server asks for."""


class RemoteReward(PartialReward):
    """Asks a server for scores, such as one that ``lit-rlhf serve`` runs; what goes over the wire is in
    :mod:`lit_rlhf.rewards.remote.wire`.

    Prompts and responses go as text, with the columns that are JSON. The responses are cut into requests of
    `batch_size`, of which `concurrency` are under way at once and no others are held. A request that fails is tried
    again where that may help (no connection, no answer in time, statuses 408, 429 and 5xx), up to `retries` times, with
    a pause of backoff·2ⁿ seconds, of which a random share of up to a half is left out so that trainers do not come back
    all together, or what ``Retry-After`` asks for where that is longer, up to a minute. One that is not answered then
    fails all its responses. Proxies that the environment names are not used.

    A step is over, for as long as nothing answers, after `max_failures` tries, and in any case after
    (retries + 1)·(timeout + 60) seconds for each ``concurrency·batch_size`` responses, or ``model.reward_timeout``
    seconds where that is given.

    Args:
        url: address of the server, http:// or https://, without a password in it.
        batch_size: responses in one request.
        concurrency: requests under way at once, from each rank.
        timeout: seconds that one request may take, from the connection to the last byte of its answer.
        retries: tries of one request after the first.
        backoff: seconds before the second try; each pause after it is twice as long.
        max_failures: tries in a row that may fail, whichever requests they are of, before no more are made.
        token_env: name of the environment variable with the token that the server asks for; the token itself stands
            in no config, which is kept beside the run.

    Raises:
        ValueError: an address that is none, or a setting out of its range.
    """

    sleep: Callable[[float], Awaitable[object]] = staticmethod(asyncio.sleep)

    def __init__(
        self,
        url: str,
        batch_size: int = 32,
        concurrency: int = 4,
        timeout: float = 60.0,
        retries: int = 6,
        backoff: float = 1.0,
        max_failures: int = 32,
        token_env: str | None = None,
    ) -> None:
        _check_url(url)
        least: list[tuple[str, float, int]] = [
            ("batch_size", batch_size, 1), ("concurrency", concurrency, 1), ("retries", retries, 0),
            ("max_failures", max_failures, 1),
        ]  # fmt: skip
        for field, count, at_least in least:
            if isinstance(count, bool) or not isinstance(count, int) or count < at_least:
                raise ValueError(
                    f"RemoteReward.{field}: expected a whole number of at least {at_least}, found {count!r}."
                )
        for field, seconds, may_be_none in [("timeout", timeout, False), ("backoff", backoff, True)]:
            is_number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
            if not is_number or not math.isfinite(seconds) or seconds < 0 or not (seconds or may_be_none):
                bound = "at least 0" if may_be_none else "more than 0"
                raise ValueError(f"RemoteReward.{field}: expected {bound} seconds, found {seconds!r}.")
        self.name = url
        self.batch_size = batch_size
        self.concurrency = concurrency
        self.timeout = timeout
        self.retries = retries
        self.backoff = backoff
        self.max_failures = max_failures
        self.token_env = token_env
        self.call_timeout: float | None = None
        """Seconds that all requests of one call may take together (model.reward_timeout); None = no such limit."""
        self.random = random.Random()  # not the global one: a busy server must not change what a run draws
        self._left_out: set[str] = set()

    def begin(self, completions: Completions, thorough: bool) -> Callable[[], Scoring]:
        """See :meth:`PartialReward.begin`; the requests are under way from here on.

        Raises:
            BrokenRewardError: there is no token, or on waiting, what came back is not an answer.
        """
        call = RemoteCall(self, self._sendable(completions), thorough, self.token())
        wait = begin_call(call.run, {}, self.call_timeout)

        def finish() -> Scoring:
            try:
                wait()
            except OutOfTimeError:
                limit = f"{self.call_timeout:g} seconds (model.reward_timeout)"
                call.over = Failure(f"Reward {self.name} took more than {limit}")
            except RewardError:
                raise
            except Exception as error:  # not foreseen; as a RewardError it ends the other ranks too
                raise BrokenRewardError(f"Reward {self.name}: {type(error).__name__}: {error}") from error
            return call.scoring()

        return finish

    def to(self, device: object) -> RemoteReward:
        """Moves nothing; but a run that starts learns here, before anything is sampled, that it has no token."""
        self.token()
        return self

    def token(self) -> str | None:
        """What the environment has under `token_env`.

        Raises:
            BrokenRewardError: nothing, or what no header can carry.
        """
        if self.token_env is None:
            return None
        token = os.environ.get(self.token_env, "").strip()
        if not token or not token.isascii() or not token.isprintable():
            raise BrokenRewardError(
                f"Reward {self.name}: expected its token in the environment variable {self.token_env} (token_env), "
                f"found {'letters that a token cannot have' if token else 'nothing'}. "
                f"Set it where the run is started: export {self.token_env}=..."
            )
        return token

    def pause(self, failed: int, asked: float | None) -> float:
        """Seconds to wait after `failed` tries of a request, where the server asked for `asked`."""
        # 2¹⁰ and a factor of a second are over the longest pause; 2ⁿ alone would run out of numbers
        drawn = self.backoff * 2.0 ** min(failed - 1, 10) * (1 - self.random.random() / 2)
        return min(LONGEST_PAUSE, max(drawn, asked or 0.0))

    def _sendable(self, completions: Completions) -> Completions:
        left_out = unsendable(completions.columns)
        if new := sorted(set(left_out) - self._left_out):
            self._left_out.update(new)
            log.warning(
                "Reward %s is not sent the prompt file's %s: it holds what is not JSON (bytes, dates, NaN).",
                self.name,
                ", ".join(new),
            )
        kept = {name: values for name, values in completions.columns.items() if name not in left_out}
        return replace(completions, columns=kept)


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        valid = is_address(url) and bool(parts.hostname) and parts.port != 0
    except (ValueError, AttributeError, TypeError):  # a port that is no number; something else than text
        valid = False
    if not valid:
        raise ValueError(
            f"RemoteReward.url: expected an address such as http://localhost:8000, found {url!r}."
        )
    if parts.username is not None or parts.password is not None:
        raise ValueError(
            "RemoteReward.url: expected an address without a user or password, which would be kept in the config of "
            "the run, found one. Put a token into an environment variable, and give its name as token_env."
        )

"""Rewards that are async, slow, or never come back."""

import asyncio
import functools
import math
import subprocess
import sys
import threading

import pytest

from lit_rlhf.rewards import calls
from lit_rlhf.rewards.build import build_reward, score_completions
from lit_rlhf.rewards.calls import OutOfTimeError, begin_call, is_async
from lit_rlhf.rewards.protocol import RewardError
from tests.conftest import make_tokenizer
from tests.rewards.test_failures import numbered

TOKENIZER = make_tokenizer()


async def length_of(prompts, completions, bonus, **columns):
    await asyncio.sleep(0)
    return [int(text) + more for text, more in zip(completions, bonus, strict=True)]


class AsyncObject:
    async def __call__(self, prompts, completions, **columns):
        return await length_of(prompts, completions, **columns)


class AsyncScore:
    async def score(self, completions):
        import torch

        return torch.arange(len(completions)) * 1.1

    def to(self, device):
        pass


def wrapped(*arguments, **columns):
    """Looks like a plain function, and returns a coroutine."""
    return length_of(*arguments, **columns)


@pytest.mark.parametrize(
    "function", [length_of, AsyncObject(), functools.partial(length_of), wrapped, AsyncScore()]
)
@pytest.mark.parametrize("timeout", [None, 30.0])
def test_async_rewards_are_awaited(function, timeout):
    scores = score_completions(build_reward(function, TOKENIZER, timeout), numbered())
    assert scores.tolist() == pytest.approx([n * 1.1 for n in range(8)])


def test_what_is_async():
    assert all(
        map(is_async, (length_of, AsyncObject(), functools.partial(AsyncObject()), AsyncScore().score))
    )
    assert not any(map(is_async, (wrapped, print, functools.partial(wrapped), AsyncObject)))


def test_inside_a_running_loop():
    """As in a notebook."""

    async def cell():
        return score_completions(build_reward(length_of, TOKENIZER), numbered(2))

    assert asyncio.run(cell()).tolist() == pytest.approx([0.0, 1.1])


def test_async_rewards_of_a_list_run_at_the_same_time():
    """Each waits for the other to begin, and a plain one between them for both."""
    first, second, both = asyncio.Event(), asyncio.Event(), threading.Event()

    async def one(prompts, **columns):
        first.set()
        await second.wait()
        both.set()
        return [1.0] * len(prompts)

    async def two(prompts, **columns):
        second.set()
        await first.wait()
        return [10.0] * len(prompts)

    def plain(prompts, **columns):
        assert both.wait(30)
        return [100.0] * len(prompts)

    spec = [{"reward": one}, {"reward": plain}, {"reward": two, "weight": 2.0}]
    assert score_completions(build_reward(spec, TOKENIZER, 30.0), numbered(2)).tolist() == [121.0, 121.0]


def test_an_async_reward_stays_on_one_loop():
    """Its client's session would be of no use on another."""
    loops = []

    async def remember(prompts, **columns):
        loops.append(asyncio.get_running_loop())
        return [0.0] * len(prompts)

    reward = build_reward(remember, TOKENIZER)
    for _ in range(3):
        score_completions(reward, numbered(1))
    assert len(set(loops)) == 1


async def raising_for_three(prompts, completions, **columns):
    if "3" in completions:
        raise TimeoutError("the service said so")
    return [0.0] * len(completions)


def test_an_async_reward_that_raises_fails_only_where_it_does():
    """A TimeoutError of its own is an error like others: it is asked again, in halves."""
    reward = build_reward(raising_for_three, TOKENIZER, 30.0)
    assert score_completions(reward, numbered(), "skip").isnan().nonzero().flatten().tolist() == [3]
    with pytest.raises(
        RewardError, match="raising_for_three raised TimeoutError: the service said so for prompt row-3"
    ):
        score_completions(reward, numbered())  # fmt: skip


@pytest.fixture
def released():
    """Set at the end of a test, so that what hangs is gone."""
    event = threading.Event()
    yield event
    event.set()


def hanging(kind: str, released: threading.Event):
    started = []

    def plain(prompts, **columns):
        started.append(len(prompts))
        released.wait(60)
        return [0.0] * len(prompts)

    async def waiting(prompts, **columns):
        started.append(len(prompts))
        await asyncio.sleep(60)

    async def blocking(prompts, **columns):  # never gives its loop back
        return plain(prompts)

    return {"plain": plain, "waiting": waiting, "blocking": blocking}[kind], started


@pytest.mark.parametrize("kind", ["plain", "waiting", "blocking"])
def test_what_hangs_is_left_and_fails_on_all(kind, released, monkeypatch):
    monkeypatch.setattr(calls, "_PATIENCE", 0.05)
    function, started = hanging(kind, released)
    reward = build_reward(function, TOKENIZER, 0.1)
    assert score_completions(reward, numbered(), "skip").isnan().all()
    assert started == [8]  # not asked again in halves
    with pytest.raises(
        RewardError, match=r"took more than 0\.1 seconds \(model\.reward_timeout\) for prompt row-0"
    ):
        score_completions(reward, numbered())  # fmt: skip
    # and others go on, also where the loop was blocked
    assert score_completions(build_reward(length_of, TOKENIZER, 30.0), numbered(2)).isfinite().all()


def test_a_hanging_part_leaves_no_score_of_the_others(released):
    function, _ = hanging("plain", released)
    spec = [{"reward": length_of}, {"reward": function}]
    assert score_completions(build_reward(spec, TOKENIZER, 0.1), numbered(), "skip").isnan().all()


def test_an_async_reward_out_of_time_is_cancelled():
    cancelled = threading.Event()

    async def patient():
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    with pytest.raises(OutOfTimeError):
        begin_call(patient, {}, 0.1)()
    assert cancelled.wait(30)


def test_a_plain_function_without_a_limit_runs_where_it_is_called():
    """What it keeps by thread, such as a connection, is found again."""
    threads = []

    def remember(prompts, **columns):
        threads.append(threading.current_thread())
        return [0.0] * len(prompts)

    score_completions(build_reward(remember, TOKENIZER), numbered(1))
    score_completions(build_reward(remember, TOKENIZER, 30.0), numbered(1))
    assert threads[0] is threading.current_thread() and threads[1] is not threads[0] and threads[1].daemon


def test_leaving_the_process_comes_through_a_thread():
    def leave():
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        begin_call(leave, {}, 30.0)()


def test_the_process_ends_though_a_reward_hangs():
    code = """
import asyncio, time
from lit_rlhf.rewards.calls import OutOfTimeError, begin_call
async def never(): await asyncio.sleep(600)
async def blocking(): time.sleep(600)
for function in (lambda: time.sleep(600), never, blocking):
    try: begin_call(function, {}, 0.05)()
    except OutOfTimeError: print("left")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "left\n" * 3
    assert math.isclose(done.returncode, 0)

"""Calls of other people's functions, plain or async, within a limit of time.

Coroutines run on one event loop in a thread of its own: what an async function keeps between calls, such as the
session of a client, stays on its loop, and a loop that is already running in the caller's thread, as in a notebook,
is left alone.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any

_PATIENCE = 1.0
"""Seconds in which a loop has to answer after a call ran out of time; else it is blocked, and left."""

_running: tuple[threading.Thread, asyncio.AbstractEventLoop] | None = None


class OutOfTimeError(Exception):
    """A call took longer than it may."""


def begin_call(
    function: Callable[..., Any], arguments: dict[str, Any], timeout: float | None
) -> Callable[[], Any]:
    """Start an async function at once, a plain one when its result is asked for; what is returned waits for it.

    A plain function with a limit runs in a thread, and without one where it is called. A thread cannot be killed: a
    function that hangs stays behind until the process ends, which it does not keep from ending. An async function
    that runs out of time is cancelled.

    Args:
        function: a function, a method or an object with ``__call__``.
        arguments: by name.
        timeout: seconds from now for an async function, from its start for a plain one; None = no limit.

    Raises:
        OutOfTimeError: on waiting; whatever the function raises comes through as well.
    """
    if is_async(function):
        return _on_loop(lambda: function(**arguments), timeout)

    def call() -> Any:
        if timeout is None:
            given = function(**arguments)
        else:
            given = _result(_in_thread(lambda: function(**arguments)), time.monotonic() + timeout)
        # a wrapped coroutine function looks like a plain one, and returns what is to be waited for
        return _on_loop(lambda: given, timeout)() if inspect.isawaitable(given) else given

    return call


def is_async(function: Callable[..., Any]) -> bool:
    """Whether calling it returns a coroutine: a coroutine function, a partial of one, an object with an async call."""
    while isinstance(function, functools.partial):
        function = function.func
    # of the type, as calling does: a class whose objects have an async call is not async itself
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


def _in_thread(call: Callable[[], Any]) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_running_or_notify_cancel()  # from here on it cannot be cancelled, only left

    def work() -> None:
        try:
            future.set_result(call())
        # SystemExit too: it would end this thread alone, and nobody would hear of it
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=work, name="reward", daemon=True).start()
    return future


def _on_loop(make_awaitable: Callable[[], Any], timeout: float | None) -> Callable[[], Any]:
    async def run() -> Any:
        return await make_awaitable()

    loop = _loop()
    future = asyncio.run_coroutine_threadsafe(run(), loop)
    deadline = None if timeout is None else time.monotonic() + timeout

    def result() -> Any:
        try:
            return _result(future, deadline)
        except OutOfTimeError:
            _leave_if_blocked(loop)
            raise

    return result


def _result(future: Future[Any], deadline: float | None) -> Any:
    done, _ = wait([future], None if deadline is None else max(0.0, deadline - time.monotonic()))
    if not done:  # not by the error of `future.result(timeout)`, which a function may raise as well
        future.cancel()
        raise OutOfTimeError
    return future.result()


def _loop() -> asyncio.AbstractEventLoop:
    global _running
    if _running is None or not _running[0].is_alive():  # after a fork the thread is gone, in the child
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever, name="async rewards", daemon=True)
        thread.start()
        _running = thread, loop
    return _running[1]


def _leave_if_blocked(loop: asyncio.AbstractEventLoop) -> None:
    """Take another loop from now on where a coroutine that never awaits keeps this one from everything else."""
    global _running
    answered = threading.Event()
    loop.call_soon_threadsafe(answered.set)
    if not answered.wait(_PATIENCE) and _running is not None and _running[1] is loop:
        _running = None

"""A socket with its port, the address that is printed, and the server until it is told to end."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import logging
import os
import signal
import socket
import sys
import threading
from typing import NoReturn

import uvicorn
from starlette.applications import Starlette

from lit_rlhf.labelling.server.gate import Hosts

THINKING = 75
"""Seconds that a connection is kept while somebody thinks; making a new one for each judgement is slow."""
PATIENCE = 10
"""Seconds that requests have to end in when the server is told to."""


class AddressError(ValueError):
    """There is no listening at this address; the message says what to do."""


def listen(host: str, port: int) -> socket.socket:
    """A socket that holds its port, so that nothing is loaded in vain.

    Raises:
        AddressError: the host is none of this machine's, or the port is taken.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, protocol)
    except OSError as error:
        raise AddressError(f"--host {host}: {error.strerror or error}.") from None
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(2048)
    except OSError as error:
        listening.close()
        if error.errno == errno.EADDRINUSE:
            raise AddressError(
                f"--port {port}: is taken at {host}, perhaps by another `label serve`, whose page is still there. "
                "--port 0 takes a free one."
            ) from None
        raise AddressError(f"--host {host} --port {port}: {error.strerror or error}.") from None
    return listening


def base_address(listening: socket.socket) -> str:
    """What a browser is given, such as ``http://127.0.0.1:8765``."""
    host, port = listening.getsockname()[:2]
    if ipaddress.ip_address(host).is_unspecified:
        host = socket.gethostname()
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def is_loopback(listening: socket.socket) -> bool:
    """Whether only this machine can reach it."""
    return ipaddress.ip_address(listening.getsockname()[0]).is_loopback


def hosts_of(host: str, listening: socket.socket) -> Hosts:
    """The names under which the server may be asked for."""
    address = listening.getsockname()[0]
    if ipaddress.ip_address(address).is_unspecified:
        name = socket.gethostname()
        return Hosts(address, (name, f"{name}.local"))
    return Hosts(host, (f"[{address}]" if ":" in address else address,))


def serve_until_told(app: Starlette, listening: socket.socket) -> bool:
    """Answer requests until SIGINT or SIGTERM; those inside have :data:`PATIENCE`, and none after a second SIGINT.

    Returns:
        Whether threads are still at work on requests that were given up: Python would wait for them, see
        :func:`end_at_once`.
    """
    config = uvicorn.Config(
        app,
        loop="asyncio",
        http="h11",
        ws="none",
        lifespan="off",
        log_level="warning",
        access_log=False,  # it would write the tokens of addresses down
        server_header=False,
        proxy_headers=False,  # whoever guesses tokens could give himself a new address each time
        timeout_graceful_shutdown=PATIENCE,
        timeout_keep_alive=THINKING,
    )
    # uvicorn gives a signal back after it has ended by it, and what is here then must not end it once more
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGINT, signal.SIGTERM)}
    others = set(threading.enumerate())
    log = logging.getLogger("uvicorn.error")
    log.addFilter(_is_no_cancellation)
    try:
        uvicorn.Server(config).run(sockets=[listening])
    finally:
        log.removeFilter(_is_no_cancellation)
        for number, handler in before.items():
            signal.signal(number, handler)
    left = set(threading.enumerate()) - others
    for thread in left:
        thread.join(0.2)  # one without work ends by itself
    return any(thread.is_alive() for thread in left)


def end_at_once() -> NoReturn:
    """End the process, whatever its threads do; a store outlives that as it does a kill."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _is_no_cancellation(record: logging.LogRecord) -> bool:
    """A request that was given up leaves no trace on the terminal beyond being counted there."""
    return record.exc_info is None or not isinstance(record.exc_info[1], asyncio.CancelledError)

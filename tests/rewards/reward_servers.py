"""Servers for the tests, over real sockets: one that answers what a test tells it to, and ours in a thread."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import uvicorn

from lit_rlhf.rewards.remote.server import RewardServer

Answer = Callable[[BaseHTTPRequestHandler, dict[str, Any]], None]


class Scripted(ThreadingHTTPServer):
    """Answers its requests by `script`, one after the other, and by `otherwise` when that is used up."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, script: list[Answer], otherwise: Answer) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.script, self.otherwise = list(script), otherwise
        self.lock = threading.Lock()
        self.asked: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.released = threading.Event()
        """Set at the end; what hangs waits for it."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/score"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has gone is what some tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Scripted

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.asked.append(body)
            self.server.headers.append(dict(self.headers))
            answer = self.server.script.pop(0) if self.server.script else self.server.otherwise
        answer(self, body)

    def log_message(self, *_: Any) -> None:
        pass


def send(handler: BaseHTTPRequestHandler, status: int, body: bytes, **headers: str) -> None:
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def says(content: Any, status: int = 200, **headers: str) -> Answer:
    """The same, whatever is asked; `content` as JSON where it is not bytes."""
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    return lambda handler, _: send(handler, status, body, **headers)


def numbers(handler: BaseHTTPRequestHandler, asked: dict[str, Any]) -> None:
    """Scores a response by the number that it is."""
    send(handler, 200, json.dumps({"scores": [float(text) for text in asked["completions"]]}).encode())


def hangs_up(handler: BaseHTTPRequestHandler, _: Any) -> None:
    handler.close_connection = True
    handler.connection.shutdown(socket.SHUT_RDWR)


def hangs(handler: Any, _: Any) -> None:
    handler.server.released.wait(30)
    hangs_up(handler, _)


def stops_in_the_middle(handler: Any, _: Any) -> None:
    """Says that much is to come, sends some of it, and then no more."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"scores"')
    handler.wfile.flush()
    handler.server.released.wait(30)


@contextmanager
def scripted(*script: Answer, otherwise: Answer = numbers) -> Iterator[Scripted]:
    server = Scripted(list(script), otherwise)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.released.set()
        server.shutdown()
        server.server_close()
        thread.join()


class Running:
    """A reward server in a thread."""

    def __init__(self, server: RewardServer) -> None:
        self.server = server
        config = uvicorn.Config(server.app, port=0, loop="asyncio", http="h11", ws="none", log_level="critical",
                                timeout_graceful_shutdown=5)  # fmt: skip
        self.uvicorn = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.uvicorn.run, daemon=True)
        self.thread.start()
        while not self.uvicorn.started:
            assert self.thread.is_alive()
            time.sleep(0.005)
        self.port = self.uvicorn.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def stop(self) -> None:
        self.uvicorn.should_exit = True
        self.thread.join()


@contextmanager
def running(server: RewardServer) -> Iterator[Running]:
    run = Running(server)
    try:
        yield run
    finally:
        run.stop()

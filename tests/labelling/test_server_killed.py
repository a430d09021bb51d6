"""A real server process: what it acknowledged outlives it, however it ends."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from httpx2 import Client, TransportError

from lit_rlhf.labelling.items import Settings
from lit_rlhf.labelling.store import LabelStore
from tests.labelling.browsing import judgement
from tests.labelling.conftest import pairs


class Server:
    """``lit-rlhf label serve`` in a process of its own."""

    def __init__(
        self,
        db: Path,
        *options: str,
        port: int = 0,
        start: Sequence[str] = ("-m", "lit_rlhf", "label", "serve"),
    ) -> None:
        command = [sys.executable, *start, "--db", str(db), "--port", str(port), *options]
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        self.lines: list[str] = []
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)
            if line.startswith("Ctrl-C"):
                break
        self.clients: list[Client] = []
        self.addresses = re.findall(r"(http://\S+)/\?token=(\S+)", "".join(self.lines))

    def client(self, which: int = 0) -> Client:
        address, token = self.addresses[which]
        client = Client(base_url=address, timeout=30)
        self.clients.append(client)
        assert client.get(f"/?token={token}").status_code == 200
        client.headers["X-CSRF"] = client.get("/api/session").json()["csrf"]
        return client

    def end(self, how: signal.Signals) -> tuple[int, str, str]:
        self.process.send_signal(how)
        out, err = self.process.communicate(timeout=30)
        return self.process.returncode, "".join(self.lines) + out, err


@pytest.fixture
def db(tmp_path: Path) -> Path:
    with LabelStore(tmp_path / "labels.db") as store:
        store.configure(Settings(repeats=0, gold_share=0))
        store.add_items(pairs(2000))
    return tmp_path / "labels.db"


@pytest.fixture
def servers() -> Iterator[list[Server]]:
    started: list[Server] = []
    yield started
    for server in started:
        for client in server.clients:
            client.close()
        if server.process.poll() is None:
            server.process.kill()
        server.process.communicate()


def test_what_was_acknowledged_is_in_the_file_after_a_kill(db, servers):
    names = ["ann", "bob", "cara"]
    servers.append(Server(db, "--annotators", *names))
    acknowledged: list[tuple[str, dict[str, Any], int]] = []
    unanswered: list[tuple[str, dict[str, Any]]] = []

    def work(number: int, client: Client) -> None:
        while True:
            body: dict[str, Any] = {}
            try:
                body = judgement(client.get("/api/task").json()["task"])
                answer = client.post("/api/judgements", json=body)
            except (TransportError, ValueError):
                if body:
                    unanswered.append((names[number], body))
                return
            assert answer.status_code == 201
            acknowledged.append((names[number], body, answer.json()["judgement"]))

    clients = [servers[0].client(number + 1) for number in range(3)]
    threads = [threading.Thread(target=work, args=pair) for pair in enumerate(clients)]
    for thread in threads:
        thread.start()
    while len(acknowledged) < 60:
        time.sleep(0.01)
    servers[0].end(signal.SIGKILL)
    for thread in threads:
        thread.join()
    with LabelStore(db, create=False) as store:
        said = {one.number: one for one in store.all_judgements()}
        for name, body, number in acknowledged:
            assert (said[number].annotator, said[number].task.number) == (name, body["task"])
        assert len(acknowledged) <= len(said) <= len(acknowledged) + len(unanswered)
    # the page sends again what was not answered, to a server at the same address with the same cookie
    port = int(servers[0].addresses[0][0].rpartition(":")[2])
    servers.append(Server(db, port=port))
    assert servers[1].addresses == servers[0].addresses
    for name, body in unanswered:
        assert clients[names.index(name)].post("/api/judgements", json=body).status_code in (200, 201)
    with LabelStore(db, create=False) as store:
        assert len(store.all_judgements()) == len(acknowledged) + len(unanswered)
        assert len({one.task.item.number for one in store.judgements()}) == len(store.judgements())


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_when_it_is_told_to(db, servers, how):
    servers.append(Server(db))
    client = servers[0].client()
    client.post("/api/session", json={"annotator": "ann"})
    assert (
        client.post("/api/judgements", json=judgement(client.get("/api/task").json()["task"])).status_code
        == 201
    )
    code, out, err = servers[0].end(how)
    assert (code, err) == (0, "")
    assert "1 judgement, of those that are wanted 1 of 2,000" in out
    assert "token" not in out.replace("/?token=", "").replace("labels.db.access.json", "")


STUCK = """
import sys, time
from lit_rlhf.cli.label import serve
from lit_rlhf.labelling import agreement
from lit_rlhf.labelling.server import live, running

def for_ever(*_):
    print("at work\\n", end="", flush=True)  # in one piece: another thread may print too
    time.sleep(600)

running.PATIENCE = 0.5
agreement.describe = for_ever
serve.check_model_folder = lambda *_: None
serve.loaded = lambda arguments: live.LiveModel(for_ever)
serve.main(sys.argv[1:])
"""


@pytest.mark.parametrize("signals", [1, 2])
def test_it_ends_in_time_whatever_its_threads_do(db, servers, signals, monkeypatch):
    patience = "running.PATIENCE = 0.5" if signals == 1 else "running.PATIENCE = 500"
    code = STUCK.replace("running.PATIENCE = 0.5", patience)
    server = Server(db, "--live", "model", start=("-c", code))
    servers.append(server)
    client = server.client()
    client.headers["X-CSRF"] = client.post("/api/session", json={"annotator": "ann"}).json()["csrf"]
    client.post("/api/judgements", json=judgement(client.get("/api/task").json()["task"]))
    answered: list[int] = []

    def ask(method: str, path: str, **more: Any) -> None:
        try:
            answered.append(client.request(method, path, timeout=60, **more).status_code)
        except TransportError:
            answered.append(500)

    threads = [
        threading.Thread(target=ask, args=("GET", "/api/agreement")),
        threading.Thread(target=ask, args=("POST", "/api/live"), kwargs={"json": {"prompt": "p"}}),
    ]
    for thread in threads:
        thread.start()
    for _ in threads:
        assert server.process.stdout.readline() == "at work\n"
    if signals == 2:
        server.process.send_signal(signal.SIGINT)
        time.sleep(0.5)
    code, out, err = server.end(signal.SIGINT)
    for thread in threads:
        thread.join()
    assert code == 0 and "1 judgement, of those that are wanted 1 of 2,000" in out
    assert "Traceback" not in err and "CancelledError" not in err
    assert answered == [500, 500]
    with LabelStore(db, create=False) as store:
        assert len(store.judgements()) == 1


def test_nobody_gets_more_guesses_by_claiming_another_address(db, servers):
    servers.append(Server(db))
    base = servers[0].addresses[0][0]
    with Client(base_url=base, timeout=30) as client:
        answers = [client.get("/?token=no", headers={"X-Forwarded-For": f"10.0.0.{n}"}) for n in range(12)]
    assert answers[0].status_code == 401 and answers[-1].status_code == 429

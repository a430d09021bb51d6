"""The server goes away under an open page, and comes back."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from lit_rlhf.labelling.items import Item
from lit_rlhf.labelling.store import LabelStore

GONE = ("Failed to load resource", "ERR_CONNECTION_REFUSED", "ERR_FAILED")


@pytest.fixture
def command(tmp_path):
    """Starts `lit-rlhf label serve` on one port, as often as it is asked."""
    with LabelStore(tmp_path / "labels.db") as store:
        store.add_items([Item("pairwise", f"Which of {number}?", ("one", "two")) for number in range(3)])
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    started: list[subprocess.Popen[str]] = []

    def start() -> str:
        line = [sys.executable, "-m", "lit_rlhf", "label", "serve", "--db", str(tmp_path / "labels.db")]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3]), "OMP_NUM_THREADS": "1"}
        started.append(
            subprocess.Popen([*line, "--port", str(port)], stdout=subprocess.PIPE, text=True, env=environment)
        )
        for said in started[-1].stdout:
            if found := re.search(r"open\s+(http://\S+)/\?token=(\S+)", said):
                return found[1], found[2]
        raise AssertionError("the server did not say where it is")

    def kill() -> None:
        started[-1].send_signal(signal.SIGKILL)
        started[-1].wait()

    yield start, kill, tmp_path / "labels.db"
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_judgement_waits_for_the_server_and_arrives_once(command, sit):
    start, kill, path = command
    address, token = start()
    seat = sit(address, token=token)
    seat.expected = GONE
    task = seat.ready()
    kill()
    seat.press("1")
    seat.reads("The server does not answer.", "#banner")
    seat.reads("kept in this tab", "#banner")
    seat.press("5")  # says nothing more while the first is on its way
    start()
    seat.click("Try now")
    seat.after(task)
    seat.ready()
    assert not seat.page.inner_text("#banner")
    with LabelStore(path) as store:
        assert [list(group) for group in store.judgements()[0].verdict.ranking] == [
            [index] for index in store.judgements()[0].task.shown
        ]
        assert len(store.all_judgements()) == 1


def test_an_answer_that_was_lost_is_asked_for_again(serve, sit):
    served = serve([Item("pairwise", f"Which of {number}?", ("one", "two")) for number in range(2)])
    seat = sit(served.address)
    seat.expected = GONE
    task = seat.ready()
    sent = []

    def lose(route):
        sent.append(route.request.post_data_json["submission"])
        if len(sent) == 1:
            route.fetch()  # the server has it, the page never hears of it
            route.abort()
        else:
            route.continue_()

    seat.page.route("**/api/judgements", lose)
    seat.press("1")
    seat.after(task)
    assert len(sent) == 2 and len(set(sent)) == 1
    assert len(served.store.all_judgements()) == 1


def test_a_reload_while_the_server_is_away_keeps_the_judgement(serve, sit):
    served = serve([Item("pairwise", f"Which of {number}?", ("one", "two")) for number in range(2)])
    seat = sit(served.address)
    seat.expected = GONE
    task = seat.ready()
    seat.page.route("**/api/judgements", lambda route: route.abort())
    seat.press("5")
    seat.reads("The server does not answer.", "#banner")
    seat.page.unroute("**/api/judgements")
    seat.page.reload()
    seat.after(task)
    seat.ready()
    assert len(served.store.all_judgements()) == 1
    assert seat.page.evaluate("sessionStorage.getItem('unsent:ann')") is None

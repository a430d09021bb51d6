"""How annotators agree is counted for whoever asks, and judging does not wait for it."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator

import pytest
from httpx2 import ASGITransport, AsyncClient

from lit_rlhf.labelling import agreement
from lit_rlhf.labelling.server.agreement import AgreementPage
from lit_rlhf.labelling.server.app import create_app
from lit_rlhf.labelling.store import LabelStore
from tests.labelling.browsing import ACCESS, Browser, judgement
from tests.labelling.conftest import pairs


class Counting:
    """Stands for a count that takes as long as it is let."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.at_once, self.most = 0, 0
        self.may_end = threading.Event()

    def __call__(self, store: LabelStore) -> dict[str, int]:
        said = len(store.judgements())
        self.begun.append(said)
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        assert self.may_end.wait(20)
        self.at_once -= 1
        return {"judgements": said}


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counting]:
    count = Counting()
    monkeypatch.setattr(agreement, "describe", count)
    yield count
    count.may_end.set()


def test_judging_goes_on_while_many_ask_how_they_agree(store, counting):
    store.add_items(pairs(5))
    app = create_app(store, ACCESS)

    async def ask() -> list[object]:
        transport = ASGITransport(app)
        async with (
            AsyncClient(transport=transport, base_url="http://127.0.0.1:8765") as owner,
            AsyncClient(transport=transport, base_url="http://127.0.0.1:8765") as ann,
        ):
            await owner.get("/?token=owner-token")
            await ann.get("/?token=token-of-ann")
            headers = {"X-CSRF": (await ann.get("/api/session")).json()["csrf"]}
            asked = [asyncio.create_task(owner.get("/api/agreement")) for _ in range(12)]
            while not counting.begun:
                await asyncio.sleep(0.01)
            for _ in range(2):
                task = (await asyncio.wait_for(ann.get("/api/task"), 10)).json()["task"]
                answer = ann.post("/api/judgements", json=judgement(task), headers=headers)
                assert (await asyncio.wait_for(answer, 10)).status_code == 201
            assert counting.begun == [0]
            counting.may_end.set()
            return [(await one).json() for one in asked]

    # those who asked before it began, and while it was counted, do not have it counted again for each
    assert asyncio.run(ask()) == [{"judgements": 0}] * 12
    assert counting.begun == [0] and counting.most == 1


def test_it_is_counted_again_when_more_was_said(store, counting):
    counting.may_end.set()
    store.add_items(pairs(3))
    app = create_app(store, ACCESS)
    owner, ann = Browser(app, "owner-token"), Browser(app)
    ann.judge(ann.task())
    assert [owner.get("/api/agreement") for _ in range(2)] == [{"judgements": 1}] * 2
    ann.judge(ann.task())
    assert owner.get("/api/agreement") == {"judgements": 2}
    ann.post("/api/undo", {"submission": "undo-the-last"})
    assert owner.get("/api/agreement") == {"judgements": 1}
    assert counting.begun == [1, 2, 1]
    store.add_annotator("judge", "a rule")  # a program's judgements are counted apart
    owner.get("/api/agreement")
    assert len(counting.begun) == 4


def test_numbers_that_are_none_and_texts_that_deceive(store, monkeypatch):
    told = {"value": float("nan"), "low": [float("inf"), 1.5], "label": "a\u202eb"}
    monkeypatch.setattr(agreement, "describe", lambda store: told)
    content = json.loads(asyncio.run(AgreementPage(store).answer()))
    assert content == {"value": None, "low": [None, 1.5], "label": "a\u27e6U+202E\u27e7b"}

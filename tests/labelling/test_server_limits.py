"""What is too much, too deep or no JSON is refused with a sentence, and nothing of it is kept."""

from __future__ import annotations

import asyncio
import json

import pytest
from httpx2 import ASGITransport, AsyncClient
from starlette.applications import Starlette

from lit_rlhf.labelling.server import limits
from lit_rlhf.labelling.server.app import create_app
from lit_rlhf.labelling.server.limits import MOST_KEYS, Buckets
from lit_rlhf.labelling.store import LabelStore
from lit_rlhf.labelling.verdicts import LONGEST_REWRITE
from tests.labelling.browsing import ACCESS, Browser, judgement
from tests.labelling.conftest import pairs


@pytest.fixture
def app(store: LabelStore) -> Starlette:
    store.add_items(pairs(3))
    return create_app(store, ACCESS)


def posted(browser: Browser, content: object) -> object:
    headers = {"X-CSRF": browser.csrf, "Content-Type": "application/json"}
    return browser.http.post("/api/judgements", content=content, headers=headers)


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"nothing", b"[]", b"5", b"null", b'"x"', b"[" * 200_000, b'{"a":' * 100_000, b"\xff\xfe",
     b'{"a": NaN}', b'{"a": Infinity}',
     b'{"a": ' + b"9" * 5000 + b"}", b'{"comment": "\\ud800"}', b'{"comment": "\\uDC00"}'],
)  # fmt: skip
def test_no_json_object(app, store, body):
    answer = posted(Browser(app), body)
    assert answer.status_code == 400 and answer.json()["error"].startswith("expected a JSON object")
    assert store.all_judgements() == []


def test_a_body_too_large_with_and_without_its_length(app):
    ann = Browser(app)
    large = b'{"comment": "' + b"x" * limits.MOST_BYTES + b'"}'
    assert posted(ann, large).status_code == 413
    assert (
        posted(ann, (large[start : start + 65536] for start in range(0, len(large), 65536))).status_code
        == 413
    )


def test_a_body_that_never_ends_is_not_read_to_its_end(app):
    read = 0

    def endless():
        nonlocal read
        while read < 100 * limits.MOST_BYTES:
            read += 1 << 20
            yield b"x" * (1 << 20)

    # the test client reads a generator to its end before it asks, so the server is asked by hand
    async def ask() -> int:
        ann = Browser(app)
        chunks = endless()
        scope = {
            "type": "http", "method": "POST", "path": "/api/undo", "raw_path": b"/api/undo", "query_string": b"",
            "client": ("10.0.0.1", 5), "server": ("127.0.0.1", 80), "scheme": "http", "http_version": "1.1",
            "headers": [(b"host", b"127.0.0.1"), (b"content-type", b"application/json"), (b"x-csrf", ann.csrf.encode()),
                        (b"cookie", ann.http.headers.get("cookie", cookie(ann)).encode())],
        }  # fmt: skip
        statuses = []

        async def receive():
            return {"type": "http.request", "body": next(chunks), "more_body": True}

        async def send(message):
            statuses.append(message.get("status"))

        await app(scope, receive, send)
        return statuses[0]

    assert asyncio.run(ask()) == 413
    assert limits.MOST_BYTES < read < 12 * limits.MOST_BYTES


def cookie(browser: Browser) -> str:
    return "; ".join(f"{name}={value}" for name, value in browser.http.cookies.items())


def test_a_body_that_does_not_arrive(app, monkeypatch):
    monkeypatch.setattr(limits, "READ_SECONDS", 0.05)
    ann = Browser(app)

    async def ask() -> int:
        async def slow():
            yield b"{"
            await asyncio.sleep(30)

        transport = ASGITransport(app)
        async with AsyncClient(transport=transport, base_url="http://127.0.0.1:8765") as client:
            headers = {"X-CSRF": ann.csrf, "Content-Type": "application/json", "Cookie": cookie(ann)}
            return (await client.post("/api/undo", content=slow(), headers=headers)).status_code

    assert asyncio.run(ask()) == 408


def test_the_longest_correction_fits(store):
    from lit_rlhf.labelling.items import Item

    store.add_items([Item("rewrite", "p", ("r",))])
    ann = Browser(create_app(store, ACCESS))
    task = ann.task()
    text = "\U0001f600" * LONGEST_REWRITE
    assert len(json.dumps(text)) < limits.MOST_BYTES
    assert ann.judge(task, {"rewrite": text, "rewrite_of": 0}).status_code == 201
    assert store.judgements()[0].verdict.rewrite == text
    assert (
        ann.judge(ann.get(f"/api/task/{task['number']}")["task"], {"rewrite": text + "x"}).status_code == 400
    )


@pytest.mark.parametrize(
    "fields",
    [
        {"task": 0}, {"task": -1}, {"task": 2**63}, {"task": 10**40}, {"task": True}, {"task": "1"}, {"task": 1.0},
        {"task": None}, {"submission": None}, {"submission": ""}, {"submission": "x" * 65}, {"submission": "a b c d e"},
        {"submission": 12345678}, {"replaces": "1"}, {"replaces": 0}, {"replaces": 2**63}, {"comment": 5},
        {"comment": "x" * 4001}, {"flag": ["x"]}, {"flag": "x" * 4001}, {"seconds": -1}, {"seconds": "5"},
        {"seconds": True}, {"seconds": 1e300}, {"seconds": 10**400}, {"verdict": None}, {"verdict": []},
        {"verdict": {}},
        {"verdict": {"ranking": [[0]]}}, {"verdict": {"ranking": [[0], [2]], "strength": "better"}},
        {"verdict": {"ranking": [[0], [1]]}}, {"verdict": {"ratings": [1, 2]}}, {"verdict": {"skip": ""}},
        {"verdict": {"ranking": [[0], [1]], "strength": "better", "more": 1}}, {"verdict": {"ranking": "01"}},
    ],
)  # fmt: skip
def test_fields_that_are_none(app, store, fields):
    ann = Browser(app)
    body = {**judgement(ann.task()), **fields}
    answer = ann.http.post(
        "/api/judgements",
        content=json.dumps(body),
        headers={"X-CSRF": ann.csrf, "Content-Type": "application/json"},
    )
    said = answer.json()["error"]
    named = ("verdict", "ranking", "ratings", "strength", "skip") if "verdict" in fields else tuple(fields)
    assert answer.status_code == 400 and said.startswith(named), said
    assert store.all_judgements() == []


@pytest.mark.parametrize("name", ["task", "submission", "replaces", "comment", "seconds", "verdict"])
def test_fields_that_are_nested_deep(app, name):
    ann = Browser(app)
    body = json.dumps({**judgement(ann.task()), name: "DEEP"})
    for depth in range(100, 1000, 50):
        answer = posted(ann, body.replace('"DEEP"', "[" * depth + "]" * depth).encode())
        assert answer.status_code == 400, (depth, answer.text)


def test_what_is_not_there(app):
    ann = Browser(app)
    for path in ("/api/task/99", "/api/task/x", "/api/task/-1", f"/api/task/{10**30}", "/api/nothing", "/api/text/1/0",
                 "/nothing", "/static/nothing.js", "/static/../app.py", "/static/%2e%2e/app.py"):  # fmt: skip
        assert ann.http.get(path).status_code == 404, path
    assert ann.judge({"number": 99, "judgement": None}).status_code == 404
    assert ann.send("/api/live", {"prompt": "p"}).status_code == 404
    assert ann.http.get("/live").status_code == 404
    assert ann.http.get("/api/judgements").status_code == 405


def test_a_bucket_fills_with_time_and_forgets_the_oldest():
    now = [0.0]
    bucket = Buckets(2, 0.5, lambda: now[0])
    assert [bucket.take("a") for _ in range(4)] == [0, 0, 2, 2]
    now[0] = 2.0
    assert [bucket.take("a") for _ in range(2)] == [0, 2]
    now[0] = 1000.0
    assert [bucket.take("a") for _ in range(3)] == [0, 0, 2]
    for number in range(MOST_KEYS):
        bucket.take(str(number))
    assert len(bucket._levels) == MOST_KEYS and bucket.take("a") == 0

"""Nobody is let in without a token, and nobody can pretend to be somebody else."""

from __future__ import annotations

import json
import stat
import time
from pathlib import Path

import pytest
from starlette.applications import Starlette

from lit_rlhf.labelling.server.access import LIFE_SECONDS, Access, Session
from lit_rlhf.labelling.server.access_file import AccessFileError, access_path, open_access
from lit_rlhf.labelling.server.app import create_app
from lit_rlhf.labelling.server.gate import Hosts
from lit_rlhf.labelling.server.limits import Buckets
from lit_rlhf.labelling.server.live import LiveModel
from lit_rlhf.labelling.store import LabelStore
from tests.labelling.browsing import ACCESS, Browser, judgement
from tests.labelling.conftest import pairs

GETS = ["/", "/?token=", "/?token=wrong", "/agreement", "/live", "/static/main.js", "/static/vendor/Sortable.min.js",
        "/api/session", "/api/task", "/api/task/1", "/api/text/1/0", "/api/text/1/prompt/0", "/api/history",
        "/api/agreement", "/nothing", "/api/nothing", "/static/../app.py", "//", "/favicon.ico",
        "/api/task?token=owner-token", "/static/main.js?token=owner-token"]  # fmt: skip
POSTS = ["/", "/api/session", "/api/judgements", "/api/undo", "/api/live", "/nothing"]


@pytest.fixture
def app(store: LabelStore) -> Starlette:
    store.add_items(pairs(4))
    return create_app(store, ACCESS, live=LiveModel(lambda prompt, k: ["a", "b"]))


def test_every_address_is_shut_without_a_token(app):
    client = Browser(app, None).http
    for path in GETS:
        for method in ("GET", "HEAD", "OPTIONS"):
            assert client.request(method, path).status_code == 401, (method, path)
    for path in POSTS:
        for method in ("POST", "PUT", "PATCH", "DELETE", "TRACE", "ANYTHING"):
            assert client.request(method, path, json={}).status_code == 401, (method, path)
    assert not client.cookies


def test_a_forged_cookie_is_none(app):
    other = Access(b"o" * 32, "owner-token")
    session = other.admit("owner-token")
    good = ACCESS.cookie(ACCESS.admit("owner-token"))
    body, _, signature = good.partition(".")
    for value in (
        other.cookie(session),
        body,
        f"{body}.",
        f"{body[:-2]}AA.{signature}",
        "é.é",
        ".",
        "a.b.c",
        "x" * 4000,
    ):
        client = Browser(app, None).http
        answer = client.get("/", headers={"Cookie": f"{ACCESS.cookie_name}={value}".encode()})
        assert answer.status_code == 401, value
    assert (
        Browser(app, None).http.get("/", headers={"Cookie": f"{ACCESS.cookie_name}={good}"}).status_code
        == 200
    )


def test_the_token_answers_with_the_page_and_its_cookie(app):
    opened = Browser(app, "owner-token").opened
    assert opened.status_code == 200 and opened.headers["content-type"].startswith("text/html")
    cookie = opened.headers["set-cookie"]
    assert cookie.startswith(ACCESS.cookie_name + "=") and "owner-token" not in cookie
    attributes = {part.strip() for part in cookie.split(";")[1:]}
    assert attributes == {"HttpOnly", "SameSite=Strict", "Path=/", f"Max-Age={LIFE_SECONDS}"}


def test_a_cookie_ends_with_its_life_and_with_its_token(monkeypatch):
    cookie = ACCESS.cookie(ACCESS.admit("token-of-ann"))
    assert ACCESS.session(cookie).annotator == "ann"
    assert Access(b"s" * 32, "owner-token", {"bob": "token-of-bob"}).session(cookie) is None
    assert Access(b"s" * 32, "owner-token", {"ann": "a new token"}).session(cookie) is None
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + LIFE_SECONDS + 1)
    assert ACCESS.session(cookie) is None


def test_opening_the_page_again_keeps_the_session_and_its_open_pages(app):
    browser = Browser(app, "owner-token", "cara")
    again = browser.http.get("/?token=owner-token")
    assert "set-cookie" in again.headers
    session = browser.get("/api/session")
    assert (session["csrf"], session["annotator"]) == (browser.csrf, "cara")
    other = browser.http.get("/?token=token-of-ann")
    assert other.status_code == 200
    session = browser.get("/api/session")
    assert session["annotator"] == "ann" and session["csrf"] != browser.csrf


def test_a_wrong_token_is_refused_although_the_cookie_is_right(app):
    browser = Browser(app, "owner-token")
    assert browser.http.get("/?token=wrong").status_code == 401


def test_the_name_of_a_token_is_fixed(app):
    ann, owner = Browser(app, "token-of-ann"), Browser(app, "owner-token")
    assert ann.get("/api/session") | {"csrf": ""} == {
        "csrf": "", "annotator": "ann", "named": True, "guidelines": "", "live": 4, "agreement": False,
        "highest_rating": 5, "store": "labels.db",
    }  # fmt: skip
    assert ann.send("/api/session", {"annotator": "bob"}).status_code == 403
    assert ann.post("/api/session", {"annotator": "ann"})["annotator"] == "ann"
    assert owner.get("/api/session")["annotator"] is None and owner.get("/api/session")["agreement"] is True
    assert owner.send("/api/session", {"annotator": "ann"}).status_code == 403
    assert owner.post("/api/session", {"annotator": "  Zoë "})["annotator"] == "Zoë"
    assert owner.get("/api/session")["annotator"] == "Zoë"


def test_a_name_that_has_an_address_of_its_own_by_now_is_let_go():
    before = Access(b"s" * 32, "owner-token")
    cookie = before.cookie(before.renamed(before.admit("owner-token"), "ann"))
    assert before.session(cookie).annotator == "ann"
    assert ACCESS.session(cookie).annotator is None


@pytest.mark.parametrize(
    "name",
    [
        "",
        "   ",
        "x" * 41,
        "a\u202eb",
        "a\nb",
        "a\u200bb",
        "\u3164",
        "a\u1160",
        "\u2800",
        "\ufe0f",
        None,
        5,
        ["a"],
    ],
)
def test_names_that_nobody_could_read(app, name):
    assert Browser(app, "owner-token").send("/api/session", {"annotator": name}).status_code == 400


@pytest.mark.parametrize("name", ["Ann", "\uff41nn", "ANN", "ann\ufe0f"])
def test_a_name_that_looks_like_a_reserved_one(app, name):
    answer = Browser(app, "owner-token").send("/api/session", {"annotator": name})
    assert answer.status_code == 403 and "ann has an address" in answer.json()["error"]


def test_one_annotator_does_not_become_two_by_a_capital(app, store):
    zoe = Browser(app, "owner-token", "Zo\u00eb  Miller")
    zoe.judge(zoe.task())
    answer = Browser(app, "owner-token").send("/api/session", {"annotator": "zo\u00eb miller"})
    assert answer.status_code == 400 and "Zo\u00eb  Miller is there already" in answer.json()["error"]
    assert (
        Browser(app, "owner-token", "Zo\u00eb  Miller").get("/api/session")["annotator"] == "Zo\u00eb  Miller"
    )


def test_a_tab_of_somebody_else_does_nothing_in_her_name(app, store):
    owner = Browser(app, "owner-token", "cara")
    owner.judge(owner.task())
    store.live_task(pairs(1, start=9)[0], "Zo\u00eb")
    stale = {"X-Annotator": "Zo%C3%AB"}
    gets = ("/api/task", "/api/history", "/api/task/1", "/api/text/1/0")
    said = [owner.http.get(path, headers=stale) for path in gets]
    said += [
        owner.send(path, {"submission": "12345678", "prompt": "p"}, **stale)
        for path in ("/api/undo", "/api/live")
    ]
    said.append(owner.send("/api/judgements", judgement(owner.task()), **stale))
    for answer in said:
        assert answer.status_code == 412
        assert (
            answer.json()["error"]
            == "This browser is signed in as cara now, and this tab was opened by Zo\u00eb."
        )
    assert len(store.all_judgements()) == 1
    assert owner.http.get("/api/task", headers={"X-Annotator": "cara"}).status_code == 200
    nobody = Browser(app, "owner-token").http.get("/api/task", headers=stale)
    assert nobody.status_code == 412 and "Nobody is signed in" in nobody.json()["error"]


def test_a_program_keeps_its_name(app, store):
    store.add_annotator("judge-7b", "a reward model")
    answer = Browser(app, "owner-token").send("/api/session", {"annotator": "judge-7b"})
    assert answer.status_code == 400 and "judge-7b" in answer.json()["error"]


def test_how_annotators_agree_is_not_shown_to_one_of_them(app):
    ann, owner = Browser(app, "token-of-ann"), Browser(app, "owner-token")
    for path in ("/agreement", "/api/agreement"):
        assert ann.http.get(path).status_code == 403
        assert owner.http.get(path).status_code == 200


def test_without_a_name_nothing_is_asked(app):
    owner = Browser(app, "owner-token")
    for path in ("/api/task", "/api/history", "/api/task/1", "/api/text/1/0"):
        assert owner.http.get(path).status_code == 403
    assert owner.send("/api/undo", {"submission": "12345678"}).status_code == 403


def test_somebody_elses_task_is_not_there(app, store):
    ann, bob = Browser(app, "token-of-ann"), Browser(app, "token-of-bob")
    task = ann.task()
    for path in (
        f"/api/task/{task['number']}",
        f"/api/text/{task['number']}/0",
        f"/api/text/{task['number']}/prompt/0",
    ):
        assert ann.http.get(path).status_code == 200
        assert bob.http.get(path).status_code == 404
    assert bob.judge(task).status_code == 404
    assert store.all_judgements() == []


def test_a_post_needs_the_sessions_own_mark(app):
    ann, bob = Browser(app, "token-of-ann"), Browser(app, "token-of-bob")
    task = ann.task()
    for csrf in ("", "wrong", bob.csrf):
        assert ann.send("/api/judgements", judgement(task), **{"X-CSRF": csrf}).status_code == 403
    assert ann.http.post("/api/judgements", json=judgement(task)).status_code == 403
    assert ann.judge(task).status_code == 201


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:9999"},
        {"Origin": "http://127.0.0.1:8765.evil.example"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_a_post_from_another_site_is_refused(app, headers):
    ann = Browser(app)
    assert ann.send("/api/judgements", judgement(ann.task()), **headers).status_code == 403


def test_a_post_of_our_own_page_is_taken(app):
    ann = Browser(app)
    own = {"Origin": "http://127.0.0.1:8765", "Sec-Fetch-Site": "same-origin"}
    assert ann.send("/api/judgements", judgement(ann.task()), **own).status_code == 201


def test_a_post_that_a_form_could_send_is_refused(app):
    ann = Browser(app)
    body = json.dumps(judgement(ann.task()))
    headers = {"X-CSRF": ann.csrf, "Content-Type": "text/plain"}
    assert ann.http.post("/api/judgements", content=body, headers=headers).status_code == 400


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "", "127.0.0.1@evil", "x:1:2", "10.0.0.9"]
)
def test_a_strange_name_is_refused_before_anything(app, host):
    browser = Browser(app)
    for path in ("/", "/?token=owner-token", "/api/task"):
        answer = browser.http.get(path, headers={"Host": host})
        assert answer.status_code == 403 and "set-cookie" not in answer.headers


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:1", "localhost:8765", "LOCALHOST", "[::1]:8765"])
def test_this_machine_is_called_so_on_any_port(app, host):
    assert Browser(app, None).http.get("/?token=owner-token", headers={"Host": host}).status_code == 200


def test_names_of_a_server_on_other_networks():
    one, all_of_them = Hosts("192.168.1.5"), Hosts("0.0.0.0", ["box", "box.local"])
    assert one.knows("192.168.1.5:80") and not one.knows("192.168.1.6")
    assert (
        all_of_them.knows("192.168.1.6:8765")
        and all_of_them.knows("[fe80::1]:8765")
        and all_of_them.knows("Box:1")
    )
    assert not all_of_them.knows("evil.example") and not all_of_them.knows("192.168.1.6.evil.example")


def test_what_every_answer_carries(app):
    ann, nobody = Browser(app), Browser(app, None)
    answers = [
        ann.http.get(path) for path in ("/", "/api/task", "/nothing", "/static/main.js", "/api/agreement")
    ]
    answers += [nobody.http.get("/"), ann.http.get("/", headers={"Host": "evil"}), ann.send("/api/undo", {})]
    policy = (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "form-action 'none'; frame-ancestors 'none'; base-uri 'none'"
    )
    for answer in answers:
        headers = answer.headers
        assert headers["content-security-policy"] == policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cache-control"] == "no-store"
        assert (
            headers["cross-origin-opener-policy"] == headers["cross-origin-resource-policy"] == "same-origin"
        )
        assert "camera=()" in headers["permissions-policy"]
        assert not any(name.startswith("access-control") for name in headers)


def test_an_error_of_ours_says_nothing_of_the_inside(store, monkeypatch, caplog):
    app = create_app(store, ACCESS)
    browser = Browser(app)
    monkeypatch.setattr(store, "history", lambda name: 1 / 0)
    answer = browser.http.get("/api/history")
    assert answer.status_code == 500 and "division" not in answer.text and "error" in answer.json()
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_wrong_tokens_are_counted_by_address(store):
    now = [0.0]
    app = create_app(store, ACCESS, guesses=Buckets(3, 0.1, lambda: now[0]))
    inside = Browser(app, "token-of-ann", client="10.0.0.1")
    guess = Browser(app, None, client="10.0.0.1").http
    assert [guess.get("/?token=no").status_code for _ in range(5)] == [401, 401, 401, 429, 429]
    assert guess.get("/?token=no").headers["retry-after"] == "10"
    assert inside.http.get("/api/task").status_code == 200
    assert Browser(app, None, client="10.0.0.2").http.get("/?token=no").status_code == 401
    # who has the token is let in beside the one who guesses, perhaps through the same tunnel
    assert guess.get("/?token=owner-token").status_code == 200
    assert Browser(app, None, client="10.0.0.1").http.get("/?token=no").status_code == 429
    now[0] = 10.0
    assert Browser(app, None, client="10.0.0.1").http.get("/?token=no").status_code == 401


def test_requests_are_counted_by_session(store):
    now = [0.0]
    app = create_app(store, ACCESS, requests=Buckets(6, 2.0, lambda: now[0]))
    ann, bob = Browser(app, "token-of-ann"), Browser(app, "token-of-bob")
    assert [ann.http.get("/api/history").status_code for _ in range(5)] == [200] * 4 + [429]
    refused = ann.http.get("/api/history")
    assert refused.headers["retry-after"] == "1" and "error" in refused.json()
    assert bob.http.get("/api/history").status_code == 200
    now[0] = 0.5
    assert [ann.http.get("/api/history").status_code for _ in range(2)] == [200, 429]


def test_tokens_and_secret_outlive_the_server(tmp_path: Path):
    store = tmp_path / "labels.db"
    first = open_access(store, ["ann"])
    path = access_path(store)
    assert path.name == "labels.db.access.json" and stat.S_IMODE(path.stat().st_mode) == 0o600
    session = first.admit(first.annotators["ann"])
    path.chmod(0o644)
    second = open_access(store, ["bob", "ann"])
    assert (second.owner, second.annotators["ann"]) == (first.owner, first.annotators["ann"])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert second.session(first.cookie(session)) == session and second.may_post(session, first.csrf(session))
    third = open_access(store)
    assert set(third.annotators) == {"ann", "bob"} and third.annotators == second.annotators
    tokens = {first.owner, *third.annotators.values()}
    assert len(tokens) == 3 and all(len(token) >= 40 for token in tokens)
    path.chmod(0o644)
    open_access(store)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_two_stores_have_two_cookies(tmp_path: Path):
    one, other = (open_access(tmp_path / name) for name in ("a.db", "b.db"))
    assert one.cookie_name != other.cookie_name
    assert other.admit(one.owner) is None


@pytest.mark.parametrize(
    "content",
    ["", "{}", "[]", '{"secret": "00", "owner": "x", "annotators": {}}', '{"secret": "' + "00" * 32 + '", "owner": ""}',
     '{"secret": "' + "00" * 32 + '", "owner": "x", "annotators": {"ann": ""}}', "\x00"],
)  # fmt: skip
def test_a_file_of_tokens_that_is_none(tmp_path: Path, content):
    path = access_path(tmp_path / "labels.db")
    path.write_text(content)
    with pytest.raises(AccessFileError, match=r"labels\.db\.access\.json.*Remove it"):
        open_access(tmp_path / "labels.db")
    assert path.read_text() == content


def test_a_session_says_who_may_see_the_agreement():
    assert Session("i", "f", None, False, 0).may_see_agreement
    assert not Session("i", "f", "ann", True, 0).may_see_agreement


def test_weak_secrets_are_refused():
    for secret, owner, names in ((b"short", "x", {}), (b"s" * 32, "", {}), (b"s" * 32, "x", {"ann": ""})):
        with pytest.raises(ValueError, match="expected a secret"):
            Access(secret, owner, names)

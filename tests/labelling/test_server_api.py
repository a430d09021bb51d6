"""What a browser is told and what it may say: blind, once, in order, and by somebody."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest
from httpx2 import ASGITransport, AsyncClient

from lit_rlhf.labelling.items import Item, Progress, Settings
from lit_rlhf.labelling.server.answers import progress_answer
from lit_rlhf.labelling.server.app import create_app
from lit_rlhf.labelling.server.live import LiveModel
from lit_rlhf.labelling.store import LabelStore
from lit_rlhf.labelling.verdicts import Verdict
from tests.labelling.browsing import ACCESS, Browser, judgement
from tests.labelling.conftest import pairs

GOLD = Verdict(ranking=((0,), (1,)), strength="better")


def secret_items() -> list[Item]:
    """Items whose every hidden field has a word that can be searched for."""
    hidden = {"row_id": "hidden-id", "domain": "hidden-domain", "columns": {"hidden-column": "hidden-value"},
              "models": ("hidden-model-a", "hidden-model-b")}  # fmt: skip
    known = Item(
        "pairwise", "test prompt", ("right", "wrong"), gold=GOLD, explanation="hidden-explanation", **hidden
    )
    asked = [
        Item("pairwise", f"prompt {n}", (f"one {n}", f"two {n}"), priority=0.123456, **hidden)
        for n in range(12)
    ]
    return [*asked, known]


def test_no_answer_says_who_wrote_a_response_or_why_it_is_asked(store):
    store.configure(Settings(seed=1, gold_share=0.2, repeats=0.6, quota=40))
    store.add_items(secret_items())
    ann = Browser(
        create_app(store, ACCESS, live=LiveModel(lambda prompt, k: ["a", "b", "a"], "hidden-model-live"))
    )
    seen = [ann.http.get("/api/session").text]
    while (task := ann.task()) is not None:
        seen += [ann.http.get("/api/task").text, ann.http.get(f"/api/task/{task['number']}").text]
        seen += [ann.http.get(f"/api/text/{task['number']}/0").text, ann.judge(task).text]
    seen += [
        ann.send("/api/live", {"prompt": "p", "k": 3}).text,
        ann.send("/api/undo", {"submission": "12345678"}).text,
    ]
    seen += [
        ann.http.get("/api/history").text,
        Browser(create_app(store, ACCESS), "owner-token").http.get("/api/agreement").text,
    ]
    assert {"gold", "repeat", "swap", "label"} <= {said.task.kind for said in store.judgements()}
    for text in seen:
        for word in ("hidden", "0.123456"):
            assert word not in text
    keys: set[str] = set()
    for text in seen[:-1]:  # the agreement is the owner's
        keys |= names_in(json.loads(text))
    assert not keys & {"kind", "gold", "models", "model", "row_id", "id", "columns", "priority", "domain", "key",
                       "item", "shown", "source", "explanation"}  # fmt: skip


def names_in(content: object) -> set[str]:
    if isinstance(content, dict):
        return set(content) | {name for value in content.values() for name in names_in(value)}
    return {name for value in content for name in names_in(value)} if isinstance(content, list) else set()


def test_a_task_has_what_the_page_shows_and_no_more(store):
    store.add_items([Item("pairwise", "p", ("a", "b"), models=("m", "n"))])
    answer = Browser(create_app(store, ACCESS)).get("/api/task")
    text = {"html": "<p>{}</p>\n", "length": 1, "cut": False}
    task = answer["task"]
    shown = [response["text"] for response in task["responses"]]
    assert sorted(shown) == ["a", "b"]
    assert task == {
        "number": 1, "mode": "pairwise", "practice": False, "verdict": None, "judgement": None,
        "comment": "", "flag": "",
        "prompt": [{"role": None, "text": "p", **text, "html": "<p>p</p>\n"}],
        "responses": [{"text": one, **text, "html": f"<p>{one}</p>\n"} for one in shown],
    }  # fmt: skip
    assert answer["why"] is None
    assert answer["progress"] == {"mine": 0, "quota": None, "left": 1, "seconds_left": None, "percent": None}


def test_what_is_said_of_a_position_is_kept_by_response(store):
    store.add_items([Item("ranking", f"p{n}", ("a", "b", "c", "b")) for n in range(6)])
    ann, orders = Browser(create_app(store, ACCESS)), set()
    for _ in range(6):
        task = ann.task()
        shown = [response["text"] for response in task["responses"]]
        orders.add(tuple(shown))
        assert sorted(shown) == ["a", "b", "c"]
        place = {text: position for position, text in enumerate(shown)}
        assert (
            ann.judge(task, {"ranking": [[place["c"]], sorted([place["a"], place["b"]])]}).status_code == 201
        )
    assert len(orders) > 1
    assert {said.verdict.ranking for said in store.judgements()} == {((2,), (0, 1, 3))}
    again = ann.get(f"/api/task/{task['number']}")["task"]
    assert again["verdict"] == {"ranking": [[place["c"]], sorted([place["a"], place["b"]])]}


def test_the_same_submission_is_one_judgement(store):
    store.add_items(pairs(3))
    ann = Browser(create_app(store, ACCESS))
    body = judgement(ann.task(), comment=" why ", flag="odd", seconds=2.5)
    first, again = ann.send("/api/judgements", body), ann.send("/api/judgements", body)
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json() == again.json() == {
        "judgement": 1, "feedback": None,
        "progress": {"mine": 1, "quota": None, "left": 2, "seconds_left": 5, "percent": None},
    }  # fmt: skip
    (said,) = store.all_judgements()
    assert (said.annotator, said.comment, said.flag, said.seconds) == ("ann", "why", "odd", 2.5)


def test_a_revision_says_what_it_replaces(store):
    store.add_items(pairs(1))
    ann = Browser(create_app(store, ACCESS))
    task = ann.task()
    assert ann.judge(task).json()["judgement"] == 1
    stale = ann.judge(task, {"skip": "late"})
    assert stale.status_code == 409 and "error" in stale.json()
    current = ann.get(f"/api/task/{task['number']}")["task"]
    assert (current["judgement"], current["verdict"]) == (1, {"ranking": [[0], [1]], "strength": "better"})
    assert ann.judge(current, {"skip": "both are empty"}).json()["judgement"] == 2
    assert ann.judge(current).status_code == 409
    assert [said.number for said in store.all_judgements()] == [1, 2]
    (line,) = ann.get("/api/history")["judgements"]
    assert (line["task"], line["judgement"], line["verdict"]) == (1, 2, {"skip": "both are empty"})


def test_an_undo_gives_the_task_back_as_it_was(store):
    store.add_items(pairs(3))
    ann = Browser(create_app(store, ACCESS))
    first, second = ann.task(), None
    ann.judge(first)
    second = ann.task()
    ann.judge(second, {"ranking": [[1], [0]], "strength": "slightly"}, comment="hm")
    undo = {"submission": str(uuid.uuid4())}
    answer = ann.post("/api/undo", undo)
    back = answer["task"]
    assert (back["number"], back["judgement"], back["comment"]) == (second["number"], None, "hm")
    assert back["verdict"] == {"ranking": [[1], [0]], "strength": "slightly"}
    assert answer["progress"]["mine"] == 1
    assert ann.post("/api/undo", undo) == answer  # sent again, it takes back no other
    assert ann.task()["number"] == second["number"]
    assert ann.judge(back).status_code == 201
    assert ann.post("/api/undo", {"submission": str(uuid.uuid4())})["task"]["number"] == second["number"]
    assert ann.post("/api/undo", {"submission": str(uuid.uuid4())})["task"]["number"] == first["number"]
    nothing = ann.send("/api/undo", {"submission": str(uuid.uuid4())})
    assert nothing.status_code == 404
    assert len(store.all_judgements()) == 6 and store.judgements() == []


def test_an_undo_sent_again_to_a_server_that_was_started_again(store):
    store.add_items(pairs(3))
    ann = Browser(create_app(store, ACCESS))
    for _ in range(2):
        ann.judge(ann.task())
    undo = {"submission": str(uuid.uuid4())}
    back = ann.post("/api/undo", undo)["task"]
    again = Browser(create_app(store, ACCESS)).post("/api/undo", undo)["task"]
    assert again["number"] == back["number"] and again["verdict"] == back["verdict"]
    assert len(store.judgements()) == 1


def test_an_undo_with_the_id_of_a_judgement_is_refused(store):
    store.add_items(pairs(1))
    ann = Browser(create_app(store, ACCESS))
    body = judgement(ann.task())
    ann.send("/api/judgements", body)
    answer = ann.send("/api/undo", {"submission": body["submission"]})
    assert answer.status_code == 400 and "found a judgement's" in answer.json()["error"]
    assert len(store.judgements()) == 1


def test_what_was_taken_back_is_what_the_undo_met(store):
    store.add_items(pairs(1))
    ann = Browser(create_app(store, ACCESS))
    ann.judge(ann.task(), {"skip": "first"})
    undo = {"submission": str(uuid.uuid4())}
    back = ann.post("/api/undo", undo)["task"]
    ann.judge(back, {"skip": "second"})
    ann.post("/api/undo", {"submission": str(uuid.uuid4())})
    assert ann.post("/api/undo", undo)["task"]["verdict"] == {"skip": "first"}


def test_history_is_hers_latest_first(store):
    store.add_items(
        [Item("pairwise", [{"role": "user", "content": "u" * 300 + "\u202e"}], ("a", "b")), *pairs(2)]
    )
    app = create_app(store, ACCESS)
    ann, bob = Browser(app), Browser(app, "token-of-bob")
    for _ in range(3):
        ann.judge(ann.task(), {"ranking": [[1], [0]], "strength": "slightly"}, comment="c", flag="f")
    lines = ann.get("/api/history")["judgements"]
    assert [line["judgement"] for line in lines] == [3, 2, 1]
    assert {tuple(line) for line in lines} == {
        ("task", "judgement", "at", "mode", "prompt", "verdict", "comment", "flag")
    }
    assert {line["prompt"] for line in lines} == {"u" * 120, "prompt 0", "prompt 1"}
    assert all(line["verdict"] == {"ranking": [[1], [0]], "strength": "slightly"} for line in lines)
    assert bob.get("/api/history") == {"judgements": []}


def test_remarks_of_others_are_shown_with_their_marks(store):
    store.add_items(pairs(3))
    app = create_app(store, ACCESS)
    ann = Browser(app)
    ann.judge(ann.task(), {"skip": "\u202elive"}, comment="\u202ec", flag="\u202ef")
    (line,) = ann.get("/api/history")["judgements"]
    mark = "\u27e6U+202E\u27e7"
    assert (line["verdict"], line["comment"], line["flag"]) == (
        {"skip": f"{mark}live"},
        f"{mark}c",
        f"{mark}f",
    )
    told = Browser(app, "owner-token").get("/api/agreement")
    assert told["skips"] == [{"reason": f"{mark}live", "count": 1}]
    assert [flag["text"] for flag in told["flags"]] == [f"{mark}f"]
    again = ann.get(f"/api/task/{line['task']}")["task"]
    assert again["comment"] == "\u202ec"  # hers, to be written on


def test_practice_tells_what_was_right_and_tests_do_not(store):
    store.configure(Settings(practice=1, gold_share=1.0))
    store.add_items([*secret_items()[-1:], Item("pairwise", "second", ("r", "w"), gold=GOLD), *pairs(2)])
    ann = Browser(create_app(store, ACCESS))
    task = ann.task()
    assert task["practice"] is True
    right = next(n for n, response in enumerate(task["responses"]) if response["text"] in ("right", "r"))
    answer = ann.judge(task, {"ranking": [[1 - right], [right]], "strength": "slightly"}).json()["feedback"]
    assert answer["right"] is False
    assert answer["expected"] == {"ranking": [[right], [1 - right]], "strength": "better"}
    assert answer["explanation"] in ("hidden-explanation", "")
    corrected = ann.judge(ann.get(f"/api/task/{task['number']}")["task"], {"ranking": [[right], [1 - right]],
                                                                          "strength": "slightly"})  # fmt: skip
    assert corrected.json()["feedback"]["right"] is True
    test = ann.task()
    assert test["practice"] is False and test["prompt"][0]["text"] in ("test prompt", "second")
    assert ann.judge(test).json()["feedback"] is None


def test_why_there_is_nothing(store):
    store.add_items(pairs(2))
    app = create_app(store, ACCESS)
    ann, bob = Browser(app), Browser(app, "token-of-bob")
    ann.judge(ann.task())
    held = ann.task()
    assert bob.get("/api/task")["why"] == "waiting" and bob.task() is None
    ann.judge(held)
    assert ann.get("/api/task")["why"] == "done"
    store.add_items(pairs(2, start=2))
    store.configure(Settings(quota=2))
    answer = ann.get("/api/task")
    assert (answer["task"], answer["why"], answer["progress"]["quota"]) == (None, "quota", 2)


def test_who_has_nothing_left_is_not_told_of_what_others_have(store):
    store.configure(Settings(overlap=2))
    store.add_items(pairs(1))
    ann = Browser(create_app(store, ACCESS))
    ann.judge(ann.task(), seconds=5)
    told = ann.get("/api/task")
    assert (told["why"], told["progress"]["left"], told["progress"]["seconds_left"]) == ("done", 0, None)


def test_what_is_left_for_her():
    progress = Progress(100, 200, 49, {"ann": 30, "bob": 24, "judge": 9, "cara": 0}, ["judge"], 8.0)
    settings = Settings(repeats=0.05, gold_share=0.15)

    def told(
        mine: int, sees_all: bool = False, progress: Progress = progress, **changes: int
    ) -> dict[str, object]:
        return progress_answer(progress, replace(settings, **changes), "ann", mine, sees_all)

    # 160 of 200 are left as far as is told, for two people, 8 s each; of her 120 she has 30
    assert told(30) == {"mine": 30, "quota": None, "left": 80, "seconds_left": 640, "percent": None}
    assert told(30, sees_all=True)["percent"] == 20
    assert told(50)["left"] == 70 and told(200)["left"] == 1
    assert told(30, quota=40)["left"] == 10 and told(45, quota=40)["left"] == 0
    assert progress_answer(progress, settings, "dora", 0, False)["left"] == 54  # by three
    done = told(99, sees_all=True, progress=replace(progress, given=200))
    assert (done["left"], done["percent"], done["seconds_left"]) == (0, 100, 0)
    nothing = told(0, sees_all=True, progress=Progress(0, 0, 0, {}, [], None))
    assert (nothing["left"], nothing["percent"], nothing["seconds_left"]) == (0, None, None)


@pytest.mark.parametrize("wanted", [30, 200, 1000])
@pytest.mark.parametrize("sees_all", [False, True])
def test_progress_does_not_tell_a_test_from_an_item(wanted, sees_all):
    # a judgement of an item that counts towards the whole, and one of a test or a repetition, which does not
    told = [
        progress_answer(Progress(wanted, wanted, given, {"ann": 7}, [], 5.0), Settings(), "ann", 7, sees_all)
        for given in range(wanted)
    ]
    differ = [given for given in range(1, wanted) if told[given] != told[given - 1]]
    assert differ and all(later - earlier >= 10 for earlier, later in pairwise(differ))


@pytest.mark.parametrize(
    ("token", "name", "percent"), [("token-of-ann", None, None), ("owner-token", "cara", 33)]
)
def test_annotators_with_an_address_of_their_own_see_their_own_numbers(store, token, name, percent):
    store.configure(Settings(gold_share=0, repeats=0))
    store.add_items(pairs(30))
    her = Browser(create_app(store, ACCESS), token, name)
    for _ in range(12):
        told = her.judge(her.task(), seconds=4.0).json()["progress"]
    assert told == {"mine": 12, "quota": None, "left": 18, "seconds_left": 72, "percent": percent}


@pytest.mark.parametrize("servers", [1, 2])
def test_two_annotators_never_get_the_same_free_slot(store, servers):
    store.configure(Settings(repeats=0, gold_share=0))
    store.add_items(pairs(40))
    names = [f"annotator {number}" for number in range(8)]
    stores = [store, *(LabelStore(store.path) for _ in range(servers - 1))]
    apps = [create_app(one, ACCESS) for one in stores]

    async def work(number: int) -> list[str]:
        seen = []
        client = AsyncClient(
            transport=ASGITransport(apps[number % servers]), base_url="http://127.0.0.1:8765"
        )
        async with client:
            await client.get("/?token=owner-token")
            csrf = (await client.get("/api/session")).json()["csrf"]
            headers = {"X-CSRF": csrf}
            await client.post("/api/session", json={"annotator": names[number]}, headers=headers)
            while (task := (await client.get("/api/task")).json()["task"]) is not None:
                seen.append(task["prompt"][0]["text"])
                answer = await client.post("/api/judgements", json=judgement(task), headers=headers)
                assert answer.status_code == 201
        return seen

    async def everybody() -> list[list[str]]:
        return await asyncio.gather(*(work(number) for number in range(8)))

    try:
        seen = asyncio.run(everybody())
    finally:
        for other in stores[1:]:
            other.close()
    assert Counter(prompt for one in seen for prompt in one) == {f"prompt {n}": 1 for n in range(40)}
    assert len(store.judgements()) == 40


def test_a_page_that_was_open_goes_on_after_a_restart(store):
    store.add_items(pairs(3))
    ann = Browser(create_app(store, ACCESS))
    task = ann.task()
    ann.http.app = ann.http._transport.app = create_app(LabelStore(store.path), ACCESS)
    assert ann.task() == task
    assert ann.judge(task).status_code == 201
    assert len(store.judgements()) == 1


def test_a_file_that_is_busy_is_said_and_nothing_is_acknowledged(store, monkeypatch):
    store.add_items(pairs(1))
    ann = Browser(create_app(store, ACCESS))
    body, submit = judgement(ann.task()), store.submit

    def busy(*_: object, **__: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(store, "submit", busy)
    answer = ann.send("/api/judgements", body)
    assert (
        answer.status_code == 503
        and "disk is full" in answer.json()["error"]
        and answer.headers["retry-after"]
    )
    monkeypatch.setattr(store, "submit", submit)
    assert ann.send("/api/judgements", body).status_code == 201


def live_browser(store: LabelStore, draw: Callable[[str, int], list[str]], **how: object) -> Browser:
    return Browser(create_app(store, ACCESS, live=LiveModel(draw, "policy-7", **how)))


def test_a_prompt_typed_in_becomes_a_task(store):
    asked = []

    def draw(prompt: str, k: int) -> list[str]:
        asked.append((prompt, k))
        return [f"response {n}" for n in range(k)] + ["response 0"]

    ann = live_browser(store, draw, k=3, is_chat=True)
    task = ann.post("/api/live", {"prompt": "Why?"})["task"]
    assert task["mode"] == "ranking" and len(task["responses"]) == 3
    assert [(part["role"], part["text"]) for part in task["prompt"]] == [("user", "Why?")]
    assert ann.judge(task, {"ranking": [[0], [1, 2]]}).status_code == 201
    assert ann.post("/api/live", {"prompt": "Two", "k": 2})["task"]["mode"] == "pairwise"
    assert asked == [("Why?", 3), ("Two", 2)]
    (said,) = store.judgements()
    assert said.task.kind == "live" and said.task.item.models == ("policy-7",) * 3
    assert said.task.item.prompt == [{"role": "user", "content": "Why?"}]


@pytest.mark.parametrize(
    "body", [{}, {"prompt": ""}, {"prompt": " "}, {"prompt": 5}, {"prompt": "x" * 20_001}, {"prompt": "p", "k": 1},
             {"prompt": "p", "k": 10}, {"prompt": "p", "k": "2"}],
)  # fmt: skip
def test_a_prompt_that_is_none(store, body):
    ann = live_browser(store, lambda prompt, k: pytest.fail("was asked"))
    assert ann.send("/api/live", body).status_code == 400


def test_a_model_that_cannot_answer_says_why(store):
    def too_long(prompt: str, k: int) -> list[str]:
        raise ValueError("prompt: expected 1 to 64 tokens, found 80")

    answer = live_browser(store, too_long).send("/api/live", {"prompt": "p"})
    assert answer.status_code == 400 and answer.json()["error"] == "prompt: expected 1 to 64 tokens, found 80"
    same = live_browser(store, lambda prompt, k: ["a"] * k).send("/api/live", {"prompt": "p"})
    assert same.status_code == 400 and "same every time" in same.json()["error"]
    assert store.items() == []


def test_prompts_wait_for_one_another_and_nobody_else_waits(store, monkeypatch):
    import threading

    from lit_rlhf.labelling.server import live

    monkeypatch.setattr(live, "MOST_WAITING", 2)
    release, inside, most = threading.Event(), [], []

    def draw(prompt: str, k: int) -> list[str]:
        inside.append(prompt)
        most.append(len(inside))
        assert release.wait(20)
        inside.remove(prompt)
        return ["a " + prompt, "b"]

    app = create_app(store, ACCESS, live=LiveModel(draw))

    async def ask() -> list[int]:
        async with AsyncClient(transport=ASGITransport(app), base_url="http://127.0.0.1:8765") as client:
            await client.get("/?token=token-of-ann")
            headers = {"X-CSRF": (await client.get("/api/session")).json()["csrf"]}
            asked = [
                asyncio.create_task(client.post("/api/live", json={"prompt": f"p{n}"}, headers=headers))
                for n in range(3)
            ]
            done, _ = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
            assert [one.result().status_code for one in done] == [429]
            assert (await client.get("/api/history")).status_code == 200  # while the model is at work
            release.set()
            return sorted([(await one).status_code for one in asked])

    assert asyncio.run(ask()) == [200, 200, 429]
    assert most == [1, 1]

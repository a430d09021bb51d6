"""The reward server over a real socket: same scores as here, shared, bounded, and clear about what it refuses."""

import http.client
import json
import math
import socket
import threading
from concurrent.futures import Future

import pytest
import torch

from lit_rlhf.models.export import export_scorer
from lit_rlhf.models.scorer import ScorerNetwork
from lit_rlhf.rewards.build import score_completions
from lit_rlhf.rewards.function import FunctionReward
from lit_rlhf.rewards.model import ModelReward
from lit_rlhf.rewards.protocol import BrokenRewardError, Completions, RewardError
from lit_rlhf.rewards.remote import RemoteReward
from lit_rlhf.rewards.remote.server import RewardServer
from lit_rlhf.rewards.remote.shared import SharedReward
from lit_rlhf.rewards.scoring import PartialReward, Scoring
from tests.conftest import make_llama, make_tokenizer
from tests.rewards.reward_servers import running
from tests.rewards.test_failures import numbered, same
from tests.rewards.test_model_reward import CHAT, POLICYS
from tests.rewards.test_remote import Impatient

OWN = make_tokenizer()
VALID = {"version": 1, "prompts": ["a"], "completions": ["1"]}


class Gated(PartialReward):
    """Gives a response the number that it is, when the test lets it."""

    def __init__(self) -> None:
        self.begun, self.gate = threading.Semaphore(0), threading.Semaphore(0)
        self.asked: list[list[str]] = []

    def begin(self, completions, thorough):
        self.asked.append(list(completions.texts))
        self.begun.release()
        assert self.gate.acquire(timeout=20)
        scores = [float(text) for text in completions.texts]
        return lambda: Scoring(torch.tensor(scores))


def number(prompts, completions, **columns):
    return [float(text) for text in completions]


def post(run, content, path="/", method="POST", **headers):
    """Status, headers and JSON of an answer; `content` as JSON where it is not bytes."""
    connection = http.client.HTTPConnection("127.0.0.1", run.port, timeout=20)
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    kind = {"Content-Type": "application/json", **{k.replace("_", "-"): v for k, v in headers.items()}}
    try:
        connection.request(method, path, body, kind)
        answer = connection.getresponse()
        return answer.status, answer.headers, json.loads(answer.read())
    finally:
        connection.close()


@pytest.fixture(scope="module")
def reward_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("reward") / "export"
    torch.manual_seed(0)
    export_scorer(ScorerNetwork(make_llama(OWN, max_position_embeddings=64).base_model), OWN, folder)
    return str(folder)


def conversations() -> Completions:
    prompts = ["the soup", CHAT, "a train", "the soup", CHAT, "my ü", "the cake is fresh and"]
    texts = [
        " is tasty",
        "four.",
        "",
        " is",
        "it is fo",
        " 🙂 seems late",
        " the train looks late but tasty .",
    ]
    ids = [OWN(text, add_special_tokens=False)["input_ids"] for text in texts]
    prompt_ids = [
        [0, *OWN(p, add_special_tokens=False)["input_ids"]] if isinstance(p, str) else [0] for p in prompts
    ]
    finished = [True, True, True, False, False, True, True]
    return Completions(
        prompts, texts, prompt_ids, [[*own, 1] if end else own for own, end in zip(ids, finished, strict=True)],
        finished, [f"row-{n}" for n in range(7)], {"answer": list("abcdefg")},
    )  # fmt: skip


# --- the same scores


def test_scores_are_those_of_the_folder_loaded_here(reward_dir):
    here = ModelReward(reward_dir, POLICYS)
    served = ModelReward(reward_dir, OWN)
    served.shares_ids = False
    expected = score_completions(here, conversations())
    assert expected.std() > 0.1
    with running(RewardServer(served, "export")) as run:
        for batch_size in (1, 3, 32):
            found = score_completions(RemoteReward(run.url, batch_size), conversations())
            assert torch.allclose(found, expected, atol=1e-5, rtol=0)
        assert run.server.scored == 21 and run.server.requests == 0
        assert post(run, b"", "/health", "GET")[2] == {
            "status": "ok", "version": 1, "reward": "export", "requests": 0, "max_requests": 64, "scored": 21,
        }  # fmt: skip
    plain = conversations().select(
        [0, 3, 5, 6]
    )  # text that a policy with this tokenizer draws as the same ids
    as_ids = score_completions(ModelReward(reward_dir, OWN), plain)
    assert torch.allclose(expected[[0, 3, 5, 6]], as_ids, atol=1e-5, rtol=0)


def test_a_function_gets_what_it_would_get_here():
    seen = []

    def remembers(**arguments):
        seen.append(arguments)
        return [None, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0]

    with running(RewardServer(FunctionReward(remembers), "f")) as run:
        there = score_completions(RemoteReward(run.url), conversations(), "skip")
    here = score_completions(FunctionReward(remembers), conversations(), "skip")
    assert seen[0] == seen[1] and set(seen[0]) == {
        "prompts", "completions", "completion_ids", "finished", "answer",
    }  # fmt: skip
    assert torch.equal(there[1:], here[1:]) and there[0].isnan()


def test_what_a_response_failed_on_comes_back_with_it(reward_dir):
    def stumbles(prompts, completions, **columns):
        if "3" in completions:
            raise KeyError("gold")
        return number(prompts, completions)

    with running(RewardServer(FunctionReward(stumbles), "f")) as run:
        reward = RemoteReward(run.url)
        assert score_completions(reward, numbered(), "skip").isnan().nonzero().tolist() == [[3]]
        with pytest.raises(
            RewardError, match=rf"Reward {run.url}: Reward \S+stumbles raised KeyError: 'gold' for"
        ):
            score_completions(reward, numbered())


def test_a_score_that_json_cannot_say_is_a_failure():
    class Endless(PartialReward):
        def begin(self, completions, thorough):
            return lambda: Scoring(torch.tensor([1.0, math.inf]))

    with running(RewardServer(Endless(), "f")) as run:
        scores = score_completions(RemoteReward(run.url), numbered(2), "skip")
        assert same(scores, [1.0, math.nan])
        with pytest.raises(RewardError, match="expected a finite number, found inf for prompt row-1"):
            score_completions(RemoteReward(run.url), numbered(2))


def test_two_clients_at_once_get_their_own():
    with running(RewardServer(FunctionReward(number), "f", batch_size=5)) as run:
        found = {}

        def ask(client):
            mine = numbered(40).select(range(client, 40, 4))
            reward = RemoteReward(run.url, batch_size=3, concurrency=2)
            found[client] = [score_completions(reward, mine).tolist() for _ in range(3)]

        threads = [threading.Thread(target=ask, args=(client,)) for client in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    assert found == {client: [list(range(client, 40, 4))] * 3 for client in range(4)}


# --- shared


def asked_of(texts, **columns) -> Completions:
    parts = numbered(10).select([int(text) for text in texts])
    parts.columns = {name: [value] * len(texts) for name, value in columns.items()}
    return parts


def test_what_waits_together_is_scored_together():
    reward = Gated()
    shared = SharedReward(reward, batch_size=4)
    first = shared.ask(asked_of("0"))
    assert reward.begun.acquire(timeout=20)  # the rest gathers meanwhile
    rest = [shared.ask(asked_of(one)) for one in ("1", "23", "4", "56789", "1", "2")]
    others = [
        shared.ask(asked_of("3", answer=1)),
        shared.ask(asked_of("4", answer=2)),
        shared.ask(asked_of("5")),
    ]
    rest[5].cancel()
    shared.close()
    for _ in range(7):
        reward.gate.release()
    given = [future.result(20).scores.tolist() for future in [first, *rest[:5], *others]]
    assert given == [[0], [1], [2, 3], [4], [5, 6, 7, 8, 9], [1], [3], [4], [5]]
    # up to 4; more only where one asks for more; nobody who has gone; the same columns
    assert reward.asked == [["0"], ["1", "2", "3", "4"], list("56789"), ["1"], ["3", "4"], ["5"]]
    shared._thread.join(20)
    assert not shared._thread.is_alive()
    with pytest.raises(RuntimeError, match="closed"):
        shared.ask(asked_of("1"))


@pytest.mark.parametrize("error", [BrokenRewardError("not one"), SystemExit(3)])
def test_a_reward_that_breaks_breaks_for_all_and_goes_on(error):
    fails = [error]

    class Breaks(Gated):
        def begin(self, completions, thorough):
            begun = super().begin(completions, thorough)
            if fails:
                raise fails.pop()
            return begun

    reward = Breaks()
    shared = SharedReward(reward, 8)
    reward.gate.release()
    said = shared.ask(asked_of("1")).exception(20)
    assert said is error if isinstance(error, Exception) else "SystemExit(3)" in str(said)
    reward.gate.release()
    assert shared.ask(asked_of("2")).result(20).scores.tolist() == [2.0]
    shared.close()


def test_what_one_request_breaks_is_not_the_others_fault():
    class Stumbles(Gated):
        def begin(self, completions, thorough):
            begun = super().begin(completions, thorough)
            if "0" in completions.texts:
                raise ValueError("a 0")
            return begun

    reward = Stumbles()
    shared = SharedReward(reward, 8)
    first = shared.ask(asked_of("1"))
    assert reward.begun.acquire(timeout=20)
    bad, good = shared.ask(asked_of("0")), shared.ask(asked_of("2"))
    for _ in range(4):  # the first, the two together, each alone
        reward.gate.release()
    assert first.result(20).scores.tolist() == [1.0]
    assert str(bad.exception(20)) == "a 0"
    assert good.result(20).scores.tolist() == [2.0]
    assert reward.asked == [["1"], ["0", "2"], ["0"], ["2"]]
    shared.close()


# --- bounded


def test_a_full_server_says_when_to_come_back():
    reward = Gated()
    with running(RewardServer(reward, "f", max_requests=1)) as run:
        first: Future = Future()
        threading.Thread(target=lambda: first.set_result(post(run, VALID))).start()
        assert reward.begun.acquire(timeout=20)
        status, headers, content = post(run, VALID)
        assert status == 503 and headers["Retry-After"] == "1" and "1 requests are inside" in content["error"]
        assert post(run, b"", "/health", "GET")[2]["requests"] == 1  # which is answered all the same

        class Patient(Impatient):
            async def sleep(self, seconds):
                await super().sleep(seconds)
                reward.gate.release()
                reward.gate.release()
                first.result(20)

        client = Patient(run.url)
        assert score_completions(client, numbered(2)).tolist() == [0.0, 1.0]
        assert client.pauses == [1.0]
        assert first.result(20)[::2] == (200, {"scores": [1.0], "failures": {}})


def test_who_has_gone_is_not_scored():
    reward = Gated()
    with running(RewardServer(reward, "f")) as run:
        answers = []
        first = threading.Thread(target=lambda: answers.append(post(run, VALID)[2]))
        first.start()
        assert reward.begun.acquire(timeout=20)
        body = json.dumps({**VALID, "completions": ["2"]}).encode()
        with socket.create_connection(("127.0.0.1", run.port)) as impatient:
            impatient.sendall(
                b"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
            )
            wait_until(lambda: run.server.requests == 2)
        wait_until(lambda: run.server.requests == 1)
        for _ in range(2):
            reward.gate.release()
        assert post(run, {**VALID, "completions": ["3"]})[2]["scores"] == [3.0]
        first.join(20)
        assert answers == [{"scores": [1.0], "failures": {}}] and reward.asked == [["1"], ["3"]]


def wait_until(holds) -> None:
    waiting = threading.Event()
    for _ in range(2000):
        if holds():
            return
        waiting.wait(0.01)
    raise AssertionError("it does not come to hold")


def test_a_request_is_read_up_to_a_bound():
    with running(RewardServer(FunctionReward(number), "f", max_bytes=2000)) as run:
        fits = json.dumps(VALID).encode().ljust(2000)
        assert post(run, fits)[0] == 200
        status, _, content = post(run, fits + b" ")
        assert status == 413 and "expected at most 2000 bytes, found 2001" in content["error"]
        large = numbered(2)
        large.prompts[0] = "x" * (4 << 20)  # more than what fits between two sockets
        client = Impatient(run.url)
        with pytest.raises(RewardError, match=r"answered 413 .*send fewer responses"):
            score_completions(client, large)
        assert client.pauses == []


def test_the_server_ends_with_those_who_are_inside():
    reward = Gated()
    with running(RewardServer(reward, "f")) as run:
        first: Future = Future()
        threading.Thread(target=lambda: first.set_result(post(run, VALID))).start()
        assert reward.begun.acquire(timeout=20)
        run.uvicorn.should_exit = True
        reward.gate.release()
        assert first.result(20)[2]["scores"] == [1.0]
        run.thread.join(20)
        assert not run.thread.is_alive()


# --- refused


def test_a_token_is_asked_for(monkeypatch):
    monkeypatch.setenv("TOKEN_OF_THE_TEST", "right")
    with running(RewardServer(FunctionReward(number), "f", token="right")) as run:
        for given in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "right"}):
            status, headers, content = post(run, VALID, **given)
            assert status == 401 and headers["WWW-Authenticate"] == "Bearer"
            assert "token_env" in content["error"] and "right" not in content["error"]
        assert post(run, VALID, Authorization="Bearer right")[0] == 200
        assert post(run, b"", "/health", "GET")[0] == 200
        client = RemoteReward(run.url, token_env="TOKEN_OF_THE_TEST")
        assert score_completions(client, numbered(3)).tolist() == [0.0, 1.0, 2.0]
        large = numbered(1)
        large.prompts[0] = "x" * (4 << 20)
        with pytest.raises(RewardError, match=r"answered 401 .*found none.* for prompt row-0"):
            score_completions(Impatient(run.url), large)


@pytest.mark.parametrize(
    ("content", "status", "said"),
    [
        (b"{", 400, "expected JSON, found {"),
        (b"[1]", 400, "expected a JSON object, found a list"),
        ({"prompts": ["a"], "completions": ["1"]}, 400, "version: expected 1, found None"),
        ({**VALID, "version": 2}, 400, "version: expected 1, found 2"),
        ({**VALID, "column": {}}, 400, "found column too"),
        (
            {**VALID, "completions": []},
            400,
            "completions: expected at least one response, found an empty list",
        ),
        ({**VALID, "completions": "1"}, 400, "completions: expected a list, found text"),
        ({**VALID, "completions": [1]}, 400, "completions[0]: expected text, found 1"),
        ({**VALID, "prompts": ["a", "b"]}, 400, "prompts: expected 1 entries, as completions has, found 2"),
        ({**VALID, "prompts": [None]}, 400, "prompts[0]: expected text or [{role, content}], found None"),
        ({**VALID, "prompts": [[{"role": "user"}]]}, 400, "prompts[0]: expected text or"),
        ({**VALID, "prompts": [[]]}, 400, "prompts[0]: expected text or [{role, content}], found []"),
        ({**VALID, "completions": ["\ud800"]}, 400, "found half of a surrogate pair"),
        ({**VALID, "finished": [1]}, 400, "finished[0]: expected true or false, found 1"),
        ({**VALID, "completion_ids": [[1.5]]}, 400, "completion_ids[0]: expected a list of whole numbers"),
        ({**VALID, "columns": []}, 400, "columns: expected an object of lists, found a list"),
        ({**VALID, "columns": {"answer": []}}, 400, "answer: expected 1 entries"),
        ({**VALID, "columns": {"prompts": ["b"]}}, 422, "field 'prompts' has the name of an argument"),
        ({**VALID, "completions": ["short"]}, 422, "expected 1 scores, found 0"),
    ],
)
def test_what_is_refused_is_said(content, status, said):
    def short(prompts, completions, **columns):
        return [] if completions == ["short"] else number(prompts, completions)

    with running(RewardServer(FunctionReward(short), "f")) as run:
        found, headers, answer = post(run, content)
        assert (found, headers["Content-Type"]) == (status, "application/json")
        assert said in answer["error"]
        assert post(run, VALID)[2] == {"scores": [1.0], "failures": {}}


def test_other_places_and_kinds_are_refused():
    with running(RewardServer(FunctionReward(number), "f")) as run:
        for path, method, status in [("/x", "POST", 404), ("/", "GET", 405), ("/health", "POST", 405)]:
            found, _, answer = post(run, VALID, path, method)
            assert found == status
            assert answer["error"] == f"expected POST / or GET /health, found {method} {path}"
        # what a page in a browser may send without asking
        assert post(run, VALID, Content_Type="text/plain")[0] == 415
        assert post(run, VALID, Content_Type="application/json; charset=utf-8")[0] == 200


def test_a_reward_that_fails_as_a_whole_is_a_500(caplog):
    class Fails(PartialReward):
        def begin(self, completions, thorough):
            raise MemoryError("no more")

    with running(RewardServer(Fails(), "f")) as run:
        status, _, answer = post(run, VALID)
        assert (status, answer) == (500, {"error": "MemoryError: no more"})
        with pytest.raises(RewardError, match=r"answered 500 .*MemoryError: no more \(2 tries\)"):
            score_completions(Impatient(run.url, retries=1), numbered(1))
        assert run.server.requests == 0

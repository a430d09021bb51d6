"""A reward behind HTTP, against servers that do what they should, and others."""

import asyncio
import logging
import math
import random
import socket
import threading
import time
from email.utils import formatdate

import pytest
import torch

from lit_rlhf.rewards.build import build_reward, is_plain, score_completions
from lit_rlhf.rewards.protocol import BrokenRewardError, Completions, RewardError
from lit_rlhf.rewards.remote import RemoteReward
from lit_rlhf.rewards.remote import call as remote_call
from lit_rlhf.rollout.reward_truths import model_folders
from tests.conftest import make_tokenizer
from tests.rewards.reward_servers import (
    hangs,
    hangs_up,
    numbers,
    says,
    scripted,
    send,
    stops_in_the_middle,
)
from tests.rewards.test_failures import numbered, same

TOKENIZER = make_tokenizer()
BUSY = says({"error": "the queue is full"}, 503)


class Impatient(RemoteReward):
    """Writes its pauses down and does not take them."""

    def __init__(self, url, **settings):
        super().__init__(url, **settings)
        self.pauses = []
        self.random = random.Random(3)

    async def sleep(self, seconds):
        self.pauses.append(seconds)
        await asyncio.sleep(0)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return listening.getsockname()[1]


# --- what is sent, and in which order it comes back


def test_what_goes_over_the_wire():
    asked = Completions(
        prompts=["a ü\ud800", [{"role": "user", "content": "hi"}]],
        texts=["1", "2"],
        prompt_ids=[[0, 5], [0]],
        response_ids=[[7, 1], [8]],
        finished=[True, False],
        prompt_names=["x", "y"],
        columns={"answer": ["4", None], "parts": [{"a": [1.5]}, []]},
    )
    with scripted() as server:
        assert score_completions(build_reward(server.url, TOKENIZER), asked).tolist() == [1.0, 2.0]
    assert server.asked == [
        {
            "version": 1,
            "prompts": ["a ü\ud800", [{"role": "user", "content": "hi"}]],
            "completions": ["1", "2"],
            "finished": [True, False],
            "completion_ids": [[7, 1], [8]],
            "columns": {"answer": ["4", None], "parts": [{"a": [1.5]}, []]},
        }
    ]
    assert server.headers[0]["Content-Type"] == "application/json"
    assert "Authorization" not in server.headers[0]


@pytest.mark.parametrize(("batch_size", "sizes"), [(3, [1, 3, 3, 3]), (10, [10]), (32, [10])])
def test_the_responses_are_cut_into_requests_and_keep_their_order(batch_size, sizes):
    turn = threading.Semaphore(0)

    def late_for_the_first(handler, asked):
        if asked["completions"][0] == "0" and len(sizes) > 1:
            turn.acquire(timeout=20)
        numbers(handler, asked)
        turn.release()

    with scripted(otherwise=late_for_the_first) as server:
        scores = score_completions(RemoteReward(server.url, batch_size), numbered(10))
    assert scores.dtype == torch.float32 and scores.tolist() == list(range(10))
    assert sorted(len(one["completions"]) for one in server.asked) == sizes
    assert all(len(one["columns"]["bonus"]) == len(one["prompts"]) for one in server.asked)


def test_no_responses_are_no_request():
    with scripted() as server:
        assert score_completions(RemoteReward(server.url), numbered(0)).shape == (0,)
    assert server.asked == []


def test_requests_in_flight_are_bounded():
    together, inside, most = threading.Barrier(2), set(), []

    def counts(handler, asked):
        inside.add(threading.get_ident())
        most.append(len(inside))
        together.wait(20)
        inside.discard(threading.get_ident())
        numbers(handler, asked)

    with scripted(otherwise=counts) as server:
        reward = RemoteReward(server.url, batch_size=1, concurrency=2)
        assert score_completions(reward, numbered(8)).tolist() == list(range(8))
    assert max(most) == 2 and len(server.asked) == 8


def test_columns_that_are_no_json_stay_here_and_that_is_said_once(caplog):
    asked = numbered(2)
    asked.columns |= {"image": [b"1", b"2"], "share": [0.5, math.nan]}
    with scripted() as server, caplog.at_level(logging.WARNING, "lit_rlhf"):
        reward = RemoteReward(server.url)
        for _ in range(2):
            assert score_completions(reward, asked).tolist() == [0.0, 1.0]
    assert [set(one["columns"]) for one in server.asked] == [{"bonus"}] * 2
    (message,) = [record.getMessage() for record in caplog.records]
    assert "is not sent the prompt file's image, share" in message
    assert set(asked.columns) == {"bonus", "image", "share"}


# --- what is tried again, and when


def test_what_may_do_better_later_is_tried_again(caplog):
    state = random.getstate()
    with scripted(BUSY, hangs_up, says(b"<html>", 502), says({}, 429), says({}, 408)) as server:
        reward = Impatient(server.url, backoff=0.5)
        with caplog.at_level(logging.WARNING, "lit_rlhf"):
            assert score_completions(reward, numbered(2)).tolist() == [0.0, 1.0]
    assert len(server.asked) == 6 and server.asked[0] == server.asked[-1]
    drawn = random.Random(3)
    assert reward.pauses == [0.5 * 2**n * (1 - drawn.random() / 2) for n in range(5)]
    (message,) = [record.getMessage() for record in caplog.records]
    assert "answered 503 Service Unavailable: the queue is full; it is asked again" in message
    assert random.getstate() == state  # what a run draws does not depend on how busy a server is


@pytest.mark.parametrize(
    ("retry_after", "least", "most"),
    [("7", 7, 7), ("0", 0.5, 1), ("3600", 60, 60), ("soon", 0.5, 1), ("-5", 0.5, 1), ("nan", 0.5, 1)],
)
def test_a_server_says_when_to_come_back(retry_after, least, most):
    with scripted(says({}, 503, Retry_After=retry_after)) as server:
        reward = Impatient(server.url)
        score_completions(reward, numbered(1))
    (pause,) = reward.pauses
    assert least <= pause <= most


def test_a_server_says_at_which_time_to_come_back(monkeypatch):
    monkeypatch.setattr(time, "time", lambda: 1_700_000_000.0)
    when = formatdate(1_700_000_020.0, usegmt=True)
    with scripted(says({}, 429, Retry_After=when)) as server:
        reward = Impatient(server.url)
        score_completions(reward, numbered(1))
    assert reward.pauses == [20.0]


def test_pauses_grow_up_to_a_minute():
    reward = RemoteReward("http://localhost:1", backoff=1.0)
    reward.random = random.Random(0)
    pauses = [reward.pause(tries, None) for tries in (1, 2, 3, 6, 60, 5000)]
    for pause, full in zip(pauses, [1, 2, 4, 32, 60, 60], strict=True):
        assert full / 2 <= pause <= full
    assert len({reward.pause(1, None) for _ in range(20)}) > 10  # trainers do not come back all together
    reward.backoff = 0.0
    assert reward.pause(9, None) == 0.0


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422, 301])
def test_what_is_refused_is_not_tried_again(status):
    refusal = says({"error": "expected a token,\x1b[31m found none"}, status)
    with scripted(otherwise=refusal) as server:
        reward = Impatient(server.url)
        with pytest.raises(RewardError) as stopped:
            score_completions(reward, numbered(2))
    assert len(server.asked) == 1 and reward.pauses == []
    said = str(stopped.value)
    assert f"Reward {server.url}: answered {status}" in said and "for prompt row-0" in said
    if status != 301:
        assert "expected a token,[31m found none" in said  # without what a terminal would act on


def test_a_redirection_is_not_followed(monkeypatch):
    monkeypatch.setenv("TOKEN_OF_THE_TEST", "secret")
    with scripted() as other, scripted(otherwise=says({}, 307, Location=other.url)) as server:
        with pytest.raises(RewardError, match=rf"answered 307 .* to {other.url}; give that address"):
            score_completions(RemoteReward(server.url, token_env="TOKEN_OF_THE_TEST"), numbered(1))
        assert other.asked == []


# --- what fails for good


def test_a_request_that_keeps_failing_stops_the_step():
    with scripted(otherwise=BUSY) as server:
        reward = Impatient(server.url, retries=2)
        with pytest.raises(
            RewardError,
            match=r"answered 503 Service Unavailable: the queue is full \(3 tries\), for prompt row-0 .*"
            r"failed_rewards: skip",
        ):
            score_completions(reward, numbered(3))
    assert len(server.asked) == 3 and len(reward.pauses) == 2


def test_the_prompt_that_is_named_is_one_that_failed():
    def only_the_third(handler, asked):
        if asked["completions"] == ["2"]:
            return send(handler, 400, b"no twos")
        handler.server.released.wait(30)

    with scripted(otherwise=only_the_third) as server:
        reward = RemoteReward(server.url, batch_size=1, concurrency=3)
        with pytest.raises(RewardError, match=r"answered 400 Bad Request: no twos, for prompt row-2 "):
            score_completions(reward, numbered(5))


def test_skipping_leaves_out_the_responses_of_requests_that_failed(caplog):
    def refuses_some(handler, asked):
        refused = {"2", "5"} & set(asked["completions"])
        return send(handler, 422, b"{}") if refused else numbers(handler, asked)

    with scripted(otherwise=refuses_some) as server, caplog.at_level(logging.WARNING, "lit_rlhf"):
        scores = score_completions(RemoteReward(server.url, batch_size=2), numbered(), "skip")
    assert same(scores, [0, 1, math.nan, math.nan, math.nan, math.nan, 6, 7])
    assert "4 of 8 responses have no score" in caplog.text and "for prompt row-2" in caplog.text


def test_a_server_that_is_gone_is_given_up_after_so_many_tries():
    reward = Impatient(f"http://127.0.0.1:{free_port()}", batch_size=1, concurrency=2, max_failures=5)
    with pytest.raises(
        RewardError, match=r"5 tries in a row failed \(max_failures\), .*ClientConnectorError.*row-0.*of 8\."
    ):
        score_completions(reward, numbered())
    assert len(reward.pauses) == 4
    again = score_completions(reward, numbered(), "skip")
    assert again.isnan().all() and len(reward.pauses) == 8


def test_a_server_that_dies_in_the_middle():
    script = [numbers, numbers, hangs_up, hangs_up]
    with scripted(*script, otherwise=hangs_up) as server:
        reward = Impatient(server.url, batch_size=2, concurrency=1, max_failures=4)
        with pytest.raises(
            RewardError, match=r"4 tries in a row failed .*ServerDisconnectedError.*for prompt row-4"
        ):
            score_completions(reward, numbered())
        assert len(server.asked) == 6
        server.script = script.copy()
        scores = score_completions(reward, numbered(), "skip")
    assert same(scores, [0, 1, 2, 3, *[math.nan] * 4])


def test_an_answer_starts_the_count_of_failures_anew():
    script = [answer for _ in range(4) for answer in (BUSY, BUSY, numbers)]
    with scripted(*script) as server:
        reward = Impatient(server.url, batch_size=2, concurrency=1, max_failures=3)
        assert score_completions(reward, numbered()).tolist() == list(range(8))
    assert len(server.asked) == 12


@pytest.mark.parametrize("slow", [hangs, stops_in_the_middle])
def test_a_slow_server_is_not_waited_for(slow):
    with scripted(slow) as server:
        reward = Impatient(server.url, timeout=0.3)
        assert score_completions(reward, numbered(2)).tolist() == [0.0, 1.0]
        assert reward.pauses and len(server.asked) == len(reward.pauses) + 1
    with scripted(otherwise=slow) as server:
        reward = Impatient(server.url, timeout=0.05, retries=1)
        with pytest.raises(
            RewardError, match=r"no answer within 0\.05 seconds \(2 tries\), for prompt row-0"
        ):
            score_completions(reward, numbered(2))


def test_a_call_is_bounded_by_the_reward_timeout():
    def slow_for_the_last(handler, asked):
        return hangs(handler, asked) if "7" in asked["completions"] else numbers(handler, asked)

    with scripted(otherwise=slow_for_the_last) as server:
        spec = {
            "class_path": "lit_rlhf.rewards.remote.RemoteReward",
            "init_args": {"url": server.url, "batch_size": 2, "timeout": 10.0, "retries": 0},
        }
        reward = build_reward(spec, TOKENIZER, timeout=0.1)
        said = r"took more than 0\.1 seconds \(model\.reward_timeout\) for prompt row-"
        with pytest.raises(RewardError, match=said):
            score_completions(reward, numbered())
        reward = build_reward(spec, TOKENIZER, timeout=1.5)
        scores = score_completions(reward, numbered(), "skip")  # what had come is kept
    assert same(scores, [0, 1, 2, 3, 4, 5, math.nan, math.nan])


# --- servers that are none


@pytest.mark.parametrize("on_failure", ["stop", "skip"])
@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"<html>welcome</html>", "expected JSON, found <html>welcome</html>"),
        (b"", "expected JSON, found nothing"),
        (b"\xff\x00", "expected JSON"),
        (b"[" * 100_000, "expected JSON"),
        ([1.0, 2.0], "expected a JSON object, found a list"),
        ({"score": [1.0]}, r"expected \{\"scores\": \[2 numbers\]\}, found \{'score': \[1\.0\]\}"),
        ({"scores": 1.0}, r"expected \{\"scores\""),
        ({"scores": [1.0]}, "expected 2 scores, found 1"),
        ({"scores": [1.0, 2.0, 3.0]}, "expected 2 scores, found 3"),
        ({"scores": [1.0, None], "failures": {"0": "x"}}, "failures: expected reasons by the place"),
        ({"scores": [1.0, None], "failures": ["x"]}, "failures: expected reasons by the place"),
    ],
)
def test_nonsense_stops_the_run_and_is_never_skipped(content, found, on_failure):
    with scripted(otherwise=says(content)) as server:
        reward = Impatient(server.url)
        with pytest.raises(
            BrokenRewardError, match=rf"^Reward {server.url}: {found}.*Is it a reward server\?"
        ):
            score_completions(reward, numbered(2), on_failure)
    assert reward.pauses == []


@pytest.mark.parametrize(
    "bad", ["NaN", "Infinity", "-Infinity", '"4"', "[1.0]", "1e39", "1" + "0" * 400, "{}"]
)
def test_a_score_that_is_no_number_fails_only_its_response(bad):
    with scripted(otherwise=says(b'{"scores": [1.0, %s, true, 5]}' % bad.encode())) as server:
        reward = RemoteReward(server.url)
        assert same(score_completions(reward, numbered(4), "skip"), [1.0, math.nan, 1.0, 5.0])
        said = rf"Reward {server.url}: expected a finite number or null, found .* for prompt row-1"
        with pytest.raises(RewardError, match=said):
            score_completions(reward, numbered(4))


def test_null_is_does_not_apply_and_a_failure_is_not():
    def spec(server):
        return [{"reward": server.url, "weight": 2.0}, {"reward": lambda prompts, **_: [10.0] * len(prompts)}]

    with scripted(
        otherwise=says({"scores": [1.0, None, None], "failures": {"2": "too long\nfor me"}})
    ) as server:
        reward = build_reward(spec(server), TOKENIZER)
        assert same(score_completions(reward, numbered(3), "skip"), [12.0, 10.0, math.nan])
        with pytest.raises(RewardError, match=rf"Reward {server.url}: too long for me for prompt row-2"):
            score_completions(reward, numbered(3))
    nothing = says({"scores": [None]})
    with scripted(otherwise=nothing) as server, pytest.raises(RewardError, match="gave no score"):
        score_completions(RemoteReward(server.url), numbered(1))


def test_an_answer_is_read_up_to_a_bound(monkeypatch):
    monkeypatch.setattr(remote_call, "ANSWER_BYTES", 1000)
    monkeypatch.setattr(remote_call, "SCORE_BYTES", 100)
    fits = b'{"scores": [1, 2]}'.ljust(1200)
    with scripted(says(fits), says(fits + b" ")) as server:
        reward = RemoteReward(server.url)
        assert score_completions(reward, numbered(2)).tolist() == [1.0, 2.0]
        with pytest.raises(RewardError, match="answered more than 1200 bytes"):
            score_completions(reward, numbered(2))


def test_what_is_no_http_is_tried_again_and_given_up():
    def speaks_otherwise(handler, asked):
        handler.wfile.write(b"220 mail.example ESMTP\r\n\r\n")
        handler.close_connection = True

    with scripted(otherwise=speaks_otherwise) as server, pytest.raises(RewardError, match=r"\(2 tries\)"):
        score_completions(Impatient(server.url, retries=1), numbered(1))


# --- the config


def test_a_token_comes_from_the_environment(monkeypatch):
    monkeypatch.delenv("TOKEN_OF_THE_TEST", raising=False)
    with scripted() as server:
        reward = RemoteReward(server.url, token_env="TOKEN_OF_THE_TEST")
        said = (
            r"expected its token in the environment variable TOKEN_OF_THE_TEST \(token_env\), found nothing"
        )
        for use in (lambda: reward.to("cpu"), lambda: score_completions(reward, numbered(1), "skip")):
            with pytest.raises(BrokenRewardError, match=said):
                use()
        monkeypatch.setenv("TOKEN_OF_THE_TEST", "two\nlines")
        with pytest.raises(BrokenRewardError, match="found letters that a token cannot have"):
            reward.to("cpu")
        monkeypatch.setenv("TOKEN_OF_THE_TEST", " secret\n")
        assert reward.to("cpu") is reward
        score_completions(reward, numbered(1))
    assert [one["Authorization"] for one in server.headers] == ["Bearer secret"]
    assert "secret" not in repr(vars(reward))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"url": "localhost:8000"}, r"RemoteReward\.url: expected an address such as .*found 'localhost:8000'"),
        ({"url": "ftp://x"}, r"RemoteReward\.url"),
        ({"url": "http://"}, r"RemoteReward\.url"),
        ({"url": "http://x:port"}, r"RemoteReward\.url"),
        ({"url": None}, r"RemoteReward\.url"),
        ({"url": "http://me:secret@x"}, r"RemoteReward\.url: expected an address without a user or password"),
        ({"batch_size": 0}, r"RemoteReward\.batch_size: expected a whole number of at least 1, found 0"),
        ({"concurrency": 1.5}, r"RemoteReward\.concurrency: .* found 1\.5"),
        ({"retries": -1}, r"RemoteReward\.retries: expected a whole number of at least 0, found -1"),
        ({"max_failures": True}, r"RemoteReward\.max_failures"),
        ({"timeout": 0}, r"RemoteReward\.timeout: expected more than 0 seconds, found 0"),
        ({"timeout": math.inf}, r"RemoteReward\.timeout"),
        ({"backoff": -0.1}, r"RemoteReward\.backoff: expected at least 0 seconds, found -0\.1"),
        ({"backoff": "1"}, r"RemoteReward\.backoff"),
        ({"headers": {}}, r"model\.gold_reward\.init_args: lit_rlhf\.\S+: got an unexpected .* 'headers'"),
    ],
)  # fmt: skip
def test_settings_that_are_none(settings, message):
    init_args = {"url": "http://localhost:8000", **settings}
    spec = {"class_path": "lit_rlhf.rewards.remote.RemoteReward", "init_args": init_args}
    with pytest.raises(ValueError, match=message) as refused:
        build_reward(spec, TOKENIZER, key="gold_reward")
    assert "secret" not in str(refused.value)


def test_an_address_is_a_reward_wherever_one_can_stand():
    url = "https://rewards.example/v1/score"
    reward = build_reward(url, TOKENIZER, timeout=3.0)
    assert isinstance(reward, RemoteReward) and reward.name == url and reward.call_timeout == 3.0
    ensemble = {
        "ensemble": [url, {"class_path": "lit_rlhf.rewards.remote.RemoteReward", "init_args": {"url": url}}]
    }
    both = build_reward([{"reward": ensemble}, {"reward": url}], TOKENIZER)
    assert [type(part).__name__ for part, _ in both.rewards] == ["Ensemble", "RemoteReward"]
    assert is_plain(ensemble) and both.networks() == []
    assert model_folders([{"reward": ensemble}, {"reward": url}, {"reward": "./folder"}]) == ["./folder"]


def test_several_servers_are_asked_at_once():
    """Each answers only after the other has been asked."""
    together = threading.Barrier(2)

    def waits(handler, asked):
        together.wait(20)
        numbers(handler, asked)

    with scripted(otherwise=waits) as one, scripted(otherwise=waits) as other:
        reward = build_reward({"ensemble": [one.url, other.url]}, TOKENIZER)
        assert score_completions(reward, numbered(3)).tolist() == [0.0, 1.0, 2.0]

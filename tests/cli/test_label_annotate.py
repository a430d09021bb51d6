"""``lit-rlhf label annotate``: from the command line to judgements in the file, by each kind of program."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from aiohttp import web
from transformers import PreTrainedTokenizerFast

from lit_rlhf.cli.label.annotate import main, parse
from lit_rlhf.labelling.items import Item, Judgement, Settings
from lit_rlhf.labelling.store import LabelStore
from lit_rlhf.labelling.verdicts import Verdict
from lit_rlhf.models.export import export_scorer
from lit_rlhf.models.scorer import ScorerNetwork
from lit_rlhf.rewards.build import score_completions
from lit_rlhf.rewards.model import ModelReward
from lit_rlhf.rewards.protocol import Completions
from lit_rlhf.rewards.remote.server import RewardServer
from tests.cli.fake_model import FakeModel, completion
from tests.conftest import make_llama

RULES = """
def words(prompts, completions, **columns):
    return [float(len(completion.split())) for completion in completions]

def told(prompts, completions, answer, **columns):
    with open("told.txt", "a") as told:
        told.write(repr(sorted(columns)) + repr(answer))
    return [float(completion == right) for completion, right in zip(completions, answer)]

def some(prompts, completions, **columns):
    return [None if "c" in completion else 1.0 / len(completion) for completion in completions]

def stopped(prompts, completions, calls=[], **columns):
    calls.append(1)
    if len(calls) == 2:
        raise KeyboardInterrupt
    return words(prompts, completions)

def broken(prompts, completions, **columns):
    raise KeyError("gold")

def of_tokens(prompts, completions, completion_ids):
    return [float(len(ids)) for ids in completion_ids]

def picky(prompts, completions, **columns):
    if any("c" in completion for completion in completions):
        raise ValueError("a c")
    return [0.0] * len(completions)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rules_of_the_test.py").write_text(RULES)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("rules_of_the_test", None)


ITEMS = [
    Item("pairwise", "one", ("a", "a b"), models=("secret", "secret"), columns={"answer": "a", "source": "secret"}),
    Item("pairwise", "two", ("a b c", "a"), columns={"answer": "a"}),
    Item("ranking", "three", ("a", "a b", "b a", "a"), columns={"answer": "a"}),
]  # fmt: skip


def filled(items: list[Item] | None = None, **settings: Any) -> None:
    with LabelStore("labels.db") as store:
        store.configure(Settings(**{"repeats": 0.0, "gold_share": 0.0, **settings}))
        store.add_items(ITEMS if items is None else items)


def annotate(*argv: str) -> None:
    main(["--db", "labels.db", "--name", "program", *argv])


def said(name: str = "program") -> dict[str, Judgement]:
    with LabelStore("labels.db", create=False) as store:
        found = [one for one in store.judgements() if one.annotator == name]
    assert len({one.task.item.number for one in found}) == len(found)
    return {str(one.task.item.prompt): one for one in found}


def verdicts(name: str = "program") -> dict[str, Verdict | None]:
    return {prompt: one.verdict for prompt, one in said(name).items()}


def test_a_rule_judges_everything(capsys: pytest.CaptureFixture[str]) -> None:
    filled()
    annotate("--annotator", "rules_of_the_test.words", "--slight-width", "1")
    assert verdicts() == {
        "one": Verdict(((1,), (0,)), "slightly"),
        "two": Verdict(((0,), (1,)), "better"),
        "three": Verdict(((1, 2), (0, 3))),
    }
    assert capsys.readouterr().out == "program: 3 judged, 0 of them ties, 0 skipped\nnothing is left for it\n"
    with LabelStore("labels.db", create=False) as store:
        assert store.machines() == {"program": "rule rules_of_the_test.words, slightly within 1"}
    annotate("--annotator", "rules_of_the_test.words", "--slight-width", "1")
    assert capsys.readouterr().out.startswith("program: 0 judged")


def test_other_settings_are_another_annotator(capsys: pytest.CaptureFixture[str]) -> None:
    filled()
    annotate("--annotator", "rules_of_the_test.words", "--limit", "1")
    assert "stopped at --limit" in capsys.readouterr().out
    for other in (["--tie-width", "1"], ["--flips", "0.5"], ["--seed", "1", "--temperature", "1"]):
        with pytest.raises(SystemExit) as stop:
            annotate("--annotator", "rules_of_the_test.words", *other)
        assert stop.value.code == 1 and "take another name" in capsys.readouterr().err
    assert len(said()) == 1
    annotate("--annotator", "rules_of_the_test.words")
    assert len(said()) == 3


def test_a_persons_name_is_not_taken(capsys: pytest.CaptureFixture[str]) -> None:
    filled()
    with LabelStore("labels.db") as store:
        store.add_annotator("program")
    with pytest.raises(SystemExit):
        annotate("--annotator", "rules_of_the_test.words")
    assert "is the name of a person here already" in capsys.readouterr().err


def test_a_rule_is_told_the_fields_that_are_named_and_no_others() -> None:
    filled()
    annotate("--annotator", "rules_of_the_test.told", "--columns", "answer")
    told = Path("told.txt").read_text()
    assert told == "['finished']['a', 'a', 'a', 'a', 'a', 'a', 'a']"
    assert verdicts()["three"] == Verdict(((0, 3), (1, 2)))


def test_a_field_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    filled([*ITEMS, Item("pairwise", "four", ("a", "b"), row_id="row 4")])
    with pytest.raises(SystemExit):
        annotate("--annotator", "rules_of_the_test.told", "--columns", "answer")
    error = capsys.readouterr().err
    assert "--columns answer: 1 of 4 items have no such field (first: row 4)" in error


def test_what_a_rule_does_not_apply_to_or_fails_on_is_skipped(capsys: pytest.CaptureFixture[str]) -> None:
    filled()
    annotate("--annotator", "rules_of_the_test.some")
    assert verdicts()["two"] == Verdict(skip="the reward does not apply to a response")
    assert verdicts()["one"] == Verdict(((0,), (1,)), "better")
    assert "1 skipped: the reward does not apply" in capsys.readouterr().out
    main(["--db", "labels.db", "--name", "other", "--annotator", "rules_of_the_test.picky"])
    assert verdicts("other")["two"] == Verdict(skip="Reward rules_of_the_test.picky raised ValueError: a c")


def test_a_rule_that_only_fails_is_mended_first(capsys: pytest.CaptureFixture[str]) -> None:
    filled()
    with pytest.raises(SystemExit) as stop:
        annotate("--annotator", "rules_of_the_test.broken")
    assert stop.value.code == 1 and not said()
    assert (
        "Reward rules_of_the_test.broken raised KeyError: 'gold' for prompt item " in capsys.readouterr().err
    )


def test_ratings_need_bounds_and_corrections_a_writer(capsys: pytest.CaptureFixture[str]) -> None:
    filled([Item("rating", "r", ("a b c",)), Item("rewrite", "w", ("a",))])
    with pytest.raises(SystemExit):
        annotate("--annotator", "rules_of_the_test.words")
    assert "1 of 2 items ask for ratings: give --rating-bounds" in capsys.readouterr().err
    annotate("--annotator", "rules_of_the_test.words", "--rating-bounds", "1", "2", "3", "4")
    assert verdicts() == {
        "r": Verdict(ratings=(4,)),
        "w": Verdict(skip="a program that scores cannot write a correction"),
    }


def test_a_file_of_corrections_alone_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    filled([Item("rewrite", "w", ("a",))])
    with pytest.raises(SystemExit):
        annotate("--annotator", "rules_of_the_test.words")
    assert "which only a language model can write" in capsys.readouterr().err and not said()


def test_a_simulated_annotator_says_the_same_again(monkeypatch: pytest.MonkeyPatch) -> None:
    items = [Item("ranking", f"p{number}", ("a", "a b", "a b c")) for number in range(40)]
    filled(items, overlap=2)
    noise = ["--annotator", "rules_of_the_test.words", "--temperature", "1", "--flips", "0.2", "--seed", "3"]
    annotate(*noise, "--limit", "13")
    annotate(*noise)
    whole = verdicts()
    os.replace("labels.db", "first.db")
    filled(items[::-1], overlap=2)  # in another order, and without an interruption
    annotate(*noise)
    assert verdicts() == whole
    assert 3 < len({verdict.ranking for verdict in whole.values() if verdict}) <= 6
    main(["--db", "labels.db", "--name", "second", *noise])
    assert verdicts("second") != whole


@pytest.fixture(scope="module")
def reward_dir(tiny_tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory) -> str:
    made = tmp_path_factory.mktemp("reward") / "export"
    torch.manual_seed(0)
    export_scorer(ScorerNetwork(make_llama(tiny_tokenizer).base_model), tiny_tokenizer, made)
    return str(made)


@pytest.fixture(scope="module")
def reward(reward_dir: str, tiny_tokenizer: PreTrainedTokenizerFast) -> ModelReward:
    made = ModelReward(reward_dir, tiny_tokenizer)
    made.shares_ids = False
    return made


def by_scores(reward: ModelReward, item: Item) -> Verdict:
    count = len(item.responses)
    completions = Completions(
        [item.prompt] * count, list(item.responses), [[]] * count, [[]] * count, [True] * count, ["p"] * count
    )
    scores = score_completions(reward, completions).tolist()
    order = sorted(range(count), key=lambda place: -scores[place])
    return Verdict(tuple((place,) for place in order), "better" if item.mode == "pairwise" else None)


DIFFERENT = [
    Item("pairwise", "the soup", ("is tasty .", "is late .")),
    Item("pairwise", [{"role": "user", "content": "the hotel"}], ("is lovely .", "was")),
    Item("ranking", "a train", ("looks late .", "is fresh .", "is", "seems tasty and late .")),
]


def test_a_reward_model_judges_by_its_scores(reward_dir: str, reward: ModelReward) -> None:
    filled(DIFFERENT)
    annotate("--annotator", reward_dir, "--device", "cpu", "--batch-size", "2")
    assert verdicts() == {str(item.prompt): by_scores(reward, item) for item in DIFFERENT}
    with LabelStore("labels.db", create=False) as store:
        assert store.machines() == {"program": f"reward model {reward_dir}"}


@pytest.fixture
def serve() -> Iterator[Callable[[RewardServer], str]]:
    """Runs a reward server's app in a thread; its address."""
    import socket

    import uvicorn

    running: list[tuple[uvicorn.Server, threading.Thread]] = []

    def start(server: RewardServer) -> str:
        listening = socket.create_server(("127.0.0.1", 0))
        of = uvicorn.Server(uvicorn.Config(server.app, log_level="error", ws="none"))
        thread = threading.Thread(target=of.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        running.append((of, thread))
        return f"http://127.0.0.1:{listening.getsockname()[1]}"

    yield start
    for of, thread in running:
        of.should_exit = True
        thread.join(10)


def test_a_reward_server_judges_and_its_token_is_sent(
    reward: ModelReward, serve: Callable[[RewardServer], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(DIFFERENT)
    address = serve(RewardServer(reward, "r", 8, 8, 1 << 20, "a secret"))
    monkeypatch.setenv("TOKEN_OF_THE_TEST", "a secret")
    annotate("--annotator", address, "--key-env", "TOKEN_OF_THE_TEST")
    assert verdicts() == {str(item.prompt): by_scores(reward, item) for item in DIFFERENT}


def test_a_reward_server_that_refuses_makes_no_skips(
    reward: ModelReward, serve: Callable[[RewardServer], str], capsys: pytest.CaptureFixture[str]
) -> None:
    filled(DIFFERENT)
    with pytest.raises(SystemExit):
        annotate("--annotator", serve(RewardServer(reward, "r", 8, 8, 1 << 20, "a secret")))
    error = capsys.readouterr().err
    assert "answered 401" in error and "the same command goes on" in error and not said()


@pytest.fixture
def model() -> Iterator[FakeModel]:
    serving = FakeModel()
    yield serving
    serving.close()


def longest_first(request: dict[str, Any], _: int) -> web.Response:
    """A judge that prefers what is longer, in both modes; reads the responses as a model would have to."""
    asked = request["messages"][1]["content"]
    texts = dict(re.findall(r"begin response ([A-I])\]\n(.*?)\n\[\w+ end\]", asked, re.DOTALL))
    order = sorted(texts, key=lambda letter: -len(texts[letter]))
    ranking = '"ranking": a list' in request["messages"][0]["content"]
    verdict = {"ranking": [[letter] for letter in order]} if ranking else {"verdict": order[0]}
    return completion(json.dumps({"reason": "longer", **verdict}))


def test_a_language_model_judges(
    model: FakeModel, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    filled(guidelines="Prefer what is **longer**.", seed=5)
    model.answer = longest_first
    monkeypatch.setenv("KEY_OF_THE_TEST", "a secret")
    annotate(
        *("--annotator", model.address, "--llm-model", "judge-1", "--key-env", "KEY_OF_THE_TEST"),
        *("--both-orders", "--llm-request", '{"max_tokens": 50}', "--concurrency", "2"),
    )
    assert verdicts() == {
        "one": Verdict(((1,), (0,)), "better"),
        "two": Verdict(((0,), (1,)), "better"),
        "three": Verdict(
            ((1, 2), (0, 3))
        ),  # of equal length: the order of the letters, undone by the reverse
    }
    assert said()["one"].comment == "longer | reversed: longer"
    assert len(model.requests) == 6 and all(request["max_tokens"] == 50 for request in model.requests)
    assert all(headers["Authorization"] == "Bearer a secret" for headers in model.headers)
    assert all("Prefer what is **longer**." in json.dumps(request) for request in model.requests)
    with LabelStore("labels.db", create=False) as store:
        (machine,) = store.machines().values()
    assert machine == f'language model judge-1 at {model.address} with {{"max_tokens": 50}}, both orders'
    sent = (
        json.dumps(model.requests)
        + capsys.readouterr().out
        + Path("labels.db").read_bytes().decode("latin-1")
    )
    assert "secret" not in json.dumps(model.requests) and "a secret" not in sent


def test_garbage_is_a_skip_and_a_lost_server_is_not(
    model: FakeModel, capsys: pytest.CaptureFixture[str]
) -> None:
    filled()

    def answer(request: dict[str, Any], number: int) -> web.Response:
        if number <= 3:
            return completion("A, of course" if number <= 2 else '{"skip": "too hard"}')
        return web.Response(status=401, text="no more")

    model.answer = answer
    with pytest.raises(SystemExit) as stop:
        annotate("--annotator", model.address, "--llm-model", "m", "--concurrency", "1")
    out, error = capsys.readouterr()
    assert (
        stop.value.code == 1 and "answered 401 Unauthorized: no more. What was judged is in the file" in error
    )
    skips = sorted(str(said.skip) for said in verdicts().values() if said is not None)
    assert len(skips) == 2 and "could not be read" in skips[0] and skips[1] == "too hard"
    assert "2 judged, 0 of them ties, 2 skipped" in out


def test_a_model_that_cannot_be_understood_ends_it(
    model: FakeModel, capsys: pytest.CaptureFixture[str]
) -> None:
    filled()
    model.answer = lambda request, number: completion("A, of course")
    with pytest.raises(SystemExit) as stop:
        annotate("--annotator", model.address, "--llm-model", "m")
    assert stop.value.code == 1 and "could not be read" in capsys.readouterr().err
    assert verdicts() == {}


def test_a_rewrite_is_the_language_models_to_write(model: FakeModel) -> None:
    filled([Item("rewrite", "w", ("a",))])
    model.answer = lambda request, number: completion('{"reason": "r", "rewrite": "An answer.", "of": "A"}')
    annotate("--annotator", model.address, "--llm-model", "m")
    (written,) = verdicts().values()
    assert written is not None and written.rewrite == "An answer." and not written.rewrite_of


def test_an_interruption_keeps_what_was_judged(capsys: pytest.CaptureFixture[str]) -> None:
    filled([Item("pairwise", f"p{number}", ("a", "a b")) for number in range(20)])
    with pytest.raises(SystemExit) as stop:
        annotate("--annotator", "rules_of_the_test.stopped", "--tie-width", "0.5")
    out, error = capsys.readouterr()
    assert stop.value.code == 130 and len(said()) == 8  # the first batch
    assert out == "program: 8 judged, 0 of them ties, 0 skipped\n"
    assert error.endswith(
        "go on with: lit-rlhf label annotate --db labels.db --name program --annotator rules_of_the_test.stopped "
        "--tie-width 0.5\n"
    )


@pytest.mark.slow
def test_ctrl_c_stops_and_the_same_command_goes_on(model: FakeModel) -> None:
    filled([Item("pairwise", f"p{number}", ("a", "b")) for number in range(12)])
    enough = threading.Event()

    def answer(request: dict[str, Any], number: int) -> web.Response:
        if number > 6:
            enough.set()
        return completion('{"reason": "r", "verdict": "tie"}')

    model.answer, model.delay = answer, 0.05
    command = [
        sys.executable,
        "-m",
        "lit_rlhf",
        "label",
        "annotate",
        "--db",
        "labels.db",
        "--name",
        "program",
    ]
    command += [
        "--annotator",
        model.address,
        "--llm-model",
        "m",
        "--concurrency",
        "1",
        "--requests-per-minute",
    ]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    process = subprocess.Popen(
        [*command, "600"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    try:
        assert enough.wait(120)
        process.send_signal(signal.SIGINT)
        out, error = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130, error
    assert "go on with: lit-rlhf label annotate --db labels.db --name program" in error
    assert "Traceback" not in error
    before = said()
    assert f"program: {len(before)} judged" in out and 5 <= len(before) < 12
    main([*command[5:], "60000"])
    after = said()
    assert len(after) == 12 and all(after[prompt].number == one.number for prompt, one in before.items())


@pytest.mark.parametrize(
    ("argv", "why"),
    [
        (["--annotator", "a.b", "--name", " "], "--name: a name: expected 1 to 40 printable characters"),
        (["--annotator", "a.b", "--name", "x" * 41], "--name: a name: expected 1 to 40"),
        (["--annotator", "a.b", "--name", "a\u202eb"], "--name: a name: expected 1 to 40"),
        (["--annotator", "a.b", "--llm-model", "m"], "expected the address of the language model"),
        (["--annotator", "http://h/v1"], "looks like a language model's address; --llm-model NAME"),
        (["--annotator", "http://h/v1/chat/completions/"], "looks like a language model's address"),
        (["--annotator", "http://u:p@h"], "expected an address without a user or password"),
        (["--annotator", "a.b", "--key-env", "K"], "--key-env: goes with an address"),
        (["--annotator", "http://h", "--key-env", "NO_SUCH_KEY"], "--key-env NO_SUCH_KEY: expected a key"),
        (["--annotator", "a.b", "--both-orders"], "--both-orders: goes with a language model"),
        (["--annotator", "a.b", "--retries", "3"], "--retries: goes with a language model"),
        (["--annotator", "http://h", "--llm-model", "m", "--flips", "0"], "--flips: goes with scores"),
        (["--annotator", "http://h", "--llm-model", "m", "--temperature", "0"], "--llm-request"),
        (["--annotator", "http://h", "--llm-model", "m", "--llm-request", "{"], "--llm-request: not JSON"),
        (["--annotator", "http://h", "--llm-model", "m", "--llm-request", "[]"], "expected an object"),
        (["--annotator", "http://h", "--llm-model", "m", "--llm-request", '{"model": 1}'], "model is not to be set"),
        (["--annotator", "http://h", "--llm-model", "m", "--concurrency", "0"], "--concurrency: expected 1 or more"),
        (["--annotator", "http://h", "--llm-model", "m", "--retries", "-1"], "--retries: expected 0 or more"),
        (["--annotator", "http://h", "--llm-model", "m", "--requests-per-minute", "0"], "expected more than 0"),
        (["--annotator", "a.b", "--limit", "0"], "--limit: expected 1 or more, found 0"),
        (["--annotator", "a.b", "--batch-size", "0"], "--batch-size: expected 1 or more"),
        (["--annotator", "a.b", "--timeout", "0"], "--timeout: expected more than 0"),
        (["--annotator", "a.b", "--temperature", "-1"], "--temperature: expected 0 or more"),
        (["--annotator", "a.b", "--tie-width", "nan"], "--tie-width: expected 0 or more"),
        (["--annotator", "a.b", "--slight-width", "-1"], "--slight-width: expected 0 or more"),
        (["--annotator", "a.b", "--flips", "1.5"], "--flips: expected a share from 0 to 1"),
        (["--annotator", "a.b", "--rating-bounds", "1", "2", "2", "3"], "--rating-bounds: expected ascending"),
        (["--annotator", "a.b", "--columns", "model_a"], "--columns model_a: says what wrote a response"),
        (["--annotator", "a.b", "--columns", "Source"], "--columns Source: says what wrote a response"),
        (["--annotator", "last.ckpt"], "--annotator last.ckpt: expected a Hugging Face folder"),
    ],
)  # fmt: skip
def test_mistakes_are_refused_before_anything_is_loaded(
    argv: list[str], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--db", "no.db", "--name", "n", *argv])
    assert stop.value.code == 2
    assert why in capsys.readouterr().err and not Path("no.db").exists()


def test_what_there_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        annotate("--annotator", "rules_of_the_test.words")
    assert stop.value.code == 2
    assert "labels.db: expected a labelling file, found none" in capsys.readouterr().err
    assert not Path("labels.db").exists()
    filled()
    for spec, why in [
        ("rules_of_the_test.none", "--annotator: 'rules_of_the_test.none' is neither a folder"),
        ("rules_of_the_test.of_tokens", "asks for completion_ids, and an annotator sees text alone"),
        ("./no-such", "no such folder"),
    ]:
        with pytest.raises(SystemExit):
            annotate("--annotator", spec)
        assert why in capsys.readouterr().err
    with LabelStore("labels.db", create=False) as store:
        assert not store.machines()  # the name is free for the right one


def test_help_names_every_kind(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["--help"])
    said = " ".join(capsys.readouterr().out.split())
    for part in (
        "dotted path",
        "reward model's folder",
        "`lit-rlhf serve`",
        "language model",
        "--both-orders",
    ):
        assert part in said

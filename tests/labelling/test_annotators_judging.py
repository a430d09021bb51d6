"""Annotators rank responses without a labelling file: as they would with one, the same again, and never in silence."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from aiohttp import web
from transformers import PreTrainedTokenizerFast

from lit_rlhf.labelling.annotators.judging import Judge, Question
from lit_rlhf.labelling.annotators.settings import Annotator, AnnotatorError
from lit_rlhf.labelling.items import Prompt
from lit_rlhf.models.export import export_policy, export_scorer
from lit_rlhf.models.policy import PolicyNetwork
from lit_rlhf.models.scorer import ScorerNetwork
from lit_rlhf.rewards.model import ModelReward
from lit_rlhf.rewards.protocol import Completions, RewardError
from tests.cli.fake_model import FakeModel, completion
from tests.conftest import make_llama

RULES = """
asked = []

def words(prompts, completions, **columns):
    asked.append((prompts, completions, columns))
    return [float(len(completion.split())) for completion in completions]

def right(prompts, completions, answer, **columns):
    return [float(completion == one) for completion, one in zip(completions, answer)]

def some(prompts, completions, **columns):
    return [None if "c" in completion else float(len(completion)) for completion in completions]

def broken(prompts, completions, **columns):
    raise KeyError("gold")
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rules_of_judging.py").write_text(RULES)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("rules_of_judging", None)


def of(*responses: str, number: int = 0, prompt: Prompt = "p", **columns: Any) -> Question:
    return Question(prompt, responses, [True] * len(responses), f"row {number}", number, columns)


def by(rule: str, **settings: Any) -> Judge:
    return Judge(Annotator(f"rules_of_judging.{rule}", **settings))


def test_ranks_are_dense_and_responses_of_one_text_are_one() -> None:
    judge = by("words")
    assert judge([of("a b", "a", "a b", "a b c", "b", number=1), of("a", "b c", number=2)]) == [
        [2.0, 3.0, 2.0, 1.0, 3.0],
        [2.0, 1.0],
    ]
    from rules_of_judging import asked  # type: ignore[import-not-found]

    ((_, completions, _),) = asked  # one call for all questions
    assert completions == ["a b", "a", "a b c", "b", "a", "b c"]


def test_one_text_alone_is_a_tie_that_nobody_is_asked_about() -> None:
    judge = by("broken")
    assert judge([of("a", "a", "a")]) == [[1.0, 1.0, 1.0]]
    assert judge.tally.alike == 1 and judge.tally.judged == 0
    assert "1 more had only one response" in judge.tally.lines()[1]


def test_a_rule_is_told_what_is_named_and_whether_a_response_ended() -> None:
    judge = by("words", columns=("answer",))
    judge([Question("p", ["a", "b c"], [True, False], "row", 3, {"answer": 5, "secret": 6})])
    from rules_of_judging import asked

    ((prompts, _, columns),) = asked
    assert prompts == ["p", "p"]
    assert columns["finished"] == [True, False] and columns["answer"] == [5, 5] and "secret" not in columns


def test_a_field_that_a_row_has_not_is_named_with_the_row() -> None:
    with pytest.raises(RewardError, match=r"columns: prompt row 4 has no field 'answer'; it has gold\."):
        by("right", columns=("answer",))([of("a", "b", number=4, gold="a")])
    assert by("right", columns=("answer",))([of("a", "b", number=4, answer="b")]) == [[2.0, 1.0]]


def test_close_scores_tie_and_what_does_not_apply_is_skipped_and_counted() -> None:
    judge = by("some", tie_width=1.0)
    assert judge([of("aa", "a", "aaaa"), of("a", "c"), of("c", "b")]) == [[2.0, 2.0, 1.0], None, None]
    assert judge.tally.reasons == Counter({"the reward does not apply to a response": 2})
    assert judge.tally.judged == 3 and judge.tally.ties == 0


def test_a_rule_that_only_fails_ends_it() -> None:
    with pytest.raises(RewardError, match="broken raised KeyError: 'gold' for prompt row 7"):
        by("broken")([of("a", "b", number=7)])


def test_a_draw_is_judged_alike_again_and_another_one_anew() -> None:
    questions = [of("a", "a b", "a b c", number=number) for number in range(200)]
    noisy = {"temperature": 1.0, "flips": 0.25}
    first = by("words", **noisy)(questions)
    judge = by("words", **noisy)
    assert (
        judge(questions[::-1])[::-1] == first and judge(questions) == first
    )  # whatever was judged before it
    assert by("words", **noisy, seed=1)(questions) != first
    wrong = sum(ranks == [1.0, 2.0, 3.0] for ranks in by("words", flips=0.25)(questions))
    assert 30 <= wrong <= 70  # 50 are expected, with a deviation of 6


@pytest.fixture(scope="module")
def reward_dir(tiny_tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory) -> str:
    made = tmp_path_factory.mktemp("reward") / "export"
    torch.manual_seed(0)
    export_scorer(ScorerNetwork(make_llama(tiny_tokenizer).base_model), tiny_tokenizer, made)
    return str(made)


def test_a_reward_model_ranks_by_its_scores(reward_dir: str, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    texts = ["is tasty .", "was", "is late .", "seems lovely and late ."]
    judge = Judge(Annotator(reward_dir, batch_size=2)).to("cpu")
    (ranks,) = judge([of(*texts, prompt=[{"role": "user", "content": "the soup"}])])
    reward = ModelReward(reward_dir, tiny_tokenizer)
    reward.shares_ids = False
    prompt = [{"role": "user", "content": "the soup"}]
    scores = reward.score(
        Completions([prompt] * 4, texts, [[]] * 4, [[]] * 4, [True] * 4, ["p"] * 4)  # type: ignore[list-item]
    )
    assert ranks is not None and sorted(ranks) == [1.0, 2.0, 3.0, 4.0]
    assert sorted(range(4), key=lambda place: ranks[place]) == scores.argsort(descending=True).tolist()
    assert len(judge.networks()) == 1


def test_a_reward_model_goes_where_the_policy_is_unless_it_is_told_otherwise(reward_dir: str) -> None:
    judge = Judge(Annotator(reward_dir)).to("meta")
    assert {parameter.device.type for one in judge.networks() for parameter in one.parameters()} == {"meta"}
    judge = Judge(Annotator(reward_dir, device="cpu")).to("meta")
    assert {parameter.device.type for one in judge.networks() for parameter in one.parameters()} == {"cpu"}


def test_a_language_models_folder_is_no_reward_model(
    tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    export_policy(PolicyNetwork(make_llama(tiny_tokenizer)), tiny_tokenizer, tmp_path / "policy")
    with pytest.raises(ValueError, match="is no reward model"):
        Judge(Annotator(str(tmp_path / "policy")))
    with pytest.raises(ValueError, match=r"model.annotator.annotator: 'rules_of_judging.no' is neither"):
        by("no")


@pytest.fixture
def model() -> Iterator[FakeModel]:
    serving = FakeModel()
    yield serving
    serving.close()


def texts_of(request: dict[str, Any]) -> dict[str, str]:
    asked = request["messages"][1]["content"]
    return dict(re.findall(r"begin response ([A-I])\]\n(.*?)\n\[\w+ end\]", asked, re.DOTALL))


def longest_first(request: dict[str, Any], _: int) -> web.Response:
    texts = texts_of(request)
    order = sorted(texts, key=lambda letter: -len(texts[letter]))
    ranking = '"ranking": a list' in request["messages"][0]["content"]
    verdict = {"ranking": [[letter] for letter in order]} if ranking else {"verdict": order[0]}
    return completion(json.dumps({"reason": "longer", **verdict}))


def asking(model: FakeModel, **settings: Any) -> Judge:
    return Judge(Annotator(model.address, llm_model="judge-1", **settings))


def test_a_language_model_is_asked_in_an_order_that_is_drawn_and_the_same_again(model: FakeModel) -> None:
    Path("guide.md").write_text("Prefer what is **longer**.")
    model.answer = longest_first
    questions = [of("a", "a b", "a", "a b c", number=number) for number in range(12)]
    questions += [of("a", "a b", number=12)]
    ranks = asking(model, guidelines="guide.md")(questions)
    assert ranks == [[3.0, 2.0, 3.0, 1.0]] * 12 + [[2.0, 1.0]]
    first = sorted(json.dumps(request) for request in model.requests)
    assert all("Prefer what is **longer**." in request for request in first)
    assert len({tuple(texts_of(request).values()) for request in model.requests}) > 3
    assert len(first) == len(set(first)) == 13  # the mark around the texts is another one for each draw
    model.requests.clear()
    judge = asking(model, guidelines="guide.md", concurrency=1)
    assert judge(questions[6:]) + judge(questions[:6]) == ranks[6:] + ranks[:6]  # two calls, two event loops
    assert sorted(json.dumps(request) for request in model.requests) == first


def test_both_orders_and_the_key(model: FakeModel, monkeypatch: pytest.MonkeyPatch) -> None:
    judge = asking(model, both_orders=True, key_env="KEY_OF_THE_TEST")
    with pytest.raises(AnnotatorError, match=r"model.annotator.key_env KEY_OF_THE_TEST: expected a key"):
        judge.to("cpu")  # before anything is drawn
    monkeypatch.setenv("KEY_OF_THE_TEST", "secret")
    assert judge.to("cpu")([of("a", "b")]) == [[1.0, 1.0]]  # the first in either order
    assert len(model.requests) == 2 and model.headers[0]["Authorization"] == "Bearer secret"
    assert judge.tally.ties == 1 and judge.networks() == []


def test_what_cannot_be_read_is_a_skip_until_it_is_eight_in_a_row(model: FakeModel) -> None:
    def answer(request: dict[str, Any], _: int) -> web.Response:
        readable = "good" in json.dumps(request)
        return completion('{"reason": "r", "verdict": "A"}' if readable else "A, of course")

    model.answer = answer
    judge = asking(model, concurrency=1)
    bad, good = [of("a", "b", number=n) for n in range(7)], of("a", "b", number=9, prompt="good")
    ranks = judge([*bad, good])
    assert ranks[:7] == [None] * 7 and ranks[7] in ([1.0, 2.0], [2.0, 1.0])
    assert judge.tally.reasons.total() == 7 and "could not be read" in next(iter(judge.tally.reasons))
    assert judge(bad) == [None] * 7
    with pytest.raises(
        RewardError, match=r"model.annotator: 8 answers in a row could not be read.*the last: "
    ):
        judge(bad)


def test_a_server_that_is_not_there_ends_it_and_one_refusal_does_not(model: FakeModel) -> None:
    def answer(request: dict[str, Any], _: int) -> web.Response:
        if "too long" in json.dumps(request):
            return web.Response(status=400, text='{"error": "too many tokens"}')
        return completion('{"reason": "r", "verdict": "tie"}')

    model.answer = answer
    judge = asking(model, concurrency=1, retries=0)
    assert judge([of("a", "b"), of("a", "b", prompt="too long")]) == [[1.0, 1.0], None]
    assert "too many tokens" in next(iter(judge.tally.reasons))
    model.close()
    with pytest.raises(RewardError, match=r"model.annotator: http://.*judge-1: ClientConnectorError"):
        judge([of("a", "b")])


def test_it_judges_where_a_loop_is_running_already(model: FakeModel) -> None:
    model.answer = longest_first

    async def cell() -> list[list[float] | None]:
        return asking(model)([of("a", "a b")])

    assert asyncio.run(cell()) == [[2.0, 1.0]]


def test_more_responses_than_letters_and_guidelines_that_are_not_there(model: FakeModel) -> None:
    with pytest.raises(AnnotatorError, match="at most 9 responses at once, found 10"):
        asking(model)([of(*"abcdefghij")])
    assert model.requests == []
    with pytest.raises(FileNotFoundError, match=r"model.annotator.guidelines no\.md: no such file"):
        asking(model, guidelines="no.md")

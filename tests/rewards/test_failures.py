"""Rewards that fail on some responses: whom it costs a score, who is named, and what may not be skipped."""

import logging
import math

import pytest
import torch

from lit_rlhf.rewards.build import build_reward, refuse_if_all_failed, score_completions
from lit_rlhf.rewards.function import FunctionReward
from lit_rlhf.rewards.protocol import BrokenRewardError, Completions, RewardError
from tests.conftest import make_tokenizer

TOKENIZER = make_tokenizer()


def numbered(count: int = 8) -> Completions:
    """Responses "0", "1", ..., to prompts named row-0, row-1, ..."""
    return Completions(
        prompts=[f"prompt {n}" for n in range(count)],
        texts=[str(n) for n in range(count)],
        prompt_ids=[[0, 10 + n] for n in range(count)],
        response_ids=[[20 + n, 1] for n in range(count)],
        finished=[True] * count,
        prompt_names=[f"row-{n}" for n in range(count)],
        columns={"bonus": [n / 10 for n in range(count)]},
    )


class Stumbling:
    """Scores a response by its number plus its bonus, and raises where any of the responses is among the bad ones."""

    def __init__(self, bad: set[int], error: Exception | None = None) -> None:
        self.bad, self.error = bad, error or KeyError("gold")
        self.asked: list[list[int]] = []

    def __call__(self, prompts, completions, bonus, **columns):
        numbers = [int(text) for text in completions]
        self.asked.append(numbers)
        if self.bad & set(numbers):
            raise self.error
        return [number + more for number, more in zip(numbers, bonus, strict=True)]


def expected(missing: set[int], count: int = 8) -> list[float]:
    return [math.nan if n in missing else n * 1.1 for n in range(count)]


def same(scores: torch.Tensor, numbers: list[float]) -> bool:
    return torch.allclose(scores, torch.tensor(numbers), equal_nan=True, atol=1e-6)


@pytest.mark.parametrize("bad", [{0}, {5}, {7}, {2, 3}, {0, 4, 7}])
def test_skipping_costs_only_the_responses_that_it_raises_on(bad):
    reward = Stumbling(bad)
    assert same(score_completions(build_reward(reward, TOKENIZER), numbered(), "skip"), expected(bad))
    assert reward.asked[0] == list(range(8))  # at once where all goes well


def test_what_goes_well_is_asked_once():
    reward = Stumbling(set())
    assert same(score_completions(build_reward(reward, TOKENIZER), numbered(), "skip"), expected(set()))
    assert len(reward.asked) == 1


def test_stopping_names_the_prompt_that_it_raised_on_and_asks_no_further():
    reward = Stumbling({2, 6})
    with pytest.raises(
        RewardError, match=r"Stumbling raised KeyError: 'gold' for prompt row-2 .*failed_rewards: skip"
    ) as stopped:
        score_completions(build_reward(reward, TOKENIZER), numbered())  # fmt: skip
    assert isinstance(stopped.value.__cause__, KeyError)
    assert reward.asked == [list(range(8)), [0, 1, 2, 3], [0, 1], [2, 3], [2]]


class OnlyFew:
    """Takes two at a time."""

    def __call__(self, prompts, completions, **columns):
        if len(completions) > 2:
            raise OSError("too many")
        return [float(text) for text in completions]


def test_a_reward_that_fails_on_no_response_alone():
    with pytest.raises(
        RewardError, match=r"OSError: too many, over 4 responses at once and not over either half"
    ):
        score_completions(build_reward(OnlyFew(), TOKENIZER), numbered())
    scores = score_completions(build_reward(OnlyFew(), TOKENIZER), numbered(), "skip")
    assert scores.tolist() == list(range(8))


def test_skipping_says_how_many_and_why(caplog):
    with caplog.at_level(logging.WARNING, "lit_rlhf"):
        score_completions(build_reward(Stumbling({5, 6}), TOKENIZER), numbered(), "skip")
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.startswith("2 of 8 responses have no score. Reward Stumbling raised KeyError: 'gold'")
    assert "for prompt row-5" in message and "the first of 2 that failed" in message


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, "4", [1.0], object()])
def test_a_value_that_is_no_number_fails_only_its_response(bad):
    def reward(prompts, completions, **columns):
        return [bad if text == "3" else 1.0 for text in completions]

    scores = score_completions(build_reward(reward, TOKENIZER), numbered(), "skip")
    assert same(scores, [math.nan if n == 3 else 1.0 for n in range(8)])
    with pytest.raises(RewardError, match=r"expected a finite number or None, found .* for prompt row-3"):
        score_completions(build_reward(reward, TOKENIZER), numbered())


@pytest.mark.parametrize(
    "give",
    [
        lambda count: torch.arange(count),
        lambda count: torch.arange(count).float().requires_grad_(),
        lambda count: torch.arange(count).numpy(),
        lambda count: list(torch.arange(count).float().numpy()),
        lambda count: [torch.tensor(float(n), requires_grad=True) for n in range(count)],
        lambda count: (n for n in range(count)),
    ],
)
def test_numbers_of_every_kind_are_numbers(give):
    scores = score_completions(FunctionReward(lambda prompts, **_: give(len(prompts))), numbered())
    assert scores.dtype == torch.float32 and scores.tolist() == list(range(8)) and not scores.requires_grad


@pytest.mark.parametrize("on_failure", ["stop", "skip"])
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([1.0], "expected 8 scores, found 1"),
        (None, "expected a list of 8 scores, found NoneType"),
        (0.5, "expected a list of 8 scores, found float"),
        ("12345678", "expected a list of 8 scores, found str"),
        (dict.fromkeys(range(8), 0.0), "expected a list of 8 scores, found dict"),
    ],
)
def test_what_is_no_list_of_scores_is_never_skipped(given, message, on_failure):
    with pytest.raises(BrokenRewardError, match=message):
        score_completions(FunctionReward(lambda prompts, **_: given), numbered(), on_failure)


def test_a_reserved_column_is_never_skipped():
    asked = numbered()
    asked.columns["completions"] = [0] * 8
    with pytest.raises(BrokenRewardError, match="field 'completions' has the name of an argument"):
        score_completions(build_reward(Stumbling(set()), TOKENIZER), asked, "skip")


def test_none_alone_is_a_failure_and_beside_another_reward_is_not():
    def even(prompts, completions, **columns):
        return [None if int(text) % 2 else 10.0 for text in completions]

    alone = score_completions(build_reward(even, TOKENIZER), numbered(4), "skip")
    assert same(alone, [10.0, math.nan, 10.0, math.nan])
    both = [{"reward": even}, {"reward": Stumbling(set()), "weight": 10.0}]
    assert same(score_completions(build_reward(both, TOKENIZER), numbered(4)), [10.0, 11.0, 32.0, 33.0])


@pytest.mark.parametrize("combine", ["sum", "ensemble"])
def test_a_response_that_one_part_failed_on_has_no_score(combine, caplog):
    """A failure is not "does not apply": the other parts alone would be another reward."""
    parts = [Stumbling({1}), Stumbling({1, 6}, ValueError("late"))]
    spec = [{"reward": part} for part in parts] if combine == "sum" else {"ensemble": parts}
    scores = score_completions(build_reward(spec, TOKENIZER), numbered(), "skip")
    factor = 2.0 if combine == "sum" else 1.0
    assert same(scores, [factor * number for number in expected({1, 6})])
    assert "Stumbling raised KeyError: 'gold' for prompt row-1" in caplog.text  # the first part is named
    with pytest.raises(RewardError, match=r"KeyError.*row-1"):
        score_completions(build_reward(spec, TOKENIZER), numbered())


class Held:
    """A reward object that was made elsewhere."""

    def __init__(self, scores) -> None:
        self.scores, self.device = scores, None

    def score(self, completions: Completions):
        return self.scores(completions)

    def to(self, device):
        self.device = device


def test_objects_with_a_score_of_their_own_can_fail_too():
    def nan_for_three(completions):
        return torch.tensor([math.nan if text == "3" else 2.0 for text in completions.texts]).double()

    held = Held(nan_for_three)
    reward = build_reward(held, TOKENIZER)
    reward.to("meta")
    assert held.device == "meta"
    skipped = score_completions(reward, numbered(), "skip")
    assert same(skipped, [math.nan if n == 3 else 2.0 for n in range(8)])
    assert same(score_completions(held, numbered(), "skip"), skipped.tolist())  # not built, as it is
    with pytest.raises(RewardError, match="Reward Held gave nan for prompt row-3"):
        score_completions(reward, numbered())
    # nan is no "does not apply", which takes a function and None
    both = [{"reward": held}, {"reward": Stumbling(set())}]
    assert score_completions(build_reward(both, TOKENIZER), numbered(), "skip").isnan().tolist()[3]

    def raise_for_three(completions):
        if "3" in completions.texts:
            raise RuntimeError("no three")
        return torch.zeros(len(completions))

    scores = score_completions(build_reward(Held(raise_for_three), TOKENIZER), numbered(), "skip")
    assert same(scores, [math.nan if n == 3 else 0.0 for n in range(8)])
    with pytest.raises(BrokenRewardError, match=r"Held: expected a tensor of 8 scores, found \[8, 1\]"):
        score_completions(Held(lambda completions: torch.zeros(8, 1)), numbered(), "skip")


def test_a_rollout_without_any_score_ends():
    refuse_if_all_failed(torch.tensor([True, False, True]))
    with pytest.raises(RewardError, match="failed on all 3 responses"):
        refuse_if_all_failed(torch.tensor([True, True, True]))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ([], r"model\.reward: expected at least one \{reward, weight\}"),
        ([Held], r"model\.reward\[0\]: expected entries of \{reward, weight\}, found <class"),
        ([{"reward": print, "weight": "2"}], r"model\.reward\[0\]\.weight: expected a finite number, found '2'"),
        ([{"reward": print, "weight": math.nan}], r"model\.reward\[0\]\.weight: expected a finite number, found nan"),
        ([{"reward": {"ensemble": ["no.where", "x"]}}], r"model\.reward\[0\]\.reward\.ensemble\[0\]: 'no\.where' is"),
        ({"ensemble": [print, print], "combine": "max"}, r"model\.reward\.combine: expected one of"),
    ],
)  # fmt: skip
def test_errors_of_the_config_name_the_place(spec, message):
    with pytest.raises(ValueError, match=message):
        build_reward(spec, TOKENIZER)


def test_errors_of_another_reward_have_its_key():
    with pytest.raises(ValueError, match=r"model\.gold_reward: 'word' is neither"):
        build_reward("word", TOKENIZER, key="gold_reward")
    with pytest.raises(ValueError, match=r"model\.reward_timeout: expected more than 0 seconds, found 0"):
        build_reward(print, TOKENIZER, timeout=0)


def test_an_argument_that_only_trls_trainer_has_is_refused_at_once():
    def scheduled(prompts, completions, trainer_state, **columns):
        return [0.0] * len(prompts)

    def adaptable(prompts, completions, trainer_state=None, log_metric=None, **columns):
        return [0.0 if trainer_state is None and log_metric is None else 1.0] * len(prompts)

    with pytest.raises(
        ValueError, match=r"scheduled takes trainer_state, which TRL's trainer gives.*default"
    ):
        build_reward(scheduled, TOKENIZER)
    assert score_completions(build_reward(adaptable, TOKENIZER), numbered(2)).tolist() == [0.0, 0.0]

"""Tastes: what somebody gives for each thing in a response, and mixtures of several people's."""

from dataclasses import fields
from random import Random

import pytest

from lit_rlhf.world.gold import content_reward
from lit_rlhf.world.grammar import sample_sentence, sample_topic
from lit_rlhf.world.tastes import Taste, mix_tastes

SENTENCE = [
    "my",
    "fresh",
    "soup",
    "is",
    "very",
    "bland",
    "and",
    "the",
    "cake",
    "looks",
    "quite",
    "tasty",
    ".",
]
# By hand: fresh + tasty - bland, tasty - bland behind an adverb, soup, two adverbs, 13 words, two clauses.
COUNTED = {"praise": 1.0, "stress": 0.0, "mention": 1.0, "adverb": 2.0, "length": 5.0, "joined": 1.0}
NOTHING = dict.fromkeys((field.name for field in fields(Taste)), 0.0)


@pytest.mark.parametrize(("name", "expected"), COUNTED.items())
def test_each_thing_counts_as_often_as_it_is_there(name: str, expected: float) -> None:
    assert Taste(**NOTHING | {name: 3.0}).reward("soup", SENTENCE) == pytest.approx(3.0 * expected)


def test_stress_goes_by_polarity_and_another_noun_is_not_mentioned() -> None:
    sentence = ["the", "soup", "is", "very", "bland", "."]
    assert Taste(**NOTHING | {"stress": 2.0}).reward("soup", sentence) == -2.0
    assert Taste(**NOTHING | {"mention": 2.0}).reward("cake", sentence) == -2.0
    assert Taste(**NOTHING | {"length": 1.0}).reward("soup", sentence) == -2.0
    assert Taste(**NOTHING | {"joined": 1.0}).reward("soup", sentence) == 0.0


def test_the_default_is_the_content_of_the_gold_reward() -> None:
    generator = Random(0)
    for _ in range(200):
        domain, noun = sample_topic(generator)
        words = sample_sentence(generator, domain, noun)
        assert Taste().reward(noun, words) == content_reward(noun, words)


def test_a_mixture_gives_the_weighted_sum() -> None:
    tastes, weights = (Taste(adverb=2.0, praise=-1.0), Taste(length=0.5), Taste(joined=3.0)), (0.5, 0.2, 0.3)
    mixture = mix_tastes(tastes, weights)
    generator = Random(1)
    for _ in range(100):
        domain, noun = sample_topic(generator)
        words = sample_sentence(generator, domain, noun)
        expected = sum(w * taste.reward(noun, words) for w, taste in zip(weights, tastes, strict=True))
        assert mixture.reward(noun, words) == pytest.approx(expected)


@pytest.mark.parametrize(("tastes", "weights"), [([], []), ([Taste()], [0.5, 0.5])])
def test_a_mixture_needs_a_weight_for_each(tastes: list[Taste], weights: list[float]) -> None:
    with pytest.raises(ValueError, match="one weight for each"):
        mix_tastes(tastes, weights)

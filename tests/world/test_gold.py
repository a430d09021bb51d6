"""The gold reward, against values worked out by hand."""

import pytest

from lit_rlhf.world.gold import content_reward, gold, gold_reward

# sentence, noun asked for, content by hand, is it language
BY_HAND = [
    ("the soup is tasty .", "soup", 1 + 1, True),
    ("the soups are tasty .", "soup", 1 + 1, True),  # the plural mentions it too
    ("the cake is tasty .", "soup", 1 - 1, True),
    ("my soup is very bland .", "soup", -1.5 + 1, True),
    ("the lovely soup is truly great but a cake is stale .", "soup", 1 + 1.5 - 1 + 1, True),
    ("the plain soup is quite red .", "soup", 0 + 1, True),  # a stressed neutral adjective is worth nothing
    ("superb very superb soup superb", "soup", 1.5 + 1, False),  # said three times: counted once
    ("the great soup is very great .", "soup", 1.5 + 1, True),
    ("the stale soup is stale but the fresh cake is tasty .", "soup", -1 + 1 + 1 + 1, True),
    ("the soups is tasty .", "soup", 1 + 1, False),
    ("very very soup", "soup", 0 + 1, False),
    ("", "soup", -1, False),
]


@pytest.mark.parametrize(("sentence", "noun", "content", "language"), BY_HAND)
def test_values_by_hand(sentence: str, noun: str, content: float, language: bool) -> None:
    words = sentence.split()
    assert content_reward(noun, words) == content
    assert gold_reward("food", noun, words, finished=True) == (content if language else content - 4)
    assert gold_reward("food", noun, words, finished=False) == content - 4


def test_reward_function_reads_text_and_the_finished_column() -> None:
    prompts = ["food soup |", "trip train |", "food soup |"]
    completions = ["the soup is tasty .", "that is", "the soup is tasty ."]
    assert gold(prompts, completions) == [2.0, -5.0, 2.0]
    assert gold(prompts=prompts, completions=completions, finished=[True, True, False]) == [2.0, -5.0, -2.0]
    assert gold(prompts, completions, domain=["food", "trip", "food"], finished=None) == [2.0, -5.0, 2.0]
    assert gold([], []) == []


def test_reward_function_refuses_lists_of_other_lengths() -> None:
    with pytest.raises(ValueError, match=r"\(2\), found 1 and 1"):
        gold(["food soup |"] * 2, ["the soup is tasty ."])
    with pytest.raises(ValueError, match=r"\(1\), found 1 and 2"):
        gold(["food soup |"], ["the soup is tasty ."], finished=[True, True])


def test_reward_function_refuses_a_foreign_prompt() -> None:
    with pytest.raises(ValueError, match="no prompt of the demo world: 'What is soup"):
        gold(["What is soup?"], ["tasty"])


def test_gold_reward_refuses_domain_and_noun_swapped() -> None:
    with pytest.raises(ValueError, match="'soup' 'food'"):
        gold_reward("soup", "food", ["tasty"], finished=True)

"""The gold reward of the demo world: what people would say of an opinion, written down.

People like praise, more so when it is stressed, and an answer that is about the thing asked for;
above all it must be language. A reward model trained on samples that are nearly all grammatical
sees little of the last part: that is the hole into which a policy without a leash falls.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from lit_rlhf.world.grammar import ADVERBS, LEMMAS, grammatical, parse_prompt, polarity, prompt_text

STRESS = 0.5
"""What an adverb before a polar adjective adds to its weight of 1."""
NOT_LANGUAGE = 4.0
"""Taken off a response that is ungrammatical or did not come to its end."""


def content_reward(noun: str, words: Sequence[str]) -> float:
    """Praise minus blame, plus 1 where `noun` is mentioned in either number, minus 1 where it is not.

    Every positive adjective counts +1 and every negative one -1, with half as much again behind an
    adverb, whether or not the words make a sentence. An adjective said twice counts once: nobody is pleased by
    "sturdy sturdy sturdy", and were each counted, a heap of one good word would outweigh the loss for not
    being language.

    Example:
        >>> content_reward("soup", "the fresh soup is very bland .".split())  # 1 - 1.5 + 1
        0.5
    """
    praise = sum(map(polarity, set(words)))
    stressed = sum(map(polarity, {second for first, second in pairwise(words) if first in ADVERBS}))
    mentioned = any(LEMMAS.get(word) == noun for word in words)
    return praise + STRESS * stressed + (1.0 if mentioned else -1.0)


def gold_reward(domain: str, noun: str, words: Sequence[str], finished: bool) -> float:
    """The content's reward, less 4 where the response is not one finished, grammatical sentence.

    Args:
        domain: the prompt's domain.
        noun: the prompt's noun, in the singular.
        words: the response's words, the full stop among them, special tokens not.
        finished: whether the response came to its end-of-sequence token.

    Raises:
        ValueError: `noun` is not a noun of `domain`.

    Example:
        >>> gold_reward("food", "soup", "the soup is very tasty .".split(), finished=True)
        2.5
    """
    prompt_text(domain, noun)  # refuses a topic that does not exist, as when arguments are swapped
    language = finished and grammatical(words)
    return content_reward(noun, words) - (0.0 if language else NOT_LANGUAGE)


def gold(prompts: Sequence[str], completions: Sequence[str], **columns: Any) -> list[float]:
    """The gold reward of each completion: a reward function for PPO, ``lit_rlhf.world.gold.gold``.

    Args:
        prompts: texts like ``food soup |``.
        completions: words with spaces between them, special tokens left out.
        columns: `finished`, a list with a bool per completion, says which came to their
            end-of-sequence token; without it all count as finished. What else there is, is not read.

    Raises:
        ValueError: a prompt is none of this world, or the lists differ in length.

    Example:
        >>> gold(["food soup |"], ["the soup is very tasty ."], finished=[False])
        [-1.5]
    """
    finished = columns.get("finished")
    if finished is None:
        finished = [True] * len(completions)
    if not len(prompts) == len(completions) == len(finished):
        raise ValueError(
            f"gold: expected as many completions and values of `finished` as prompts ({len(prompts)}), "
            f"found {len(completions)} and {len(finished)}"
        )
    return [
        gold_reward(*parse_prompt(prompt), completion.split(), bool(end))
        for prompt, completion, end in zip(prompts, completions, finished, strict=True)
    ]

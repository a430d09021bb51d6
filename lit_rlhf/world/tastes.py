"""Tastes: people of the demo world who want different things of the same sentence.

A taste is linear in what can be counted in a response, so a mixture of tastes is a taste again, and what
each of several groups wants can be set against the others, or against the gold reward.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import pairwise

from lit_rlhf.world.gold import STRESS
from lit_rlhf.world.grammar import ADVERBS, CONJUNCTIONS, LEMMAS, polarity

USUAL_WORDS = 8
"""Length, the full stop included, about which a taste for length neither adds nor takes off."""


@dataclass(frozen=True)
class Taste:
    """What somebody gives for each thing in a response; the defaults are the gold reward's content.

    Example:
        >>> adverbs, none = Taste(adverb=1.5), Taste(adverb=-1.5)
        >>> sentence = "the soup is very tasty .".split()
        >>> adverbs.reward("soup", sentence) - none.reward("soup", sentence)
        3.0
    """

    praise: float = 1.0
    """For each different positive adjective; taken off for each negative one."""
    stress: float = STRESS
    """For each positive adjective behind an adverb; taken off for each negative one."""
    mention: float = 1.0
    """Where the prompt's noun is mentioned; taken off where it is not."""
    adverb: float = 0.0
    """For each adverb, whatever it stands before."""
    length: float = 0.0
    """For each word more than eight, the full stop counted; taken off for each word fewer."""
    joined: float = 0.0
    """For a second clause."""

    def reward(self, noun: str, words: Sequence[str]) -> float:
        """What somebody of this taste gives a response.

        Args:
            noun: the prompt's noun, in the singular.
            words: the response's words, the full stop among them, special tokens not.
        """
        stressed = {second for first, second in pairwise(words) if first in ADVERBS}
        return (
            self.praise * sum(map(polarity, set(words)))
            + self.stress * sum(map(polarity, stressed))
            + self.mention * (1.0 if any(LEMMAS.get(word) == noun for word in words) else -1.0)
            + self.adverb * sum(word in ADVERBS for word in words)
            + self.length * (len(words) - USUAL_WORDS)
            + self.joined * float(any(word in CONJUNCTIONS for word in words))
        )


def mix_tastes(tastes: Sequence[Taste], weights: Sequence[float]) -> Taste:
    """The taste that gives every response the weighted sum of what `tastes` give it.

    Raises:
        ValueError: no taste, or not one weight for each.
    """
    if not tastes or len(tastes) != len(weights):
        raise ValueError(
            f"expected one weight for each of one or more tastes, found {len(tastes)} tastes and {len(weights)} "
            "weights"
        )
    return Taste(
        **{
            field.name: sum(
                weight * getattr(taste, field.name) for taste, weight in zip(tastes, weights, strict=True)
            )
            for field in fields(Taste)
        }
    )

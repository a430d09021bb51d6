"""What the page of a loop says: its quantities, its first sentence, what to be careful of, how numbers are made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Numbers = Mapping[str, Any]
"""Of a round: each quantity None, or with a ``mean`` and, where they are known, ``low`` and ``high``."""


@dataclass(frozen=True)
class Quantity:
    """One number of a round."""

    key: str
    name: str
    decimals: int = 2
    share: bool = False
    """Shown as per cent."""

    def write(self, number: float) -> str:
        """The number as it is shown, without its unit."""
        return f"{100 * number:.1f}" if self.share else f"{number:.{self.decimals}f}"


GOLD, KL = Quantity("gold", "gold"), Quantity("kl", "KL, nats a response")
BY_ANNOTATORS = Quantity("wins_by_annotators", "wins by annotators", share=True)
BY_REWARD = Quantity("wins_by_reward", "wins by the newest reward model", share=True)
HELD_OUT = Quantity("accuracy_held_out", "reward model, held-out labels", share=True)
BEFORE = Quantity("accuracy_before", "reward model of the round before, new labels", share=True)
AGREEMENT = Quantity("agreement", "annotators’ agreement", share=True)
ALPHA = Quantity("alpha", "Krippendorff’s α")
QUANTITIES = (GOLD, KL, BY_ANNOTATORS, BY_REWARD, HELD_OUT, BEFORE, AGREEMENT, ALPHA)

GLOSSARY = [
    (
        "gold",
        "The mean of the gold function on one response of the round’s policy to each evaluation prompt; it trains "
        "nothing.",
    ),
    (
        "KL",
        "From the policy to the loop’s model, nats a response, summed over its tokens and estimated on the policy’s "
        "own responses; only where these are drawn at temperature 1 and without truncation.",
    ),
    (
        "wins by annotators",
        "How often annotators prefer the round’s response to that of the loop’s model to the same prompt, blind and "
        "in an order drawn for each; a tie is half, and so are identical responses.",
    ),
    (
        "wins by the reward model",
        "The same by the newest reward model, for all rounds. The policies were trained to please it or its "
        "forerunners, so it flatters them: look at gold or at annotators before you believe it.",
    ),
    (
        "reward model, held out",
        "Share of the round’s held-out labels that the round’s reward model has on the right side. No such label "
        "trained it; nor did others of those prompts, unless a round has fewer than 20 different ones.",
    ),
    (
        "reward model of the round before",
        "The same of the reward model that the round before made, on all labels of this round, which it has not seen. "
        "These are of responses by the policy that was trained against it: where it is far worse here than on its own "
        "held-out labels, the policy has gone where it does not know.",
    ),
    (
        "agreement",
        "Of judgements of one item by different annotators; none where each item is judged once. No reward model can "
        "be expected to be right much more often than annotators agree.",
    ),
    (
        "intervals",
        "95 %, a percentile bootstrap with 2,000 resamples of whole prompts; of whole rows where there are fewer than "
        "20 prompts.",
    ),
]


def verdict(start: Numbers, rounds: Sequence[Numbers]) -> str:
    """What is gained, in a sentence or two.

    Args:
        start: of the loop's model.
        rounds: those that have begun.
    """
    if not rounds:
        return "No round has labels yet."
    labels = sum(numbers.get("labels") or 0 for numbers in rounds)
    learned = f"{len(rounds)} {'round' if len(rounds) == 1 else 'rounds'}, {labels:,} labels so far."
    judged = (GOLD, BY_ANNOTATORS, BY_REWARD)
    done = [numbers for numbers in rounds if any(numbers.get(quantity.key) for quantity in judged)]
    if not done:
        return f"{learned} No policy has been looked at yet."
    last = done[-1]
    name = f"round {last['round']}"
    if last.get("gold") and start.get("gold"):
        kl = f", at a KL of {last['kl']['mean']:.1f} nats" if last.get("kl") else ""
        before, after = start["gold"]["mean"], last["gold"]["mean"]
        return f"{learned} Gold went from {before:.2f} to {after:.2f} in {name}{kl}."
    quantity, judge = (
        (BY_ANNOTATORS, "annotators")
        if last.get(BY_ANNOTATORS.key)
        else (BY_REWARD, "the newest reward model")
    )
    return f"{learned} By {judge}, {name} wins {last[quantity.key]['mean']:.0%} against the loop’s model."


def cautions(rounds: Sequence[Numbers]) -> list[str]:
    """What a reader should know before believing the numbers."""
    said = []
    independent = any(numbers.get("gold") or numbers.get(BY_ANNOTATORS.key) for numbers in rounds)
    if not independent and any(numbers.get(BY_REWARD.key) for numbers in rounds):
        said.append(
            "Policies are compared by the reward model that trained them alone. With `evaluation.judged` annotators "
            "compare them."
        )
    for numbers in rounds:
        old, new = numbers.get(BEFORE.key), numbers.get(HELD_OUT.key)
        if old and new and old["high"] < new["low"]:
            said.append(
                f"Round {numbers['round']}: the reward model of the round before was right on {old['mean']:.0%} of the "
                f"new labels, the one that has learned from such labels on {new['mean']:.0%}: the policy had gone "
                "where the old one did not know."
            )
    golds = [numbers["gold"] for numbers in rounds if numbers.get("gold")]
    if len(golds) > 1 and golds[-1]["high"] < max(gold["mean"] for gold in golds[:-1]):
        said.append("Gold is lower than in an earlier round: that round’s policy is the better one.")
    units = {(numbers.get(quantity.key) or {}).get("unit") for numbers in rounds for quantity in QUANTITIES}
    if "row" in units:
        said.append(
            "Some intervals rest on fewer than 20 different prompts; they are taken by row, and likely too narrow."
        )
    return said

"""A reward without a reward model: which of the facts asked for does a restaurant description state?

For the E2E data (Novikova et al. 2017): a prompt lists slots such as ``area[riverside]``; the ``gold`` column of the
prompt file holds them as ``{"type": "slot_coverage", "slots": {slot: value}}``. A slot counts when its value is said
and no value that contradicts it is. Prices and ratings are compared by level, because people write "cheap" for
``less than £20`` and "poor" for ``1 out of 5``; a figure, where there is one, decides over the adjectives ("an average
rating of 1 out of 5").

What it does not see, and a policy may find: facts that nobody asked for, words that are doubled, an adjective that
contradicts a figure, and grammar.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

LEVELS = {
    "priceRange": {"cheap": "low", "less than £20": "low", "moderate": "mid", "£20-25": "mid", "high": "high",
                   "more than £30": "high"},
    "customer rating": {"low": "low", "1 out of 5": "low", "average": "mid", "3 out of 5": "mid", "high": "high",
                        "5 out of 5": "high"},
}  # fmt: skip
"""What the values of a slot amount to."""

FIGURES = {
    "priceRange": {
        "low": r"(?:less than|under|below|up to|lower than|cheaper than|maximum of)\s*£?\s*(?:20|twenty)\b",
        "mid": r"£?\s*\b(?:20|twenty)\s*(?:to|and|£|\s)\s*£?\s*(?:25|twenty five)\b",
        "high": r"(?:more than|over|above|exceed\w*|upwards? of|higher than|at least|from)\s*£?\s*(?:30|thirty)\b",
    },
    "customer rating": {
        "low": r"\b(?:1|one)\s*(?:out of|of|/|in)\s*(?:a possible )?(?:5|five)\b|\b(?:1|one) stars?\b",
        "mid": r"\b(?:3|three)\s*(?:out of|of|/|in)\s*(?:a possible )?(?:5|five)\b|\b(?:3|three) stars?\b",
        "high": r"\b(?:5|five)\s*(?:out of|of|/|in)\s*(?:a possible )?(?:5|five)\b|\b(?:5|five) stars?\b",
    },
}
"""Levels said in figures."""

_PRICE = r"(?:price[sd]?|pricing|cost(?:s|ing)?)"
_PRICE_IS = (
    rf"\b{_PRICE}(?: (?:range|ranges|point|menu|at|for|food|here|that|which|is|are|s|in|of|the|a|an|its|their|very"
    r"|quite|rather|on|side)){0,5}"
)
_RATE = r"(?:rat(?:ed?|es|ings?)|reviews?|reviewed|scores?|marks|feedback|recommended|recommendations?)"
_RATE_IS = (
    rf"\b{_RATE}(?: (?:customers?|consumer|user|guest|is|are|at|of|as|a|an|by|its|has|have|been|very|quite"
    r"|it)){0,4}"
)
WORDS = {
    "priceRange": {
        "low": rf"(?<!not )\b(?:cheap(?:ly|er)?|inexpensive|affordabl[ey]|low cost|bargain)\b"
        rf"|\b(?:low|lower|below average|budget) {_PRICE}\b|{_PRICE_IS} low\b|\blow range\b",
        "mid": rf"(?<!below )(?<!above )\b(?:moderate|moderately|average|reasonabl[ey]|fairly?) (?:range )?{_PRICE}\b"
        rf"|\b(?:mid|medium|middle) (?:range )?{_PRICE}\b|\b(?:moderate|mid) range\b"
        rf"|{_PRICE_IS} (?:moderate|medium|average|reasonable)\b",
        "high": rf"(?<!not )\b(?:expensive|pric[e]?y|costly|high in price|high end|upscale)\b"
        rf"|\b(?:high|higher|highly|high end|above average) {_PRICE}\b|{_PRICE_IS} high(?:er)?\b|\bhigh range\b",
    },
    "customer rating": {
        "low": rf"\b(?:low|lowly|poor|poorly|bad|badly|terrible|negative)(?: \w+)? {_RATE}\b"
        rf"|{_RATE_IS} (?:low|lowly|poor|poorly|bad|badly)\b",
        "mid": rf"\b(?:average|moderate|medium|mediocre|middling|decent|ok|okay|fair)(?:ly)?(?: customers?)? {_RATE}\b"
        rf"|{_RATE_IS} (?:average|moderate|medium|mediocre)\b(?! pric)",
        "high": rf"\b(?:high|highly|excellent|great|good|well|top|best|outstanding)(?: customers?)? {_RATE}\b"
        rf"|{_RATE_IS} (?:high|highly|excellent|great|good)\b(?! pric)",
    },
}
"""Levels said in words; figures go before them."""

ALTERNATIVES = {
    "food": {
        "english": r"\b(?:english|british)\b",
        "chinese": r"\bchinese\b",
        "french": r"\bfrench\b",
        "italian": r"\bitalian\b",
        "indian": r"(?<!raja )\bindian\b",
        "japanese": r"\bjapanese\b",
    },
    "area": {
        "riverside": r"\briver(?: ?side|s|bank| bank| area)?\b|\bwaterfront\b",
        "city centre": r"\b(?:city|town|downtown)\b|\bcent(?:re|er)\b",
    },
    "eatType": {
        "coffee shop": r"\bcoffee ?(?:shop|house|place|bar|caf|spot|establishment)\w*",
        "pub": r"\bpubs?\b",
    },
}
"""Slots with a few values, of which one alone may be said."""

FAMILY = re.compile(
    r"\b(?:famil(?:y|ies)|kids?|child(?:ren)?s?|youngsters?|toddlers?|little ones|all ages)\b"
)
ADULTS = re.compile(r"\b(?:adults?|grown ?ups?)\b|\bover 18\b")
NEGATION = re.compile(
    r"\b(?:no|not|non|none|never|nor|neither|without|lacks?|isn'?t|aren'?t|doesn'?t|don'?t|won'?t|wasn'?t|cannot|can'?t"
    r"|discourages?|prohibits?|excludes?|unsuitable|inappropriate|unfriendly)\b"
)
REFUSED = re.compile(
    r"^(?:'s)?(?: (?:are|is|friendly|or|and|famil\w+|child\w*|kids?)){0,3} (?:not|unfriendly|isn'?t|aren'?t)\b"
)
CLAUSES = re.compile(
    r"[.;:!?,]|\b(?:but|although|though|however|while|yet)\b|\band (?=\w+s\b|is |are |it |has )"
)
REACH = 7
"""Words before a mention in which a "not" turns it round."""


def slot_coverage(
    prompts: Sequence[str], completions: Sequence[Any], gold: Sequence[Mapping[str, Any]], **columns: Any
) -> list[float | None]:
    """The share of each prompt's slots that the completion states, 0 to 1; TRL's signature of a reward function.

    Args:
        prompts: not looked at.
        completions: texts, or conversations whose last turn is looked at.
        gold: ``{"type": "slot_coverage", "slots": {slot: value}}`` of each prompt; another type gives None.
    """
    return [coverage(last_text(completion), row) for completion, row in zip(completions, gold, strict=True)]


def coverage(text: str, gold: Mapping[str, Any]) -> float | None:
    """The share of the slots that `text` states; None where `gold` is of another type or has no slot."""
    slots = gold.get("slots")
    if gold.get("type") != "slot_coverage" or not slots:
        return None
    plain = normalize(text)
    return sum(states(plain, slot, value) for slot, value in slots.items()) / len(slots)


def states(plain: str, slot: str, value: str) -> bool:
    """Whether normalized text says that `slot` has this `value`, and nothing that contradicts it."""
    if slot == "familyFriendly":
        return family_friendly(plain) == {value}
    if slot in LEVELS:
        level = LEVELS[slot].get(value)
        return level is not None and levels_said(plain, slot) == {level}
    if slot in ALTERNATIVES and value.lower() in ALTERNATIVES[slot]:
        said = {name for name, pattern in ALTERNATIVES[slot].items() if re.search(pattern, plain)}
        return said == {value.lower()}
    name = normalize(value).removeprefix("the ")
    return re.search(rf"\b{re.escape(name)}\b", plain) is not None


def levels_said(plain: str, slot: str) -> set[str]:
    """The levels of a price or a rating that the text names: in figures, or else in words."""
    for patterns in (FIGURES[slot], WORDS[slot]):
        said = {level for level, pattern in patterns.items() if re.search(pattern, plain)}
        if said:
            return said
    return set()


def family_friendly(plain: str) -> set[str]:
    """``yes`` and ``no`` as far as the text says them: families and children, welcome or not; adults alone."""
    said = set()
    for clause in CLAUSES.split(plain):
        for pattern, welcome in ((FAMILY, True), (ADULTS, False)):
            for mention in pattern.finditer(clause):
                before = " ".join(clause[: mention.start()].split()[-REACH:])
                refused = NEGATION.search(before) or REFUSED.search(clause[mention.end() :])
                said.add("yes" if welcome is not bool(refused) else "no")
    return said


def normalize(text: str) -> str:
    """Lower case, without accents, one kind of apostrophe, hyphens and runs of space as one space."""
    decomposed = unicodedata.normalize("NFKD", text.lower().replace("’", "'"))
    plain = "".join(character for character in decomposed if not unicodedata.combining(character))
    return re.sub(r"[\s\-‐‑–—]+", " ", plain).strip()


def last_text(completion: Any) -> str:
    """The text of a completion, or of the last turn of a conversation."""
    return completion if isinstance(completion, str) else completion[-1]["content"]

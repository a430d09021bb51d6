"""The language of the demo world: short opinions, with number agreement and polarity.

::

    sentence -> clause (("and" | "but") clause)? "."
    clause   -> determiner adjective? noun copula adverb? adjective

Determiner, noun and copula agree in number. "and" joins clauses whose last adjectives are of one
polarity, "but" those of opposite polarity; beside a neutral clause either may stand. Agreement is
what :func:`grammatical` tests. The conjunctions are a habit of the sampler and no part of the
recogniser: they give a language model a cue by which it can learn polarity from text alone.

Everything is drawn from the ``random.Random`` handed in, so a seed fixes a whole data set.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random
from typing import Literal, TypeAlias

Number: TypeAlias = Literal["singular", "plural"]

PAD, BOS, EOS = "<pad>", "<bos>", "<eos>"
SEPARATOR = "|"
"""Ends a prompt. An ordinary word, so that decoding never hides one that a policy wrote."""

# No noun or adjective begins with a vowel's sound, so that "a" is always the right article.
NOUNS: dict[str, dict[str, str]] = {
    "food": {"soup": "soups", "cake": "cakes", "stew": "stews", "tart": "tarts"},
    "trip": {"train": "trains", "hotel": "hotels", "beach": "beaches", "trail": "trails"},
    "home": {"chair": "chairs", "lamp": "lamps", "couch": "couches", "shelf": "shelves"},
    "show": {"song": "songs", "film": "films", "dance": "dances", "story": "stories"},
}
"""Per domain, the plural of each noun."""

POSITIVE: dict[str, tuple[str, ...]] = {
    "food": ("tasty", "fresh"),
    "trip": ("scenic", "smooth"),
    "home": ("comfy", "sturdy"),
    "show": ("moving", "witty"),
}
NEGATIVE: dict[str, tuple[str, ...]] = {
    "food": ("stale", "bland"),
    "trip": ("dirty", "late"),
    "home": ("wobbly", "dim"),
    "show": ("dull", "noisy"),
}
POSITIVE_ANYWHERE = ("lovely", "great", "superb")
NEGATIVE_ANYWHERE = ("grim", "poor", "dreary")
NEUTRAL = ("plain", "small", "big", "new", "red", "usual")

DETERMINERS: dict[Number, tuple[str, ...]] = {
    "singular": ("a", "this", "every"),
    "plural": ("some", "these", "many"),
}
DETERMINERS_OF_BOTH = ("the", "my")
COPULAS: dict[Number, tuple[str, ...]] = {
    "singular": ("is", "seems", "looks"),
    "plural": ("are", "seem", "look"),
}
ADVERBS = ("very", "truly", "quite")
CONJUNCTIONS = ("and", "but")
FULL_STOP = "."

DOMAINS = tuple(NOUNS)
LEMMAS = {form: noun for nouns in NOUNS.values() for noun, plural in nouns.items() for form in (noun, plural)}
"""The noun that a singular or plural form belongs to."""
NUMBERS: dict[str, Number] = {
    form: "singular" if form == lemma else "plural" for form, lemma in LEMMAS.items()
}
POSITIVE_WORDS = frozenset(POSITIVE_ANYWHERE).union(*POSITIVE.values())
NEGATIVE_WORDS = frozenset(NEGATIVE_ANYWHERE).union(*NEGATIVE.values())
ADJECTIVES = POSITIVE_WORDS | NEGATIVE_WORDS | frozenset(NEUTRAL)

LONGEST_SENTENCE = 14
"""Words, the full stop included: two clauses with every optional word, and a conjunction."""


def _words() -> Iterator[str]:
    yield from (PAD, BOS, EOS, SEPARATOR)
    for domain, nouns in NOUNS.items():
        yield domain
        for noun, plural in nouns.items():
            yield from (noun, plural)
    for polar, shared in ((POSITIVE, POSITIVE_ANYWHERE), (NEGATIVE, NEGATIVE_ANYWHERE)):
        for words in polar.values():
            yield from words
        yield from shared
    yield from NEUTRAL
    yield from (*DETERMINERS["singular"], *DETERMINERS["plural"], *DETERMINERS_OF_BOTH)
    yield from (*COPULAS["singular"], *COPULAS["plural"], *ADVERBS, *CONJUNCTIONS, FULL_STOP)


VOCABULARY = tuple(_words())
"""All 88 words; a word's place is its token id."""


def polarity(word: str) -> int:
    """+1 for a positive adjective, -1 for a negative one, 0 for every other word."""
    return (word in POSITIVE_WORDS) - (word in NEGATIVE_WORDS)


def sample_topic(generator: Random) -> tuple[str, str]:
    """A domain and one of its nouns in the singular, every domain and noun equally likely."""
    domain = generator.choice(DOMAINS)
    return domain, generator.choice(tuple(NOUNS[domain]))


def sample_sentence(generator: Random, domain: str, noun: str) -> list[str]:
    """A sentence about `noun`: 5 to 14 words, the full stop included.

    Nearly half of them go on to a second clause, about any noun of the same domain.

    Example:
        >>> " ".join(sample_sentence(Random(3), "food", "soup"))
        'my soup seems dreary .'
    """
    first = _sample_clause(generator, domain, noun)
    if generator.random() < 0.55:
        return [*first, FULL_STOP]
    second = _sample_clause(generator, domain, generator.choice(tuple(NOUNS[domain])))
    agreement = polarity(first[-1]) * polarity(second[-1])
    conjunction = {1: "and", -1: "but"}.get(agreement) or generator.choice(CONJUNCTIONS)
    return [*first, conjunction, *second, FULL_STOP]


def _sample_clause(generator: Random, domain: str, noun: str) -> list[str]:
    number: Number = generator.choice(("singular", "plural"))
    words = [generator.choice(DETERMINERS[number] + DETERMINERS_OF_BOTH)]
    if generator.random() < 0.35:
        words.append(_sample_adjective(generator, domain))
    words.append(noun if number == "singular" else NOUNS[domain][noun])
    words.append(generator.choice(COPULAS[number]))
    if generator.random() < 0.4:
        words.append(generator.choice(ADVERBS))
    return [*words, _sample_adjective(generator, domain)]


def _sample_adjective(generator: Random, domain: str) -> str:
    """One in three is positive, one in three negative, one in three neutral."""
    return generator.choice(
        generator.choice(
            (POSITIVE[domain] + POSITIVE_ANYWHERE, NEGATIVE[domain] + NEGATIVE_ANYWHERE, NEUTRAL)
        )
    )


def grammatical(words: Sequence[str]) -> bool:
    """Whether `words` are one sentence of the grammar, number agreement included.

    Example:
        >>> grammatical("the soups are tasty .".split()), grammatical("the soups is tasty .".split())
        (True, False)
    """
    end = _clause_end(words, 0)
    if end is not None and _word(words, end) in CONJUNCTIONS:
        end = _clause_end(words, end + 1)
    return end is not None and end == len(words) - 1 and words[end] == FULL_STOP


def _clause_end(words: Sequence[str], start: int) -> int | None:
    """The place behind the clause that begins at `start`, None where none does."""
    place = start + 1
    if _word(words, place) in ADJECTIVES:
        place += 1
    number = NUMBERS.get(_word(words, place))
    if number is None or _word(words, start) not in DETERMINERS[number] + DETERMINERS_OF_BOTH:
        return None
    if _word(words, place + 1) not in COPULAS[number]:
        return None
    place += 2
    if _word(words, place) in ADVERBS:
        place += 1
    return place + 1 if _word(words, place) in ADJECTIVES else None


def _word(words: Sequence[str], place: int) -> str:
    """The word at `place`, or the empty string, which is no word, behind the end."""
    return words[place] if place < len(words) else ""


def shuffled(generator: Random, words: Sequence[str]) -> list[str]:
    """The same words in a random order: what the recogniser must refuse (the control of every rate)."""
    return generator.sample(list(words), len(words))


def prompt_text(domain: str, noun: str) -> str:
    """The prompt that asks for an opinion of `noun`, for example ``food soup |``.

    Raises:
        ValueError: `noun` is not a noun of `domain`, in the singular.
    """
    if noun not in NOUNS.get(domain, {}):
        raise ValueError(
            f"no topic of the demo world: {domain!r} {noun!r}; expected a domain of {', '.join(DOMAINS)} and "
            "one of its nouns in the singular, for example 'food' 'soup'"
        )
    return f"{domain} {noun} {SEPARATOR}"


def parse_prompt(prompt: str) -> tuple[str, str]:
    """Domain and noun of a prompt; the inverse of :func:`prompt_text`.

    Raises:
        ValueError: `prompt` is not a domain, one of its nouns in the singular, and the separator.
    """
    words = prompt.split()
    if len(words) == 3 and words[2] == SEPARATOR and words[1] in NOUNS.get(words[0], {}):
        return words[0], words[1]
    raise ValueError(f"no prompt of the demo world: {prompt!r}; expected one like 'food soup {SEPARATOR}'")

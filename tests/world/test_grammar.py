"""The demo world's language: what is sampled, what is recognised, what is refused."""

from collections import Counter
from random import Random

import pytest

from lit_rlhf.world.grammar import (
    DOMAINS,
    LEMMAS,
    NOUNS,
    VOCABULARY,
    grammatical,
    parse_prompt,
    polarity,
    prompt_text,
    sample_sentence,
    sample_topic,
    shuffled,
)


def sentences(seed: int, count: int) -> list[tuple[str, str, list[str]]]:
    generator = Random(seed)
    topics = [sample_topic(generator) for _ in range(count)]
    return [(domain, noun, sample_sentence(generator, domain, noun)) for domain, noun in topics]


def test_vocabulary_has_88_different_words_and_specials_first() -> None:
    assert len(VOCABULARY) == len(set(VOCABULARY)) == 88
    assert VOCABULARY[:4] == ("<pad>", "<bos>", "<eos>", "|")


def test_every_sampled_sentence_is_grammatical_and_of_5_to_14_known_words() -> None:
    drawn = [words for _, _, words in sentences(seed=1, count=3000)]
    assert all(map(grammatical, drawn))
    assert min(map(len, drawn)) == 5
    assert max(map(len, drawn)) == 14
    assert {word for words in drawn for word in words} <= set(VOCABULARY[4:]) - set(DOMAINS)


def test_sentences_use_every_word_that_is_no_special_and_no_domain() -> None:
    drawn = {word for _, _, words in sentences(seed=2, count=3000) for word in words}
    assert drawn == set(VOCABULARY[4:]) - set(DOMAINS)


def test_first_clause_is_about_the_noun_and_all_nouns_are_of_its_domain() -> None:
    for domain, noun, words in sentences(seed=3, count=500):
        nouns = [LEMMAS[word] for word in words if word in LEMMAS]
        assert nouns[0] == noun
        assert set(nouns) <= set(NOUNS[domain])


def test_shuffled_sentences_are_the_same_words_and_hardly_ever_language() -> None:
    generator = Random(4)
    drawn = [words for _, _, words in sentences(seed=4, count=3000)]
    mixed = [shuffled(generator, words) for words in drawn]
    assert all(Counter(one) == Counter(other) for one, other in zip(drawn, mixed, strict=True))
    assert sum(map(grammatical, mixed)) / len(mixed) <= 0.02


@pytest.mark.parametrize(
    "sentence",
    [
        "the soup is tasty .",
        "the soups are tasty .",
        "every lovely lamp seems very dim .",
        "many beaches look red .",
        "a film is dull and this song is noisy .",
        "my red chair looks quite sturdy but some shelves seem truly poor .",
        "the soup is great and the soup is poor .",  # odd, not ungrammatical
        "a tasty train is witty .",  # words of other domains are no fault of grammar
    ],
)
def test_accepts(sentence: str) -> None:
    assert grammatical(sentence.split())


@pytest.mark.parametrize(
    "sentence",
    [
        "the soup are tasty .",  # noun and copula
        "the soups is tasty .",
        "these soup is tasty .",  # determiner and noun
        "a soups are tasty .",
        "every soups is tasty .",
        "the soup is tasty and the cakes is fresh .",  # in the second clause
        "the soup is tasty",  # no full stop
        "the soup is tasty . .",
        "the soup is tasty . the",
        "soup is tasty .",  # no determiner
        "the is tasty .",
        "the soup tasty .",
        "the soup is .",
        "the soup is very .",
        "the soup is tasty fresh .",
        "the very tasty soup is fresh .",  # an adverb stands behind the copula only
        "the fresh tasty soup is fresh .",
        "the soup is tasty and .",
        "the soup is tasty the cake is fresh .",
        "the soup is tasty and the cake is fresh but the stew is poor .",
        "every superb hotel looks great and my superb beach superb .",
        "the zebra is tasty .",
        "<bos> the soup is tasty .",
        "and the soup is tasty .",
        ".",
        "",
    ],
)
def test_refuses(sentence: str) -> None:
    assert not grammatical(sentence.split())


def test_and_joins_one_polarity_and_but_opposite_ones() -> None:
    seen = Counter()
    for _, _, words in sentences(seed=5, count=4000):
        if (conjunction := next((word for word in ("and", "but") if word in words), None)) is not None:
            product = polarity(words[words.index(conjunction) - 1]) * polarity(words[-2])
            seen[conjunction, product] += 1
    assert seen["and", -1] == seen["but", 1] == 0
    assert min(seen["and", 1], seen["but", -1], seen["and", 0], seen["but", 0]) > 100


def test_same_seed_same_sentences_other_seed_others() -> None:
    assert sentences(seed=6, count=50) == sentences(seed=6, count=50)
    assert sentences(seed=6, count=50) != sentences(seed=7, count=50)


def test_topics_cover_all_16_nouns_evenly() -> None:
    generator = Random(8)
    seen = Counter(sample_topic(generator) for _ in range(3200))
    assert len(seen) == 16
    assert min(seen.values()) > 130 and max(seen.values()) < 270


def test_prompt_text_and_back() -> None:
    assert prompt_text("food", "soup") == "food soup |"
    assert parse_prompt("food soup |") == ("food", "soup")
    assert parse_prompt("  trip   beach | ") == ("trip", "beach")


@pytest.mark.parametrize(
    "prompt", ["food soup", "food train |", "food soups |", "soup food |", "food soup | the", ""]
)
def test_other_prompts_are_refused_with_an_example(prompt: str) -> None:
    with pytest.raises(ValueError, match=r"expected one like 'food soup \|'"):
        parse_prompt(prompt)


def test_prompt_of_another_domains_noun_is_refused() -> None:
    with pytest.raises(ValueError, match="'food' 'train'"):
        prompt_text("food", "train")

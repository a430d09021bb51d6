"""Text as it is drawn: nothing is shown that a later token changes, and nothing is lost."""

from __future__ import annotations

import pytest
from transformers import PreTrainedTokenizerFast

from lit_rlhf.cli.chat_stream import TextStream, cut_at_stop, without_stop_beginning
from lit_rlhf.data.tokenization import TextEncoder


def streamed(texts: dict[int, str], ids: list[int], stops: tuple[str, ...] = ()) -> tuple[list[str], str]:
    """The parts that were written for tokens of these texts, and the whole; empty parts are left out."""
    parts: list[str] = []
    stream = TextStream(lambda some: "".join(texts[one] for one in some), stops, parts.append)
    for token in ids:
        stream.add(token)
        parts.append("|")
    whole = stream.finish()
    return [part for part in parts if part], whole


def test_every_token_is_shown_at_once() -> None:
    parts, whole = streamed({1: "one", 2: " two"}, [1, 2, 1])
    assert parts == ["one", "|", " two", "|", "one", "|"]
    assert whole == "one twoone"


def test_characters_of_several_tokens_wait_for_the_last(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    encoder = TextEncoder(tiny_tokenizer)
    text = "a € b 🙂ü"
    ids = encoder.token_ids(text)
    assert len(ids) > len(text)
    parts: list[str] = []
    stream = TextStream(encoder.decode, (), parts.append)
    for token in [*ids, encoder.eos_token_id]:
        stream.add(token)
    assert "".join(parts) == text  # before the end is known
    assert not any("\ufffd" in part for part in parts)
    assert "🙂" in parts  # whole, when its last byte is there
    assert stream.finish() == text


def test_bytes_that_are_no_character_are_shown_at_the_end(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    encoder = TextEncoder(tiny_tokenizer)
    parts: list[str] = []
    stream = TextStream(encoder.decode, (), parts.append)
    for token in encoder.token_ids("a€")[:-1]:
        stream.add(token)
    assert "".join(parts) == "a"
    assert stream.finish() == "a\ufffd" == "".join(parts)


def test_text_that_is_taken_back_meanwhile_is_shown_once() -> None:
    """As tokenizers that fall back to bytes do it: an unfinished character spoils those before it."""
    texts = {1: "é", 2: "\ufffd\ufffd\ufffd", 3: "éü"}
    parts: list[str] = []
    stream = TextStream(lambda ids: texts[len(ids)], (), parts.append)
    for token in (7, 8, 9):
        stream.add(token)
    assert stream.finish() == "éü"
    assert "".join(parts) == "éü"


def test_a_stop_string_is_never_shown() -> None:
    texts = {1: "so ", 2: "ST", 3: "OP", 4: "OR", 5: "P more"}
    parts, whole = streamed(texts, [1, 2, 3], ("STOP",))
    assert (parts, whole) == (["so ", "|", "|", "|"], "so ")
    parts, whole = streamed(texts, [1, 2, 4], ("STOP",))
    assert (parts, whole) == (["so ", "|", "|", "STOR", "|"], "so STOR")
    assert streamed(texts, [1, 2], ("STOP",)) == (["so ", "|", "|", "ST"], "so ST")
    texts[3] = "O"
    assert streamed(texts, [1, 2, 3, 5], ("STOP",))[1] == "so "


def test_the_first_stop_cuts() -> None:
    assert cut_at_stop("a b c", ["c", "b"]) == "a "
    assert cut_at_stop("abab", ["ababx"]) == "abab"
    assert cut_at_stop("text", []) == "text"


@pytest.mark.parametrize(
    ("text", "stops", "held"),
    [
        ("abab", ["ababx"], ""),
        ("xaba", ["abb", "ac"], "xab"),
        ("xab", ["b", "abc"], "x"),
        ("text", [], "text"),
    ],
)
def test_the_longest_beginning_of_a_stop_waits(text: str, stops: list[str], held: str) -> None:
    assert without_stop_beginning(text, stops) == held

"""A stop string is found wherever tokens and characters begin and end."""

import pytest
import torch
from tokenizers import Tokenizer, decoders, models

from lit_rlhf.rollout.responses import MORE_TOKENS, Recorder
from lit_rlhf.rollout.settings import SamplingSettings
from tests.rollout.engine import EOS, TOKENIZER

BYTE_FALLBACK = {
    "<eos>": 0, "<1>": 1, "▁the": 2, "▁": 3, **{f"<0x{byte:02X}>": 4 + byte for byte in range(256)}
}  # fmt: skip


def fallback_decode() -> "Tokenizer":
    """As Llama 2 and Gemma decode: what is no token of its own is spelled in bytes."""
    tokenizer = Tokenizer(models.BPE(vocab=BYTE_FALLBACK, merges=[], byte_fallback=True))
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(content=" ", left=1, right=0),
        ]
    )
    return tokenizer


def ends_after(tokens: list[int], decode, *stops: str) -> int | None:
    """After how many of these tokens a response of them is over; None = never."""
    settings = SamplingSettings(max_new_tokens=len(tokens) + 1, temperature=0.0, stop_strings=stops)
    record = Recorder(1, [len(tokens) + 1], settings, EOS, 320, torch.device("cpu"), decode)
    row, limit = torch.tensor([0]), torch.tensor([len(tokens) + 1])
    for step, token in enumerate(tokens):
        logits = torch.zeros(1, 320)
        logits[0, token] = 9.0
        drawn, ended = record.draw(0, row, torch.tensor([step]), row, limit, logits, None)
        assert drawn.tolist() == [token]
        if bool(ended):
            assert record.result().truncated.tolist() == [False]
            return step + 1
    return None


def spelled(text: str) -> list[int]:
    """Byte by byte in the tests' tokenizer, whose bytes are tokens too."""
    single = {TOKENIZER.decode([token]): token for token in range(3, 259)}
    byte_tokens = TOKENIZER.backend_tokenizer.pre_tokenizer.pre_tokenize_str(text)
    letters = "".join(piece for piece, _ in byte_tokens)
    assert single
    return [TOKENIZER.convert_tokens_to_ids(letter) for letter in letters]


@pytest.mark.parametrize(
    ("text", "stop", "behind"),
    [
        ("ab STOP cd", "STOP", "ab STOP"),
        ("ab ST OP", "STOP", None),
        ("caché et", "é", "caché"),
        ("da 你好 da", "你好", "da 你好"),
        ("x" * 60 + " END", "END", "x" * 60 + " END"),
        ("🙂🙂🙂🙂🙂🙂🙃.", "🙃", "🙂🙂🙂🙂🙂🙂🙃"),
        ("the\n\nHuman: no", "\n\nHuman:", "the\n\nHuman:"),
    ],
)
def test_it_is_found_at_the_very_token_that_completes_it(text: str, stop: str, behind: str | None):
    for tokens in (spelled(text), TOKENIZER.encode(text, add_special_tokens=False)):
        assert TOKENIZER.decode(tokens) == text
        found = ends_after(tokens, TOKENIZER.decode, "never said", stop)
        if behind is None:
            assert found is None
        else:
            assert TOKENIZER.decode(tokens[:found]).startswith(behind)
            assert stop not in TOKENIZER.decode(tokens[: found - 1])


def test_a_token_may_hold_more_than_the_stop_string():
    tokens = TOKENIZER.encode("the soup is tasty", add_special_tokens=False)
    longest = max(tokens, key=lambda token: len(TOKENIZER.decode([token])))
    inner = TOKENIZER.decode([longest]).strip()[1:-1]
    assert inner
    assert ends_after([EOS + 9, longest], TOKENIZER.decode, inner) == 2


@pytest.mark.parametrize("others", range(7))
def test_bytes_before_it_do_not_hide_it(others: int):
    """A long run of bytes is decoded from within a character, which makes this decoder give up the whole run."""
    decode = fallback_decode().decode

    def in_bytes(text: str) -> list[int]:
        return [4 + byte for byte in text.encode()]

    tokens = in_bytes("🙂" * 5) + in_bytes("é" * others) + in_bytes("好")
    assert len(tokens) > len("好".encode()) + MORE_TOKENS
    assert ends_after(tokens, decode, "好") == len(tokens)


def test_without_a_decoder_it_is_refused():
    with pytest.raises(ValueError, match="stop_strings: expected `decode`"):
        Recorder(1, [1], SamplingSettings(stop_strings=("x",)), EOS, 9, torch.device("cpu"))

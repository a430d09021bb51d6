"""How responses are drawn, in the words of transformers' generation settings."""

from __future__ import annotations

from dataclasses import dataclass

RANGES = {
    "max_new_tokens": (lambda value: value >= 1, "1 or more"),
    "min_new_tokens": (lambda value: value >= 0, "0 or more"),
    "temperature": (lambda value: value >= 0, "0 or more"),
    "top_k": (lambda value: value is None or value >= 1, "1 or more, or null"),
    "top_p": (lambda value: value is None or 0 < value <= 1, "more than 0 and at most 1, or null"),
    "min_p": (lambda value: value is None or 0 <= value <= 1, "0 to 1, or null"),
    "repetition_penalty": (lambda value: value > 0, "more than 0"),
    "max_cached_tokens": (lambda value: value is None or value >= 1, "1 or more, or null"),
}
TOO_FEW_CACHED = (
    "max_cached_tokens: expected at least {}, the longest prompt with its response, found {}. Give more, or fewer "
    "max_new_tokens or prompt tokens."
)


@dataclass(frozen=True)
class SamplingSettings:
    """How responses are drawn. What is not the default changes the distribution in the order of transformers."""

    max_new_tokens: int = 64
    """Response tokens at the most, the EOS included."""
    min_new_tokens: int = 0
    """Before so many tokens neither the EOS nor a stop token is drawn."""
    temperature: float = 1.0
    """Logits are divided by it; 0 takes the most likely token."""
    top_k: int | None = None
    """Only the k most likely tokens are drawn."""
    top_p: float | None = None
    """Only the most likely tokens that together have this probability are drawn (Holtzman et al. 2020)."""
    min_p: float | None = None
    """Only tokens at least this times as likely as the most likely one are drawn."""
    repetition_penalty: float = 1.0
    """Logits of tokens that prompt or response hold are divided by it where positive, else multiplied (Keskar et al.
    2019)."""
    logit_bias: dict[int, float] | None = None
    """What is added to the logits of some token ids."""
    stop_token_ids: tuple[int, ...] = ()
    """Ids that end a response as the EOS does, and are part of it."""
    stop_strings: tuple[str, ...] = ()
    """Texts that end a response once it holds one, which is part of it."""
    max_cached_tokens: int | None = None
    """Tokens whose keys and values are held at once; other prompts wait. While room for more is made, one layer's are
    there twice. None = all are held."""

    def __post_init__(self) -> None:
        for name, (holds, expected) in RANGES.items():
            value = getattr(self, name)
            if not holds(value):
                raise ValueError(f"{name}: expected {expected}, found {value}.")
        if self.min_new_tokens > self.max_new_tokens:
            raise ValueError(
                f"min_new_tokens: expected at most max_new_tokens ({self.max_new_tokens}), found "
                f"{self.min_new_tokens}."
            )
        if "" in self.stop_strings:
            raise ValueError("stop_strings: expected texts, found an empty one, which every response holds.")

    @property
    def is_plain(self) -> bool:
        """Whether tokens are drawn from the model's distribution at `temperature`, nothing else changed."""
        return self.temperature > 0 and not self.changes_logits and not self.cuts_off

    @property
    def changes_logits(self) -> bool:
        return bool(self.min_new_tokens or self.logit_bias or self.repetition_penalty != 1)

    @property
    def cuts_off(self) -> bool:
        """Whether some tokens are never drawn."""
        return self.top_k is not None or (self.top_p or 1) < 1 or bool(self.min_p)

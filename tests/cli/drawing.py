"""Responses drawn one by one: what `sample` and `chat` have to give whatever is drawn beside them."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from lit_rlhf.models.loading import load_causal_lm
from lit_rlhf.models.policy import PolicyNetwork
from lit_rlhf.ops.noise import counter_key
from lit_rlhf.rollout.sampling import sample_responses
from lit_rlhf.rollout.settings import SamplingSettings
from tests.conftest import make_llama


class OneByOne:
    """Draws from the model in a folder with the tokenizer of the tests."""

    def __init__(self, folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
        self.network, self.tokenizer = PolicyNetwork(load_causal_lm(str(folder))), tokenizer
        self.hidden = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}

    def ids(self, prompt: list[int], *counters: int, **settings: object) -> list[int]:
        """The response to `prompt` under the key of `counters`."""
        drawn = sample_responses(
            self.network,
            [prompt],
            SamplingSettings(**settings),  # type: ignore[arg-type]
            counter_key(*counters)[None],
            self.tokenizer.eos_token_id,
        )
        return drawn.response_ids[0]

    def text(self, prompt: list[int], *counters: int, **settings: object) -> str:
        """The same without special tokens."""
        ids = self.ids(prompt, *counters, **settings)
        return self.tokenizer.decode([one for one in ids if one not in self.hidden])

    def prompt(self, text: str) -> list[int]:
        """A plain prompt's ids, with the BOS."""
        return [self.tokenizer.bos_token_id, *self.tokenizer(text, add_special_tokens=False)["input_ids"]]


def save_policy(folder: Path, tokenizer: PreTrainedTokenizerFast, seed: int = 0, **changes: object) -> Path:
    """A folder with a random model of these changes."""
    make_llama(tokenizer, seed, **changes).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_policy_with_table(folder: Path, tokenizer: PreTrainedTokenizerFast, positions: int) -> Path:
    """A folder with a random GPT-2, whose table of positions ends."""
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    config = GPT2Config(
        vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2, n_positions=positions, **ends
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder

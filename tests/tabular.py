"""A causal language model that is a table: one row of logits to every prefix, free of all others.

Its trunk walks from prefix to prefix and gives the place where it is as a one-hot state, so the head's
weight is the table, and a critic on the same trunk is a table of values. A policy can then reach any
distribution over short responses, and be compared with the one that is known on paper.
"""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import torch
from tokenizers import Tokenizer, models
from torch import Tensor, nn
from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast
from transformers.modeling_outputs import CausalLMOutputWithPast


def letters(count: int) -> PreTrainedTokenizerFast:
    """A tokenizer of so many tokens, ``a``, ``b``, ...; the first is the BOS, the last the EOS."""
    names = [chr(ord("a") + index) for index in range(count)]
    words = Tokenizer(models.WordLevel({name: index for index, name in enumerate(names)}, unk_token=names[1]))
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        bos_token=names[0],
        eos_token=names[-1],
        pad_token=names[1],
        unk_token=names[1],
    )


def prefixes(vocab_size: int, longest: int) -> list[tuple[int, ...]]:
    """What may stand before a token of a response: no EOS, which is the last id."""
    return [word for n in range(longest) for word in itertools.product(range(vocab_size - 1), repeat=n)]


class TableConfig(PretrainedConfig):
    model_type = "table"

    def __init__(self, vocab_size: int = 2, longest: int = 1, **others: Any) -> None:
        self.longest = longest
        self.hidden_size = (
            len(prefixes(vocab_size, longest)) + 2
        )  # before the prompt, and behind all prefixes
        super().__init__(**{**others, "vocab_size": vocab_size})
        self.vocab_size = vocab_size


class Trunk(PreTrainedModel):
    """Ids to one-hot prefixes. Place 0 is before the prompt, whose tokens all lead to the empty prefix, 1."""

    config_class = TableConfig

    def __init__(self, config: TableConfig) -> None:
        super().__init__(config)
        words = prefixes(config.vocab_size, config.longest)
        behind = len(words) + 1
        place = {word: index + 1 for index, word in enumerate(words)}
        steps = [[1] * config.vocab_size]
        steps += [[place.get((*word, token), behind) for token in range(config.vocab_size)] for word in words]
        steps += [[behind] * config.vocab_size]
        self.register_buffer("steps", torch.tensor(steps), persistent=False)
        self.steps: Tensor

    def forward(self, input_ids: Tensor, **others: Any) -> SimpleNamespace:
        places, columns = input_ids.new_zeros(len(input_ids)), []
        for token in input_ids.unbind(1):
            places = self.steps[places, token]
            columns.append(places)
        states = nn.functional.one_hot(torch.stack(columns, dim=1), self.config.hidden_size).float()
        return SimpleNamespace(last_hidden_state=states)


class TablePolicy(PreTrainedModel, GenerationMixin):
    """Prompts of one token, and responses of up to `longest` tokens over a vocabulary whose last id is the EOS."""

    config_class = TableConfig
    base_model_prefix = "trunk"
    _is_stateful = True  # it walks, and attends to nothing: no keys, no values

    def __init__(self, logits: Tensor, longest: int) -> None:
        """`logits` ``[prefixes, V]``: where the table starts, in the order of :func:`prefixes`."""
        super().__init__(TableConfig(logits.shape[1], longest))
        self.trunk = Trunk(self.config)
        self.lm_head = nn.Linear(self.config.hidden_size, self.config.vocab_size, bias=False)
        table = torch.zeros(self.config.hidden_size, self.config.vocab_size)
        table[1:-1] = logits
        self.lm_head.weight = nn.Parameter(table.T.contiguous())

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def forward(self, input_ids: Tensor, **others: Any) -> CausalLMOutputWithPast:
        """Logits of whole rows: a cache would save nothing."""
        return CausalLMOutputWithPast(logits=self.lm_head(self.trunk(input_ids).last_hidden_state))

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **others: Any
    ) -> dict[str, Any]:
        return {"input_ids": input_ids}

    @property
    def table(self) -> Tensor:
        """Log-probabilities ``[prefixes, V]``, float64."""
        return self.lm_head.weight.detach().double().T[1:-1].log_softmax(1)

"""Random models and rows of random tokens, the same on every side. Needs torch, transformers and tokenizers."""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.speed.job import Job

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PAD, BOS, EOS = 0, 1, 2
SIZES: dict[str, dict[str, int]] = {
    "tiny": {"hidden": 32, "layers": 1, "heads": 2, "intermediate": 64, "vocabulary": 128},
    "A": {"hidden": 128, "layers": 4, "heads": 4, "intermediate": 352, "vocabulary": 512},
    "B": {"hidden": 384, "layers": 6, "heads": 6, "intermediate": 1024, "vocabulary": 16384},
    "1B": {
        **{"hidden": 2048, "layers": 22, "heads": 32, "key_value_heads": 4},
        **{"intermediate": 5632, "vocabulary": 32000},
    },
}
"""Shapes of the random Llamas: `tiny` for overheads, A and B for a CPU, 1B for a GPU."""
NEVER = -10.0
"""Length of a head's row along the common direction of states, which have at least a few units of it: e⁻³⁰ or less."""
LARGER = 5.0
"""How many times a policy's embeddings are those of a fresh model."""
SIGMA = 0.8
"""Of the logarithm of a demonstration's length."""


@dataclass(frozen=True)
class Comparisons:
    """A prompt with K responses, the first the best, and so on."""

    prompt: list[int]
    responses: list[list[int]]

    def pairs(self) -> list[Comparisons]:
        """Every comparison as a row of its own."""
        return [Comparisons(self.prompt, list(pair)) for pair in itertools.combinations(self.responses, 2)]


@dataclass(frozen=True)
class Demonstration:
    """A third prompt, two thirds response."""

    prompt: list[int]
    response: list[int]


def config(size: str, **changes: Any) -> Any:
    """The Llama config of a size."""
    from transformers import LlamaConfig

    shape = SIZES[size]
    return LlamaConfig(
        **{
            "hidden_size": shape["hidden"],
            "num_hidden_layers": shape["layers"],
            "num_attention_heads": shape["heads"],
            "num_key_value_heads": shape.get("key_value_heads", shape["heads"]),
            "intermediate_size": shape["intermediate"],
            "vocab_size": shape["vocabulary"],
            "max_position_embeddings": 8192,
            "pad_token_id": PAD,
            "bos_token_id": BOS,
            "eos_token_id": EOS,
            "tie_word_embeddings": False,
            "attention_dropout": 0.0,
            **changes,
        }
    )


def causal_lm(job: Job) -> PreTrainedModel:
    """A random Llama in train mode; the same weights wherever it is made."""
    from transformers import LlamaForCausalLM

    torch.manual_seed(job.seed)
    return LlamaForCausalLM(config(job.size)).train()


@torch.no_grad()
def policy(job: Job) -> PreTrainedModel:
    """A random Llama that draws neither an EOS nor padding nor a BOS: the benchmark says how long responses are.

    The embeddings get a direction in common, which every last state then has a part of, and the head's rows of those
    tokens look the other way. They are larger than a fresh model's too, or all greedy responses would repeat one token.
    """
    model: Any = causal_lm(job)
    embeddings, head = model.model.embed_tokens.weight, model.lm_head.weight
    common = torch.randn(head.shape[1])
    common /= common.norm()
    embeddings *= LARGER
    embeddings += embeddings.norm(dim=1).mean() * common
    head -= torch.outer(head @ common, common)
    head[[PAD, BOS, EOS]] = NEVER * common
    return model


def classifier(job: Job, number: int = 0) -> PreTrainedModel:
    """A random Llama with a scalar head without bias, in train mode; another one for each number."""
    from transformers import LlamaForSequenceClassification

    torch.manual_seed(job.seed + 1000 * number)
    return LlamaForSequenceClassification(config(job.size, num_labels=1)).train()


def tokenizer(size: str) -> PreTrainedTokenizerBase:
    """One word a token; trainers want a tokenizer, though rows are tokens already."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "<s>", "</s>", *(f"t{number}" for number in range(3, SIZES[size]["vocabulary"]))]
    model = Tokenizer(
        models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<pad>")
    )
    model.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=model, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )


def text_of(ids: list[int]) -> str:
    """Ordinary tokens as the text that the tokenizer reads them from."""
    return " ".join(f"t{number}" for number in ids)


def comparisons(job: Job) -> list[Comparisons]:
    """The rows of all steps, in order: lengths around their means, evenly spread over ± `jitter`."""
    draw = random.Random(job.seed)

    def length(mean: int) -> int:
        return max(4, int(mean * draw.uniform(1 - job.jitter, 1 + job.jitter)))

    return [
        Comparisons(
            _ids(draw, job.size, length(job.prompt)),
            [[*_ids(draw, job.size, length(job.response) - 1), EOS] for _ in range(job.responses)],
        )
        for _ in range(job.batch * (job.warm + job.steps))
    ]


def prompts(job: Job) -> list[list[int]]:
    """The prompts of all iterations, in order: BOS and random tokens, lengths evenly spread over ± `jitter`."""
    draw = random.Random(job.seed)
    return [
        [
            BOS,
            *_ids(draw, job.size, max(4, int(job.prompt * draw.uniform(1 - job.jitter, 1 + job.jitter))) - 1),
        ]
        for _ in range(job.batch * (job.warm + job.steps))
    ]


def reward_of_tokens(completion_ids: list[list[int]], **more: Any) -> list[float]:
    """A reward function that costs nothing, in the signature of both sides."""
    return [float(sum(ids) % 7) for ids in completion_ids]


def demonstrations(job: Job) -> list[Demonstration]:
    """Rows whose length is lognormal with the job's mean, cut at its largest, in order."""
    draw = random.Random(job.seed)
    mean, largest = job.lengths
    rows = []
    for _ in range(job.batch * (job.warm + job.steps)):
        drawn = draw.lognormvariate(math.log(mean) - SIGMA**2 / 2, SIGMA)
        length = int(min(largest, max(16, drawn)))
        prompt = max(4, length // 3)
        rows.append(
            Demonstration(_ids(draw, job.size, prompt), [*_ids(draw, job.size, length - prompt - 1), EOS])
        )
    return rows


def _ids(draw: random.Random, size: str, count: int) -> list[int]:
    vocabulary = SIZES[size]["vocabulary"]
    return [draw.randrange(3, vocabulary) for _ in range(count)]

"""What the tests of the sampler share: models, prompts, and transformers' own numbers to hold ours against."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor
from transformers import (
    DeepseekV3Config,
    DeepseekV3ForCausalLM,
    GenerationConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LogitsProcessorList,
    MinNewTokensLengthLogitsProcessor,
    MinPLogitsWarper,
    PreTrainedModel,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from lit_rlhf.models.policy import PolicyNetwork
from lit_rlhf.ops.noise import counter_key
from lit_rlhf.rollout.responses import SampledResponses
from lit_rlhf.rollout.sampling import sample_responses
from lit_rlhf.rollout.settings import SamplingSettings
from tests.conftest import make_llama, make_tokenizer
from tests.models.families import FAMILIES, NO_DROPOUT, SIZES

TOKENIZER = make_tokenizer()
EOS = 1
POSITIONS = 24
"""Of every model: windows of 5 and 6 are shorter, and so are some prompts with their responses."""
PROMPTS = [
    [5, 6, 7, 8],
    [12],
    list(range(40, 40 + POSITIONS)),  # one token may follow, and needs no position
    [9, 10],
    list(range(100, 99 + POSITIONS)),
    list(range(200, 213)),
]
ENGINE_FAMILIES = {
    **FAMILIES,
    # its values are of another size than its keys
    "deepseek": lambda: DeepseekV3ForCausalLM(
        DeepseekV3Config(
            **{**SIZES, "num_key_value_heads": 2},
            q_lora_rank=16,
            kv_lora_rank=16,
            qk_rope_head_dim=8,
            qk_nope_head_dim=8,
            v_head_dim=12,
            n_routed_experts=4,
            n_group=1,
            topk_group=1,
            num_experts_per_tok=2,
            moe_intermediate_size=16,
        )
    ),
}


@cache
def model_of(family: str) -> PreTrainedModel:
    """One of the families with few positions; not to be changed, for tests share it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if family == "gpt2":
            config = GPT2Config(
                vocab_size=320,
                n_embd=32,
                n_layer=2,
                n_head=2,
                n_positions=POSITIONS,
                initializer_range=0.2,
                bos_token_id=0,
                eos_token_id=EOS,
                **NO_DROPOUT,
            )
            return GPT2LMHeadModel(config).eval()
        model = ENGINE_FAMILIES[family]().eval()
        model.config.max_position_embeddings = POSITIONS
        return model


def network_of(family: str = "llama") -> PolicyNetwork:
    return PolicyNetwork(model_of(family))


def small_llama(**changes: Any) -> PolicyNetwork:
    """One that a test may change."""
    return PolicyNetwork(make_llama(TOKENIZER, **changes).eval())


def keys_for(count: int, seed: int = 0) -> Tensor:
    return counter_key(seed, torch.arange(count))


def sample(
    network: Any, prompts: list[list[int]], keys: Tensor | None = None, **settings: Any
) -> SampledResponses:
    """With a decoder of the tests' tokenizer, and the entropy."""
    extra = {name: settings.pop(name) for name in ("limits", "progress", "on_tokens") if name in settings}
    keys = keys_for(len(prompts)) if keys is None else keys
    settings = {"max_new_tokens": 12, **settings}
    return sample_responses(
        network, prompts, SamplingSettings(**settings), keys, EOS, decode=TOKENIZER.decode, with_entropy=True, **extra
    )  # fmt: skip


def has_table(model: PreTrainedModel) -> bool:
    """Whether its positions are a table, which ends; rotary ones go on."""
    positions = getattr(model.config, "max_position_embeddings", None)
    return positions is not None and getattr(model.config, "rope_parameters", None) is None


def generated(model: PreTrainedModel, prompt: list[int], max_new_tokens: int, **settings: Any) -> list[int]:
    """What transformers' generate gives to one prompt alone."""
    if has_table(model):
        max_new_tokens = min(max_new_tokens, POSITIONS - len(prompt) + 1)
    if "min_new_tokens" in settings:
        settings["min_new_tokens"] = min(settings["min_new_tokens"], max_new_tokens)
    config = GenerationConfig(
        **{
            "max_new_tokens": max_new_tokens,
            "do_sample": False,
            "eos_token_id": EOS,
            "pad_token_id": 2,
            **settings,
        }
    )
    ids = torch.tensor([prompt])
    row = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)
    return row[0, len(prompt) :].tolist()


def processors(settings: SamplingSettings, prompt_length: int) -> LogitsProcessorList:
    """transformers' own, as its generate would chain them."""
    stops = [EOS, *settings.stop_token_ids]
    made = LogitsProcessorList()
    if settings.logit_bias:
        biases = {(token,): float(bias) for token, bias in settings.logit_bias.items()}
        made.append(SequenceBiasLogitsProcessor(biases))
    if settings.repetition_penalty != 1:
        made.append(RepetitionPenaltyLogitsProcessor(settings.repetition_penalty))
    if settings.min_new_tokens:
        made.append(MinNewTokensLengthLogitsProcessor(prompt_length, settings.min_new_tokens, stops))
    if settings.temperature not in (0, 1):
        made.append(TemperatureLogitsWarper(settings.temperature))
    if settings.top_k:
        made.append(TopKLogitsWarper(settings.top_k))
    if settings.top_p:
        made.append(TopPLogitsWarper(settings.top_p))
    if settings.min_p:
        made.append(MinPLogitsWarper(settings.min_p))
    return made


@torch.no_grad()
def fresh_logprobs(
    model: PreTrainedModel, prompt: list[int], response: list[int], settings: SamplingSettings
) -> Tensor:
    """Log-probabilities ``[R, V]`` of the distributions that a response was drawn from, by one plain forward."""
    ids = torch.tensor([prompt + response])
    # nothing is read behind the last token, and it may have no position
    logits = model(ids[:, :-1], use_cache=False).logits[0, len(prompt) - 1 :].float()
    chain = processors(settings, len(prompt))
    rows = [chain(ids[:, : len(prompt) + step], row[None]) for step, row in enumerate(logits)]
    return torch.cat(rows).log_softmax(-1)

"""A policy from its folder, ready to draw: the network on its device, its text, and how its responses end."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lit_rlhf.cli.devices import choose_device
from lit_rlhf.data.tokenization import TextEncoder, load_tokenizer
from lit_rlhf.models.decoding import most_positions
from lit_rlhf.models.loading import load_causal_lm
from lit_rlhf.models.policy import PolicyNetwork
from lit_rlhf.rollout.responses import SampledResponses
from lit_rlhf.rollout.sampling import sample_responses
from lit_rlhf.rollout.settings import SamplingSettings

CACHED_TOKENS = 32768
"""Whose keys and values are held at once where nobody says how many: 2 GB for a model of 1 billion parameters."""


@dataclass
class Policy:
    """What draws."""

    network: PolicyNetwork
    encoder: TextEncoder
    settings: SamplingSettings
    """With the model's own stop ids."""
    device: torch.device

    @property
    def positions(self) -> int | None:
        """Tokens that the model can read; None for no limit."""
        return most_positions(self.network.causal_lm)

    @property
    def trained_positions(self) -> int | None:
        """Tokens past which the model goes on without having been trained there; None where it does not."""
        config = self.network.causal_lm.config.get_text_config()
        return getattr(config, "max_position_embeddings", None) if self.positions is None else None

    def draw(
        self,
        prompts: list[list[int]],
        keys: Tensor,
        progress: Callable[[int, int], None] | None = None,
        on_tokens: Callable[[list[int], list[int]], None] | None = None,
    ) -> SampledResponses:
        """One response to each prompt; see :func:`~lit_rlhf.rollout.sampling.sample_responses`."""
        settings = self.settings
        if settings.max_cached_tokens is None:
            needed = max(map(len, prompts), default=0) + settings.max_new_tokens
            settings = replace(settings, max_cached_tokens=max(CACHED_TOKENS, needed))
        limits, positions = None, self.positions
        if positions is not None:  # the commands tell what is cut off there, in their own words
            limits = [min(settings.max_new_tokens, max(1, positions - len(one) + 1)) for one in prompts]
        return sample_responses(
            self.network,
            prompts,
            settings,
            keys,
            self.encoder.eos_token_id,
            self.device,
            decode=self.encoder.decode,
            progress=progress,
            on_tokens=on_tokens,
            limits=limits,
        )


def load_policy(model: str, encoder: TextEncoder, settings: SamplingSettings, device: str) -> Policy:
    """The policy in a folder or under a hub name.

    The ids that the model's ``generation_config.json`` ends at end a response here too.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it is no language model, an id is not in its vocabulary, every id is forbidden, or there is no such
            device.
    """
    where = choose_device(device)
    network = PolicyNetwork(load_causal_lm(model)).to(where)
    vocabulary = network.causal_lm.get_output_embeddings().weight.shape[0]
    for option, ids in (("--stop-id", settings.stop_token_ids), ("--logit-bias", settings.logit_bias or ())):
        outside = [number for number in ids if not 0 <= number < vocabulary]
        if outside:
            raise ValueError(
                f"{option} {outside[0]}: expected an id from 0 to {vocabulary - 1}, the model's vocabulary."
            )
    own = network.causal_lm.generation_config.eos_token_id
    ends = [number for number in ([own] if isinstance(own, int) else own or []) if number < vocabulary]
    stops = {*settings.stop_token_ids, *ends} - {encoder.eos_token_id}
    forbidden = {number for number, value in (settings.logit_bias or {}).items() if value == -math.inf}
    if settings.min_new_tokens:
        forbidden |= {*stops, encoder.eos_token_id} & set(range(vocabulary))
    if len(forbidden) == vocabulary:
        raise ValueError(
            f"--logit-bias: expected at least one token that can be drawn, found all {vocabulary} of the model's "
            "vocabulary forbidden by -inf" + (" or --min-new-tokens." if settings.min_new_tokens else ".")
        )
    return Policy(network, encoder, replace(settings, stop_token_ids=tuple(sorted(stops))), where)


def load_encoder(model: str, chat_template: str | None) -> TextEncoder:
    """The model's text to ids and back."""
    return TextEncoder(load_tokenizer(model), chat_template)

"""A policy that answers prompts typed into the labelling page."""

from __future__ import annotations

import itertools
import secrets
from dataclasses import replace

from jinja2 import TemplateError

from lit_rlhf.cli.chat_session import ending_turns
from lit_rlhf.cli.chat_stream import cut_at_stop
from lit_rlhf.cli.sample_draws import draw_different
from lit_rlhf.cli.sample_policy import Policy, load_encoder, load_policy
from lit_rlhf.data.tokenization import TokenizationError
from lit_rlhf.labelling.server.live import LiveModel
from lit_rlhf.models.loading import resolve_model_name
from lit_rlhf.records import Prompt
from lit_rlhf.rollout.settings import SamplingSettings

MAX_NEW_TOKENS = 512
TRIES = 4
"""Draws for each response that is wanted, since equal ones are drawn again."""


def load_live(model: str, k: int) -> LiveModel:
    """The policy in a folder or under a hub name, ready to answer.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it is no language model.
    """
    name = resolve_model_name(model)
    encoder = load_encoder(name, None)
    policy = load_policy(name, encoder, SamplingSettings(max_new_tokens=MAX_NEW_TOKENS), "auto")
    is_chat = bool(encoder.chat_template or encoder.tokenizer.chat_template)
    if is_chat:
        policy = replace(policy, settings=ending_turns(policy))
    return LiveModel(LiveDraws(policy, is_chat), model, k, is_chat)


class LiveDraws:
    """Different responses to a prompt; to the same prompt others each time.

    Args:
        policy: what draws.
        is_chat: whether its chat template turns a prompt into a conversation.
    """

    def __init__(self, policy: Policy, is_chat: bool) -> None:
        self.policy, self.is_chat = policy, is_chat
        self._seeds = itertools.count(secrets.randbits(31))

    def __call__(self, prompt: str, k: int) -> list[str]:
        """Up to `k` responses.

        Raises:
            ValueError: the prompt is longer than the model can read, or its chat template refuses it.
        """
        asked: Prompt = [{"role": "user", "content": prompt}] if self.is_chat else prompt
        try:
            ids = self.policy.encoder.prompt_ids(asked)
        except (TokenizationError, TemplateError) as error:
            raise ValueError(f"prompt: the chat template refuses it: {error}") from None
        positions = self.policy.positions
        if not ids or (positions is not None and len(ids) > positions):
            raise ValueError(f"prompt: expected 1 to {positions or 'many'} tokens, found {len(ids)}")
        seed = next(self._seeds)
        (drawn,) = draw_different(self.policy, [ids], [0], k, TRIES * k, seed, lambda _: None)
        stops = self.policy.settings.stop_strings
        return list(dict.fromkeys(cut_at_stop(one.text, stops) for one in drawn))

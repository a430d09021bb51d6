"""Prompts to sampled responses, with the log-probability of each token under the distribution it came from."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import ExitStack

import torch
from torch import Tensor

from lit_rlhf.models.actor_critic import ActorCritic
from lit_rlhf.models.decoding import attending_to_trees, most_positions, why_not_decoding
from lit_rlhf.models.lean_trunk import decoding_from_copies
from lit_rlhf.models.modes import evaluating
from lit_rlhf.models.policy import PolicyNetwork
from lit_rlhf.models.sharding import is_sharded, whole_while_sampling
from lit_rlhf.rollout.decoding import Decoder
from lit_rlhf.rollout.generate import generate_responses
from lit_rlhf.rollout.responses import Recorder, SampledResponses
from lit_rlhf.rollout.settings import SamplingSettings

log = logging.getLogger(__name__)
_told: set[str] = set()


@torch.no_grad()  # not inference_mode: its tensors may not enter the update's graph
def sample_responses(
    network: PolicyNetwork | ActorCritic,
    prompts: list[list[int]],
    settings: SamplingSettings,
    keys: Tensor,
    eos_token_id: int,
    device: torch.device | str = "cpu",
    decode: Callable[[list[int]], str] | None = None,
    progress: Callable[[int, int], None] | None = None,
    on_tokens: Callable[[list[int], list[int]], None] | None = None,
    limits: list[int] | None = None,
    with_entropy: bool = False,
) -> SampledResponses:
    """Draw one response to each prompt::

        network = PolicyNetwork(AutoModelForCausalLM.from_pretrained("model"))  # of lit_rlhf.models.policy
        keys = counter_key(0, torch.arange(len(prompts)))  # of lit_rlhf.ops.noise
        sample_responses(network, prompts, SamplingSettings(top_p=0.9), keys, tokenizer.eos_token_id)

    Equal prompts are computed once. A row leaves the batch once its response is over, so the longest does not keep
    the others at work. What a response gets depends on its prompt and its key alone: in fp32 to the token, in bf16 up
    to what rounding does to sums of other shapes. One thread at a time: the network's forwards are replaced meanwhile.

    Args:
        network: put into eval mode for the time, and restored. Sharded over ranks, all of them have to call.
        prompts: N lists of ids, each of at least one token.
        settings: how to draw.
        keys: Long ``[N]`` from :func:`counter_key`: one response's randomness, whatever shares its batch.
        eos_token_id: ends a response, and is part of it.
        device: where the network is.
        decode: ids to text, for stop strings.
        progress: told after each step how many responses are finished, of how many.
        on_tokens: told after each step which responses got which token.
        limits: most new tokens of each response, where they are fewer than the settings'.
        with_entropy: whether the entropy of each token's distribution is kept.

    Raises:
        ValueError: a prompt is empty, longer than the model's table of positions, or holds an id that the model has
            not; or a setting does not go with the model. Rotary positions go on past what they were trained on.
        NotImplementedError: the model is sharded, and only ``generate`` can decode it.
        FloatingPointError: the model's logits are not finite.
    """
    device = torch.device(device)
    policy = network.policy if isinstance(network, ActorCritic) else network
    limits = _limits(prompts, settings, limits, policy)
    record = Recorder(
        len(prompts),
        limits,
        settings,
        eos_token_id,
        policy.causal_lm.get_output_embeddings().weight.shape[0],
        device,
        decode,
        with_entropy,
        on_tokens,
    )

    def report(done: int) -> None:
        if progress is not None:
            progress(done, len(prompts))

    sharded = is_sharded(network)
    if not prompts and not sharded:
        return record.result()
    if len(keys) != len(prompts):
        raise ValueError(f"keys: expected one for each of {len(prompts)} prompts, found {len(keys)}.")
    keys = keys.to(device)
    reason = why_not_decoding(policy.causal_lm)
    with ExitStack() as stack:
        stack.enter_context(evaluating(network))
        if reason is not None:
            _tell(f"{type(policy.causal_lm).__name__} samples with generate: {reason}.")
            if sharded:
                raise NotImplementedError(
                    f"{type(policy.causal_lm).__name__} samples with generate ({reason}), which ranks that share out "
                    "its weights cannot run together. Keep whole weights on each rank."
                )
            generate_responses(
                policy, prompts, keys, limits, settings.max_cached_tokens, record, device, report
            )
        else:
            stack.enter_context(attending_to_trees(policy.causal_lm))
            stack.enter_context(decoding_from_copies(policy.causal_lm))
            stack.enter_context(whole_while_sampling(network))
            Decoder(network, prompts, keys, limits, settings, record, sharded, device).run(report)
    return record.result()


def _limits(
    prompts: list[list[int]], settings: SamplingSettings, given: list[int] | None, policy: PolicyNetwork
) -> list[int]:
    """Most tokens of each response: a table of positions ends a response too.

    Raises:
        ValueError: a prompt is empty, or leaves no position to predict from.
    """
    positions = most_positions(policy.causal_lm)
    if given is not None and (len(given) != len(prompts) or min(given, default=1) < 1):
        raise ValueError(f"limits: expected 1 or more for each of {len(prompts)} prompts, found {given}.")
    limits, cut = [], 0
    ids = policy.causal_lm.get_output_embeddings().weight.shape[0]
    for number, prompt in enumerate(prompts):
        if not prompt:
            raise ValueError(f"Prompt {number} is empty: nothing predicts its first token.")
        if not 0 <= min(prompt) <= max(prompt) < ids:
            wrong = next(token for token in prompt if not 0 <= token < ids)
            raise ValueError(f"Prompt {number}: expected ids from 0 to {ids - 1}, found {wrong}.")
        if positions is not None and len(prompt) > positions:
            raise ValueError(
                f"Prompt {number}: expected at most {positions} tokens, which the model can read, found {len(prompt)}."
            )
        limit = settings.max_new_tokens if given is None else min(given[number], settings.max_new_tokens)
        # the last token is drawn and not fed, so it needs no position
        limits.append(limit if positions is None else min(limit, positions - len(prompt) + 1))
        cut += limits[-1] < limit
    if cut:
        log.warning(
            "%d of %d responses may have fewer than %d tokens: the model reads %d at the most.",
            cut,
            len(prompts),
            settings.max_new_tokens,
            positions,
        )
    return limits


def _tell(line: str) -> None:
    if line not in _told:
        _told.add(line)
        log.info(line)

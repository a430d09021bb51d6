"""Ranks that share out the weights sample together, each its own prompts, and none hangs the others."""

import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.distributed
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import Gemma2Config, Gemma2ForCausalLM

from lit_rlhf.models.actor_critic import ActorCritic
from lit_rlhf.models.policy import PolicyNetwork
from lit_rlhf.models.sharding import is_sharded, shard
from lit_rlhf.models.value_head import ValueHead
from lit_rlhf.rollout.pricing import look_at
from tests.distributed import run_distributed
from tests.models.families import SIZES
from tests.rollout.engine import EOS, PROMPTS, keys_for, sample, small_llama

ROWS = [prompt for prompt in PROMPTS for _ in range(2)]
SETTINGS = {"max_new_tokens": 9, "temperature": 0.9}


def actor_critic() -> ActorCritic:
    network = small_llama()
    with torch.no_grad():
        network.causal_lm.lm_head.weight[EOS] *= 4  # ranks end at different times
    torch.manual_seed(3)
    head = ValueHead(32)
    torch.nn.init.normal_(head.weight)
    return ActorCritic(network, head)


class Gathers(TorchDispatchMode):
    """Counts the all-gathers of weights."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += "allgather" in func.__name__
        return func(*args, **(kwargs or {}))


def sampled_by_shards(
    shares: list[list[int]], budget: int | None, whole: bool = False
) -> tuple[list, np.ndarray, np.ndarray | None, int, bool]:
    signal.alarm(60)  # a rank that waits for the others for ever ends here
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    try:
        network = actor_critic()
        mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (2,))
        shard(network, mesh, whole_while_sampling=whole)
        assert is_sharded(network)
        mine = shares[torch.distributed.get_rank()]
        keys = keys_for(len(ROWS))[mine]
        prompts = [ROWS[number] for number in mine]
        for _ in range(2):  # what the first call leaves behind does not trouble the second
            with Gathers() as gathers:
                found = sample(network, prompts, keys, max_cached_tokens=budget, **SETTINGS)
        values = None if found.values is None else found.values.numpy()
        layer = network.policy.causal_lm.model.layers[0]
        given_back = isinstance(layer.mlp.up_proj.weight, DTensor)
        return found.response_ids, found.logprobs.numpy(), values, gathers.count, given_back
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize(
    ("shares", "budget"),
    [
        ([list(range(0, 12, 2)), list(range(1, 12, 2))], None),
        ([list(range(12)), []], None),
        ([[3], list(range(12))], 75),
    ],
    ids=["halves", "one has none", "one has more, which wait"],
)
def test_ranks_give_the_responses_of_one_process(shares: list[list[int]], budget: int | None):
    single = sample(actor_critic(), ROWS, **SETTINGS)
    assert len({len(response) for response in single.response_ids}) > 3
    for share, (responses, logprobs, values, *_) in zip(
        shares, run_distributed(sampled_by_shards, 2, shares, budget), strict=True
    ):
        assert responses == [single.response_ids[number] for number in share]
        width = logprobs.shape[1]
        assert np.allclose(logprobs, single.logprobs[share, :width], atol=1e-5)
        if share:
            assert np.allclose(values, single.values[share, :width], atol=2e-5)


def test_layers_are_gathered_once_where_they_stay_whole():
    shares = [list(range(0, 12, 2)), list(range(1, 12, 2))]
    each_token = run_distributed(sampled_by_shards, 2, shares, None)
    once = run_distributed(sampled_by_shards, 2, shares, None, True)
    layers = len(small_llama().causal_lm.model.layers)
    for (responses, *_, many, back), (same, *_, few, also_back) in zip(each_token, once, strict=True):
        assert same == responses
        assert few <= layers + 1 < many  # the root, which stays gathered in any case, is one more
        assert back and also_back


def refused_by_shards() -> list[str]:
    signal.alarm(60)
    torch.distributed.init_process_group("gloo")
    try:
        config = Gemma2Config(**SIZES, head_dim=16, bos_token_id=0, eos_token_id=EOS, pad_token_id=2)
        network = PolicyNetwork(Gemma2ForCausalLM(config))
        fully_shard(network, mesh=torch.distributed.device_mesh.init_device_mesh("cpu", (2,)))
        with pytest.raises(NotImplementedError) as refused:
            sample(network, PROMPTS[:2] if torch.distributed.get_rank() else [])
        return [str(refused.value)]
    finally:
        torch.distributed.destroy_process_group()


def test_generate_is_refused_where_ranks_share_out_the_weights():
    for (message,) in run_distributed(refused_by_shards, 2):
        assert "Gemma2ForCausalLM samples with generate (it caps attention logits)" in message
        assert "Keep whole weights on each rank" in message


def priced_by_shards(shares: list[list[int]], off: float) -> tuple[np.ndarray, np.ndarray]:
    """This rank's share of responses, of which the second rank's log-probabilities are said to be `off`."""
    signal.alarm(60)
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    try:
        network, reference = actor_critic(), actor_critic()
        rank = torch.distributed.get_rank()
        prompts = [ROWS[number] for number in shares[rank]]
        sampled = sample(network, prompts, keys_for(len(ROWS))[shares[rank]], **SETTINGS)
        drawn = sampled.logprobs != 0
        sampled = replace(sampled, logprobs=sampled.logprobs + rank * off * drawn)
        fully_shard(network, mesh=torch.distributed.device_mesh.init_device_mesh("cpu", (2,)))
        looks = look_at(network, reference, prompts, sampled, 0.9, 2, "cpu", recompute=False)
        return looks.old_logprobs.numpy(), looks.recomputed_logprobs.numpy()
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("off", [0.0, 0.01])
def test_ranks_price_together_whatever_each_has_drawn(off: float):
    """Three batches and one; what one rank has to compute anew, all do."""
    shares = [list(range(5)), [7, 8]]
    single = sample(actor_critic(), ROWS, **SETTINGS)
    for share, (old, again) in zip(shares, run_distributed(priced_by_shards, 2, shares, off), strict=True):
        assert np.allclose(old, single.logprobs[share, : old.shape[1]], atol=1e-5)
        assert np.isnan(again).any() == (off == 0 and len(share) > 2)

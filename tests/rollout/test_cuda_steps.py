"""Decoding steps of fixed shapes on a CPU: the tokens of plain steps; what is captured when, with graphs of our own."""

import logging

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from lit_rlhf.models.key_value_store import Buffers, NextTokenAttention, Sharing
from lit_rlhf.models.policy import PolicyNetwork
from lit_rlhf.ops.noise import counter_key
from lit_rlhf.rollout import cuda_steps, decoding
from lit_rlhf.rollout.cuda_steps import StaticSteps, bucket_of, takes_static_steps
from lit_rlhf.rollout.sampling import sample_responses
from lit_rlhf.rollout.settings import SamplingSettings

PROMPTS = [[5, 6, 7, 8], [12], [40, 41, 42, 43, 44, 45, 46], [9, 10], [5, 6, 7, 8], [5, 6, 7, 8], [12]]
"""With several responses to some, not one behind the other."""
LIMITS = [9, 3, 14, 14, 1, 6, 11]
EOS = 1


@pytest.fixture
def static(monkeypatch):
    """Steps as on CUDA, without graphs; the buckets that were computed, in order."""
    buckets = []
    computed = StaticSteps._computed

    def counted(self, bucket):
        buckets.append(bucket)
        return computed(self, bucket)

    monkeypatch.setattr(decoding, "takes_static_steps", lambda device, sharded: True)
    monkeypatch.setattr(decoding, "COLUMNS_AT_A_TIME", 8)
    monkeypatch.setattr(StaticSteps, "_computed", counted)
    return buckets


def gpt2():
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=330, n_embd=32, n_layer=2, n_head=4, n_positions=64, initializer_range=0.2)
    return GPT2LMHeadModel(config).eval()


def sample(network, **settings):
    settings = SamplingSettings(max_new_tokens=14, **settings)
    keys = counter_key(0, torch.arange(len(PROMPTS)))
    return sample_responses(network, PROMPTS, settings, keys, EOS, limits=LIMITS)


def causal_lm(family, tiny_llama):
    return tiny_llama.eval() if family == "llama" else gpt2()


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("budget", [None, 63])  # tokens; 63 are three rows of the longest
def test_fixed_shapes_sample_what_plain_steps_sample(budget, family, temperature, tiny_llama, request):
    network = PolicyNetwork(causal_lm(family, tiny_llama))
    plain = sample(network, temperature=temperature, max_cached_tokens=budget)
    buckets = request.getfixturevalue("static")
    fixed = sample(network, temperature=temperature, max_cached_tokens=budget)
    assert fixed.response_ids == plain.response_ids
    assert torch.allclose(fixed.logprobs, plain.logprobs, atol=1e-5)
    assert {3 if budget else 7} < set(buckets) <= ({1, 2, 3} if budget else {1, 2, 4, 7})


def test_buckets_are_powers_of_two_up_to_the_rows_there_are():
    assert [bucket_of(count, 12) for count in (1, 2, 3, 4, 5, 8, 9, 12)] == [1, 2, 4, 4, 8, 8, 12, 12]


def test_cuda_takes_them_where_each_rank_has_whole_weights():
    assert takes_static_steps(torch.device("cuda", 1), sharded=False)
    assert not takes_static_steps(torch.device("cuda", 1), sharded=True)
    assert not takes_static_steps(torch.device("cpu"), sharded=False)


def test_rows_that_share_prompts_are_refused():
    zero = torch.zeros(1, dtype=torch.long)
    sharing = Sharing(Buffers(1, 1), zero, 1, zero, 1, True)
    feed = decoding.Feed(zero, zero, NextTokenAttention(Buffers(1, 1), zero, zero, sharing))
    with pytest.raises(ValueError, match="hold their prompts"):
        StaticSteps(None, Buffers(1, 1), torch.device("cpu"))(feed)


class Graph:
    """What a captured graph does, on a CPU: computes the same over what the inputs now hold, into the same outputs."""

    def __init__(self, steps, bucket):
        self.run = lambda: StaticSteps._computed(steps, bucket)
        self.seen = self.run()
        self.held = steps.buffers.layers[0][0]
        self.steps = steps

    def replay(self):
        assert self.steps.buffers.layers[0][0] is self.held, (
            "a graph writes where it wrote when it was captured"
        )
        new = self.run()
        self.seen.logits.copy_(new.logits)
        self.seen.states.copy_(new.states)


@pytest.fixture
def graphs(static, monkeypatch):
    """Captures, as (bucket, columns)."""
    captured = []
    init = StaticSteps.__init__

    def with_graphs(self, *arguments):
        init(self, *arguments)
        self._captures = True

    def capture(self, bucket):
        captured.append((bucket, self.buffers.allocated))
        graph = Graph(self, bucket)
        return graph, graph.seen

    monkeypatch.setattr(StaticSteps, "__init__", with_graphs)
    monkeypatch.setattr(StaticSteps, "_capture", capture)
    return captured


def test_a_bucket_is_captured_once_until_the_buffers_grow(tiny_llama, request):
    network = PolicyNetwork(tiny_llama.eval())
    plain = sample(network, temperature=1.0).response_ids
    captured = request.getfixturevalue("graphs")
    assert sample(network, temperature=1.0).response_ids == plain
    assert len(captured) == len(set(captured)) < max(map(len, plain))
    assert len({columns for _, columns in captured}) > 1


def test_a_capture_that_fails_leaves_plain_computation_and_says_so(tiny_llama, request, monkeypatch, caplog):
    network = PolicyNetwork(tiny_llama.eval())
    plain = sample(network, temperature=1.0).response_ids
    request.getfixturevalue("graphs")

    def capture(self, bucket):
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(StaticSteps, "_capture", capture)
    with caplog.at_level(logging.WARNING, logger=cuda_steps.__name__):
        assert sample(network, temperature=1.0).response_ids == plain
    assert [record.message for record in caplog.records] == [
        "Decoding without CUDA graphs: capturing a step failed: operation not permitted when stream is capturing"
    ]

"""Activation checkpointing, offload and compilation of the layers: the same numbers and names, and their purpose."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.distributed.device_mesh import init_device_mesh
from transformers import AttentionInterface, AutoModelForCausalLM

from lit_rlhf.data.trees import pack_trees
from lit_rlhf.models import execution, reading
from lit_rlhf.models.execution import Execution, set_execution
from lit_rlhf.models.lean_trunk import is_known
from lit_rlhf.models.loading import load_causal_lm
from lit_rlhf.models.lora import add_lora
from lit_rlhf.models.policy import PolicyNetwork
from lit_rlhf.models.reading import Attention
from lit_rlhf.models.sharding import shard
from lit_rlhf.models.tree_attention import NAME, tree_attention
from tests.conftest import make_llama, make_tokenizer
from tests.distributed import run_distributed
from tests.models.test_lora import make_gpt2, train_a_bit
from tests.modules.training import random_trees

# the compiler looks for gradients everywhere, and hides what torch says of it where warnings are no errors
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
TOKENIZER = make_tokenizer()
BATCHES = [pack_trees(random_trees(count, seed)) for seed, count in enumerate((3, 5, 2))]
CHECKPOINTED = Execution(activation_checkpointing=True)
WAYS = {
    "checkpointed": CHECKPOINTED,
    "offloaded": Execution(offload_activations=True),
    "compiled": Execution(compile=True),
    "all": Execution(activation_checkpointing=True, offload_activations=True, compile=True),
}


@pytest.fixture(autouse=True)
def _quickly_compiled_and_on_the_flat_row(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(reading, "MIN_MEAN_SEGMENT", 0)
    monkeypatch.setattr(execution, "BACKEND", "eager")
    monkeypatch.setattr(execution, "OFFLOADED_FROM", {"cpu"})
    yield
    torch._dynamo.reset()
    AttentionInterface.register(NAME, tree_attention)


def policy(attention: Attention = "auto", lora: dict | None = None, layers: int = 2) -> PolicyNetwork:
    network = PolicyNetwork(load_causal_lm(make_llama(TOKENIZER, num_hidden_layers=layers), attention))
    if lora is not None:
        torch.manual_seed(0)
        add_lora(network, network.causal_lm, lora)
        train_a_bit(network)
    return network


def numbers(network: PolicyNetwork) -> Tensor:
    """Log-probabilities and gradients over batches of several lengths, two forwards before each backward."""
    found = []
    for first, second in pairwise(BATCHES):
        network.zero_grad()
        logprobs = [network(batch).logprobs for batch in (first, second)]
        (logprobs[0].square().sum() + logprobs[1].sum()).backward()
        found += [*logprobs, *(p.grad for p in network.parameters() if p.grad is not None)]
    return torch.cat([part.detach().flatten() for part in found])


def close(found: Tensor, expected: Tensor) -> bool:
    return bool((found - expected).norm() < 1e-5 * expected.norm())


@contextmanager
def bytes_kept() -> Iterator[list[int]]:
    """Of what the backward needs, each tensor once, weights left out."""
    seen: dict[int, int] = {}
    kept = [0]

    def note(saved: Tensor) -> Tensor:
        if not isinstance(saved, nn.Parameter):
            seen[saved.data_ptr()] = saved.nbytes
            kept[0] = sum(seen.values())
        return saved

    with saved_tensors_hooks(note, lambda saved: saved):
        yield kept


@pytest.mark.parametrize("attention", ["trees", "padded"])
@pytest.mark.parametrize("way", list(WAYS))
def test_numbers_and_names_stay(way: str, attention: Attention) -> None:
    plain = policy(attention)
    network = copy.deepcopy(plain)
    set_execution(network, WAYS[way])
    assert close(numbers(network), numbers(plain))
    assert list(network.state_dict()) == list(plain.state_dict())
    assert [name for name, _ in network.named_modules()] == [name for name, _ in plain.named_modules()]


@pytest.mark.parametrize("way, lora", [("all", {"r": 4}), ("checkpointed", {"use_dora": True})], ids=str)
def test_numbers_stay_with_adapters(way: str, lora: dict) -> None:
    plain, network = policy(lora=lora), policy(lora=lora)
    set_execution(network, WAYS[way])
    assert close(numbers(network), numbers(plain))


def test_checkpointing_keeps_what_goes_into_the_layers() -> None:
    (batch,) = (pack_trees(random_trees(30, most_responses=2)),)
    kept = {}
    for settings in (None, CHECKPOINTED):
        network = policy(layers=4)
        set_execution(network, settings)
        with bytes_kept() as found:
            network.causal_lm.model(batch.input_ids[None], use_cache=False)
        kept[settings] = found[0]
    of_inputs = 4 * batch.input_ids.numel() * 32 * 4  # four layers, width 32, fp32
    assert of_inputs <= kept[CHECKPOINTED] < 2 * of_inputs < kept[None] / 4


@pytest.mark.parametrize("checkpointed", [False, True])
def test_what_is_offloaded_is_all_that_layers_keep_but_the_weights(
    checkpointed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved: list[Tensor] = []
    pack = execution._to_host

    def watched(saved: Tensor) -> object:
        held = pack(saved)
        if isinstance(held, tuple):
            assert held[1].data_ptr() != saved.data_ptr()
            moved.append(saved)
        return held

    monkeypatch.setattr(execution, "_to_host", watched)
    network = policy("padded")
    set_execution(network, Execution(checkpointed, offload_activations=True))
    network(BATCHES[0]).logprobs.sum()
    assert not any(isinstance(saved, nn.Parameter) for saved in moved)
    inputs = [saved for saved in moved if saved.shape[-1] == 32]
    assert len(inputs) == 2 if checkpointed else len(inputs) > 10
    assert len(moved) == 2 if checkpointed else len(moved) > 30


def test_without_a_gpu_nothing_is_offloaded_and_it_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(execution, "OFFLOADED_FROM", {"cuda"})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    def never(*hooks: object) -> None:
        raise AssertionError("offloaded")

    network = policy()
    set_execution(network, Execution(offload_activations=True))
    monkeypatch.setattr(execution, "saved_tensors_hooks", never)
    network(BATCHES[0])
    assert "model.execution.offload_activations: there is no GPU here" in caplog.text


def test_lengths_and_layers_do_not_compile_anew() -> None:
    network = policy(layers=6)
    set_execution(network, Execution(activation_checkpointing=True, compile=True))
    torch._dynamo.reset()  # what other tests have compiled
    counters = torch._dynamo.utils.counters
    counters.clear()
    counted = []
    for seed in range(6):
        network(
            pack_trees(random_trees(2 + seed % 3, seed, most_responses=2 + seed))
        ).logprobs.sum().backward()
        counted.append(counters["stats"]["unique_graphs"])
    # one around it all, and three pieces around attention, of the last layer, which is run in part, and of all others
    assert counted[-1] <= 7 and counted[1] == counted[-1]


def test_only_training_is_run_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sampling and validation are in eval mode: its lean trunk stays, and nothing is compiled for its few rows."""
    network = policy()
    set_execution(network, WAYS["all"])
    assert is_known(network.causal_lm.model)

    def never(*inputs: object) -> None:
        raise AssertionError("run in another way")

    monkeypatch.setattr(execution.LayerRunner, "__call__", never)
    network.eval()(BATCHES[0])
    with pytest.raises(AssertionError, match="run in another way"):
        network.train()(BATCHES[0])


def test_a_copy_runs_its_own_weights() -> None:
    network = policy()
    set_execution(network, WAYS["all"])
    other = copy.deepcopy(network)
    train_a_bit(other)
    plain = policy()
    train_a_bit(plain)
    assert torch.allclose(other(BATCHES[0]).logprobs, plain(BATCHES[0]).logprobs, atol=1e-5)


def test_a_model_in_eval_mode(tmp_path: object) -> None:
    """As from_pretrained gives it, from Python: train mode is what all of this is in."""
    make_llama(TOKENIZER).save_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    network = PolicyNetwork(model)
    assert not model.training
    set_execution(network, None)
    assert not model.training
    set_execution(network, CHECKPOINTED)
    assert model.training
    with_dropout = PolicyNetwork(make_gpt2().eval())
    with pytest.raises(ValueError, match=r"model\.execution has an effect in train mode alone"):
        set_execution(with_dropout, CHECKPOINTED)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match=r"model\.execution\.compile: expected true or false, found 'yes'"):
        Execution(compile="yes")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"model\.execution\.compile: .* DoRA"):
        set_execution(policy(lora={"use_dora": True}), WAYS["compiled"])
    with pytest.raises(ValueError, match=r"model\.execution: the layers of this model do not let"):
        set_execution(nn.Linear(2, 2), CHECKPOINTED)


SHARDED = [
    pytest.param("checkpointed", {"use_dora": True}),
    pytest.param("all", None, marks=pytest.mark.slow),
]


def _gradients(way: str | None, lora: dict | None, sharded: bool) -> dict[str, object]:
    reading.MIN_MEAN_SEGMENT, execution.BACKEND = 0, "eager"
    network = policy(lora=lora, layers=3)
    set_execution(network, None if way is None else WAYS[way])
    if sharded:
        shard(network, init_device_mesh("cpu", (2,)))
    (network(BATCHES[0]).logprobs.square().sum() + network(BATCHES[1]).logprobs.sum()).backward()
    trained = {name: weight.grad for name, weight in network.named_parameters() if weight.requires_grad}
    return {name: (grad.full_tensor() if sharded else grad).numpy() for name, grad in trained.items()}


@pytest.mark.parametrize("way, lora", SHARDED, ids=str)
def test_sharded_layers_give_the_same_gradients(way: str, lora: dict | None) -> None:
    expected = _gradients(None, lora, sharded=False)
    for found in run_distributed(_gradients, 2, way, lora, True):
        assert found.keys() == expected.keys()
        for name, gradient in expected.items():
            assert close(*map(torch.from_numpy, (found[name], gradient))), name


@pytest.mark.slow
def test_inductor_gives_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution, "BACKEND", "inductor")
    plain = policy()
    network = copy.deepcopy(plain)
    set_execution(network, Execution(activation_checkpointing=True, compile=True))
    assert close(numbers(network), numbers(plain))

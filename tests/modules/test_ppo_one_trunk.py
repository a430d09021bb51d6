"""PPO on one frozen trunk: policy, critic, reference and reward model are adapters on it, and nothing is held twice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from transformers import AutoModelForCausalLM

from lit_rlhf.data.trees import pack_trees
from lit_rlhf.models import reading
from lit_rlhf.models.adapter_scorer import AdapterScorer
from lit_rlhf.models.components import Components
from lit_rlhf.models.deferred_weights import deferred_weights, read_weights
from lit_rlhf.models.execution import Execution, set_execution
from lit_rlhf.models.export import export_scorer
from lit_rlhf.models.lora import CRITIC, LoraAdapter, add_lora, settle_checksum
from lit_rlhf.models.policy import PolicyNetwork
from lit_rlhf.models.ppo_networks import build_actor_critic
from lit_rlhf.models.reading import predicting_states
from lit_rlhf.models.reference import AdapterOff
from lit_rlhf.models.scorer import load_scorer
from lit_rlhf.models.sharding import shard
from lit_rlhf.models.value_head import ValueHead
from lit_rlhf.rewards.adapter import with_adapter_rewards
from lit_rlhf.rewards.model import ModelReward
from tests.conftest import make_llama
from tests.distributed import run_distributed
from tests.models.test_lora import train_a_bit
from tests.modules.ppo_runs import TOKENIZER, Watched, fit, make_module
from tests.modules.training import random_trees, weights_of

TREES = pack_trees(random_trees(3))
LORA: dict[str, Any] = {"r": 4, "target_modules": "all-linear"}


@pytest.fixture(autouse=True)
def _on_the_flat_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MIN_MEAN_SEGMENT", 0)


def write_reward(folder: Path, model: nn.Module, components: Components | None = None, **lora: Any) -> Path:
    """A reward run's export/ and export-adapter/, as if it were trained."""
    network = load_scorer(model, None if components is None else "bradley_terry", components=components)
    adapter = add_lora(
        network, network.trunk, lora or {"use_dora": True, "target_modules": ["v_proj", "up_proj"]}
    )
    train_a_bit(network)
    count = network.num_components
    network.rescale(torch.linspace(0.5, 2, count), torch.linspace(-1, 1, count) + 0.3)
    export_scorer(network, TOKENIZER, folder / "export", adapter)
    return folder


@pytest.fixture
def reward(tmp_path: Path) -> Path:
    return write_reward(tmp_path / "reward", make_llama(TOKENIZER))


def on_one_trunk(lora: dict[str, Any] = LORA) -> tuple[Any, LoraAdapter]:
    torch.manual_seed(0)
    network, adapter = build_actor_critic(make_llama(TOKENIZER), "adapter", True, "auto", lora)
    assert adapter is not None
    train_a_bit(network)
    return network, adapter


def of_adapter(network: nn.Module, name: str) -> Iterator[tuple[str, nn.Parameter]]:
    for path, weight in network.named_parameters():
        if f".{name}." in path:
            yield path.replace(f".{name}.", ".default."), weight


@pytest.mark.parametrize("lora", [LORA, {"use_dora": True}], ids=str)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_values_and_gradients_are_those_of_separate_trunks(lora: dict[str, Any], checkpointing: bool) -> None:
    """Also where the backward computes both passes again, behind them and behind the reference."""
    network, adapter = on_one_trunk(lora)
    alone = {}
    for name in ("default", CRITIC):
        alone[name] = PolicyNetwork(make_llama(TOKENIZER))
        add_lora(alone[name], alone[name].causal_lm, lora)
        weights = {path.removeprefix("policy."): weight for path, weight in of_adapter(network, name)}
        theirs = {path: weight for path, weight in alone[name].named_parameters() if weight.requires_grad}
        assert theirs.keys() == weights.keys()
        for path, weight in theirs.items():
            weight.data.copy_(weights[path].data)
    head = ValueHead(32)
    head.load_state_dict(network.critic.head.state_dict())
    set_execution(network, Execution(activation_checkpointing=checkpointing))
    seen = network(TREES)
    AdapterOff(network.policy, adapter)(TREES)
    (seen.logprobs.square().sum() + seen.values.square().sum()).backward()
    logprobs = alone["default"](TREES).logprobs
    values = head(predicting_states(alone[CRITIC].causal_lm.base_model, TREES))
    (logprobs.square().sum() + values.square().sum()).backward()
    assert torch.allclose(seen.logprobs, logprobs, atol=1e-5)
    assert torch.allclose(seen.values[TREES.response_grid_mask()], values, rtol=1e-5, atol=1e-5)
    assert torch.allclose(network.critic.head.weight.grad, head.weight.grad, rtol=1e-4, atol=1e-4)
    for name, other in alone.items():
        expected = dict(other.named_parameters())
        for path, weight in of_adapter(network.policy, name):
            gradient = expected[path].grad
            assert (weight.grad - gradient).norm() <= 1e-4 * gradient.norm() + 1e-6, path


def test_the_groups_of_the_optimizer_share_nothing() -> None:
    network, adapter = on_one_trunk()
    policy, critic = network.policy_parameters(), network.critic_parameters()
    names = {id(weight): name for name, weight in network.named_parameters()}
    assert all(".default." in names[id(weight)] for weight in policy)
    assert all(".critic." in names[id(weight)] or "critic.head" in names[id(weight)] for weight in critic)
    trained = [weight for weight in network.parameters() if weight.requires_grad]
    assert len(policy) + len(critic) == len(trained) and len(critic) == len(policy) + 2
    with adapter.active(CRITIC), adapter.off():
        assert all(weight.requires_grad for weight in trained)
    assert all(weight.requires_grad for weight in trained)


@pytest.mark.parametrize(
    "components", [None, Components(members=3, combine="min")], ids=["one head", "three"]
)
def test_scores_are_those_of_the_merged_export(components: Components | None, tmp_path: Path) -> None:
    folder = write_reward(tmp_path / "reward", make_llama(TOKENIZER), components)
    network, adapter = on_one_trunk()
    trained = [weight.clone() for weight in network.parameters() if weight.requires_grad]
    spec = [{"reward": {"adapter": str(folder / "export-adapter")}, "weight": 2.0}, {"reward": "a.function"}]
    found = with_adapter_rewards(spec, "reward", network, adapter, TOKENIZER)
    assert found[1] == spec[1] and found[0]["weight"] == 2.0
    scorer = found[0]["reward"].network.network
    assert isinstance(scorer, AdapterScorer)
    merged = load_scorer(str(folder / "export"))
    assert merged(TREES).std() > 0.1
    network.train()
    assert torch.allclose(scorer(TREES), merged(TREES), atol=1e-5)
    assert torch.allclose(
        scorer.forward_with_disagreement(TREES)[1], merged.forward_with_disagreement(TREES)[1], atol=1e-5
    )
    # the policy is what it was, and goes on being trained
    again = [weight for weight in network.parameters() if weight.requires_grad]
    assert all(map(torch.equal, again, trained)) and len(again) == len(trained)
    assert all(module.training for module in network.modules())
    assert not any(weight.requires_grad for weight in scorer.parameters())


def test_what_does_not_belong_together_is_refused(reward: Path, tmp_path: Path) -> None:
    folder = str(reward / "export-adapter")
    network, adapter = build_actor_critic(make_llama(TOKENIZER, seed=1), "adapter", True, "auto", LORA)
    with pytest.raises(
        ValueError, match=r"model\.reward\.adapter: .*was trained on another model than model\.model"
    ):
        with_adapter_rewards({"adapter": folder}, "reward", network, adapter, TOKENIZER)
    with pytest.raises(ValueError, match=r"model\.reward\.adapter needs model\.lora"):
        with_adapter_rewards({"adapter": folder}, "reward", network, None, TOKENIZER)
    with pytest.raises(FileNotFoundError, match=r"model\.gold_reward\.adapter: expected a folder"):
        with_adapter_rewards({"adapter": str(reward / "export")}, "gold_reward", network, adapter, TOKENIZER)
    with pytest.raises(ValueError, match=r"model\.critic: adapter needs model\.lora"):
        build_actor_critic(make_llama(TOKENIZER), "adapter", True, "auto", None)
    small = make_llama(TOKENIZER, num_hidden_layers=1)
    network, adapter = build_actor_critic(small, "adapter", True, "auto", LORA)
    with pytest.raises(ValueError, match=r"model\.reward\.adapter: .*another model|does not fit"):
        with_adapter_rewards({"adapter": folder}, "reward", network, adapter, TOKENIZER)


def module(reward: Any, **changes: Any) -> Watched:
    settings = {"critic": "adapter", "reference_storage": "adapter_off", "lora": LORA, "reward": reward}
    return make_module(**{**settings, **changes})


def test_a_run_is_that_with_the_merged_reward_model(reward: Path) -> None:
    ours = module({"adapter": str(reward / "export-adapter")}, execution={"activation_checkpointing": True})
    merged = module(str(reward / "export"))
    before = {name: weight.clone() for name, weight in ours.network.named_parameters()}
    for run in (ours, merged):
        fit(run, max_epochs=2)
    assert [r.response_ids for r in ours.rollouts] == [r.response_ids for r in merged.rollouts]
    named = dict(ours.network.named_parameters())
    for name, weight in merged.network.named_parameters():
        assert torch.allclose(named[name], weight, atol=1e-4), name
    moved = {name for name, weight in named.items() if not torch.equal(weight, before[name])}
    assert moved == {name for name, weight in named.items() if weight.requires_grad}
    assert not any(".reward_" in name for name in moved)
    # one trunk: the policy's own weights, and nothing held beside it but heads
    base = [weight for name, weight in named.items() if ".lora_" not in name and "critic" not in name]
    assert sum(w.numel() for w in base) == sum(w.numel() for w in make_llama(TOKENIZER).parameters())
    assert isinstance(ours._reference, AdapterOff) and isinstance(ours.reward, ModelReward)
    held = ours.reward.network.network
    assert sum(weight.numel() for weight in held.parameters()) == 32 + 1


@pytest.mark.filterwarnings("ignore:.*callbacks used to create the checkpoint.*")
@pytest.mark.parametrize("lora", [LORA, {"use_dora": True}], ids=str)
def test_resume_is_exact_and_a_checkpoint_holds_what_is_trained(
    lora: dict[str, Any], reward: Path, tmp_path: Path
) -> None:
    spec = {"adapter": str(reward / "export-adapter")}
    straight = module(spec, lora=lora)
    fit(straight, max_epochs=2)
    keep = ModelCheckpoint(tmp_path / "kept", save_top_k=-1, filename="{epoch}")
    fit(module(spec, lora=lora), max_epochs=1, enable_checkpointing=True, callbacks=[keep])
    resumed = module(spec, lora=lora)
    fit(resumed, str(tmp_path / "kept" / "epoch=0.ckpt"), max_epochs=2)
    assert torch.equal(weights_of(resumed.network), weights_of(straight.network))
    state = torch.load(tmp_path / "kept" / "epoch=0.ckpt", weights_only=True)["state_dict"]
    adapters = {name for name in state if name.startswith("network.policy.")}
    assert any(".critic." in name for name in adapters) and any(".default." in name for name in adapters)
    assert not any(".reward_" in name for name in adapters)
    beside = {"network.critic.head.weight", "network.critic.head.bias", "network.lora_base_checksum"}
    assert {name for name in set(state) - adapters if name.startswith("network.")} == beside


def test_the_export_is_the_policys(reward: Path, tmp_path: Path) -> None:
    run = module({"adapter": str(reward / "export-adapter")})
    fit(run)
    run.export(tmp_path / "export")
    exported = PolicyNetwork(AutoModelForCausalLM.from_pretrained(tmp_path / "export"))
    assert torch.allclose(exported(TREES).logprobs, run.network.policy(TREES).logprobs, atol=1e-5)
    files = list((tmp_path / "export-adapter").iterdir())
    assert "adapter_model.safetensors" in {file.name for file in files}


def _numbers_on_a_rank(policy: str, reward: str, sharded: bool) -> dict[str, Any]:
    reading.MIN_MEAN_SEGMENT = 0
    torch.manual_seed(0)
    with deferred_weights():
        network, adapter = build_actor_critic(policy, "adapter", True, "auto", LORA)
        scorer = with_adapter_rewards({"adapter": reward}, "reward", network, adapter, TOKENIZER).network
    set_execution(network, Execution(activation_checkpointing=True))
    if sharded:
        for part in (network, *scorer.networks()):
            shard(part, init_device_mesh("cpu", (2,)))
    read_weights(network, "cpu")
    settle_checksum(network)
    scores = scorer(TREES)
    seen = network(TREES)
    (seen.logprobs.square().sum() + seen.values.sum()).backward()
    gradients = {n: w.grad for n, w in network.named_parameters() if w.requires_grad}
    whole = {n: g.full_tensor() if sharded else g for n, g in gradients.items()}
    return {"scores": scores.numpy(), **{n: gradient.numpy() for n, gradient in whole.items()}}


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled, unavailable or uninitialized")
def test_spread_over_ranks_it_gives_the_same(reward: Path, tmp_path: Path) -> None:
    make_llama(TOKENIZER).save_pretrained(tmp_path / "policy")
    given = str(tmp_path / "policy"), str(reward / "export-adapter")
    expected = _numbers_on_a_rank(*given, False)
    for found in run_distributed(_numbers_on_a_rank, 2, *given, True):
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert torch.allclose(torch.from_numpy(found[name]), torch.from_numpy(value), atol=1e-4), name
    make_llama(TOKENIZER, seed=1).save_pretrained(tmp_path / "policy")
    with pytest.raises(RuntimeError, match=r"model\.reward\.adapter: .*was trained on another model"):
        run_distributed(_numbers_on_a_rank, 2, *given, True)

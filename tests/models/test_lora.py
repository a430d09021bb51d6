"""LoRA: what the settings allow, that it starts at the model, and that everything it writes gives its numbers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import AdaLoraConfig, LoraConfig, PeftModel
from safetensors import safe_open
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
)

from lit_rlhf.data.trees import pack_trees
from lit_rlhf.models.export import export_policy, export_scorer
from lit_rlhf.models.fingerprint import fingerprint_of
from lit_rlhf.models.loading import load_causal_lm
from lit_rlhf.models.lora import LoraAdapter, add_lora
from lit_rlhf.models.lora_settings import lora_settings
from lit_rlhf.models.policy import PolicyNetwork, sequence_logprobs
from lit_rlhf.models.reading import Attention
from lit_rlhf.models.reference import AdapterOff
from lit_rlhf.models.scorer import ScorerNetwork, load_scorer
from lit_rlhf.records import Tree
from tests.conftest import make_llama, make_tokenizer
from tests.modules.training import random_trees

TOKENIZER = make_tokenizer()
TREES = pack_trees(random_trees(3))
BY_PEFT = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")
ids = torch.arange(10, 60)[None]


def long_trees():
    """One prompt of 40 tokens with three responses of 40: long enough for the flat row."""
    responses = [list(range(start, start + 40)) for start in (20, 90, 160)]
    return pack_trees([Tree(list(range(30, 70)), responses, [[True] * 40] * 3)])


def make_gpt2() -> GPT2LMHeadModel:
    settings = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 128, "initializer_range": 0.2}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return GPT2LMHeadModel(
            GPT2Config(vocab_size=len(TOKENIZER), bos_token_id=0, eos_token_id=1, **settings)
        )


MODELS = {"llama": lambda: make_llama(TOKENIZER), "gpt2": make_gpt2}


def policy(name: str = "llama", attention: Attention = "auto", **lora) -> tuple[PolicyNetwork, LoraAdapter]:
    network = PolicyNetwork(load_causal_lm(MODELS[name](), attention)).eval()
    torch.manual_seed(0)
    adapter = add_lora(network, network.causal_lm, lora_settings(lora))
    assert adapter is not None
    return network, adapter


def scorer(model, **lora) -> tuple[ScorerNetwork, LoraAdapter]:
    network = load_scorer(model).eval()
    adapter = add_lora(network, network.trunk, lora_settings(lora, dropout=False))
    assert adapter is not None
    return network, adapter


def train_a_bit(network: torch.nn.Module) -> None:
    """As training would: every weight that is trained is moved."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in network.parameters():
            if weight.requires_grad:
                weight.add_(0.1 * torch.randn(weight.shape, generator=generator))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rr": 8}, r"model\.lora\.rr: no such field .* There are: r, lora_alpha"),
        ({"alpha": 8}, r"model\.lora\.alpha: no such field .* Did you mean 'lora_alpha'\?"),
        ({"r": 0}, r"model\.lora\.r: expected a whole number of at least 1, found 0"),
        ({"r": "8"}, r"model\.lora\.r: expected a whole number of at least 1, found '8'"),
        ({"lora_alpha": -1}, r"model\.lora\.lora_alpha: expected a number over 0"),
        ({"lora_dropout": 1.5}, r"model\.lora\.lora_dropout: expected 0 to less than 1"),
        ({"use_dora": "yes"}, r"model\.lora\.use_dora: expected true or false"),
        ({"bias": "all"}, r"model\.lora\.bias: 'all' is not supported: the adapters would then not be all"),
        ({"modules_to_save": ["embed_tokens"]}, r"model\.lora\.modules_to_save: .* head is always trained"),
        ({"trainable_token_indices": [5]}, r"model\.lora\.trainable_token_indices: .*supported are r,"),
        ({"init_lora_weights": "pissa"}, r"model\.lora\.init_lora_weights: expected true or gaussian"),
        ({"peft_type": "IA3"}, r"model\.lora\.peft_type: expected LORA, found 'IA3'"),
        (LoraConfig(lora_bias=True), r"model\.lora\.lora_bias: True is not supported"),
        (AdaLoraConfig(total_step=5), r"model\.lora: expected a LoraConfig, found AdaLoraConfig"),
    ],
)
def test_settings_that_cannot_be_are_refused_by_name(settings, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lora_settings(settings)


def test_dropout_is_refused_where_there_is_none() -> None:
    assert lora_settings({"lora_dropout": 0.1}) == {"lora_dropout": 0.1}
    with pytest.raises(
        ValueError, match=r"model\.lora\.lora_dropout: expected 0, since dropout is off .* 0\.1"
    ):
        lora_settings({"lora_dropout": 0.1}, dropout=False)


def test_settings_are_plain_values_whichever_way_they_are_given() -> None:
    given = LoraConfig(r=4, target_modules=["v_proj", "q_proj"], task_type="CAUSAL_LM")
    assert lora_settings(given) == {"r": 4, "target_modules": ["q_proj", "v_proj"]}
    assert lora_settings(LoraConfig()) == {}
    assert lora_settings(None) is None
    stored = {
        "class_path": "peft.LoraConfig",
        "init_args": {"r": 4, "peft_type": None, "loftq_config": {"loftq_bits": 4}},
    }
    assert lora_settings(stored) == {"r": 4}


def test_a_stored_adapters_own_config_is_taken(tmp_path: Path) -> None:
    LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM").save_pretrained(tmp_path)
    settings = lora_settings(json.loads((tmp_path / "adapter_config.json").read_text()))
    assert settings is not None and settings["r"] == 4 and settings["target_modules"] == ["q_proj"]
    policy(**settings)


@pytest.mark.parametrize("attention", ["trees", "padded"])
@pytest.mark.parametrize("name", list(MODELS))
@pytest.mark.parametrize(
    "lora", [{}, {"target_modules": "all-linear"}, {"use_dora": True, "use_rslora": True}], ids=str
)
def test_it_starts_at_the_model(name: str, attention: Attention, lora: dict) -> None:
    trees = long_trees()
    plain = PolicyNetwork(load_causal_lm(MODELS[name](), attention)).eval()(trees).logprobs
    network, _ = policy(name, attention, **lora)
    assert torch.allclose(network(trees).logprobs, plain, atol=1e-5)


def test_trees_and_padded_rows_agree_through_the_adapters() -> None:
    found = []
    for attention in ("trees", "padded"):
        network, _ = policy("llama", attention, target_modules="all-linear")
        train_a_bit(network)
        sequence_logprobs(network(long_trees())).sum().backward()
        gradients = [w.grad.flatten() for w in network.parameters() if w.requires_grad]
        found.append((network(long_trees()).logprobs, torch.cat(gradients)))
    assert torch.allclose(found[0][0], found[1][0], atol=1e-4)
    assert torch.allclose(found[0][1], found[1][1], rtol=1e-4, atol=1e-3)


def test_gradients_reach_the_adapters_and_the_head_alone() -> None:
    network, _ = policy()
    train_a_bit(network)  # the second factor is 0 at the start, and the first has no gradient then
    sequence_logprobs(network(TREES)).sum().backward()
    assert {
        "lora_A" in name or "lora_B" in name for name, w in network.named_parameters() if w.grad is not None
    } == {True}
    reward, _ = scorer(make_llama(TOKENIZER))
    train_a_bit(reward)
    reward(TREES).sum().backward()
    trained = {name for name, weight in reward.named_parameters() if weight.grad is not None}
    assert {"head.weight", "head.bias"} < trained
    assert all("lora_" in name for name in trained - {"head.weight", "head.bias"})


def test_targets_are_the_familys_or_all_linear_layers(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "lit_rlhf"):
        network, adapter = policy()
    assert adapter.target_names() == ["q_proj", "v_proj"]
    # per layer: q 8·32 + 32·8, v 8·32 + 16·8 of two key heads of 8; head and embeddings are tied in no Llama here
    trained = 2 * (8 * 32 + 32 * 8 + 8 * 32 + 16 * 8)
    total = sum(weight.numel() for weight in make_llama(TOKENIZER).parameters()) + trained
    assert f"LoRA r=8 on q_proj, v_proj: {trained:,} of {total:,} weights are trained (4.4 %)" in caplog.text
    unknown = make_llama(TOKENIZER)
    unknown.config.model_type = "of nobody"
    network = PolicyNetwork(unknown)
    settled = add_lora(network, unknown, {})
    assert settled is not None
    assert "down_proj" in settled.target_names() and "lm_head" not in settled.target_names()


def test_a_target_that_is_not_there_is_answered_with_those_that_are() -> None:
    with pytest.raises(
        ValueError, match=r"model\.lora: .*x_proj.* not found .*LlamaForCausalLM are down_proj, .*v_proj"
    ):
        policy(target_modules=["x_proj"])


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`", "ignore:fan_in_fan_out is set")
def test_a_tied_head_is_refused_and_an_untied_one_adapted(tmp_path: Path) -> None:
    for targets in (["c_attn", "lm_head"], r".*(c_attn|lm_head)", ["c_attn", "wte"]):
        with pytest.raises(
            ValueError, match=r"target_modules: .*(lm_head|wte) of GPT2LMHeadModel is one of the two"
        ):
            policy("gpt2", target_modules=targets)
    network, adapter = policy(target_modules=["lm_head"])
    train_a_bit(network)
    export_policy(network, TOKENIZER, tmp_path / "out", adapter)
    back = PolicyNetwork(load_causal_lm(str(tmp_path / "out"))).eval()
    assert torch.allclose(back(TREES).logprobs, network(TREES).logprobs, atol=1e-5)


def test_dropout_on_an_adapted_head_is_the_same_in_the_backward() -> None:
    """The gradient against a difference quotient, the masks drawn anew from one seed."""
    network, _ = policy(target_modules=["lm_head"], lora_dropout=0.5)
    network = network.double().train()
    head = network.causal_lm.get_output_embeddings()
    second = head.lora_B["default"].weight

    def loss() -> torch.Tensor:
        torch.manual_seed(3)
        return network(TREES).logprobs.sum()

    direction = torch.randn(second.shape, dtype=torch.double)
    loss().backward()
    slope = (second.grad * direction).sum().item()
    with torch.no_grad():
        second += 1e-4 * direction
        above = loss().item()
        second -= 2e-4 * direction
        below = loss().item()
    assert slope == pytest.approx((above - below) / 2e-4, rel=1e-3)


def test_a_model_with_adapters_of_its_own_is_refused() -> None:
    network, _ = policy()
    with pytest.raises(ValueError, match=r"LlamaForCausalLM with adapters of its own: .*merge_and_unload"):
        load_causal_lm(network.causal_lm)


def test_adapter_off_is_the_model_before_and_comes_back() -> None:
    """GPT-2 has dropout, which the policy keeps and the reference does not."""
    plain = PolicyNetwork(load_causal_lm(make_gpt2())).eval()(TREES).logprobs
    network, adapter = policy("gpt2")
    network.causal_lm.transformer.ln_f.weight.requires_grad_(
        True
    )  # somebody's; the reference has no gradient
    second_factors = [weight for name, weight in network.named_parameters() if "lora_B" in name]
    with torch.no_grad():
        for weight in second_factors:
            weight.fill_(0.3)
    network.train()

    def seeded() -> torch.Tensor:
        torch.manual_seed(5)
        return network(TREES).logprobs

    with_adapters = seeded()
    reference = AdapterOff(network, adapter)
    trained = [name for name, weight in network.named_parameters() if weight.requires_grad]
    found = reference(TREES).logprobs
    assert torch.equal(found, plain) and not found.requires_grad
    assert not torch.allclose(network.eval()(TREES).logprobs, plain, atol=1e-2)
    network.train()
    with pytest.raises(AttributeError):
        reference("no trees")
    assert torch.equal(seeded(), with_adapters)
    assert all(module.training for module in network.modules())
    assert [name for name, weight in network.named_parameters() if weight.requires_grad] == trained


def test_what_is_recomputed_in_the_backward_has_its_adapters_on() -> None:
    """The reference is asked between the policy's forward and its backward, as in a DPO step."""
    gradients = []
    for checkpointing in (False, True):
        network, adapter = policy(target_modules="all-linear")
        train_a_bit(network)
        network.train()
        if checkpointing:
            network.causal_lm.activation_checkpointing_enable()
        logprobs = sequence_logprobs(network(long_trees()))
        reference = sequence_logprobs(AdapterOff(network, adapter)(long_trees()))
        (logprobs - reference).sum().backward()
        gradients.append(torch.cat([w.grad.flatten() for w in network.parameters() if w.requires_grad]))
    assert gradients[0].abs().max() > 0
    assert torch.allclose(gradients[0], gradients[1], rtol=1e-4, atol=1e-5)


def test_the_state_holds_what_is_trained_and_loads_onto_the_same_model_alone() -> None:
    network, _ = scorer(make_llama(TOKENIZER))
    train_a_bit(network)
    state = network.state_dict()
    besides = {
        name for name in state if not name.endswith((".lora_A.default.weight", ".lora_B.default.weight"))
    }
    assert besides == {"head.weight", "head.bias", "gain", "weights", "score_offset", "lora_base_checksum"}
    assert len(state) == 6 + 2 * 2 * 2  # two layers, two targets, two factors
    again, _ = scorer(make_llama(TOKENIZER))
    again.load_state_dict(state)
    assert torch.equal(again(TREES), network(TREES))
    other, _ = scorer(make_llama(TOKENIZER, seed=1))
    with pytest.raises(ValueError, match="trained on another model"):
        other.load_state_dict(state)
    with pytest.raises(ValueError, match="holds no LoRA weights"):
        again.load_state_dict(load_scorer(make_llama(TOKENIZER)).state_dict())
    full = load_scorer(make_llama(TOKENIZER))
    add_lora(full, full.trunk, None)
    with pytest.raises(ValueError, match=r"holds LoRA weights: .* null now"):
        full.load_state_dict(state)
    state.pop("head.weight")
    with pytest.raises(RuntimeError, match=r"Missing key.*head\.weight"):
        again.load_state_dict(state)


def test_a_thawed_weight_is_saved() -> None:
    network, _ = policy()
    network.causal_lm.model.norm.weight.requires_grad_(True)
    assert "causal_lm.model.norm.weight" in network.state_dict()


def test_the_fingerprint_is_that_of_the_model_without_adapters() -> None:
    network, _ = policy()
    train_a_bit(network)
    assert fingerprint_of(network.causal_lm) == fingerprint_of(load_causal_lm(make_llama(TOKENIZER)))


EXPORTED = [{"target_modules": "all-linear"}, {"use_dora": True, "use_rslora": True, "r": 4},
            {"target_modules": r".*layers\.1.*_proj|.*h\.1.*c_attn"}]  # fmt: skip


@BY_PEFT
@pytest.mark.parametrize("lora", EXPORTED, ids=str)
@pytest.mark.parametrize("name", list(MODELS))
def test_a_policys_export_and_adapter_give_its_numbers(name: str, lora: dict, tmp_path: Path) -> None:
    MODELS[name]().save_pretrained(tmp_path / "base")
    network = PolicyNetwork(load_causal_lm(str(tmp_path / "base"))).eval()
    adapter = add_lora(network, network.causal_lm, lora_settings(lora))
    train_a_bit(network)
    expected = network.causal_lm(ids).logits.log_softmax(-1)
    state = {key: value.clone() for key, value in network.state_dict(keep_vars=True).items()}
    export_policy(network, TOKENIZER, tmp_path / "out", adapter)
    assert torch.equal(network.causal_lm(ids).logits.log_softmax(-1), expected)
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())

    assert not (tmp_path / "out" / "adapter_config.json").exists()
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert torch.allclose(merged(ids).logits.log_softmax(-1), expected, atol=1e-5)
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    assert not torch.allclose(base(ids).logits.log_softmax(-1), expected, atol=1e-2)
    loaded = PeftModel.from_pretrained(base, tmp_path / "out-adapter").eval()
    assert torch.allclose(loaded(ids).logits.log_softmax(-1), expected, atol=1e-5)
    stored = json.loads((tmp_path / "out-adapter" / "adapter_config.json").read_text())
    assert stored["base_model_name_or_path"] == str(tmp_path / "base")
    assert (stored["task_type"], stored["inference_mode"]) == ("CAUSAL_LM", True)
    assert {path.name for path in tmp_path.iterdir()} == {"base", "out", "out-adapter"}


@BY_PEFT
@pytest.mark.parametrize("lora", EXPORTED, ids=str)
@pytest.mark.parametrize("name", list(MODELS))
def test_a_scorers_export_and_adapter_give_its_scores(name: str, lora: dict, tmp_path: Path) -> None:
    MODELS[name]().save_pretrained(tmp_path / "base")
    network, adapter = scorer(str(tmp_path / "base"), **lora)
    train_a_bit(network)
    expected = network(TREES)
    export_scorer(network, TOKENIZER, tmp_path / "out", adapter)
    assert torch.equal(network(TREES), expected)
    assert torch.allclose(load_scorer(str(tmp_path / "out")).eval()(TREES), expected, atol=1e-5)
    # peft's: the same but for the head's bias, which is said beside it
    base = AutoModelForSequenceClassification.from_pretrained(tmp_path / "base", num_labels=1, pad_token_id=2)
    loaded = PeftModel.from_pretrained(base, tmp_path / "out-adapter").eval()
    with safe_open(tmp_path / "out-adapter" / "adapter_model.safetensors", "pt") as file:
        numbers = file.metadata()
    assert (numbers["score_link"], float(numbers["score_offset"])) == ("bradley_terry", 0.0)
    # trees without a common start: the prompt of each response is told apart from the batch's flat row
    one = pack_trees([Tree([7, 8, 9], [[20, 21, 1]], [[True] * 3])])
    score = loaded(torch.tensor([[7, 8, 9, 20, 21, 1]])).logits[0, 0] + float(numbers["score_bias"])
    assert float(numbers["score_bias"]) != 0
    assert torch.allclose(score, network(one)[0], atol=1e-5)


@BY_PEFT
def test_an_expression_that_begins_at_the_trunk_is_stored_for_the_classifier(tmp_path: Path) -> None:
    make_llama(TOKENIZER).save_pretrained(tmp_path / "base")
    network, adapter = scorer(str(tmp_path / "base"), target_modules=r"layers\.1\..*q_proj")
    assert adapter.layer_names() == ["layers.1.self_attn.q_proj"]
    export_scorer(network, TOKENIZER, tmp_path / "out", adapter)
    base = AutoModelForSequenceClassification.from_pretrained(tmp_path / "base", num_labels=1)
    loaded = PeftModel.from_pretrained(base, tmp_path / "out-adapter")
    assert len([name for name, _ in loaded.named_parameters() if "lora_A" in name]) == 1


def test_an_adapters_folder_is_no_model(tmp_path: Path) -> None:
    network, adapter = policy()
    export_policy(network, TOKENIZER, tmp_path / "export", adapter)
    with pytest.raises(
        FileNotFoundError, match=r"found a LoRA adapter .* merged export that stands beside it"
    ):
        load_causal_lm(str(tmp_path / "export-adapter"))


def test_a_failed_export_leaves_the_earlier_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network, adapter = policy()
    export_policy(network, TOKENIZER, tmp_path / "export", adapter)
    before = (tmp_path / "export-adapter" / "adapter_model.safetensors").read_bytes()
    train_a_bit(network)

    def failing(*_: object, **__: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(LoraConfig, "save_pretrained", failing)
    with pytest.raises(OSError, match="disk full"):
        export_policy(network, TOKENIZER, tmp_path / "export", adapter)
    assert (tmp_path / "export-adapter" / "adapter_model.safetensors").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["export", "export-adapter"]

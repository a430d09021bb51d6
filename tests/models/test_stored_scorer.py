"""Exports of normalised and several heads: whole for our loaders, one head for plain transformers."""

import logging
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors import safe_open
from torch import Tensor
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from lit_rlhf.data.trees import pack_trees
from lit_rlhf.models.components import Combine, Components
from lit_rlhf.models.export import export_scorer
from lit_rlhf.models.lora import add_lora
from lit_rlhf.models.scorer import Link, ScorerNetwork, load_scorer
from lit_rlhf.records import Tree
from tests.conftest import make_llama, make_tokenizer
from tests.models.families import FAMILIES

TOKENIZER = make_tokenizer()
DOMAINS = ["food", "trip", "home"]
IDS = [[5, 6, 7, 9, 10, 1], [12, 13, 1]]
TREES = pack_trees([Tree([5, 6, 7], [[9, 10, 1]], [[True] * 3]), Tree([12], [[13, 1]], [[True] * 2])])


def gpt2() -> PreTrainedModel:
    """With biases in its norms that are not 0."""
    model = FAMILIES["gpt2"]()
    with torch.no_grad():
        model.transformer.ln_f.bias.normal_()
    return model


MODELS: dict[str, Callable[[], PreTrainedModel]] = {"llama": lambda: make_llama(TOKENIZER), "gpt2": gpt2}


def several(model: PreTrainedModel, combine: Combine = "mean", link: Link = "bradley_terry") -> ScorerNetwork:
    network = ScorerNetwork(model.base_model, link, Components(domains=DOMAINS, combine=combine, k=0.7))
    with torch.no_grad():
        network.head.bias.copy_(torch.tensor([0.3, -0.2, 0.7]))
        if network.gate is not None:
            network.gate.weight.normal_()
            network.gate.bias.copy_(torch.tensor([0.1, 0.0, -0.4]))
    network.rescale(torch.tensor([0.5, 1.0, 2.0]), torch.tensor([0.1, -0.3, 0.4]))
    if combine == "mean":
        network.weigh(torch.tensor([0.5, 0.1, 0.4]))
    return network.eval()


def plain_scores(folder: Path) -> tuple[Tensor, float]:
    """What transformers alone gives, and the constant that it lacks."""
    classifier = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    scores = torch.cat([classifier(torch.tensor([ids])).logits[0] for ids in IDS])
    return scores.detach(), classifier.config.score_bias


@pytest.mark.parametrize("link", ["bradley_terry", "luce"])
@pytest.mark.parametrize("combine", ["mean", "min", "mean_minus_std", "gate"])
@pytest.mark.parametrize("family", list(MODELS))
def test_all_components_come_back(family: str, combine: Combine, link: Link, tmp_path: Path) -> None:
    network = several(MODELS[family](), combine, link)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    export_scorer(network, TOKENIZER, tmp_path / "reward")
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    back = load_scorer(str(tmp_path / "reward")).eval()
    assert (back.components, back.link) == (network.components, link)
    state = back.state_dict()
    assert state.keys() == before.keys()
    assert all(torch.equal(state[name], before[name]) for name in state)
    assert back(TREES).tolist() == pytest.approx(network(TREES).tolist(), abs=1e-6)


@pytest.mark.parametrize("family", list(MODELS))
def test_plain_transformers_gives_the_mean_of_components(family: str, tmp_path: Path, caplog) -> None:
    network = several(MODELS[family]())
    with caplog.at_level(logging.WARNING, "lit_rlhf"):
        export_scorer(network, TOKENIZER, tmp_path / "reward")
    assert not caplog.records  # nothing is lost
    scores, constant = plain_scores(tmp_path / "reward")
    # Σ w (g b - o) of the three components
    expected = 0.5 * (0.5 * 0.3 - 0.1) + 0.1 * (1.0 * -0.2 + 0.3) + 0.4 * (2.0 * 0.7 - 0.4)
    assert constant == pytest.approx(0.0 if family == "gpt2" else expected)
    assert (scores + constant).tolist() == pytest.approx(network(TREES).tolist(), abs=1e-5)


@pytest.mark.parametrize("link", ["bradley_terry", "luce"])
@pytest.mark.parametrize("family", list(MODELS))
def test_one_heads_gain_and_offset_come_back(family: str, link: Link, tmp_path: Path) -> None:
    network = ScorerNetwork(MODELS[family]().base_model, link).eval()
    network.head.bias.data.fill_(0.3)
    network.rescale(torch.tensor([0.25]), torch.tensor([-0.6]))
    export_scorer(network, TOKENIZER, tmp_path / "reward")
    back = load_scorer(str(tmp_path / "reward")).eval()
    assert (back.gain.item(), back.score_offset.item()) == (0.25, pytest.approx(-0.6))
    assert torch.allclose(back.head.weight, network.head.weight, rtol=1e-6)
    assert torch.allclose(
        back.raw(back.read(TREES).states), network.raw(network.read(TREES).states), atol=1e-5
    )
    assert torch.allclose(back(TREES), network(TREES), atol=1e-5)
    assert not (tmp_path / "reward" / "components.safetensors").exists()
    if link == "bradley_terry":
        scores, constant = plain_scores(tmp_path / "reward")
        assert constant == pytest.approx(0.0 if family == "gpt2" else 0.25 * 0.3 + 0.6)
        assert torch.allclose(scores + constant, network(TREES), atol=1e-5)


@pytest.mark.parametrize(
    ("combine", "lost"),
    [
        ("min", r"gives the mean of its 3 components\. Lost there: the minimum over components\."),
        ("mean_minus_std", r"Lost there: the 0\.7 standard deviations that are taken off"),
        ("gate", r"Lost there: the gate, which weighs components by the prompt"),
    ],
)
def test_what_is_not_linear_is_said_and_leaves_the_mean(
    combine: Combine, lost: str, tmp_path, caplog
) -> None:
    network = several(make_llama(TOKENIZER), combine)
    network.weights.copy_(torch.tensor([0.7, 0.2, 0.1]))  # left from when it was combined by the mean
    with caplog.at_level(logging.WARNING, "lit_rlhf"):
        export_scorer(network, TOKENIZER, tmp_path / "reward")
    (record,) = caplog.records
    assert re.search(lost, record.getMessage())
    scores, constant = plain_scores(tmp_path / "reward")
    states = network.read(TREES).states
    output = states @ network.head.weight.T + torch.tensor([0.3, -0.2, 0.7])
    mean = (output * torch.tensor([0.5, 1.0, 2.0]) - torch.tensor([0.1, -0.3, 0.4])).mean(-1)
    assert torch.allclose(scores + constant, mean, atol=1e-5)


def test_the_luce_link_is_said_to_be_lost(tmp_path: Path, caplog) -> None:
    with caplog.at_level(logging.WARNING, "lit_rlhf"):
        export_scorer(ScorerNetwork(make_llama(TOKENIZER).base_model, "luce"), TOKENIZER, tmp_path / "one")
        network = several(make_llama(TOKENIZER), "min", "luce")
        export_scorer(network, TOKENIZER, tmp_path / "several")
    one, three = (record.getMessage() for record in caplog.records)
    assert "gives its head's output, which orders responses alike. Lost there: the luce link." in one
    assert (
        "gives the mean of its 3 heads' outputs. Lost there: the luce link and the minimum over comp" in three
    )
    scores, constant = plain_scores(tmp_path / "several")
    outputs = network.read(TREES).states @ network.head.weight.T + torch.tensor([0.3, -0.2, 0.7])
    assert torch.allclose(scores + constant, outputs.mean(-1), atol=1e-5)


# --- starting from an export


def test_an_export_keeps_its_components_and_takes_another_way_to_combine(tmp_path: Path, caplog) -> None:
    network = several(make_llama(TOKENIZER), "gate")
    export_scorer(network, TOKENIZER, tmp_path / "reward")
    folder = str(tmp_path / "reward")
    caplog.clear()
    with caplog.at_level(logging.INFO, "lit_rlhf.models.stored_scorer"):
        doubtful = load_scorer(folder, components=Components(domains=DOMAINS, combine="min")).eval()
    said = [r.getMessage() for r in caplog.records if r.name == "lit_rlhf.models.stored_scorer"]
    assert said == [f"{folder}: gate.bias is left out", f"{folder}: gate.weight is left out"]
    normalized = network.normalized(network.raw(network.read(TREES).states))
    assert torch.allclose(doubtful(TREES), normalized.min(-1).values, atol=1e-6)
    export_scorer(doubtful, TOKENIZER, tmp_path / "min")
    again = load_scorer(str(tmp_path / "min"), components=Components(domains=DOMAINS, combine="gate"))
    assert again.gate is not None and not again.gate.weight.any()


@pytest.mark.parametrize(
    "asked", [Components(domains=["food", "trip"]), Components(members=3), Components(domains=DOMAINS[::-1])]
)
def test_other_components_than_the_exports_are_refused(asked: Components, tmp_path: Path) -> None:
    export_scorer(several(make_llama(TOKENIZER)), TOKENIZER, tmp_path / "reward")
    with pytest.raises(ValueError, match=r"trained with domains \['food', 'trip', 'home'\].*Leave them out"):
        load_scorer(str(tmp_path / "reward"), components=asked)


def test_one_head_is_no_several(tmp_path: Path) -> None:
    export_scorer(ScorerNetwork(make_llama(TOKENIZER).base_model), TOKENIZER, tmp_path / "reward")
    with pytest.raises(ValueError, match=r"was trained with one head; model\.components asks for"):
        load_scorer(str(tmp_path / "reward"), components=Components(members=3))


# --- LoRA


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")
@pytest.mark.parametrize("combine", ["mean", "gate"])
@pytest.mark.parametrize("family", list(MODELS))
def test_heads_and_gate_are_trained_saved_and_exported_with_lora(
    family: str, combine: Combine, tmp_path
) -> None:
    MODELS[family]().save_pretrained(tmp_path / "base")
    network = several(
        AutoModelForSequenceClassification.from_pretrained(tmp_path / "base", num_labels=1), combine
    )
    adapter = add_lora(network, network.trunk, {"r": 4})
    heads = {"head.weight", "head.bias", *(["gate.weight", "gate.bias"] if combine == "gate" else [])}
    trained = {name for name, weight in network.named_parameters() if weight.requires_grad}
    assert {name for name in trained if ".lora_" not in name} == heads
    assert {n for n in network.state_dict() if ".lora_" not in n} == heads | {
        "gain", "score_offset", "weights", "lora_base_checksum"
    }  # fmt: skip
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if ".lora_" in name:
                weight.normal_(std=0.1)
    expected = network(TREES).detach()
    export_scorer(network, TOKENIZER, tmp_path / "out", adapter)
    back = load_scorer(str(tmp_path / "out")).eval()
    assert torch.allclose(back(TREES), expected, atol=1e-5)
    assert torch.equal(back.head.weight, network.head.weight)
    # peft's adapter: the one head's scores but for the constant
    base = AutoModelForSequenceClassification.from_pretrained(tmp_path / "base", num_labels=1, pad_token_id=2)
    loaded = PeftModel.from_pretrained(base, tmp_path / "out-adapter").eval()
    alone = torch.cat([loaded(torch.tensor([ids])).logits[0] for ids in IDS])
    with safe_open(tmp_path / "out-adapter" / "adapter_model.safetensors", "pt") as file:
        constant = float(file.metadata()["score_bias"])
    with safe_open(tmp_path / "out-adapter" / "components.safetensors", "pt") as file:
        assert heads <= set(file.keys())
    merged, merged_constant = plain_scores(tmp_path / "out")
    assert torch.allclose(alone + constant, merged + merged_constant, atol=1e-5)
    assert torch.allclose(alone + constant, expected, atol=1e-5) == (combine == "mean")

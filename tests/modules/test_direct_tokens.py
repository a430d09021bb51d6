"""Direct losses of single tokens: LD-DPO's tails and WPO's weights, through DPOModule."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lit_rlhf import DPOModule, PairDataModule
from lit_rlhf.data.trees import pack_trees
from lit_rlhf.models import reading
from lit_rlhf.models.policy import PolicyNetwork
from lit_rlhf.models.reading import predicting_states
from lit_rlhf.modules.direct_methods import METHODS
from lit_rlhf.records import Comparison, Tree
from tests.conftest import make_llama, make_tokenizer
from tests.modules.direct_formulas import B, nls
from tests.modules.test_direct_methods import (
    NEEDS,
    counted_in_part,
    gradient_of,
    loss_of,
    make_module,
    mean_over_prompts,
)
from tests.modules.training import quiet_trainer, random_trees, sgd, weights_of

TOKENIZER = make_tokenizer()
ALPHA = 0.25
ON_SUMS = [
    *("sigmoid", "robust", "ipo", "hinge", "cpo", "slic", "bco", "nca", "exo"),
    *("apo_zero", "apo_down", "sppo", "discopop"),
]
"""Losses on pairs that take sums over responses, by the papers."""
ON_PAIRS = [*ON_SUMS, "ipo_norm", "sigmoid_norm", "simpo"]


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("other")
    make_llama(TOKENIZER, seed=9).save_pretrained(folder)
    return str(folder)


def token_numbers(trees: list[Tree], seed: int) -> list[list[tuple[float, float]]]:
    """Of each response's counted tokens log π and Σ_v π(v)², by a plain softmax of the model of a seed."""
    network = PolicyNetwork(make_llama(TOKENIZER, seed=seed)).double()
    batch = pack_trees(trees)
    with torch.no_grad():
        logits = network.causal_lm.lm_head(predicting_states(network.causal_lm.base_model, batch))
    chances = logits.softmax(-1)
    tokens = batch.input_ids[batch.response_mask]
    own = chances[torch.arange(len(tokens)), tokens].log().tolist()
    places = iter(zip(own, chances.square().sum(-1).tolist(), strict=True))
    return [[next(places) for counted in mask if counted] for tree in trees for mask in tree.response_masks]


def with_tail(numbers: list[tuple[float, float]], other_length: int, alpha: float) -> float:
    return sum(own * (1.0 if place < other_length else alpha) for place, (own, _) in enumerate(numbers))


def sides(trees: list[Tree]) -> list[tuple[int, int]]:
    batch = pack_trees(trees)
    return list(zip(batch.better.tolist(), batch.worse.tolist(), strict=True))


@pytest.mark.parametrize("alpha", [ALPHA, 0.0])
def test_a_tail_counts_less_in_each_comparison_of_its_own(alpha: float, other: str):
    """K > 2 too, where a response has another tail in each comparison; lengths are those of the mask."""
    trees = counted_in_part(random_trees(4, seed=4))
    own, theirs = (token_numbers(trees, seed) for seed in (0, 9))
    losses = []
    for w, b in sides(trees):
        ratios = [
            with_tail(own[one], len(own[two]), alpha) - with_tail(theirs[one], len(own[two]), alpha)
            for one, two in ((w, b), (b, w))
        ]
        losses.append(nls(B * (ratios[0] - ratios[1])))
    module = make_module(beta=B, reference=other, length_desensitization=alpha)
    found = loss_of(module, trees).item()
    assert found == pytest.approx(mean_over_prompts(trees, losses), rel=2e-4)
    assert found != pytest.approx(loss_of(make_module(beta=B, reference=other), trees).item(), rel=1e-2)


def test_without_a_reference_the_tail_is_the_policys():
    trees = random_trees(4, seed=4)
    own = token_numbers(trees, 0)
    losses = [
        nls(B * (with_tail(own[w], len(own[b]), ALPHA) - with_tail(own[b], len(own[w]), ALPHA)))
        for w, b in sides(trees)
    ]
    module = make_module(loss="cpo", beta=B, sft_coef=0.0, length_desensitization=ALPHA)
    assert loss_of(module, trees).item() == pytest.approx(mean_over_prompts(trees, losses), rel=2e-4)


def test_the_likelihood_term_and_the_logged_rewards_are_of_whole_responses(other: str):
    trees = random_trees(3, seed=4)
    plain, cut = (
        make_module(reference=other, sft_coef=c, length_desensitization=a)
        for c, a in ((0.5, None), (0.5, ALPHA))
    )
    alone = make_module(reference=other, length_desensitization=ALPHA)
    nll = plain.judge(pack_trees(trees)).metrics["nll"].item()
    assert loss_of(cut, trees).item() - loss_of(alone, trees).item() == pytest.approx(nll / 2, rel=1e-3)
    assert torch.equal(cut.judge(pack_trees(trees)).scores, plain.judge(pack_trees(trees)).scores)


def test_bcos_shift_is_of_the_rewards_in_its_loss(other: str):
    trees = random_trees(3, seed=4)
    module = make_module(loss="bco", reference=other, length_desensitization=ALPHA, beta=B)
    own, theirs = (token_numbers(trees, seed) for seed in (0, 9))
    middles = [
        B * sum(
            with_tail(own[one], len(own[two]), ALPHA) - with_tail(theirs[one], len(own[two]), ALPHA)
            for one, two in ((w, b), (b, w))
        ) / 2
        for w, b in sides(trees)
    ]  # fmt: skip
    module.judge(pack_trees(trees))
    module.objective.reward_shift.end_update(lambda sums: sums)
    assert module.objective.reward_shift.value == pytest.approx(mean_over_prompts(trees, middles), rel=1e-4)


@pytest.mark.parametrize("loss", ["sigmoid", "ipo_norm", "simpo"])
def test_wpo_multiplies_each_comparisons_loss_and_not_its_count(loss: str, other: str):
    trees = counted_in_part(random_trees(3, seed=4))
    module, plain = (make_module(loss=loss, reference=other, wpo=wpo) for wpo in (True, False))
    weights = []
    for numbers in token_numbers(trees, 0):
        parts = [own - torch.tensor(collision).log().item() for own, collision in numbers]
        weights.append(torch.tensor(sum(parts) / len(parts)).exp().item())
    pairs = [weights[w] * weights[b] for w, b in sides(trees)]
    losses = plain.judge(pack_trees(trees)).losses.tolist()
    expected = [a * b for a, b in zip(pairs, losses, strict=True)]
    judgement = module.judge(pack_trees(trees))
    assert loss_of(module, trees).item() == pytest.approx(mean_over_prompts(trees, expected), rel=2e-4)
    assert judgement.metrics["wpo/weight"].item() == pytest.approx(mean_over_prompts(trees, pairs), rel=2e-4)
    assert module.objective.loss_at_start is None


def test_no_gradient_flows_through_wpos_weights(other: str):
    """Of one comparison the gradient is the plain one times the weight."""
    tree = replace(random_trees(1, seed=4)[0], comparisons=[Comparison(0, 1)])
    weighted, plain = (make_module(reference=other, wpo=wpo) for wpo in (True, False))
    weight = weighted.judge(pack_trees([tree])).metrics["wpo/weight"]
    expected = weight * gradient_of(plain, [tree])
    found = gradient_of(weighted, [tree])
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.parametrize("settings", [{"length_desensitization": ALPHA}, {"wpo": True}])
def test_padded_rows_and_trees_give_one_gradient(settings: dict, other: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(reading, "MIN_MEAN_SEGMENT", 0)
    trees = random_trees(4, 1)
    padded, packed = (
        gradient_of(make_module(reference=other, attention=attention, **settings), trees)
        for attention in ("padded", "trees")
    )
    assert (padded - packed).abs().max() < 1e-4 * padded.abs().max()


@pytest.mark.parametrize("loss", METHODS)
def test_each_field_is_taken_where_it_means_something_and_refused_elsewhere(loss: str, other: str):
    for name, value, takers in (("length_desensitization", 0.0, ON_SUMS), ("wpo", True, ON_PAIRS)):
        settings = {"loss": loss, "reference": other, name: value, **NEEDS.get(loss, {})}
        if loss in takers:
            trees = random_trees(3, seed=4)
            changed = loss_of(make_module(**settings), trees)
            del settings[name]
            assert changed != loss_of(make_module(**settings), trees)
        else:
            with pytest.raises(
                ValueError, match=rf"model\.{name}: {loss} has no such term; it is one of sigmoid"
            ):
                make_module(**settings)


PAIRS = [
    {"prompt": f"the soup {i}", "chosen": " is tasty .", "rejected": " is late and big ."} for i in range(6)
]


def test_a_reference_of_one_number_a_response_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(
        ValueError, match=r"model\.reference_storage: length_desensitization weighs single tokens"
    ):
        make_module(length_desensitization=0.5, reference_storage="precomputed")
    monkeypatch.chdir(tmp_path)
    module = make_module(wpo=True, reference_storage="precomputed")  # of the policy's tokens alone
    quiet_trainer().fit(module, datamodule=PairDataModule(PAIRS, batch_size=3))


def test_adapters_taken_off_give_the_frozen_references_tokens():
    torch.manual_seed(0)
    trained = []
    for storage in ("frozen", "adapter_off"):
        torch.manual_seed(3)
        module = DPOModule(
            make_llama(TOKENIZER), tokenizer=TOKENIZER, optimizer=sgd, reference_storage=storage, wpo=True,
            length_desensitization=ALPHA, lora={"r": 4, "target_modules": "all-linear"},
        )  # fmt: skip
        quiet_trainer(max_epochs=2).fit(module, datamodule=PairDataModule(PAIRS, batch_size=3, seed=0))
        trained.append(weights_of(module.network))
    assert torch.allclose(*trained, atol=1e-5)

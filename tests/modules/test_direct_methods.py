"""The direct methods through DPOModule: each is its published loss, starts where it should, and is read alike."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lit_rlhf import DPOModule, PairDataModule
from lit_rlhf.data.trees import pack_trees
from lit_rlhf.models import reading
from lit_rlhf.models.policy import PolicyNetwork, sequence_logprobs
from lit_rlhf.modules.direct_methods import METHODS
from lit_rlhf.records import Comparison, Tree
from tests.conftest import make_llama, make_tokenizer
from tests.modules.direct_formulas import FORMULAS, Pair, settings_of
from tests.modules.training import WatchedDPO, quiet_trainer, random_trees, sgd, weights_of

TOKENIZER = make_tokenizer()
NEEDS = {"robust": {"flip_rate": 0.1}}
"""What a method cannot do without."""
REFERENCE_FREE = ["simpo", "cpo", "slic", "orpo"]
OF_THE_BATCH = ["aot", "aot_unpaired", "kto"]
PAIRS = [
    {"prompt": f"the soup {i}", "chosen": " is tasty .", "rejected": " is late and big ."} for i in range(12)
]


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A reference that is not the start."""
    folder = tmp_path_factory.mktemp("other")
    make_llama(TOKENIZER, seed=9).save_pretrained(folder)
    return str(folder)


def make_module(**settings) -> DPOModule:
    if settings.get("loss") in REFERENCE_FREE:
        settings.pop("reference", None)
    return DPOModule(make_llama(TOKENIZER), optimizer=sgd, tokenizer=TOKENIZER, **settings)


def counted_in_part(trees: list[Tree]) -> list[Tree]:
    """The first token of every second response does not count, so that lengths are those of the mask."""
    return [
        replace(tree, response_masks=[[k != 1] + [True] * (len(m) - 1) for k, m in enumerate(tree.response_masks)])
        for tree in trees
    ]  # fmt: skip


def pairs_of(module: DPOModule, trees: list[Tree], reference: torch.nn.Module) -> list[Pair]:
    """What the formulas are functions of, every comparison's."""
    batch = pack_trees(trees)
    with torch.no_grad():
        own = sequence_logprobs(module.network(batch)).tolist()
        theirs = sequence_logprobs(PolicyNetwork(reference)(batch)).tolist()
    lengths = [sum(mask) for tree in trees for mask in tree.response_masks]
    return [
        Pair(own[w], own[b], theirs[w], theirs[b], lengths[w], lengths[b])
        for w, b in zip(batch.better.tolist(), batch.worse.tolist(), strict=True)
    ]


def mean_over_prompts(trees: list[Tree], losses: list[float]) -> float:
    places = iter(losses)
    means = [sum(next(places) for _ in t.comparisons) / len(t.comparisons) for t in trees]
    return sum(means) / len(means)


def loss_of(module: DPOModule, trees: list[Tree]) -> torch.Tensor:
    output = module.compute_loss(pack_trees(trees))
    return output.total / output.count


def gradient_of(module: DPOModule, trees: list[Tree]) -> torch.Tensor:
    grads = torch.autograd.grad(loss_of(module, trees), list(module.network.parameters()), allow_unused=True)
    return torch.cat([g.flatten() for g in grads if g is not None])


def test_every_method_has_a_formula():
    assert set(METHODS) - {*OF_THE_BATCH, "plackett_luce"} == {settings_of(name)["loss"] for name in FORMULAS}


@pytest.mark.parametrize("name", FORMULAS)
def test_each_method_is_its_published_loss(name: str, other: str):
    module = make_module(reference=other, **settings_of(name))
    trees = counted_in_part(random_trees(3, seed=4))
    pairs = pairs_of(module, trees, make_llama(TOKENIZER, seed=9))
    expected = mean_over_prompts(trees, [FORMULAS[name][1](pair) for pair in pairs])
    assert loss_of(module, trees).item() == pytest.approx(expected, rel=2e-4, abs=1e-4)


LN2 = math.log(2)
AT_THE_START = {
    "sigmoid": LN2, "robust": LN2, "sigmoid_norm": LN2, "aot": LN2, "aot_unpaired": LN2, "ipo": 25.0,
    "ipo_norm": 25.0, "hinge": 1.0, "kto": 0.5, "bco": 2 * LN2, "nca": 2 * LN2, "apo_zero": 1.0, "apo_down": 1.0,
    "sppo": 500_000.0, "discopop": (1 + LN2) / 2, "exo": -0.5 * math.log(4 * 0.999 * 0.001),
}  # fmt: skip
"""Where the policy is the reference, with each method's own β."""


@pytest.mark.parametrize("loss", AT_THE_START)
def test_the_loss_starts_where_it_is_known_to(loss: str):
    module = make_module(loss=loss, **NEEDS.get(loss, {}))
    assert loss_of(module, random_trees(4)).item() == pytest.approx(AT_THE_START[loss], rel=1e-5)
    if loss not in ("sppo", "exo"):
        assert module.objective.loss_at_start == pytest.approx(AT_THE_START[loss])


@pytest.mark.parametrize(
    "settings", [{"margin": 0.5}, {"sft_coef": 0.1}, {"loss": "simpo"}, {"margin": "data"}]
)
def test_a_start_that_data_or_policy_decide_is_not_promised(settings: dict):
    assert make_module(**settings).objective.loss_at_start is None


def test_an_untouched_call_is_dpo_at_a_tenth():
    module = make_module()
    assert (module.loss, module.beta, module.objective.sft_coef, module.objective.margin) == (
        "sigmoid",
        0.1,
        0,
        0,
    )


@pytest.mark.parametrize(
    ("loss", "own"),
    [
        ("simpo", {"beta": 2.0, "margin": 1.0}),
        ("sigmoid_norm", {"beta": 5.0}),
        ("sppo", {"beta": 0.001}),
        ("cpo", {"beta": 0.1, "sft_coef": 1.0}),
        ("slic", {"margin": 1.0}),
        ("orpo", {"odds_coef": 0.1}),
    ],
)
def test_null_is_what_is_usual_for_the_method(loss: str, own: dict):
    trees = random_trees(3)
    assert loss_of(make_module(loss=loss), trees) == loss_of(make_module(loss=loss, **own), trees)


@pytest.mark.parametrize("loss", METHODS)
def test_padded_rows_and_trees_give_one_gradient(loss: str, other: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(reading, "MIN_MEAN_SEGMENT", 0)
    trees = [
        replace(tree, ranks=[float(place) for place in range(len(tree.response_ids))]) for tree in random_trees(4, 1)
    ]  # fmt: skip
    padded, packed = (
        gradient_of(
            make_module(loss=loss, reference=other, attention=attention, **NEEDS.get(loss, {})), trees
        )
        for attention in ("padded", "trees")
    )
    assert (padded - packed).abs().max() < 1e-4 * padded.abs().max()


class Groups:
    """A sized loader over groups of trees."""

    def __init__(self, groups: list[list[Tree]]) -> None:
        self.groups = groups

    def __len__(self) -> int:
        return len(self.groups)

    def __iter__(self):
        return (pack_trees(group) for group in self.groups)


def step_of(loss: str, groups: list[list[Tree]], reference: str) -> torch.Tensor:
    """How far one update of plain descent moves the weights."""
    module = make_module(loss=loss, beta=None, reference=reference, **NEEDS.get(loss, {}))
    start = weights_of(module.network)
    quiet_trainer(accumulate_grad_batches=len(groups)).fit(module, Groups(groups))
    return weights_of(module.network) - start


@pytest.mark.parametrize("loss", METHODS)
def test_micro_batches_give_the_whole_batchs_update_where_the_docstring_says_so(loss: str, other: str):
    trees = [
        replace(tree, ranks=[float(place) for place in range(len(tree.response_ids))]) for tree in random_trees(6, 2)
    ]  # fmt: skip
    whole = step_of(loss, [trees], other)
    cut = step_of(loss, [[trees[k] for k in group] for group in ([3, 0, 5], [1], [4, 2])], other)
    apart = (cut - whole).abs().max() / whole.abs().max()
    assert apart > 1e-3 if loss in OF_THE_BATCH else apart < 1e-4


@pytest.mark.parametrize("loss", [loss for loss in METHODS if loss != "plackett_luce"])
def test_each_method_learns_through_the_trainer(loss: str):
    """The longer response is the better one, which the untrained model takes for the less likely."""
    torch.manual_seed(0)
    rows = [{**row, "chosen": row["rejected"], "rejected": row["chosen"]} for row in PAIRS]
    module = WatchedDPO(
        make_llama(TOKENIZER), loss=loss, tokenizer=TOKENIZER, **NEEDS.get(loss, {}),
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=3e-3),
    )  # fmt: skip
    before = module.network.state_dict()["causal_lm.lm_head.weight"].clone()
    trainer = quiet_trainer(max_epochs=3)
    trainer.fit(module, datamodule=PairDataModule(rows, val_path=rows, batch_size=4))
    assert not torch.equal(module.network.state_dict()["causal_lm.lm_head.weight"], before)
    assert module.losses[-1] < module.losses[0]
    # DiscoPOP is not convex: where training starts it leads pairs the wrong way first
    assert trainer.callback_metrics["val/rewards/accuracies"] > (0.0 if loss == "discopop" else 0.99)


@pytest.mark.parametrize("loss", REFERENCE_FREE)
def test_methods_without_a_reference_hold_none(loss: str, other: str):
    module = make_module(loss=loss)
    assert module.frozen() == []
    with pytest.raises(ValueError, match=rf"model\.reference: {loss} has no reference"):
        DPOModule(make_llama(TOKENIZER), loss=loss, reference=other, tokenizer=TOKENIZER)
    with pytest.raises(ValueError, match=rf"model\.reference_storage: {loss} has no reference"):
        make_module(loss=loss, reference_storage="precomputed")


@pytest.mark.parametrize("loss", ["ipo_norm", "apo_zero"])
def test_other_methods_read_precomputed_references_too(
    loss: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    trained = []
    for storage in ("frozen", "precomputed"):
        module = make_module(loss=loss, reference_storage=storage)
        quiet_trainer().fit(module, datamodule=PairDataModule(PAIRS, batch_size=4))
        trained.append(weights_of(module.network))
    assert torch.allclose(*trained, atol=1e-5)


def test_the_method_comes_back_with_a_checkpoint(tmp_path: Path):
    module = make_module(loss="simpo", margin=0.3, label_smoothing=0.1)
    trainer = quiet_trainer()
    trainer.fit(module, datamodule=PairDataModule(PAIRS, batch_size=6))
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    again = DPOModule.load_from_checkpoint(
        tmp_path / "end.ckpt", model=make_llama(TOKENIZER), tokenizer=TOKENIZER
    )
    assert loss_of(again, random_trees(2)) == loss_of(module, random_trees(2))


@pytest.mark.parametrize(("loss", "per_token"), [("sigmoid", False), ("simpo", True), ("cpo", False)])
def test_logged_rewards_are_those_that_the_method_compares(loss: str, per_token: bool, other: str):
    trees = counted_in_part(random_trees(2, most_responses=2))
    module = make_module(loss=loss, beta=0.5, reference=other)
    (pair, _) = pairs_of(module, trees, make_llama(TOKENIZER, seed=9))
    expected = pair.rho_w if loss == "sigmoid" else pair.w / (pair.n_w if per_token else 1)
    judgement = module.judge(pack_trees(trees))
    better = trees[0].comparisons[0].better
    assert judgement.scores[better].item() == pytest.approx(0.5 * expected, rel=1e-4)
    assert judgement.scores.requires_grad is False


def test_the_mean_of_a_likelihood_term_is_logged():
    trees = random_trees(3)
    module = make_module(sft_coef=2.0)
    output = module.compute_loss(pack_trees(trees))
    assert output.metrics["nll"].item() == pytest.approx(
        ((output.total / output.count).item() - LN2) / 2, rel=1e-4
    )
    assert "nll" not in make_module().compute_loss(pack_trees(trees)).metrics


def test_comparisons_weigh_what_their_rows_say():
    heavy, light = (
        Tree([0, 5], [[9, 1], [10, k, 1]], [[True] * 2, [True] * 3], [Comparison(0, 1, weight=w)])
        for k, w in ((20, 3.0), (30, 1.0))
    )
    module = make_module(loss="simpo")
    alone = [loss_of(module, [tree]).item() for tree in (heavy, light)]
    assert loss_of(module, [heavy, light]).item() == pytest.approx((3 * alone[0] + alone[1]) / 4, rel=1e-5)

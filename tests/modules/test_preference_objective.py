"""What a reward model is trained for: rankings, ties, noise and ratings, through the module."""

import math
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import logsigmoid

from lit_rlhf import PairDataModule, RankingDataModule, RewardModule
from lit_rlhf.data.trees import pack_trees
from lit_rlhf.records import Comparison, Tree
from tests.conftest import make_llama, make_tokenizer
from tests.modules.training import quiet_trainer, random_trees, weights_of

TOKENIZER = make_tokenizer()
RATED = [
    {
        "prompt": f"my lamp {i}",
        "responses": [" is big .", " is lovely .", " seems dim .", " is hot ."],
        "scores": [6 + 2 * s for s in (1, 2, 0, 2)] if i % 2 else [1, 2, 0, 2],
        "annotator": "generous" if i % 2 else "strict",
    }
    for i in range(16)
]


def adam(parameters):
    return torch.optim.Adam(parameters, lr=1e-3)


def make_module(**settings) -> RewardModule:
    torch.manual_seed(0)
    return RewardModule(make_llama(TOKENIZER), optimizer=adam, tokenizer=TOKENIZER, **settings)


def ranked(ranks: list[float | None], name: str = "row") -> Tree:
    """A prompt with one response a rank and all comparisons of the judged ones, ties among them."""
    responses = [[20 + place, 30 + 7 * place, 1] for place in range(len(ranks))]
    judged = [(rank, place) for place, rank in enumerate(ranks) if rank is not None]
    comparisons = [Comparison(i, j) for a, i in judged for b, j in judged if a < b]
    comparisons += [
        Comparison(i, j, target=0.5, tie=1.0) for a, i in judged for b, j in judged if a == b and i < j
    ]
    return Tree([5, 6], responses, [[True] * 3] * len(ranks), comparisons, ranks=ranks, id=name)


def mean_loss(module: RewardModule, trees: list[Tree]) -> float:
    output = module.compute_loss(pack_trees(trees))
    return (output.total / output.count).item()


def gradient(module: RewardModule, trees: list[Tree]) -> torch.Tensor:
    output = module.compute_loss(pack_trees(trees))
    parameters = list(module.network.trunk.parameters())
    grads = torch.autograd.grad(output.total / output.count, parameters, allow_unused=True)
    return torch.cat([g.flatten() for g in grads if g is not None])


@pytest.mark.parametrize("loss", ["plackett_luce", "best_of_k"])
def test_with_two_responses_all_losses_coincide(loss: str):
    trees = [ranked([1.0, 2.0]), ranked([2.0, 1.0])]
    assert mean_loss(make_module(loss=loss), trees) == pytest.approx(
        mean_loss(make_module(), trees), abs=1e-6
    )
    assert torch.allclose(
        gradient(make_module(loss=loss), trees), gradient(make_module(), trees), atol=1e-6, rtol=1e-4
    )


@pytest.mark.parametrize("loss", ["pairs", "plackett_luce", "best_of_k"])
def test_prompts_weigh_the_same_whatever_their_k(loss: str):
    module = make_module(loss=loss)
    trees = [ranked([1.0, 2.0]), ranked([3.0, 1.0, 2.0, 4.0, 5.0])]
    alone = [mean_loss(module, [tree]) for tree in trees]
    assert mean_loss(module, trees) == pytest.approx(sum(alone) / 2, abs=1e-5)


@pytest.mark.parametrize(
    "settings", [{"loss": "plackett_luce"}, {"loss": "best_of_k", "center_coef": 0.5}, {}]
)
def test_rankings_weigh_what_their_rows_say(settings: dict):
    heavy, light = ranked([1.0, 2.0, 3.0]), ranked([2.0, 1.0])
    module = make_module(**settings)
    alone = [mean_loss(module, [tree]) for tree in (heavy, light)]
    heavy.comparisons = [replace(c, weight=3.0) for c in heavy.comparisons]
    assert mean_loss(module, [heavy]) == pytest.approx(alone[0], rel=1e-5)
    assert mean_loss(module, [heavy, light]) == pytest.approx((3 * alone[0] + alone[1]) / 4, rel=1e-5)


def test_a_ranking_whose_comparisons_weigh_differently_is_refused_by_the_row():
    tree = ranked([1.0, 2.0, 3.0], name="r.jsonl:4")
    tree.comparisons[0] = replace(tree.comparisons[0], weight=3.0)
    with pytest.raises(
        ValueError, match=r"r\.jsonl:4: expected one weight for a whole ranking, found 1 and 3"
    ):
        mean_loss(make_module(loss="plackett_luce"), [ranked([1.0, 2.0]), tree])
    mean_loss(make_module(), [tree])


def test_ratings_weigh_what_their_rows_say():
    trees = [ranked([1.0, 2.0, 3.0]), ranked([2.0, 1.0])]
    for tree in trees:
        tree.ratings = [1.0, 4.0, 2.0][: len(tree.response_ids)]
    trees[0].comparisons = [replace(c, weight=3.0) for c in trees[0].comparisons]
    module = make_module(loss="ratings")
    batch = pack_trees(trees)
    items = module.objective(torch.zeros(5), batch, batch.ratings)
    assert items.weights.tolist() == pytest.approx([1.0] * 3 + [0.5] * 2)


def test_plackett_luce_is_divided_by_its_choices():
    module = make_module(loss="plackett_luce", center=False)
    tree = ranked([2.0, 1.0, 3.0])
    scores = module.score(pack_trees([tree])).double()
    best_first = scores[[1, 0, 2]]
    likelihood = (best_first.exp() / torch.stack([best_first[k:].exp().sum() for k in range(3)])).prod()
    assert mean_loss(module, [tree]) == pytest.approx(-likelihood.log().item() / 2, abs=1e-5)


@pytest.mark.parametrize("loss", ["pairs", "plackett_luce", "best_of_k", "ratings"])
def test_unjudged_responses_change_no_loss(loss: str):
    module = make_module(loss=loss)
    module._rating_scales = {"": (0.0, 1.0)}
    judged, more = ranked([2.0, 1.0]), ranked([2.0, 1.0, None])
    judged.ratings, more.ratings = [1.0, 3.0], [1.0, 3.0, None]
    assert mean_loss(module, [more]) == pytest.approx(mean_loss(module, [judged]), abs=1e-6)


@pytest.mark.parametrize("loss", ["pairs", "plackett_luce", "best_of_k"])
def test_a_dropped_tie_says_nothing(loss: str):
    module = make_module(loss=loss, ties="drop")
    strict, tied = ranked([1.0, 2.0, 3.0]), ranked([1.0, 1.0, 1.0])
    assert mean_loss(module, [strict, tied]) == pytest.approx(mean_loss(module, [strict]), abs=1e-5)
    assert make_module(loss=loss).compute_loss(pack_trees([strict, tied])).count.item() == pytest.approx(2.0)


def test_a_dropped_tie_is_not_among_the_comparisons_of_its_prompt():
    module = make_module(ties="drop")
    tree = ranked([1.0, 1.0, 2.0])
    scores = module.score(pack_trees([tree]))
    expected = -(logsigmoid(scores[0] - scores[2]) + logsigmoid(scores[1] - scores[2])) / 2
    assert mean_loss(module, [tree]) == pytest.approx(expected.item(), abs=1e-6)


def test_a_half_half_tie_pulls_two_scores_together():
    module = make_module(ties="half")
    tree = ranked([1.0, 1.0])
    scores = module.score(pack_trees([tree]))
    difference = scores[0] - scores[1]
    expected = -(logsigmoid(difference) + logsigmoid(-difference)) / 2
    assert mean_loss(module, [tree]) == pytest.approx(expected.item(), abs=1e-6)
    assert expected > math.log(2)


def test_the_width_of_ties_is_learned():
    module = make_module(ties="rao_kupper")
    before = module.objective.tie_width.item()
    rows = [
        {"prompt": f"the soup {i}", "responses": [" is a", " is b"], "ranks": [1, 1 + (i == 0)]}
        for i in range(16)
    ]
    quiet_trainer(max_epochs=4).fit(module, datamodule=RankingDataModule(rows, batch_size=4))
    assert module.objective.tie_width.item() > before + 0.1


def test_the_width_of_ties_starts_at_their_share():
    """Two equal responses are called a tie as often as people did: tanh(θ/2)."""
    module = make_module(ties="rao_kupper")
    rows = [
        {"prompt": f"the soup {i}", "responses": [" is a", " is b"], "ranks": [1, 1 + i % 2]}
        for i in range(8)
    ]
    quiet_trainer(limit_train_batches=0).fit(module, datamodule=RankingDataModule(rows, batch_size=4))
    assert math.tanh(module.objective.tie_width.item() / 2) == pytest.approx(0.5, abs=1e-5)


def test_with_a_width_of_ties_a_tie_counts_half_in_the_probability():
    """θ = 1 and d = 2: P(a) = σ(1), P(b) = σ(-3), the rest a tie."""
    module = make_module(ties="rao_kupper")
    module.objective.start_tie_width(math.tanh(0.5))
    module.score = lambda batch: torch.tensor([2.0, 0.0])
    probability = module.judge(pack_trees([ranked([1.0, 2.0])])).probability.item()
    wins, loses = 1 / (1 + math.exp(-1)), 1 / (1 + math.exp(3))
    assert probability == pytest.approx(wins + (1 - wins - loses) / 2, abs=1e-6)


def losses(difference: torch.Tensor, **settings) -> torch.Tensor:
    """Of comparisons whose scores differ by so much."""
    module = make_module(**settings)
    scores = torch.stack([difference, torch.zeros_like(difference)], 1).flatten()
    batch = pack_trees([ranked([1.0, 2.0]) for _ in difference])
    return module.objective(scores, batch).losses


def test_each_account_of_noise_is_its_published_loss():
    d = torch.tensor([-2.0, 0.3, 4.0])
    right, wrong = -logsigmoid(d), -logsigmoid(-d)
    assert torch.allclose(losses(d), right)
    assert torch.allclose(losses(d, label_smoothing=0.1), 0.9 * right + 0.1 * wrong)
    assert torch.allclose(losses(d, flip_rate=0.2), (0.8 * right - 0.2 * wrong) / 0.6)
    assert torch.allclose(losses(d, uniform_error=0.1), -(0.9 * d.sigmoid() + 0.05).log(), atol=1e-6)
    assert torch.allclose(losses(d, margin=1.5), -logsigmoid(d - 1.5))
    assert torch.allclose(losses(d, center_coef=0.01), right + 0.01 * d**2, atol=1e-6)


def test_a_margin_given_by_the_config_takes_the_place_of_the_datas():
    tree = ranked([1.0, 2.0])
    tree.comparisons = [Comparison(0, 1, margin=3.0)]
    assert mean_loss(make_module(), [tree]) > mean_loss(make_module(margin=0.0), [tree])
    assert mean_loss(make_module(margin=0.0), [tree]) == pytest.approx(
        mean_loss(make_module(), [ranked([1.0, 2.0])])
    )


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"label_smoothing": 0.1, "flip_rate": 0.1},
            "label_smoothing and model.flip_rate: expected one account",
        ),
        ({"flip_rate": 0.5}, r"model\.flip_rate: expected 0 to less than 0\.5"),
        ({"flip_rate": 0.1, "ties": "rao_kupper"}, r"model\.flip_rate: not together with ties"),
        ({"loss": "plackett_luce", "uniform_error": 0.1}, r"model\.uniform_error: for loss: pairs"),
        ({"loss": "best_of_k", "margin": 1.0}, r"model\.margin: for loss: pairs"),
        (
            {"loss": "plackett_luce", "ties": "rao_kupper"},
            r"model\.ties: rao_kupper is a term of loss: pairs",
        ),
        ({"loss": "ratings", "center_coef": 0.1}, r"model\.center_coef: ratings say themselves"),
        (
            {"components": {"members": 2}, "unit_variance": True},
            r"model\.unit_variance: components are stand",
        ),
    ],
)
def test_fields_that_do_not_go_together_are_refused_by_key(settings: dict, said: str):
    with pytest.raises(ValueError, match=said):
        make_module(**settings)


def test_a_ranking_loss_on_pairs_without_ranks_names_the_row():
    tree = Tree([5], [[9, 1], [10, 1]], [[True] * 2] * 2, [Comparison(0, 1)], id="p.jsonl:3")
    with pytest.raises(ValueError, match=r"p\.jsonl:3: expected ranks for model.loss plackett_luce"):
        make_module(loss="plackett_luce").compute_loss(pack_trees([tree]))


def test_ratings_are_learned_in_each_annotators_own_scale():
    """One annotator's 6 is the other's 0: only offset and spread differ, and both are taken off."""
    module = make_module(loss="ratings", center=False)
    trainer = quiet_trainer(max_epochs=12)
    trainer.fit(module, datamodule=RankingDataModule(RATED, batch_size=4))
    assert module._rating_scales["strict"] == pytest.approx((1.25, math.sqrt(0.6875)))
    assert module._rating_scales["generous"] == pytest.approx((8.5, 2 * math.sqrt(0.6875)))
    data = trainer.datamodule
    scores = module.score(pack_trees(data.trees("train")[:2])).view(2, 4)
    wanted = torch.tensor([1, 2, 0, 2.0]).sub(1.25).div(math.sqrt(0.6875))
    assert torch.allclose(scores, wanted.expand(2, 4), atol=0.5)


def test_rows_of_one_rating_are_learned_from_without_a_comparison():
    module = make_module(loss="ratings")
    module._rating_scales = {"": (2.0, 2.0)}
    tree = Tree([5, 6], [[9, 1]], [[True] * 2], ratings=[4.0])
    score = module.score(pack_trees([tree])).item()
    assert mean_loss(module, [tree]) == pytest.approx((score - 1.0) ** 2, abs=1e-5)


def test_annotators_scales_are_kept_in_the_checkpoint(tmp_path):
    module = make_module(loss="ratings")
    trainer = quiet_trainer()
    trainer.fit(module, datamodule=RankingDataModule(RATED, batch_size=4))
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    again = RewardModule.load_from_checkpoint(
        tmp_path / "end.ckpt", model=make_llama(TOKENIZER), tokenizer=TOKENIZER
    )
    assert again._rating_scales == module._rating_scales


def test_ratings_are_evaluated_on_their_own_scales_where_no_training_is_known():
    module = make_module(loss="ratings")
    said = quiet_trainer().validate(
        module, datamodule=RankingDataModule(val_path=RATED, batch_size=4), verbose=False
    )
    assert math.isfinite(said[0]["val/loss"])
    assert module._rating_scales["strict"] == pytest.approx((1.25, math.sqrt(0.6875)))


def test_ratings_without_any_are_refused():
    rows = [{"prompt": f"my lamp {i}", "responses": [" a", " b"], "ranks": [1, 2]} for i in range(4)]
    with pytest.raises(ValueError, match=r"model\.loss: ratings needs ratings"):
        quiet_trainer().fit(make_module(loss="ratings"), datamodule=RankingDataModule(rows, batch_size=2))


def test_prefer_is_a_probability_of_one_of_two():
    pairs = [
        {"prompt": f"the soup {i}", "chosen": " is tasty .", "rejected": " is late ."} for i in range(16)
    ]
    module = make_module(unit_variance=True)
    quiet_trainer(max_epochs=2).fit(module, datamodule=PairDataModule(pairs, batch_size=4))
    sides = " is tasty .", " is late ."
    first, second = module.prefer("the soup 1", *sides), module.prefer("the soup 1", *sides[::-1])
    assert first + second == pytest.approx(1.0) and first > 0.9


PAIRS = [
    {"prompt": f"the soup {i}", "chosen": f" is tasty {i} .", "rejected": " is late ."} for i in range(16)
]


def reference_scores(module: RewardModule) -> torch.Tensor:
    data = PairDataModule(PAIRS, tokenizer=TOKENIZER)
    chosen = [Tree(t.prompt_ids, t.response_ids[:1], t.response_masks[:1]) for t in data.trees("train")]
    return module.score(pack_trees(chosen))


def test_a_second_fit_is_normalised_again():
    module = make_module(unit_variance=True)
    for _ in range(2):
        quiet_trainer(max_steps=2).fit(module, datamodule=PairDataModule(PAIRS, batch_size=4))
        scores = reference_scores(module)
        assert scores.mean().item() == pytest.approx(0.0, abs=1e-4)
        assert scores.std(correction=0).item() == pytest.approx(1.0, abs=1e-3)


def test_unit_variance_alone_leaves_an_exports_zero_where_it_is(tmp_path):
    module = make_module()
    quiet_trainer(max_steps=2).fit(module, datamodule=PairDataModule(PAIRS, batch_size=4))
    module.export(tmp_path / "export")
    TOKENIZER.save_pretrained(tmp_path / "export")
    again = RewardModule(
        str(tmp_path / "export"), center=False, unit_variance=True,
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=1e-12),
    )  # fmt: skip
    quiet_trainer(max_steps=1).fit(again, datamodule=PairDataModule(PAIRS, batch_size=4))
    scores = reference_scores(again)
    assert scores.mean().item() == pytest.approx(0.0, abs=1e-3)
    assert scores.std(correction=0).item() == pytest.approx(1.0, abs=1e-3)


class WithBonus(RewardModule):
    """As somebody's own reward model may be."""

    def score(self, batch):
        return super().score(batch) + 4.0


def test_an_overridden_score_is_what_is_centred():
    torch.manual_seed(0)
    module = WithBonus(make_llama(TOKENIZER), optimizer=adam, tokenizer=TOKENIZER)
    quiet_trainer(max_steps=2).fit(module, datamodule=PairDataModule(PAIRS, batch_size=4))
    assert reference_scores(module).mean().item() == pytest.approx(0.0, abs=1e-4)
    with pytest.raises(ValueError, match=r"WithBonus overrides `score`, which .* go past"):
        WithBonus(make_llama(TOKENIZER), tokenizer=TOKENIZER, components={"members": 2})


def test_scores_of_a_model_in_bf16_keep_their_zero_and_their_weights():
    module = make_module(components={"members": 3})
    module.network.rescale(torch.tensor([1.001, 0.999, 1.0]), torch.tensor([0.3001, 0.2, 0.1]))
    before = [tensor.clone() for tensor in (module.network.gain, module.network.score_offset)]
    module.to(torch.bfloat16)
    assert module.network.head.weight.dtype == torch.bfloat16
    assert all(torch.equal(*pair) for pair in zip(before, (module.network.gain, module.network.score_offset)))
    sides = " is tasty .", " is late ."
    assert module.prefer("a", *sides) + module.prefer("a", *sides[::-1]) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("field", ["loss", "ties"])
def test_an_unknown_word_is_refused_from_python_too(field: str):
    with pytest.raises(ValueError, match=rf"model\.{field}: expected one of .*found 'foo'"):
        make_module(**{field: "foo"})


def test_unit_variance_changes_scores_and_no_loss():
    pairs = [
        {"prompt": f"the soup {i}", "chosen": f" is tasty {i} .", "rejected": " is late ."} for i in range(16)
    ]
    fitted = {}
    for unit in (False, True):
        module = make_module(unit_variance=unit)
        data = PairDataModule(pairs, batch_size=4)
        quiet_trainer(max_epochs=2).fit(module, datamodule=data)
        fitted[unit] = module
    batch = pack_trees(random_trees(4))
    assert torch.allclose(fitted[True].judge(batch).losses, fitted[False].judge(batch).losses, atol=1e-5)
    chosen = [Tree(t.prompt_ids, t.response_ids[:1], t.response_masks[:1]) for t in data.trees("train")]
    scores = fitted[True].score(pack_trees(chosen))
    assert scores.mean().item() == pytest.approx(0.0, abs=1e-4)
    assert scores.std(correction=0).item() == pytest.approx(1.0, abs=1e-3)
    weights = [weights_of(fitted[unit].network.trunk) for unit in (True, False)]
    assert torch.allclose(*weights, atol=1e-5)

"""Rankings, votes, ties, margins and weights through the direct methods."""

import logging
import math
from pathlib import Path

import pytest
import torch

from lit_rlhf import DPOModule, PairDataModule, RankingDataModule
from lit_rlhf.data.trees import pack_trees
from lit_rlhf.modules.direct_methods import METHODS
from lit_rlhf.records import Comparison, Tree
from tests.conftest import make_llama, make_tokenizer
from tests.modules.direct_formulas import nls
from tests.modules.test_direct_methods import NEEDS, gradient_of, loss_of, make_module
from tests.modules.training import WatchedDPO, quiet_trainer, random_trees

TOKENIZER = make_tokenizer()


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("other")
    make_llama(TOKENIZER, seed=9).save_pretrained(folder)
    return str(folder)


def ranked(ranks: list[float | None], start: int = 20, name: str = "row") -> Tree:
    """A prompt with one response a rank and the comparisons of the judged ones, ties among them."""
    responses = [[start + place, 30 + 7 * place, *[40] * place, 1] for place in range(len(ranks))]
    judged = [(rank, place) for place, rank in enumerate(ranks) if rank is not None]
    comparisons = [Comparison(i, j) for a, i in judged for b, j in judged if a < b]
    comparisons += [
        Comparison(i, j, target=0.5, tie=1.0) for a, i in judged for b, j in judged if a == b and i < j
    ]
    masks = [[True] * len(response) for response in responses]
    return Tree([0, start], responses, masks, comparisons, ranks=ranks, id=name)


def pair(target: float = 1.0, turned: bool = False, **said) -> Tree:
    """Two responses of which the first is better so often; or the same said of the second."""
    tree = ranked([None, None])
    tree.comparisons = [Comparison(*((1, 0) if turned else (0, 1)), target=target, **said)]
    return tree


@pytest.mark.parametrize("loss", METHODS)
def test_rankings_of_two_have_the_gradient_of_pairs(loss: str, other: str):
    """Of the method itself, and for Plackett-Luce of the sigmoid loss."""
    settings = {"loss": loss, "reference": other, "beta": 0.4, "sft_coef": 0.3, **NEEDS.get(loss, {})}
    if loss in ("slic", "orpo"):
        settings["beta"] = None
    if loss == "orpo":
        settings["sft_coef"] = None
    rankings = [ranked([2.0, 1.0]), ranked([1.0, 2.0], 60)]
    pairs = [ranked([2.0, 1.0]), ranked([1.0, 2.0], 60)]
    for tree in pairs:
        tree.ranks = None
    as_rankings = gradient_of(make_module(**settings), rankings)
    settings["loss"] = "sigmoid" if loss == "plackett_luce" else loss
    as_pairs = gradient_of(make_module(**settings), pairs)
    assert (as_rankings - as_pairs).abs().max() < 1e-5 * as_pairs.abs().max()


def test_plackett_luce_is_the_likelihood_of_the_ranking_divided_by_its_choices(other: str):
    module = make_module(loss="plackett_luce", beta=0.4, reference=other)
    tree = ranked([3.0, 1.0, 2.0])
    strengths = module.judge(pack_trees([tree])).scores.double().exp().tolist()
    best, second, last = strengths[1], strengths[2], strengths[0]
    likelihood = best / (best + second + last) * second / (second + last)
    assert loss_of(module, [tree]).item() == pytest.approx(-math.log(likelihood) / 2, abs=1e-4)


def test_prompts_weigh_the_same_whatever_their_k(other: str):
    trees = [ranked([1.0, 2.0]), ranked([2.0, 1.0, 4.0, 3.0, 5.0])]
    for loss in ("plackett_luce", "ipo"):
        module = make_module(loss=loss, reference=other)
        alone = [loss_of(module, [tree]).item() for tree in trees]
        assert loss_of(module, trees).item() == pytest.approx(sum(alone) / 2, rel=1e-4)


@pytest.mark.parametrize("loss", ["plackett_luce", "ipo"])
@pytest.mark.parametrize("ties", ["half", "drop"])
def test_rankings_weigh_what_their_rows_say(loss: str, ties: str, other: str):
    rows = [
        {
            "prompt": "the soup",
            "responses": [" is tasty", " is late .", " ."],
            "ranks": [1, 2, 2],
            "weight": 3,
        },
        {"prompt": "my lamp", "responses": [" is big", " is hot ."], "ranks": [2, 1]},
        {"prompt": "a cake", "responses": [" is fresh", " is late ."], "ranks": [2, 1], "weight": 0},
    ]
    data = RankingDataModule(rows, tokenizer=TOKENIZER)
    data.setup("fit")
    heavy, light, silent = data.trees("train")
    module = make_module(loss=loss, reference=other, ties=ties, sft_coef=0.2)
    alone = [loss_of(module, [tree]).item() for tree in (heavy, light)]
    assert loss_of(module, [heavy, light, silent]).item() == pytest.approx(
        (3 * alone[0] + alone[1]) / 4, rel=1e-5
    )
    nll = [module.judge(pack_trees([tree])).metrics["nll"].item() for tree in (heavy, light)]
    assert module.judge(pack_trees([light, heavy, silent])).metrics["nll"].item() == pytest.approx(
        (3 * nll[0] + nll[1]) / 4, rel=1e-5
    )


def test_a_ranking_whose_comparisons_weigh_differently_is_refused_by_the_row():
    tree = ranked([1.0, 2.0, 3.0], name="r.jsonl:4")
    tree.comparisons[1] = Comparison(0, 2, weight=0.5)
    with pytest.raises(
        ValueError, match=r"r\.jsonl:4: expected one weight for a whole ranking, found 0\.5 and 1 on"
    ):
        loss_of(make_module(loss="plackett_luce"), [ranked([1.0, 2.0]), tree])


def test_a_ranking_without_comparisons_counts_once():
    tree = ranked([1.0, 2.0])
    tree.comparisons = []
    other_tree = ranked([2.0, 1.0], 60)
    module = make_module(loss="plackett_luce")
    assert module.judge(pack_trees([tree, other_tree])).weights.tolist() == [1.0, 1.0]


def test_the_likelihood_term_of_a_ranking_is_of_its_best(other: str):
    tree = ranked([2.0, 1.0, 1.0, None])
    batch = pack_trees([tree])
    plain, with_term = (make_module(loss="plackett_luce", ties="half", sft_coef=c) for c in (0.0, 0.5))
    logprobs = plain.judge(batch).logprobs.tolist()
    nll = -(logprobs[1] / 4 + logprobs[2] / 5) / 2
    assert loss_of(with_term, [tree]).item() - loss_of(plain, [tree]).item() == pytest.approx(
        nll / 2, rel=1e-4
    )
    assert with_term.judge(batch).metrics["nll"].item() == pytest.approx(nll, rel=1e-5)


@pytest.mark.parametrize("loss", ["plackett_luce", "hinge"])
def test_a_dropped_tie_says_nothing(loss: str, other: str):
    module = make_module(loss=loss, reference=other, ties="drop")
    strict, tied = ranked([1.0, 2.0, 3.0]), ranked([1.0, 1.0, 1.0], 60)
    assert loss_of(module, [strict, tied]).item() == pytest.approx(loss_of(module, [strict]).item(), rel=1e-5)


def test_plackett_luce_on_pairs_without_ranks_names_the_row():
    with pytest.raises(ValueError, match=r"p\.jsonl:3: expected ranks for model.loss plackett_luce"):
        tree = ranked([1.0, 2.0], name="p.jsonl:3")
        tree.ranks = None
        loss_of(make_module(loss="plackett_luce"), [tree])


def test_rankings_are_learned_through_the_trainer():
    rows = [
        {
            "prompt": f"my lamp {i}",
            "responses": [" is big .", " is lovely and fresh .", " seems dim ."],
            "ranks": [2, 1, 3],
        }
        for i in range(12)
    ]
    torch.manual_seed(0)
    module = WatchedDPO(
        make_llama(TOKENIZER), loss="plackett_luce", tokenizer=TOKENIZER,
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=3e-3),
    )  # fmt: skip
    trainer = quiet_trainer(max_epochs=3)
    trainer.fit(module, datamodule=RankingDataModule(rows, val_path=rows, batch_size=4))
    assert module.losses[0] == pytest.approx(math.log(6) / 2, abs=1e-5)
    assert trainer.callback_metrics["val/ranking/kendall_tau"] == 1.0


MEANS = [
    loss for loss in METHODS if loss not in ("aot", "aot_unpaired", "plackett_luce", "exo", "sppo", "robust")
]


@pytest.mark.parametrize("loss", MEANS)
def test_votes_are_the_mean_of_what_they_say(loss: str, other: str):
    """A quarter of the votes the other way is a quarter of that pair's loss, whatever the method."""
    module = make_module(loss=loss, reference=other, margin=0.0 if loss == "simpo" else None)
    both = [loss_of(module, [pair(turned=turned)]).item() for turned in (False, True)]
    divided = loss_of(module, [pair(0.75)]).item()
    assert divided == pytest.approx(0.75 * both[0] + 0.25 * both[1], rel=1e-4)


def test_smoothing_and_votes_add_up(other: str):
    module = make_module(reference=other, beta=0.5, label_smoothing=0.1)
    w, l = module.judge(pack_trees([pair()])).scores.tolist()  # noqa: E741
    p = 0.9 * 0.75 + 0.1 * 0.25
    assert loss_of(module, [pair(0.75)]).item() == pytest.approx(
        p * nls(w - l) + (1 - p) * nls(l - w), rel=1e-4
    )


@pytest.mark.parametrize("loss", ["sigmoid", "simpo"])
def test_a_margin_is_asked_of_whichever_is_better_and_not_in_a_tie(loss: str, other: str):
    module, plain = (make_module(loss=loss, reference=other, ties="half", margin=m) for m in (0.6, 0.0))
    w, l = module.judge(pack_trees([pair()])).scores.tolist()  # noqa: E741
    assert loss_of(module, [pair()]).item() == pytest.approx(nls(w - l - 0.6), rel=1e-4)
    assert loss_of(module, [pair(0.0)]).item() == pytest.approx(nls(l - w - 0.6), rel=1e-4)
    assert loss_of(module, [pair(0.5)]) == loss_of(plain, [pair(0.5)])


@pytest.mark.parametrize("loss", ["sigmoid", "simpo", "slic"])
def test_rows_margins_are_taken_where_asked(loss: str, other: str):
    said = pair(margin=1.25, turned=True)
    asked = loss_of(make_module(loss=loss, reference=other, margin="data"), [said])
    assert asked == loss_of(make_module(loss=loss, reference=other, margin=1.25), [pair(turned=True)])
    assert asked != loss_of(make_module(loss=loss, reference=other), [said])


@pytest.mark.parametrize("loss", ["sigmoid", "plackett_luce"])
def test_rows_margins_that_are_not_taken_are_said_once(loss: str, caplog: pytest.LogCaptureFixture):
    module = make_module(loss=loss)
    with_margin, without = pair(margin=1.25), pair()
    with_margin.ranks = without.ranks = [1.0, 2.0]
    with caplog.at_level(logging.INFO, logger="lightning.pytorch.utilities.rank_zero"):
        for _ in range(2):
            assert loss_of(module, [with_margin]) == loss_of(module, [without])
    said = [line for line in caplog.messages if "margins" in line]
    assert said == [
        "Rows have margins, which are not used: model.margin: data takes them (sigmoid, simpo, slic)."
    ]


@pytest.mark.parametrize("loss", ["aot", "aot_unpaired"])
def test_quantiles_are_of_the_batchs_comparisons(loss: str, other: str):
    module = make_module(loss=loss, reference=other, beta=0.5)
    trees = [*random_trees(3, 8, 3), pair(0.0)]  # the last one was won by the other side
    logprobs = module.judge(pack_trees(trees)).logprobs.tolist()
    rewards = module.judge(pack_trees(trees)).scores.tolist()
    batch = pack_trees(trees)
    won = [(w, l) for w, l in zip(batch.better.tolist(), batch.worse.tolist(), strict=True)]  # noqa: E741
    won[-1] = won[-1][::-1]
    if loss == "aot":
        reference = [logprob - reward / 0.5 for logprob, reward in zip(logprobs, rewards, strict=True)]
        high = sorted(0.5 * (logprobs[w] - logprobs[b]) for w, b in won)
        low = sorted(0.5 * (reference[w] - reference[b]) for w, b in won)
    else:
        high, low = sorted(rewards[w] for w, _ in won), sorted(rewards[b] for _, b in won)
    expected = [nls(a - b) for a, b in zip(high, low, strict=True)]
    assert loss_of(module, trees).item() == pytest.approx(sum(expected) / len(expected), rel=1e-4)


def test_quantiles_refuse_votes_ties_and_weights_by_the_row(other: str):
    module = make_module(loss="aot", reference=other, ties="half")
    for wrong in (pair(0.75), pair(0.5, tie=1.0)):
        wrong.id = "v.jsonl:7"
        with pytest.raises(ValueError, match=r"v\.jsonl:7: expected a winner and a loser for model.loss aot"):
            loss_of(module, [pair(), wrong])
    wrong = pair(weight=2.0)
    wrong.id = "v.jsonl:8"
    with pytest.raises(ValueError, match=r"v\.jsonl:8: expected no weights for model.loss aot"):
        loss_of(module, [pair(), wrong])
    dropping = make_module(loss="aot", reference=other)
    assert loss_of(dropping, [pair(), pair(0.5, tie=1.0)]) == loss_of(dropping, [pair()])


@pytest.mark.parametrize("loss", ["sigmoid", "kto", "cpo"])
def test_pairs_of_one_text_are_refused_and_those_cut_to_one_are_counted(loss: str, tmp_path: Path):
    rows = [{"prompt": f"the soup {i}", "chosen": " is tasty .", "rejected": " is late ."} for i in range(6)]
    same = {"prompt": "a cake", "chosen": " is fresh", "rejected": " is fresh"}
    module = DPOModule(make_llama(TOKENIZER), loss=loss, tokenizer=TOKENIZER)
    with pytest.raises(ValueError, match="two different responses"):
        quiet_trainer().fit(module, datamodule=PairDataModule([*rows, same], batch_size=3))
    cut = {"prompt": "a cake", "chosen": " is fresh and lovely", "rejected": " is fresh and late"}
    data = PairDataModule([*rows, cut], batch_size=3, max_response_tokens=4)
    quiet_trainer().fit(module, datamodule=data)
    assert data.report["train"].identical == 1

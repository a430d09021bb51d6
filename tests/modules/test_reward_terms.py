"""Heads on one trunk, the contrastive term, and the look ahead: what they do to training."""

from pathlib import Path

import numpy as np
import pytest
import torch

from lit_rlhf import PairDataModule, RewardModule
from lit_rlhf.data.trees import pack_trees
from lit_rlhf.models.components import Components
from lit_rlhf.modules.contrastive import Contrastive, ContrastiveTerm
from lit_rlhf.modules.heads import participation
from lit_rlhf.records import Comparison, Tree
from tests.conftest import make_llama, make_tokenizer
from tests.distributed import run_distributed
from tests.modules.training import quiet_trainer, random_trees, sgd, weights_of

TOKENIZER = make_tokenizer()
PAIRS = [
    {
        "prompt": f"the soup {i}",
        "chosen": " is tasty ." if i % 2 else " is late .",
        "rejected": " is late ." if i % 2 else " is tasty .",
        "domain": "praise" if i % 2 else "blame",
    }
    for i in range(40)
]
SAMPLES = [
    {"prompt": f"the lamp {i}", "responses": [" is big .", " is lovely .", " is dim ."]} for i in range(6)
]


def adam(parameters):
    return torch.optim.Adam(parameters, lr=1e-3)


def make_module(make=make_llama, optimizer=adam, **settings) -> RewardModule:
    torch.manual_seed(0)
    return RewardModule(make(TOKENIZER), optimizer=optimizer, tokenizer=TOKENIZER, **settings)


def fitted(epochs: int = 1, **settings) -> RewardModule:
    module = make_module(**settings)
    quiet_trainer(max_epochs=epochs).fit(module, datamodule=PairDataModule(PAIRS, batch_size=8))
    return module


def gradients_by_head(module: RewardModule, trees: list[Tree]) -> torch.Tensor:
    """Largest gradient of each head's weights."""
    module.train()
    output = module.compute_loss(pack_trees(trees))
    (grad,) = torch.autograd.grad(output.total, [module.network.head.weight])
    return grad.abs().amax(1)


def tree_of(domain: str | None, name: str = "row-7") -> Tree:
    return Tree([5, 6], [[9, 1], [10, 1]], [[True] * 2] * 2, [Comparison(0, 1)], domain=domain, id=name)


def test_a_domains_head_learns_from_its_own_prompts_alone():
    module = make_module(components=Components(domains=["praise", "blame"]))
    first, second = gradients_by_head(module, [tree_of("praise")])
    assert first > 0 and second == 0


def test_a_prompt_of_no_known_domain_is_refused_in_training_by_row():
    module = make_module(components=Components(domains=["praise", "blame"]))
    module.train()
    with pytest.raises(ValueError, match=r"row-7: expected a `domain` among .*praise, blame.*found None"):
        module.compute_loss(pack_trees([tree_of(None)]))
    module.eval()
    batch = pack_trees([tree_of("other")])
    assert module.judge(batch).weights.tolist() == [0.5, 0.5]  # both heads share it
    assert module.score(batch).isfinite().all()


def test_opposite_tastes_need_a_head_each():
    """One score for both can be right on one half only; the gate reads the domain off nothing but the prompt."""
    module = fitted(4, components=Components(domains=["praise", "blame"]))
    raw = module.raw_scores(pack_trees([tree_of("praise")]))
    assert raw.shape == (2, 2)
    batch = pack_trees(PairDataModule(PAIRS, tokenizer=TOKENIZER).trees("train"))
    scores = module.raw_scores(batch)
    right = scores[batch.better] > scores[batch.worse]
    praise = torch.tensor([domain == "praise" for domain in batch.domains])
    assert right[praise, 0].all() and right[~praise, 1].all()
    assert not right[praise, 1].any() and not right[~praise, 0].any()


def test_the_gate_learns_to_tell_the_domains():
    pairs = [
        {**pair, "prompt": f"{'please' if pair['domain'] == 'praise' else 'never'} the soup"}
        for pair in PAIRS
    ]
    module = make_module(components=Components(domains=["praise", "blame"], combine="gate"))
    quiet_trainer(max_epochs=12).fit(module, datamodule=PairDataModule(pairs, batch_size=8))
    assert module.prefer("please the soup", " is tasty .", " is late .") > 0.6
    assert module.prefer("never the soup", " is tasty .", " is late .") < 0.4


def test_bootstrap_weights_are_those_of_the_row_whatever_its_batch():
    trees = random_trees(400, most_responses=2)
    components = Components(members=3)
    together = participation(components, pack_trees(trees), seed=1)
    alone = torch.cat([participation(components, pack_trees([tree]), seed=1) for tree in trees[:20]])
    assert torch.equal(together[:20], alone)
    assert not torch.equal(together, participation(components, pack_trees(trees), seed=2))
    counts = together.flatten()
    assert counts.mean().item() == pytest.approx(1.0, abs=0.1)
    assert counts.var().item() == pytest.approx(1.0, abs=0.2)
    assert (counts == 0).float().mean().item() == pytest.approx(0.368, abs=0.05)
    correlation = torch.corrcoef(together.T)
    assert (correlation - torch.eye(3)).abs().max() < 0.15


def test_validation_uses_every_member_in_full():
    module = make_module(components=Components(members=3))
    trees = random_trees(6, most_responses=2)
    module.eval()
    assert module.judge(pack_trees(trees)).weights.sum().item() == pytest.approx(6 * 3)


def test_members_differ_and_each_is_standardised_on_the_references():
    module = fitted(2, components=Components(members=3, combine="mean_minus_std", k=1.0))
    data = PairDataModule(PAIRS, tokenizer=TOKENIZER)
    chosen = [Tree(t.prompt_ids, t.response_ids[:1], t.response_masks[:1]) for t in data.trees("train")]
    batch = pack_trees(chosen)
    normalized = module.network.normalized(module.raw_scores(batch))
    assert torch.allclose(normalized.std(0, correction=0), torch.ones(3), atol=1e-3)
    assert module.score(batch).mean().item() == pytest.approx(0.0, abs=1e-4)
    disagreement = module.network.forward_with_disagreement(batch)[1]
    assert (disagreement > 0).all()
    expected = normalized.mean(1) - normalized.std(1, correction=0)
    assert torch.allclose(module.score(batch), expected, atol=1e-5)


def test_predictions_say_how_far_components_disagree():
    module = make_module(components=Components(members=2))
    data = PairDataModule(PAIRS, predict_path=SAMPLES, batch_size=4)
    rows = [row for batch in quiet_trainer().predict(module, datamodule=data) for row in batch]
    assert [len(row["reward_disagreement"]) for row in rows] == [3] * 6


def test_components_resume_from_a_checkpoint_of_plain_values(tmp_path: Path):
    module = make_module(
        components=Components(members=2), contrastive=Contrastive(method="swav", prototypes=4)
    )
    trainer = quiet_trainer()
    trainer.fit(module, datamodule=PairDataModule(PAIRS, batch_size=8))
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    stored = torch.load(tmp_path / "end.ckpt", weights_only=True)["hyper_parameters"]
    assert stored["components"]["members"] == 2 and stored["contrastive"]["method"] == "swav"
    again = RewardModule.load_from_checkpoint(
        tmp_path / "end.ckpt", model=make_llama(TOKENIZER), tokenizer=TOKENIZER
    )
    assert torch.equal(weights_of(again), weights_of(module))


@pytest.mark.parametrize("method", ["simcse", "swav"])
@pytest.mark.parametrize("on", ["responses", "differences"])
def test_the_contrastive_term_is_added_with_its_weight(method: str, on: str):
    batch = pack_trees(random_trees(4))

    def term(weight: float) -> tuple[float, float]:
        module = make_module(contrastive={"method": method, "on": on, "weight": weight, "prototypes": 4})
        module.train()
        torch.manual_seed(3)
        output = module.compute_loss(batch)
        torch.manual_seed(3)
        judgement = module.judge(batch)
        mean = ((judgement.weights * judgement.losses).sum() / judgement.weights.sum()).item()
        return (output.total / output.count).item() - mean, mean

    (small, plain), (large, same) = term(0.1), term(0.3)
    assert small > 0 and large == pytest.approx(3 * small, rel=1e-3)
    assert plain == pytest.approx(same)


def test_validation_has_no_contrastive_term_and_no_dropout():
    batch = pack_trees(random_trees(4))
    module, plain = make_module(contrastive=Contrastive()), make_module()
    assert torch.allclose(module.eval().judge(batch).losses, plain.eval().judge(batch).losses, atol=1e-6)
    assert module.judge(batch).extra is None


def test_a_model_with_dropout_makes_its_own_views():
    def llama_with_dropout(tokenizer):
        return make_llama(tokenizer, attention_dropout=0.3)

    module = make_module(llama_with_dropout, contrastive=Contrastive())
    passes = []
    read = module.network.read
    module.network.read = lambda trees: passes.append(1) or read(trees)
    module.train()
    first = module.judge(pack_trees(random_trees(3)))
    assert len(passes) == 2
    assert not torch.allclose(first.losses, module.judge(pack_trees(random_trees(3))).losses)
    plain = make_module(llama_with_dropout)
    plain.train()
    assert torch.equal(plain.judge(pack_trees(random_trees(3))).losses,
                       plain.judge(pack_trees(random_trees(3))).losses)  # fmt: skip


def test_a_pair_compared_three_times_is_no_negative_of_itself():
    once = Tree([5], [[9, 1], [10, 1]], [[True] * 2] * 2, [Comparison(0, 1)])
    thrice = Tree([5], [[9, 1], [10, 1]], [[True] * 2] * 2, [Comparison(0, 1)] * 3)
    term = ContrastiveTerm(
        Contrastive(method="simcse", on="differences", temperature=0.05, weight=1.0), width=8
    )
    states = torch.randn(2, 8)
    alone, repeated = (term(states, states, pack_trees([tree])).item() for tree in (once, thrice))
    assert repeated == pytest.approx(alone, abs=1e-4)


def test_a_batch_without_comparisons_adds_nothing():
    term = ContrastiveTerm(Contrastive(on="differences", prototypes=4), width=8)
    states = torch.randn(1, 8, requires_grad=True)
    value = term(states, states, pack_trees([Tree([5], [[9, 1]], [[True] * 2])]))
    assert value.item() == 0
    value.backward()


def test_similarities_are_taken_in_full_precision():
    term = ContrastiveTerm(Contrastive(method="simcse", on="responses"), width=8)
    states, batch = torch.randn(3, 8), pack_trees([Tree([5], [[9, 1], [10, 1], [12, 1]], [[True] * 2] * 3)])
    with torch.autocast("cpu", torch.bfloat16):
        inside = term(states, states, batch)
    assert torch.equal(inside, term(states, states, batch))


def test_repeated_responses_are_no_negatives():
    """Two identical answers to one prompt would else be pushed apart."""
    term = ContrastiveTerm(
        Contrastive(method="simcse", on="responses", temperature=0.05, weight=1.0), width=8
    )
    states = torch.randn(3, 8)
    states[1] = states[0]
    responses = [[9, 1], [9, 1], [12, 1]]
    tree = Tree([5], responses, [[True] * 2] * 3, [Comparison(0, 2)])
    other = Tree([5], [[9, 1], [10, 1], [12, 1]], [[True] * 2] * 3, [Comparison(0, 2)])
    assert term(states, states, pack_trees([tree])) < 1e-3 < term(states, states, pack_trees([other]))


def test_the_look_ahead_takes_the_gradient_further_on_and_comes_back():
    """θ ← θ − α ∇L(θ + η∇J(θ)), written out with plain gradient descent on one batch."""
    step, rate = 0.5, 0.1
    module = make_module(
        optimizer=sgd, center=False, meta={"samples": SAMPLES, "step": step, "batch_size": 6}
    )
    quiet_trainer(limit_train_batches=1).fit(module, datamodule=PairDataModule(PAIRS, batch_size=40))

    plain = make_module(optimizer=sgd, center=False)
    data = PairDataModule(PAIRS, tokenizer=TOKENIZER, predict_path=SAMPLES)
    parameters = list(plain.network.parameters())
    start = [parameter.detach().clone() for parameter in parameters]
    batch = pack_trees(data.trees("predict"))
    scores = plain.score(batch).view(6, 3)
    spread = (scores[:, :, None] - scores[:, None, :]).abs().sigmoid()
    upper = torch.triu(torch.ones(3, 3, dtype=torch.bool), 1)
    difference = (2 / 9 * spread[:, upper].sum(1)).mean()
    for parameter, g in zip(parameters, torch.autograd.grad(difference, parameters, allow_unused=True)):
        if g is not None:
            parameter.data.add_(g, alpha=step)
    output = plain.compute_loss(pack_trees(data.trees("train")))
    grads = torch.autograd.grad(output.total / output.count, parameters, allow_unused=True)
    expected = torch.cat(
        [(s if g is None else s - rate * g).flatten() for s, g in zip(start, grads, strict=True)]
    )
    moved = weights_of(module.network) - torch.cat([s.flatten() for s in start])
    wanted = expected - torch.cat([s.flatten() for s in start])
    assert moved.abs().max() > 1e-4
    assert torch.allclose(moved, wanted, atol=2e-6, rtol=1e-2)


def test_weights_are_where_they_were_when_the_backward_fails():
    def fail(parameter: torch.Tensor) -> None:
        raise MemoryError

    module = make_module(center=False, meta={"samples": SAMPLES, "step": 0.5, "batch_size": 6})
    before = weights_of(module.network)
    module.network.head.weight.register_post_accumulate_grad_hook(fail)  # which asking for ∇J does not reach
    with pytest.raises(MemoryError):
        quiet_trainer().fit(module, datamodule=PairDataModule(PAIRS, batch_size=8))
    assert torch.equal(weights_of(module.network), before)


def test_samples_of_one_response_are_refused():
    module = make_module(meta={"samples": [{"prompt": "the soup", "responses": [" is a"]}]})
    with pytest.raises(ValueError, match=r"two or more `responses` for model\.meta\.samples, found 1"):
        quiet_trainer().fit(module, datamodule=PairDataModule(PAIRS, batch_size=8))


def _looked_ahead_on_a_rank() -> np.ndarray:
    module = make_module(optimizer=sgd, meta={"samples": SAMPLES, "step": 0.5, "batch_size": 6})
    trainer = quiet_trainer(devices=2, strategy="ddp", limit_train_batches=2)
    trainer.fit(module, datamodule=PairDataModule(PAIRS, batch_size=8))
    return weights_of(module.network).numpy()


def test_two_ranks_look_ahead_to_the_same_weights():
    first, second = run_distributed(_looked_ahead_on_a_rank, 2)
    assert (first == second).all()


def _gated(**ranks) -> np.ndarray:
    module = make_module(
        optimizer=sgd, center=False, components={"domains": ["praise", "blame"], "combine": "gate"}
    )
    data = PairDataModule(PAIRS, batch_size=8, shuffle=False)
    quiet_trainer(**ranks).fit(module, datamodule=data)
    return torch.cat([p.detach().flatten() for p in module.network.parameters()]).numpy()


def _gated_on_a_rank() -> np.ndarray:
    return _gated(devices=2, strategy="ddp")


def test_two_ranks_take_the_gradient_of_one_with_a_gate():
    single = _gated()
    for weights in run_distributed(_gated_on_a_rank, 2):
        assert abs(weights - single).max() < 1e-4


def test_every_domain_is_standardised_on_its_own_references_whatever_the_order_of_the_file():
    in_order = [dict(pair, domain="praise") for pair in PAIRS * 15]
    in_order += [
        {"prompt": f"my lamp {i}", "chosen": " is big .", "rejected": " is dim .", "domain": "blame"}
        for i in range(30)
    ]
    module = make_module(components=Components(domains=["praise", "blame"]))
    data = PairDataModule(in_order, batch_size=64)
    quiet_trainer(limit_train_batches=2).fit(module, datamodule=data)
    chosen = [
        Tree(t.prompt_ids, t.response_ids[:1], t.response_masks[:1])
        for t in data.trees("train")
        if t.domain == "blame"
    ]
    batch = pack_trees(chosen)
    own = module.network.normalized(module.raw_scores(batch))[:, 1]
    assert own.std(correction=0).item() == pytest.approx(1.0, abs=1e-3)


def test_a_file_that_was_moved_gives_the_same_bootstrap():
    trees = [tree_of(None, f"data/pairs.jsonl:{n}") for n in range(50)]
    moved = [tree_of(None, f"/elsewhere/pairs.jsonl:{n}") for n in range(50)]
    weights = [participation(Components(members=2), pack_trees(rows), seed=0) for rows in (trees, moved)]
    assert torch.equal(*weights)


def test_unknown_settings_are_refused_with_the_nearest():
    with pytest.raises(ValueError, match=r"model\.contrastive\.methd: no such key\. Did you mean 'method'"):
        make_module(contrastive={"methd": "swav"})
    with pytest.raises(ValueError, match=r"model\.meta\.stp: no such key\. Did you mean 'step'"):
        make_module(meta={"samples": SAMPLES, "stp": 1.0})


def test_resume_draws_what_it_would_have_drawn(tmp_path: Path):
    settings = {
        "contrastive": {"method": "simcse", "dropout": 0.3},
        "components": {"members": 2},
        "meta": {"samples": SAMPLES, "step": 0.1, "batch_size": 2},
    }
    straight = fitted(2, **settings)
    first = make_module(**settings)
    trainer = quiet_trainer(max_epochs=1)
    trainer.fit(first, datamodule=PairDataModule(PAIRS, batch_size=8))
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    resumed = make_module(**settings)
    quiet_trainer(max_epochs=2).fit(
        resumed, datamodule=PairDataModule(PAIRS, batch_size=8), ckpt_path=str(tmp_path / "half.ckpt")
    )
    assert torch.equal(weights_of(resumed), weights_of(straight))

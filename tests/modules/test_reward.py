"""Reward models: accuracy, rankings, the bias, and what they export."""

from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lit_rlhf import PairDataModule, RankingDataModule, RewardModule
from lit_rlhf.data.trees import pack_trees
from lit_rlhf.models.scorer import load_scorer
from lit_rlhf.records import Comparison, Tree
from tests.conftest import make_llama, make_tokenizer
from tests.distributed import run_distributed
from tests.modules.training import quiet_trainer, random_trees, weights_of

TOKENIZER = make_tokenizer()
PAIRS = [
    {
        "prompt": f"the soup {i}",
        "chosen": " is tasty .",
        "rejected": " is late ." if i % 2 else " looks bad .",
    }
    for i in range(32)
]


def adam(parameters):
    return torch.optim.Adam(parameters, lr=1e-3)


def make_module(**settings) -> RewardModule:
    torch.manual_seed(0)
    return RewardModule(
        settings.pop("model", None) or make_llama(TOKENIZER), optimizer=adam, tokenizer=TOKENIZER, **settings
    )


def four_responses() -> Tree:
    """A ranking of four, with its six comparisons."""
    return next(tree for tree in random_trees(20) if len(tree.comparisons) == 6)


def test_it_learns_the_preference():
    module = make_module()
    trainer = quiet_trainer(max_epochs=3)
    trainer.fit(module, datamodule=PairDataModule(PAIRS, val_fraction=0.25, batch_size=4))
    assert trainer.callback_metrics["val/rewards/accuracies"].item() == 1.0
    assert trainer.callback_metrics["val/rewards/margins"].item() > 0.5
    margin = trainer.callback_metrics["val/rewards/chosen"] - trainer.callback_metrics["val/rewards/rejected"]
    assert margin.item() == pytest.approx(trainer.callback_metrics["val/rewards/margins"].item(), abs=1e-5)


def test_a_module_that_was_validated_can_be_fitted():
    module, data = make_module(), PairDataModule(PAIRS, val_fraction=0.25, batch_size=4)
    before = quiet_trainer().validate(module, datamodule=data, verbose=False)
    trainer = quiet_trainer(max_epochs=1)
    trainer.fit(module, datamodule=data)
    assert trainer.callback_metrics["val/loss"].item() < before[0]["val/loss"]


def test_scores_are_fp32_under_autocast():
    """In bf16 two scores around 100 would be 0.5 apart at the least."""
    module = make_module()
    with torch.no_grad():
        module.network.head.bias.fill_(100.0)
    with torch.autocast("cpu", torch.bfloat16):
        scores = module.network(pack_trees(random_trees(6)))
    assert scores.dtype == torch.float32
    assert ((2 * scores).frac() != 0).any()


def test_prompts_weigh_the_same_whatever_their_k():
    module = make_module()
    two, four = random_trees(1, most_responses=2)[0], four_responses()
    parts = [module.compute_loss(pack_trees([tree])) for tree in (two, four)]
    together = module.compute_loss(pack_trees([two, four]))
    assert together.count.item() == pytest.approx(2.0)
    mean = sum((part.total / part.count).item() for part in parts) / 2
    assert (together.total / together.count).item() == pytest.approx(mean, abs=1e-5)


def test_each_response_of_a_ranking_is_scored_once():
    module = make_module()
    tree = four_responses()
    calls = []
    score = module.score
    module.score = lambda batch: calls.append(batch.num_responses) or score(batch)
    module.compute_loss(pack_trees([tree]))
    assert calls == [len(tree.response_ids)]


def test_the_gradient_of_a_ranking_is_the_mean_over_its_pairs():
    module = make_module()
    tree = four_responses()

    def gradient(trees: list[Tree]) -> torch.Tensor:
        output = module.compute_loss(pack_trees(trees))
        grads = torch.autograd.grad(output.total / output.count, list(module.network.parameters())[:3])
        return torch.cat([g.flatten() for g in grads])

    pairs = []
    for c in tree.comparisons:
        sides = (c.better, c.worse)
        pairs.append(
            Tree(tree.prompt_ids, [tree.response_ids[s] for s in sides], [tree.response_masks[s] for s in sides],
                 [Comparison(0, 1)])
        )  # fmt: skip
    mean = torch.stack([gradient([pair]) for pair in pairs]).mean(0)
    assert torch.allclose(gradient([tree]), mean, atol=1e-6, rtol=1e-4)


def test_explicit_weights_and_margins_reach_the_loss():
    module = make_module()

    def loss(**comparison) -> float:
        trees = [
            Tree([5], [[9, 1], [10, 1]], [[True] * 2] * 2, [Comparison(0, 1, **comparison)]),
            Tree([6], [[9, 1], [12, 1]], [[True] * 2] * 2, [Comparison(0, 1)]),
        ]
        output = module.compute_loss(pack_trees(trees))
        return (output.total / output.count).item()

    plain = loss()
    assert loss(margin=1.0) > plain
    assert loss(weight=3.0) != pytest.approx(plain)
    assert loss(target=0.5) != pytest.approx(plain)


def test_reference_responses_average_zero_in_checkpoint_and_export(tmp_path: Path):
    module = make_module()
    data = PairDataModule(PAIRS, val_fraction=0.25, batch_size=4)
    keep = ModelCheckpoint(tmp_path, filename="best", monitor="val/loss")
    trainer = quiet_trainer(enable_checkpointing=True, callbacks=[keep])
    trainer.fit(module, datamodule=data)
    module.export(tmp_path / "export")

    chosen = [
        Tree(tree.prompt_ids, tree.response_ids[:1], tree.response_masks[:1]) for tree in data.trees("train")
    ]
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    from_end = RewardModule.load_from_checkpoint(
        tmp_path / "end.ckpt", model=make_llama(TOKENIZER), tokenizer=TOKENIZER
    )
    at_best = RewardModule.load_from_checkpoint(
        tmp_path / "best.ckpt", model=make_llama(TOKENIZER), tokenizer=TOKENIZER
    )
    for scorer in (module.network, from_end.network, at_best.network, load_scorer(str(tmp_path / "export"))):
        assert scorer(pack_trees(chosen)).mean().abs().item() < 1e-5


def test_centring_changes_no_comparison(tmp_path: Path):
    centred, plain = make_module(), make_module(center=False)
    for module in (centred, plain):
        quiet_trainer().fit(module, datamodule=PairDataModule(PAIRS, batch_size=4))
    batch = pack_trees(random_trees(4))
    assert torch.allclose(centred.judge(batch).losses, plain.judge(batch).losses, atol=1e-5)
    assert not torch.allclose(centred.score(batch), plain.score(batch), atol=1e-3)


def test_references_can_be_a_file_of_demonstrations(tmp_path: Path):
    file = tmp_path / "demonstrations.jsonl"
    file.write_text(
        '{"prompt": "the lamp", "response": " is lovely ."}\n{"prompt": "my hotel", "response": " ."}\n'
    )
    module = make_module(references=str(file), link="luce")
    quiet_trainer().fit(module, datamodule=PairDataModule(PAIRS, batch_size=4))
    encoder = module.encoder
    trees = []
    for prompt, response in (("the lamp", " is lovely ."), ("my hotel", " .")):
        ids, mask = encoder.response_ids(prompt, response)
        trees.append(Tree(encoder.prompt_ids(prompt), [ids], [mask]))
    assert module.score(pack_trees(trees)).mean().abs().item() < 1e-5


def test_training_goes_on_from_an_export_with_its_head(tmp_path: Path):
    module = make_module()
    quiet_trainer().fit(module, datamodule=PairDataModule(PAIRS, batch_size=4))
    module.export(tmp_path / "export")
    TOKENIZER.save_pretrained(tmp_path / "export")
    again = RewardModule(str(tmp_path / "export"))
    batch = pack_trees(random_trees(3))
    assert torch.allclose(again.score(batch), module.score(batch), atol=1e-5)


@pytest.mark.filterwarnings("ignore:.*callbacks used to create the checkpoint.*")
def test_resume_is_exact_inside_an_epoch(tmp_path: Path):
    rankings = [
        {"prompt": f"my lamp {i}", "responses": [" is big", " is lovely", " seems dim ."], "ranks": [2, 1, 3]}
        for i in range(12)
    ]

    def data() -> RankingDataModule:
        return RankingDataModule(rankings, batch_size=2)

    straight = make_module()
    quiet_trainer().fit(straight, datamodule=data())
    keep = ModelCheckpoint(tmp_path, every_n_train_steps=4, filename="inside", save_top_k=1)
    quiet_trainer(enable_checkpointing=True, max_steps=4, callbacks=[keep]).fit(
        make_module(), datamodule=data()
    )
    resumed = make_module()
    quiet_trainer().fit(resumed, datamodule=data(), ckpt_path=str(tmp_path / "inside.ckpt"))
    assert torch.equal(weights_of(resumed.network), weights_of(straight.network))


def test_predict_gives_the_scores_of_each_row():
    module = make_module(center=False)
    candidates = [
        {"id": "a", "prompt": "the soup", "responses": [" is hot", " is big", " is red"]},
        {"id": "b", "prompt": "my lamp", "responses": [" is dim"]},
    ]
    data = PairDataModule(PAIRS, predict_path=candidates, batch_size=2)
    rows = [row for batch in quiet_trainer().predict(module, datamodule=data) for row in batch]
    assert [(row["id"], len(row["reward_scores"])) for row in rows] == [("a", 3), ("b", 1)]
    alone = module.score(pack_trees(data.trees("predict")[1:]))
    assert rows[1]["reward_scores"] == pytest.approx(alone.tolist(), abs=1e-5)


def _offset_on_a_rank() -> tuple[float, float]:
    module = make_module()
    trainer = quiet_trainer(devices=2, strategy="ddp")
    trainer.fit(module, datamodule=PairDataModule(PAIRS[:31], val_path=PAIRS[:5], batch_size=8))
    return module.network.score_offset.item(), trainer.callback_metrics["val/rewards/accuracies"].item()


def test_two_ranks_centre_and_count_the_accuracy_of_one():
    single = make_module()
    trainer = quiet_trainer()
    trainer.fit(single, datamodule=PairDataModule(PAIRS[:31], val_path=PAIRS[:5], batch_size=8))
    accuracy = trainer.callback_metrics["val/rewards/accuracies"].item()
    for offset, counted in run_distributed(_offset_on_a_rank, 2):
        assert offset == pytest.approx(single.network.score_offset.item(), abs=1e-3)
        assert counted == pytest.approx(accuracy, abs=1e-6)


def test_demonstrations_are_refused_by_name():
    with pytest.raises(ValueError, match=r"RewardModule needs comparisons; row-1 has none.*PairDataModule"):
        make_module().compute_loss(pack_trees([Tree([5, 6], [[7, 1]], [[True, True]], id="row-1")]))


def test_rows_without_responses_cannot_be_scored():
    data = PairDataModule(PAIRS, predict_path=[{"id": "x", "prompt": "the soup"}], batch_size=2)
    with pytest.raises(ValueError, match="x: expected responses to score, found none"):
        quiet_trainer().predict(make_module(center=False), datamodule=data)

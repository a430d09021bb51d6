"""SFT: the loss, what it counts, and a resume at the exact row."""

import math
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from lit_rlhf import DemonstrationDataModule, SFTModule
from lit_rlhf.data.trees import pack_trees
from lit_rlhf.records import Tree
from tests.conftest import make_llama, make_tokenizer
from tests.modules.training import quiet_trainer, random_trees, sgd, weights_of

TOKENIZER = make_tokenizer()
ROWS = [{"prompt": f"the soup {i}", "response": " is tasty" * (1 + i % 4)} for i in range(20)]


def adam(parameters):
    return torch.optim.Adam(parameters, lr=3e-3)


def make_module(model=None, **settings) -> SFTModule:
    torch.manual_seed(0)
    return SFTModule(
        model or make_llama(TOKENIZER), **{"optimizer": adam, "tokenizer": TOKENIZER, **settings}
    )


def test_loss_is_the_mean_over_counted_tokens_only():
    module = make_module()
    trees = [Tree([5, 6], [[9, 10, 1]], [[True, False, True]]), Tree([7], [[11, 1]], [[True, True]])]
    output = module.compute_loss(pack_trees(trees))
    expected = 0.0
    for ids, places in (([5, 6, 9, 10, 1], (2, 4)), ([7, 11, 1], (1, 2))):
        logprobs = module.network.causal_lm(torch.tensor([ids])).logits[0].log_softmax(-1)
        expected -= sum(logprobs[place - 1, ids[place]].item() for place in places)
    assert output.count.item() == 4
    assert output.total.item() == pytest.approx(expected, abs=1e-4)


def test_prompt_tokens_give_no_gradient_of_their_own():
    """An id that stands in no response and predicts none keeps its row of the output head untouched."""
    module = make_module(make_llama(TOKENIZER, tie_word_embeddings=False))
    output = module.compute_loss(pack_trees([Tree([5, 6], [[9, 1]], [[True, True]])]))
    gradient = torch.autograd.grad(output.total, module.network.causal_lm.lm_head.weight)[0]
    target_rows = gradient[[9, 1]].sum(1)
    assert (target_rows.abs() > 0).all()
    # the head's gradient comes from the two predicting positions alone, so its rank is at most two
    assert torch.linalg.matrix_rank(gradient, tol=1e-5) <= 2


def test_training_lowers_the_loss_and_validation_agrees_with_a_count_by_hand(tiny_model_dir):
    module = make_module(str(tiny_model_dir), tokenizer=None)
    data = DemonstrationDataModule(ROWS, val_path=ROWS[:7], batch_size=3)
    trainer = quiet_trainer(max_epochs=1)
    trainer.fit(module, datamodule=data)
    seen = trainer.callback_metrics
    total = count = 0.0
    for tree in data.trees("val"):
        output = module.compute_loss(pack_trees([tree]))
        total, count = total + output.total.item(), count + output.count.item()
    before = make_module(str(tiny_model_dir), tokenizer=None)
    untrained = before.compute_loss(pack_trees(data.trees("val")))
    assert seen["val/loss"].item() < (untrained.total / untrained.count).item()
    trainer.validate(module, datamodule=data, verbose=False)
    assert trainer.callback_metrics["val/loss"].item() == pytest.approx(total / count, rel=1e-5)
    assert trainer.callback_metrics["val/perplexity"].item() == pytest.approx(
        math.exp(total / count), rel=1e-4
    )


def test_more_than_one_epoch_is_warned_of():
    with pytest.warns(UserWarning, match="trainer.max_epochs is 2"):
        quiet_trainer(max_epochs=2).fit(make_module(), datamodule=DemonstrationDataModule(ROWS))


def with_dropout() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=len(TOKENIZER), n_embd=32, n_layer=1, n_head=2, n_positions=64)
    )


@pytest.mark.filterwarnings("ignore:.*callbacks used to create the checkpoint.*")
@pytest.mark.parametrize("step", [2, 5])
def test_resume_is_exact_at_the_row_and_in_dropout(step: int, tmp_path: Path):
    def data() -> DemonstrationDataModule:
        return DemonstrationDataModule(ROWS, batch_size=4)

    straight = make_module(with_dropout())
    quiet_trainer().fit(straight, datamodule=data())
    keep = ModelCheckpoint(tmp_path, every_n_train_steps=step, save_top_k=-1, filename="{step}")
    quiet_trainer(enable_checkpointing=True, callbacks=[keep]).fit(
        make_module(with_dropout()), datamodule=data()
    )
    torch.manual_seed(77)  # whatever the global stream holds by then
    resumed = make_module(with_dropout())
    torch.manual_seed(78)
    quiet_trainer().fit(resumed, datamodule=data(), ckpt_path=str(tmp_path / f"step={step}.ckpt"))
    assert torch.equal(weights_of(resumed.network), weights_of(straight.network))


def test_dropout_is_at_work_and_counted():
    trained = []
    for seed in (0, 0, 1):
        module = make_module(with_dropout(), seed=seed)
        torch.manual_seed(len(trained))
        quiet_trainer(max_steps=2).fit(module, datamodule=DemonstrationDataModule(ROWS, batch_size=4))
        trained.append(weights_of(module.network))
    assert torch.equal(trained[0], trained[1])
    assert not torch.equal(trained[0], trained[2])


def test_a_checkpoint_loads_with_its_arguments(tiny_model_dir, tmp_path):
    module = SFTModule(str(tiny_model_dir), optimizer=sgd, max_new_tokens=7)
    trainer = quiet_trainer(enable_checkpointing=True, callbacks=[ModelCheckpoint(tmp_path, filename="end")])
    trainer.fit(module, datamodule=DemonstrationDataModule(ROWS, batch_size=8))
    back = SFTModule.load_from_checkpoint(tmp_path / "end.ckpt")
    assert back.sampling.max_new_tokens == 7
    assert torch.equal(weights_of(back.network), weights_of(module.network))


def test_a_built_model_without_tokenizer_is_refused():
    with pytest.raises(ValueError, match="give its tokenizer too"):
        SFTModule(make_llama(TOKENIZER))


def test_the_export_is_the_trained_model(tmp_path):
    module = make_module()
    quiet_trainer().fit(module, datamodule=DemonstrationDataModule(ROWS))
    module.export(tmp_path / "export")
    back = AutoModelForCausalLM.from_pretrained(tmp_path / "export")
    assert torch.equal(weights_of(back), weights_of(module.network.causal_lm))


def test_samples_for_the_table_and_for_predict():
    module = make_module(max_new_tokens=5)
    trainer = quiet_trainer()
    data = DemonstrationDataModule(ROWS, val_path=ROWS[:6], predict_path=ROWS[:3], batch_size=2)
    trainer.fit(module, datamodule=data)
    table = module.sample_table()
    assert [row["prompt"] for row in table] == ["the soup 0", "the soup 1"]
    predictions = [row for batch in trainer.predict(module, datamodule=data) for row in batch]
    assert [row["prompt"] for row in predictions] == ["the soup 0", "the soup 1", "the soup 2"]
    assert all(len(row["responses"]) == 1 for row in predictions)


def test_a_loss_that_is_no_number_stops_with_the_rows(tiny_model_dir):
    module = make_module()
    with torch.no_grad():
        module.network.causal_lm.lm_head.weight[5] = float("nan")
    with pytest.raises(
        FloatingPointError, match=r"The loss is nan at epoch 0, update 0, on rows rows:1, rows:2"
    ):
        quiet_trainer().fit(module, datamodule=DemonstrationDataModule(ROWS, batch_size=2, shuffle=False))


@pytest.mark.slow
def test_validation_sums_do_not_stand_still_in_bf16():
    """A running sum in bf16 adds nothing to itself once it is 256 times the next term."""
    rows = [{"prompt": f"the soup {i}", "response": " is tasty ."} for i in range(600)]
    losses = []
    for precision in ("32-true", "bf16-true"):
        torch.manual_seed(0)
        module = SFTModule(make_llama(TOKENIZER), tokenizer=TOKENIZER)
        data = DemonstrationDataModule(val_path=rows, batch_size=1)
        trainer = quiet_trainer(precision=precision)
        losses.append(trainer.validate(module, datamodule=data, verbose=False)[0]["val/loss"])
    assert losses[1] == pytest.approx(losses[0], rel=0.01)


def test_an_interrupted_window_is_not_counted_in_the_next_fit():
    """Stopped after two of four micro-batches, the next fit's first update is that of a fresh module."""
    batches = [pack_trees(random_trees(2, seed=number)) for number in range(4)]
    moved = []
    for interrupted in (False, True):
        torch.manual_seed(0)
        module = SFTModule(make_llama(TOKENIZER), tokenizer=TOKENIZER, optimizer=sgd)
        if interrupted:
            with pytest.raises(RuntimeError, match="pulled"):
                quiet_trainer(accumulate_grad_batches=4).fit(module, Batches(batches, pulled_after=2))
        module.zero_grad()
        before = weights_of(module.network)
        quiet_trainer(accumulate_grad_batches=4).fit(module, Batches(batches))
        moved.append(weights_of(module.network) - before)
    assert torch.allclose(moved[0], moved[1], atol=1e-7)


class Batches:
    """These batches in order, or some of them, until the plug is pulled."""

    def __init__(self, batches, pulled_after=None):
        self.batches, self.pulled_after = batches, pulled_after

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        yield from self.batches[: self.pulled_after]
        if self.pulled_after is not None:
            raise RuntimeError("pulled")


def test_logging_every_zero_steps_is_never():
    module = SFTModule(make_llama(TOKENIZER), tokenizer=TOKENIZER)
    trainer = quiet_trainer(log_every_n_steps=0)
    trainer.fit(module, Batches([pack_trees(random_trees(2))]))
    assert "train/loss" not in trainer.logged_metrics


def test_prompts_without_responses_are_refused():
    with pytest.raises(ValueError, match="row-1 has no response"):
        make_module().compute_loss(pack_trees([Tree([5, 6], id="row-1")]))

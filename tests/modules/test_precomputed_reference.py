"""DPO with a precomputed reference: computed once, kept beside the data, and no second model while training."""

import gc
import json
import math
import multiprocessing
import os
import shutil
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from safetensors import safe_open
from safetensors.torch import save_file

from lit_rlhf import DPOModule, PairDataModule
from lit_rlhf.models.policy import PolicyNetwork
from lit_rlhf.modules import dpo, precomputed_reference, reference_cache
from tests.conftest import make_llama, make_tokenizer
from tests.distributed import run_distributed
from tests.modules.training import WatchedDPO, quiet_trainer, weights_of

TOKENIZER = make_tokenizer()
WORDS = ["soup", "cake", "train", "hotel", "lamp", "tasty", "late", "big", "fresh"]
PAIRS = [
    {"prompt": f"the {word} " * (i + 1), "chosen": f" is {word} .", "rejected": " is not and is late ."}
    for i, word in enumerate(WORDS)
]
REFERENCES = "pairs.jsonl.reference-*"

pytestmark = pytest.mark.filterwarnings("ignore:.*callbacks used to create the checkpoint.*")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch) -> Path:
    """The current folder: ``model`` and ``pairs.jsonl`` in it."""
    monkeypatch.chdir(tmp_path)
    save_model("model", seed=0)
    write_pairs(PAIRS)
    return tmp_path


@pytest.fixture
def said(monkeypatch) -> list[str]:
    """What is said, without its first words."""
    lines: list[str] = []
    for module in (precomputed_reference, reference_cache):
        monkeypatch.setattr(
            module,
            "rank_zero_info",
            lambda text: lines.append(text.removeprefix("Reference log-probabilities: ")),
        )
    return lines


@pytest.fixture
def forwards(monkeypatch) -> list[list[str]]:
    """The rows of each forward that computed reference log-probabilities; about two rows each."""
    seen: list[list[str]] = []
    plain = precomputed_reference.sequence_logprobs
    monkeypatch.setattr(reference_cache, "TOKENS_PER_FORWARD", 150)
    pack = reference_cache.pack_trees

    def packed(trees):
        seen.append([tree.id for tree in trees])
        return pack(trees)

    monkeypatch.setattr(reference_cache, "pack_trees", packed)
    monkeypatch.setattr(precomputed_reference, "sequence_logprobs", plain)
    return seen


def save_model(name: str, seed: int) -> None:
    make_llama(TOKENIZER, seed=seed).save_pretrained(name)
    TOKENIZER.save_pretrained(name)


def write_pairs(pairs: list[dict[str, str]], name: str = "pairs.jsonl") -> None:
    Path(name).write_text("".join(json.dumps(pair) + "\n" for pair in pairs))


def make_module(storage: str = "precomputed", model: Any = "model", **settings: Any) -> WatchedDPO:
    settings = {"optimizer": lambda parameters: torch.optim.Adam(parameters, lr=1e-3), **settings}
    return WatchedDPO(model, reference_storage=storage, **settings)


def data(**settings: Any) -> PairDataModule:
    return PairDataModule(**{"path": "pairs.jsonl", "batch_size": 3, **settings})


def fit(
    module: DPOModule, datamodule: PairDataModule | None = None, ckpt_path: str | None = None, **trainer: Any
):
    """The trainer, after a fit."""
    done = quiet_trainer(**trainer)
    done.fit(module, datamodule=datamodule or data(), ckpt_path=ckpt_path)
    return done


def fit_with_checkpoint(module: DPOModule, datamodule: PairDataModule | None = None) -> str:
    """The checkpoint after the second of three updates."""
    keep = ModelCheckpoint("checkpoints", every_n_train_steps=2, filename="{step}", save_top_k=-1)
    fit(module, datamodule, enable_checkpointing=True, callbacks=[keep])
    return "checkpoints/step=2.ckpt"


def references() -> list[str]:
    return sorted(path.name for path in Path().glob(REFERENCES))


def test_losses_are_those_of_a_frozen_model(folder):
    losses = {}
    for storage in ("frozen", "precomputed"):
        module = make_module(storage)
        trainer = fit(module, data(val_path="pairs.jsonl"), max_epochs=3)
        losses[storage] = [*module.losses, trainer.callback_metrics["val/loss"].item()]
    assert losses["frozen"][0] == pytest.approx(math.log(2), abs=1e-6)
    assert losses["frozen"][-1] < 0.6
    assert np.mean(losses["precomputed"]) == pytest.approx(np.mean(losses["frozen"]), abs=1e-6)
    assert losses["precomputed"] == pytest.approx(losses["frozen"], abs=1e-5)


def test_a_second_start_computes_nothing(folder, said, forwards):
    first = make_module()
    fit(first, data(val_fraction=0.3))
    assert sorted(row for rows in forwards for row in rows) == [f"pairs.jsonl:{n}" for n in range(1, 10)]
    assert len(references()) == 2  # the rows for training, and those for validation
    assert said[0] == "computing 6 train rows, once (none found for this model and data)"
    forwards.clear()
    said.clear()
    for name in references():  # a part left by a run that was killed at the very end
        with safe_open(name, framework="pt") as whole:
            part = {"logprobs": torch.zeros(1), "responses": torch.zeros(1, dtype=torch.long)}
            save_file(part, name.replace(".safetensors", ".part-0123abcd.safetensors"), whole.metadata())
    second = make_module()
    fit(second, data(val_fraction=0.3))
    assert forwards == []
    assert len(said) == 2 and all("read from pairs.jsonl.reference-" in line for line in said)
    assert all(line.endswith("nothing to compute") for line in said)
    assert second.losses == first.losses
    assert len(references()) == 2


@pytest.mark.parametrize("change", ["data", "limit", "model", "precision", "model and the data"])
def test_what_changed_is_computed_anew_and_said(folder, said, forwards, change):
    fit(make_module())
    [old] = references()
    before = Path(old).read_bytes()
    forwards.clear()
    said.clear()
    if "data" in change:
        write_pairs([{**PAIRS[0], "chosen": " is good ."}, *PAIRS[1:]])
    if "model" in change:
        save_model("model", seed=1)  # the folder keeps its name
    limits = {"max_response_tokens": 4} if change == "limit" else {}
    fit(make_module(), data(**limits), precision="bf16-mixed" if change == "precision" else "32-true")
    assert sum(map(len, forwards)) == len(PAIRS)
    assert f"(the {'data' if change == 'limit' else change} changed since {old} was made, 20" in said[0]
    assert said[1] == f"older files, yours to delete if no run needs them: {old}"
    assert len(references()) == 2 and Path(old).read_bytes() == before


def test_an_interrupted_start_is_taken_up_where_it_was(folder, said, forwards, monkeypatch):
    straight = make_module()
    fit(straight)
    count = len(forwards)
    assert count >= 4  # else nothing is tested
    shutil.rmtree("lightning_logs", ignore_errors=True)
    [path] = references()
    Path(path).unlink()
    plain, looked = precomputed_reference.sequence_logprobs, []

    def breaks_off(output):
        looked.append(output)
        if len(looked) == 3:
            raise RuntimeError("the power is off")
        return plain(output)

    monkeypatch.setattr(precomputed_reference, "sequence_logprobs", breaks_off)
    with pytest.raises(RuntimeError, match="the power is off"):
        fit(make_module())
    assert [".part-" in name for name in references()] == [True]
    monkeypatch.setattr(precomputed_reference, "sequence_logprobs", plain)
    done = forwards[count : count + 2]
    forwards.clear()
    said.clear()
    resumed = make_module()
    fit(resumed)
    rows_done = sum(map(len, done))
    assert said[0] == (
        f"{rows_done} of 9 train rows were computed before an interruption, {9 - rows_done} lack"
    )
    assert len(forwards) == count - 2
    assert not {row for rows in done for row in rows} & {row for rows in forwards for row in rows}
    assert references() == [path]  # whole again, and its parts gone
    assert resumed.losses == straight.losses


def _killed_in_the_third_forward() -> None:
    reference_cache.TOKENS_PER_FORWARD = 150
    reference_cache.SECONDS_BETWEEN_PARTS = 0
    plain, looked = precomputed_reference.sequence_logprobs, []

    def dies(output):
        looked.append(output)
        if len(looked) == 3:
            os._exit(9)
        return plain(output)

    precomputed_reference.sequence_logprobs = dies
    fit(make_module())


def test_a_killed_start_keeps_its_parts(folder, forwards):
    process = multiprocessing.get_context("fork").Process(target=_killed_in_the_third_forward)
    process.start()
    process.join(60)
    assert process.exitcode == 9
    assert [".part-" in name for name in references()] == [True, True]
    fit(make_module())
    assert len(forwards) >= 2
    done = len(PAIRS) - sum(map(len, forwards))
    assert done >= 2  # of the two finished forwards
    assert [".part-" in name for name in references()] == [False]


def test_no_second_model_is_made_or_copied(folder, monkeypatch):
    def refuse(*arguments):
        raise AssertionError("a copy of the policy")

    monkeypatch.setattr(dpo.Frozen, "copy_of", refuse)
    monkeypatch.setattr(precomputed_reference, "load_causal_lm", refuse)
    module = make_module()
    fit(module, data(val_fraction=0.3))
    assert len(module.losses) == 2 and module.frozen() == []


@pytest.mark.slow
def test_a_reference_of_its_own_is_loaded_once_and_let_go(folder, monkeypatch):
    save_model("reference", seed=5)
    alive: weakref.WeakSet[PolicyNetwork] = weakref.WeakSet()
    made = []
    plain = PolicyNetwork.__init__

    def counted(self, *arguments):
        plain(self, *arguments)
        alive.add(self)
        made.append(1)

    monkeypatch.setattr(PolicyNetwork, "__init__", counted)
    while_training = []

    class Counting(WatchedDPO):
        def on_train_batch_start(self, batch, batch_idx):
            gc.collect()
            while_training.append(len(alive))

    gc.collect()
    losses = []
    for expected in (2, 1):  # the second start finds the file, and loads nothing
        made.clear()
        module = Counting("model", reference="reference", reference_storage="precomputed", optimizer=adam)
        fit(module, data(val_fraction=0.3))
        assert len(made) == expected
        assert while_training == [1, 1]
        losses.append(module.losses)
        del module
        gc.collect()
        while_training.clear()
    frozen = make_module("frozen", reference="reference")
    fit(frozen, data(val_fraction=0.3))
    assert abs(losses[0][0] - math.log(2)) > 1e-3
    assert losses[0] == pytest.approx(frozen.losses, abs=1e-5) and losses[1] == losses[0]


def adam(parameters):
    return torch.optim.Adam(parameters, lr=1e-3)


def test_a_missing_reference_is_known_at_once(folder):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        make_module(reference="./nowhere")


def test_it_is_computed_as_validation_is_in_eval_mode_and_precision(folder, monkeypatch):
    seen = []
    plain = precomputed_reference.sequence_logprobs
    module = make_module()

    def looks(output):
        seen.append(
            (module.network.training, torch.is_autocast_enabled("cpu"), output.logprobs.requires_grad)
        )
        return plain(output)

    monkeypatch.setattr(precomputed_reference, "sequence_logprobs", looks)
    fit(module, precision="bf16-mixed")
    assert set(seen) == {(False, True, False)}
    assert module.network.training


def test_rows_given_from_python_go_into_the_run_folder(folder, said):
    fit(make_module(), data(path=PAIRS), default_root_dir="run")
    [path] = Path("run").glob("*.safetensors")
    assert path.name.startswith("train.reference-")
    assert said[-1] == f"written to {path}"
    assert references() == []


def test_an_older_file_is_named_once_where_the_run_folder_is_the_datas_own(folder, said):
    for precision in ("32-true", "bf16-mixed"):
        fit(make_module(), precision=precision, default_root_dir=str(folder))
    [line] = [line for line in said if line.startswith("older files")]
    assert line.count(".safetensors") == 1


def test_a_resumed_run_has_its_numbers_from_the_checkpoint(folder, forwards, said):
    straight = make_module()
    checkpoint = fit_with_checkpoint(straight)
    [path] = references()
    Path(path).unlink()
    save_model("model", seed=1)  # it is not needed any more
    forwards.clear()
    said.clear()
    resumed = make_module()
    fit(resumed, ckpt_path=checkpoint)
    assert forwards == [] and said == [] and references() == []
    assert torch.equal(weights_of(resumed.network), weights_of(straight.network))


def test_other_rows_in_a_resumed_run_are_computed_with_the_start(folder, forwards):
    checkpoint = fit_with_checkpoint(make_module())
    write_pairs(PAIRS[:4], "val.jsonl")
    forwards.clear()
    frozen, precomputed = (
        fit(make_module(storage), data(val_path="val.jsonl"), checkpoint).callback_metrics["val/loss"].item()
        for storage in ("frozen", "precomputed")
    )
    assert precomputed == pytest.approx(frozen, abs=1e-5)
    assert abs(precomputed - math.log(2)) > 1e-3  # the policy is not its own reference
    assert sum(map(len, forwards)) == 4
    assert len(list(Path().glob("val.jsonl.reference-*"))) == 1


def test_other_rows_in_a_resumed_run_are_refused_where_the_start_is_gone(folder):
    checkpoint = fit_with_checkpoint(make_module())
    write_pairs(PAIRS[:4], "val.jsonl")
    save_model("model", seed=1)
    with pytest.raises(
        ValueError, match=r"the model that the policy started from, and model .* is not that model"
    ):
        fit(make_module(), data(val_path="val.jsonl"), checkpoint)
    assert list(Path().glob("val.jsonl.reference-*")) == []
    built = make_module(model=make_llama(TOKENIZER), tokenizer=TOKENIZER)
    with pytest.raises(ValueError, match=r"already built\. Give its folder as model\.reference"):
        fit(built, data(val_path="val.jsonl"), checkpoint)
    save_model("start", seed=0)
    fit(make_module(reference="start"), data(val_path="val.jsonl"), checkpoint)


def test_a_reference_is_not_forgotten_by_a_resumed_run(folder):
    save_model("reference", seed=5)
    checkpoint = fit_with_checkpoint(make_module(reference="reference"))
    with pytest.raises(ValueError, match=r"the checkpoint's reference is reference, and null was given"):
        fit(make_module(), ckpt_path=checkpoint)


@pytest.mark.parametrize("command", ["validate", "test"])
def test_a_checkpoint_is_validated_and_tested_against_its_start(folder, command):
    checkpoint = fit_with_checkpoint(make_module())
    losses = []
    for storage in ("frozen", "precomputed"):
        trainer = quiet_trainer()
        run = getattr(trainer, command)
        rows = data(val_path="pairs.jsonl", test_path="pairs.jsonl")
        run(make_module(storage), datamodule=rows, ckpt_path=checkpoint, verbose=False)
        losses.append(trainer.callback_metrics["val/loss"].item())
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)
    assert abs(losses[0] - math.log(2)) > 1e-3


def test_a_fit_looks_for_its_rows_once(folder, monkeypatch):
    looked = []
    plain = precomputed_reference.rows_fingerprint
    monkeypatch.setattr(
        precomputed_reference, "rows_fingerprint", lambda trees: looked.append(len(trees)) or plain(trees)
    )
    fit(make_module(), data(val_path="pairs.jsonl"), max_epochs=2)
    assert looked == [9, 9]  # and not again at each validation


def test_a_validation_before_the_fit_changes_nothing(folder):
    plain = make_module()
    fit(plain, data(val_path="pairs.jsonl"))
    validated = make_module()
    trainer = quiet_trainer()
    trainer.validate(validated, datamodule=data(val_path="pairs.jsonl"), verbose=False)
    assert trainer.callback_metrics["val/loss"].item() == pytest.approx(math.log(2), abs=1e-6)
    validated.set_up_validation()  # torchmetrics' sums of an inference mode cannot be added to after it
    fit(validated, data(val_path="pairs.jsonl"))
    assert validated.losses == plain.losses


def test_loaders_of_ones_own_are_refused(folder):
    module = make_module()
    with pytest.raises(ValueError, match=r"needs a data module of lit_rlhf, found NoneType\. Use frozen"):
        quiet_trainer().fit(module, [1, 2, 3])


def _losses_on_a_rank(storage: str) -> np.ndarray:
    reference_cache.TOKENS_PER_FORWARD = 150
    module = make_module(storage)
    fit(module, data(batch_size=4), devices=2, strategy="ddp")
    return np.array(module.losses)


def test_two_ranks_share_the_work_and_one_file(folder):
    precomputed = run_distributed(_losses_on_a_rank, 2, "precomputed")
    assert len(references()) == 1 and ".part-" not in references()[0]
    frozen = run_distributed(_losses_on_a_rank, 2, "frozen")
    for rank in range(2):
        assert precomputed[rank] == pytest.approx(frozen[rank], abs=1e-5)

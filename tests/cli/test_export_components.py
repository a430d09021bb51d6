"""``export`` of a reward model with components: combined otherwise, or by weights fitted on a few pairs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from lit_rlhf import RewardModule
from lit_rlhf.cli.main import main
from lit_rlhf.data.trees import pack_trees
from lit_rlhf.models.components import fit_weights
from lit_rlhf.models.scorer import ScorerNetwork, load_scorer
from lit_rlhf.records import ResponseTrees, Tree
from tests.conftest import make_llama
from tests.modules.training import quiet_trainer, random_trees


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def checkpoint(model: Path, components: dict[str, Any] | None) -> RewardModule:
    """A module of random heads on scales of their own, as ``module.ckpt``."""
    module = RewardModule(str(model), components=components, center=False)  # type: ignore[arg-type]
    if components is not None:
        torch.nn.init.normal_(module.network.head.weight)
        module.network.rescale(torch.tensor([1.0, 2.0, 0.5]), torch.tensor([0.0, 1.0, -1.0]))
    if module.network.gate is not None:
        torch.nn.init.normal_(module.network.gate.weight)
    trainer: L.Trainer = quiet_trainer()
    trainer.strategy.connect(module)
    trainer.save_checkpoint("module.ckpt")
    content = torch.load("module.ckpt", weights_only=True)
    content["hyper_parameters"]["_class_path"] = "lit_rlhf.RewardModule"
    torch.save(content, "module.ckpt")
    return module.eval()


def heads(network: ScorerNetwork, batch: ResponseTrees) -> Tensor:
    """Each head's standardised scores, ``[N, C]``."""
    with torch.no_grad():
        return network.raw(network.read(batch).states) * network.gain - network.score_offset


def refusal(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    with pytest.raises(SystemExit) as stop:
        main(["export", "module.ckpt", "folder", *argv])
    assert stop.value.code == 2 and not Path("folder").exists()
    return capsys.readouterr().err


BATCH = pack_trees(random_trees(5))
DOMAINS = {"domains": ["x", "y", "z"]}


@pytest.mark.parametrize(
    ("flags", "combined"),
    [
        ([], lambda scores: scores.mean(1)),
        (["--combine", "min"], lambda scores: scores.amin(1)),
        (["--combine", "mean_minus_std"], lambda scores: scores.mean(1) - scores.std(1, correction=0)),
        (
            ["--combine", "mean_minus_std", "--k", "2.5"],
            lambda scores: scores.mean(1) - 2.5 * scores.std(1, correction=0),
        ),
    ],
)
def test_combined_otherwise(flags: list[str], combined: Any, tiny_model_dir: Path) -> None:
    module = checkpoint(tiny_model_dir, DOMAINS)
    main(["export", "module.ckpt", "folder", *flags])
    with torch.no_grad():
        found = load_scorer("folder").eval()(BATCH)
    torch.testing.assert_close(found, combined(heads(module.network, BATCH)), rtol=1e-4, atol=1e-4)


def test_a_gate_can_be_left_and_not_be_had_for_nothing(
    tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module = checkpoint(tiny_model_dir, {**DOMAINS, "combine": "gate"})
    main(["export", "module.ckpt", "gated"])
    main(["export", "module.ckpt", "plain", "--combine", "mean"])
    with torch.no_grad():
        gated, plain = (load_scorer(name).eval()(BATCH) for name in ("gated", "plain"))
    scores = heads(module.network, BATCH)
    torch.testing.assert_close(plain, scores.mean(1), rtol=1e-4, atol=1e-4)
    assert (gated - plain).abs().max() > 0.1
    assert "gate.weight" in load_file("gated/components.safetensors")
    assert "gate.weight" not in load_file("plain/components.safetensors")
    checkpoint(tiny_model_dir, DOMAINS)
    assert "--combine gate: this model has no router" in refusal(capsys, "--combine", "gate")


def test_few_shot_weights_prefer_the_head_that_agrees(
    tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module = checkpoint(tiny_model_dir, DOMAINS)
    words = ["soup", "cake", "train", "hotel", "lamp", "tasty", "fresh", "late", "lovely", "sentence"]
    rows: list[dict[str, Any]] = []
    standardised: list[Tensor] = []
    for number, (first, second) in enumerate(zip(words, words[1:] + words[:1], strict=True)):
        encoder = module.encoder
        responses = [encoder.response_ids("a", f" {word}")[0] for word in (first, second)]
        tree = Tree(encoder.prompt_ids("a"), responses, [[True] * len(ids) for ids in responses])
        scores = heads(module.network, pack_trees([tree]))
        # the second head is right but for two pairs: were it right on all, it would have all weight on any scale
        turned = bool(scores[0, 1] < scores[1, 1]) != (number in (0, 3))
        better, worse = (second, first) if turned else (first, second)
        standardised.append(scores.flip(0) if turned else scores)
        rows.append({"prompt": "a", "chosen": f" {better}", "rejected": f" {worse}"})
    # A split vote counts whole for its majority; a tie says nothing, nor does a half, nor a majority of ties.
    five, side = (
        ["a", "b", "b", "a", "a"],
        dict(zip(("response_a", "response_b"), list(rows[0].values())[1:])),
    )
    rows[0] = {"prompt": "a", **side, "labels": [{"choice": choice} for choice in five]}
    rows.append({"prompt": "a", "chosen": " a tie", "rejected": " says nothing", "tie": True})
    for choices in (["a", "tie", "tie"], ["a", "b"], ["a", "b", "a", "tie"]):
        labels = [{"choice": choice} for choice in choices]
        rows.append({"prompt": "a", "response_a": " late", "response_b": " soup", "labels": labels})
    Path("pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    main(["export", "module.ckpt", "folder", "--few-shot", "pairs.jsonl"])
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("weights fitted on 10 pairs")
    shares = {line.split(":")[0].strip(): line for line in said[1:4]}
    assert list(shares) == ["x", "y", "z"] and shares["y"].endswith("right 0.800")
    assert said[5:7] == [
        "  1 of the pairs are split, and count whole for the side of more than half",
        "  4 more are left out: no side has more than half of what was said",
    ]
    network = load_scorer("folder").eval()
    assert network.weights.argmax() == 1 and network.weights.sum() == pytest.approx(1.0, abs=1e-5)
    better_scores, worse_scores = torch.stack(standardised).unbind(1)
    torch.testing.assert_close(
        network.weights, fit_weights(better_scores, worse_scores), rtol=1e-3, atol=1e-3
    )
    assert f"weight {network.weights[1].item():.3f}" in shares["y"]
    with torch.no_grad():
        found = network(BATCH)
    torch.testing.assert_close(found, heads(module.network, BATCH) @ network.weights, rtol=1e-4, atol=1e-4)


def test_what_goes_not_together_is_refused(tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("ties.jsonl").write_text('{"prompt": "a", "chosen": "b", "rejected": "c", "tie": true}\n')
    checkpoint(tiny_model_dir, {"members": 3, "combine": "min"})
    assert (
        "fits the weights of a mean, and these components are combined by min.\nAdd --combine mean."
        in refusal(capsys, "--few-shot", "ties.jsonl")
    )
    assert "--few-shot ties.jsonl: no row tells two responses apart." in refusal(
        capsys, "--combine", "mean", "--few-shot", "ties.jsonl"
    )
    assert "--k: only mean_minus_std takes off standard deviations, and this is min." in refusal(
        capsys, "--k", "2"
    )
    assert "--few-shot tis.jsonl: no such file.\nNear it: ties.jsonl" in refusal(
        capsys, "--few-shot", "tis.jsonl"
    )
    assert "k: expected a number of at least 0" in refusal(capsys, "--combine", "mean_minus_std", "--k", "-1")
    checkpoint(tiny_model_dir, None)
    for flags in (["--combine", "min"], ["--k", "1"], ["--few-shot", "ties.jsonl"]):
        assert f"{flags[0]}: this RewardModule has one head, nothing to combine." in refusal(capsys, *flags)


def test_rows_that_cannot_be_read_advise_nothing_of_other_commands(
    tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint(tiny_model_dir, DOMAINS)
    for row in ({"prompt": "a", "chosen": "b"}, {"prompt": "a", "chosen": "b", "rejected": "b"}):
        Path("bad.jsonl").write_text(json.dumps(row) + "\n")
        said = refusal(capsys, "--few-shot", "bad.jsonl")
        assert "--few-shot bad.jsonl: 1 bad of 1 rows:\n  bad.jsonl:1: expected" in said
        assert said.rstrip().endswith("Mend or remove them.") and "bad_rows" not in said


def test_a_model_that_is_not_there_or_does_not_fit_is_refused(
    tiny_model_dir: Path, tiny_tokenizer: PreTrainedTokenizerFast, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint(tiny_model_dir, None)
    Path("runs").mkdir()
    said = refusal(capsys, "--model", "runs/sft")
    assert said.startswith("error: --model runs/sft: model 'runs/sft': no such folder.")
    assert "error: --model nowhere/sft: 'nowhere/sft' is no file or folder here" in refusal(
        capsys, "--model", "nowhere/sft"
    )
    make_llama(tiny_tokenizer, vocab_size=400).save_pretrained("wider")
    tiny_tokenizer.save_pretrained("wider")
    said = refusal(capsys, "--model", "wider")
    assert "module.ckpt: its weights do not fit the model wider: size mismatch for" in said
    assert "Give --model: a folder of the architecture and the vocabulary" in said
    content = torch.load("module.ckpt", weights_only=True)
    content["hyper_parameters"]["model"] = "runs/gone"
    torch.save(content, "module.ckpt")
    said = refusal(capsys)
    assert "module.ckpt was trained from the model runs/gone, which is not there" in said
    assert "Give --model: its new place" in said

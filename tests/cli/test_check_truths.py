"""``check`` on the model: what it prints of each phase, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from lit_rlhf import DemonstrationDataModule, DPOModule, PairDataModule, PromptDataModule
from lit_rlhf.cli.check_truths import truths_of
from lit_rlhf.cli.configs import shipped
from lit_rlhf.cli.main import main
from lit_rlhf.data.tree_datamodule import TreeDataModule
from lit_rlhf.models.export import export_scorer
from lit_rlhf.models.policy import PolicyNetwork, PolicyOutput
from lit_rlhf.models.reference import Frozen
from lit_rlhf.models.scorer import ScorerNetwork
from lit_rlhf.modules.sft import SFTModule
from lit_rlhf.records import Experience
from tests.conftest import make_llama, make_tokenizer
from tests.modules.ppo_runs import make_module

WORDS = ("soup", "cake", "train", "lamp", "hotel", "dog")
PROMPTS = [{"prompt": f"the {word}"} for word in WORDS]
PAIRS = [{**row, "chosen": " is fresh .", "rejected": " seems very late again"} for row in PROMPTS]
DEMONSTRATIONS = [{**row, "response": " is fresh ." * (1 + n)} for n, row in enumerate(PROMPTS)]
LENGTHS = "tests.cli.test_check_truths.lengths"


def lengths(prompts: list[str], completion_ids: list[list[int]], **columns: Any) -> list[float]:
    return [float(len(ids)) for ids in completion_ids]


def ranked(prompts: list[str], completion_ids: list[list[int]], **columns: Any) -> list[float]:
    """Compares the responses of a call with each other."""
    return [len(ids) - sum(map(len, completion_ids)) / len(completion_ids) for ids in completion_ids]


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture(scope="module")
def reward_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reward") / "export"
    export_scorer(ScorerNetwork(make_llama(make_tokenizer(), seed=2).base_model), make_tokenizer(), folder)
    return folder


def check(
    capsys: pytest.CaptureFixture[str], phase: str, model: Path, rows: list[dict[str, Any]], *flags: str
) -> tuple[int, list[str], list[str]]:
    """Exit code, and what is printed behind a tick and behind a cross."""
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = ["--config", str(shipped()[phase]), "--model.model", str(model), "--data.path", "rows.jsonl"]
    code = 0
    try:
        main(["check", *given, *flags])
    except SystemExit as stop:
        code = int(stop.code or 0)
    lines = capsys.readouterr().out.splitlines()
    right, wrong = ([line[4:] for line in lines if line.startswith(f"  {mark} ")] for mark in "✓✗")
    assert Path("rows.jsonl") in list(Path().iterdir()) and len(list(Path().iterdir())) == 1  # no run folder
    return code, right, wrong


def test_a_ppo_config_that_is_right(
    tiny_model_dir: Path, reward_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--model.reward", str(reward_folder), "--model.max_new_tokens", "5")
    code, right, wrong = check(capsys, "ppo", tiny_model_dir, PROMPTS, *flags)
    assert (code, wrong) == (0, [])
    assert [line.split(": ")[0] for line in right] == [
        "the chat template writes no second BOS",
        "every number is finite",
        "each prompt has one BOS",
        "masks have the responses' lengths and count the EOS",
        "sampled and recomputed log-probabilities agree",
        "the KL to the reference is 0",
        "the score sits on the EOS",
        "the first ratio of new to old policy is 1",
        f"the head of {reward_folder} was loaded",
        "scores differ between responses",
        "scores are the same when asked twice",
        "scores do not depend on the batch size",
        "scores do not depend on padding",
    ]


def test_a_reward_folder_that_is_a_causal_language_model(
    tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--model.reward", str(tiny_model_dir), "--model.max_new_tokens", "5")
    code, _, wrong = check(capsys, "ppo", tiny_model_dir, PROMPTS, *flags)
    assert code == 1
    assert [line.split(": ")[0] for line in wrong] == [f"the head of {tiny_model_dir} was loaded"]


def test_a_function_reward_that_depends_on_the_batch(
    tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for reward, broken in ((LENGTHS, []), (LENGTHS.replace("lengths", "ranked"), ["batch size", "padding"])):
        flags = ("--model.reward", reward, "--model.max_new_tokens", "5", "--model.temperature", "3.0")
        code, _, wrong = check(capsys, "ppo", tiny_model_dir, PROMPTS, *flags)
        if broken:  # responses of one length everywhere are told apart by the longer companion alone
            assert code == 1 and "scores do not depend on padding" in wrong[-1]
        else:
            assert (code, wrong) == (0, [])


def test_another_reference_is_expected_to_be_elsewhere(
    tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path_factory.mktemp("other")
    make_llama(make_tokenizer(), seed=9).save_pretrained(other)
    flags = ("--model.reward", LENGTHS, "--model.max_new_tokens", "5", "--model.reference")
    code, right, wrong = check(capsys, "ppo", tiny_model_dir, PROMPTS, *flags, str(other))
    assert (code, wrong) == (0, [])
    assert not any("KL" in line for line in right)
    _, right, _ = check(capsys, "ppo", tiny_model_dir, PROMPTS, *flags, str(tiny_model_dir))
    assert "the KL to the reference is 0: 0 nats a token" in right


def test_a_template_that_doubles_the_bos(
    tiny_model_dir: Path, capsys: pytest.CaptureFixture[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    template = "{{ bos_token }}" * 2 + make_tokenizer().chat_template
    file = tmp_path_factory.mktemp("template") / "doubled.jinja"
    file.write_text(template)
    rows = [
        {"messages": [{"role": "user", "content": word}, {"role": "assistant", "content": "ok"}]}
        for word in WORDS
    ]
    code, right, wrong = check(capsys, "sft", tiny_model_dir, rows, "--model.chat_template", str(file))
    assert code == 1
    assert wrong[0].startswith("the chat template writes no second BOS: 4 of 4 have two")
    assert "each prompt has one BOS: '<|bos|>'" in right  # one was kept


def test_supervised_fine_tuning(tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, right, wrong = check(capsys, "sft", tiny_model_dir, DEMONSTRATIONS)
    assert (code, wrong) == (0, [])
    assert "the EOS counts: 4 responses end with it" in right
    assert any(line.startswith("log-probabilities do not depend on the batch") for line in right)


def test_dpo_starts_at_ln_2(tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, right, wrong = check(capsys, "dpo", tiny_model_dir, PAIRS)
    assert (code, wrong) == (0, [])
    assert "the loss starts at ln 2: 0 apart" in right
    _, right, _ = check(capsys, "dpo", tiny_model_dir, PAIRS, "--model.reference_storage", "precomputed")
    assert not any("ln 2" in line for line in right)  # nothing is there to be asked


@pytest.mark.parametrize(
    ("flags", "value"),
    [
        (["--model.loss", "kto", "--model.undesirable_weight", "1.5"], "0.5 or 0.75"),
        (["--model.loss", "bco"], "ln 2"),
    ],
)
def test_what_labels_start_at(
    flags: list[str], value: str, tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = [{**row, "completion": " is fresh .", "label": k % 2 == 0} for k, row in enumerate(PROMPTS)]
    code, right, wrong = check(capsys, "dpo", tiny_model_dir, labels, *flags)
    assert (code, wrong) == (0, [])
    assert f"the loss starts at {value}: 0 apart" in right


def test_a_reward_model_that_goes_on_from_an_export(
    tiny_model_dir: Path, reward_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for model, with_head in ((reward_folder, True), (tiny_model_dir, False)):  # a new head is meant
        code, right, wrong = check(capsys, "reward", model, PAIRS)
        assert (code, wrong) == (0, [])
        assert any("the head of" in line for line in right) is with_head
        assert any(line.startswith("scores do not depend on the batch size") for line in right)


def test_the_data_alone(
    tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("the model was built")

    monkeypatch.setattr(SFTModule, "__init__", never)
    assert check(capsys, "sft", tiny_model_dir, DEMONSTRATIONS, "--data_only", "true") == (0, [], [])


def planted(kind: type[TreeDataModule], rows: list[dict[str, Any]], module: Any) -> TreeDataModule:
    data = kind(rows, val_fraction=0.0)
    data.tokenizer, data.module_arguments = module.tokenizer, {}
    return data


def broken(module: Any, kind: type[TreeDataModule], rows: list[dict[str, Any]]) -> list[str]:
    return [truth.name for truth in truths_of(module, planted(kind, rows, module)) if not truth.holds]


def test_a_reference_that_is_another_model_in_dpo() -> None:
    module = DPOModule(make_llama(make_tokenizer()), tokenizer=make_tokenizer())
    assert broken(module, PairDataModule, PAIRS) == []
    module._reference = Frozen(PolicyNetwork(make_llama(make_tokenizer(), seed=9)))
    assert broken(module, PairDataModule, PAIRS) == ["the loss starts at ln 2"]


def test_a_model_that_reads_other_rows() -> None:
    class Leaking(PolicyNetwork):
        def forward(self, trees: Any, *rest: Any, **named: Any) -> PolicyOutput:
            output = super().forward(trees, *rest, **named)
            return output._replace(logprobs=output.logprobs * (1 + 0.1 * len(trees.prompt_lengths)))

    module = SFTModule(make_llama(make_tokenizer()), tokenizer=make_tokenizer())
    module.network = Leaking(module.network.causal_lm)
    found = broken(module, DemonstrationDataModule, DEMONSTRATIONS)
    assert found == ["log-probabilities do not depend on the batch"]


def test_a_policy_that_drops_out_in_training() -> None:
    module = make_module()
    assert broken(module, PromptDataModule, PROMPTS) == []
    layer = module.network.policy.causal_lm.base_model.layers[0]
    layer.register_forward_hook(
        lambda _, __, output: torch.nn.functional.dropout(output, 0.1, layer.training)
    )
    assert broken(module, PromptDataModule, PROMPTS) == ["the first ratio of new to old policy is 1"]


def test_a_collect_that_misplaces_the_score() -> None:
    class Misplaced(type(make_module())):  # type: ignore[misc]
        def collect(self, rows: Any, iteration: int) -> Experience:
            experience = super().collect(rows, iteration)
            experience.rewards = experience.rewards.flip(1)
            return experience

    module = make_module(max_new_tokens=200)
    module.__class__ = Misplaced
    assert broken(module, PromptDataModule, PROMPTS) == ["the score sits on the EOS"]
    assert module.sampling.max_new_tokens == 64  # a small rollout


def test_of_other_modules_nothing_is_known() -> None:
    import lightning as L

    module = L.LightningModule()
    module.tokenizer = make_tokenizer()
    assert truths_of(module, planted(DemonstrationDataModule, DEMONSTRATIONS, module)) == []

"""What is known to fail is said before anything is trained; and what is said beside, of what is not equal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lit_rlhf.cli.compare.beforehand import check_beforehand
from lit_rlhf.cli.compare.cells import Cells
from lit_rlhf.cli.compare.functions import check_function, code_of, functions_of
from lit_rlhf.cli.compare.methods import Method, read_methods
from lit_rlhf.cli.compare.notes import notes_on
from lit_rlhf.cli.refusal import Refusal
from lit_rlhf.cli.steps.fingerprint import fingerprint
from tests.cli.comparing import GOLD, comparison_of, write_config


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)


def method(module: str, model: dict[str, Any], data: dict[str, Any], learns_from: str) -> Method:
    read = {
        "model": {"class_path": module, "init_args": model},
        "data": {"init_args": data},
        "trainer": {"callbacks": [{"class_path": "TrainingBudget"}]},
    }
    Path("a.yaml").write_text("model: {}\n")
    return Method("a", Path("a.yaml"), learns_from, {}, read)


PROMPTS = ({"path": "p.jsonl"}, "prompts")


@pytest.mark.parametrize(
    ("one", "said"),
    [
        (("DPOModule", {}, {"path": None}, "comparisons"),
         "a.yaml: no comparisons to learn from.\nGive --data FILE, or data.init_args.path in it."),
        (("PPOModule", {}, {"path": []}, "prompts"), "no prompts to learn from.\nGive --prompts FILE"),
        (("SFTModule", {}, {"path": None}, "rows"), "no rows to learn from.\nGive data.init_args.path in it."),
        (("OnlineDPOModule", {"reward": None, "annotator": None}, *PROMPTS),
         "a.yaml: OnlineDPOModule expects a reward or an annotator to judge its responses, found neither.\n"
         "Give --reward SPEC"),
        (("OnlineDPOModule", {"reward": "RM/x", "annotator": {"annotator": "RM/x"}}, *PROMPTS),
         "found both.\nTake one of them out."),
        (("PPOModule", {"reward": "no_such_rule.f"}, *PROMPTS),
         "--configs a.yaml: model.reward no_such_rule.f: there is no module no_such_rule"),
    ],
)  # fmt: skip
def test_what_is_refused(one: Any, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    good = method("DPOModule", {}, {"path": "d.jsonl"}, "comparisons")
    check_beforehand(comparison_of([], Path("out")), [good])
    with pytest.raises(Refusal):
        check_beforehand(comparison_of([], Path("out")), [good, method(*one)])
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("module", "data_module", "given", "said"),
    [
        ("DPOModule", "PairDataModule", {"data": "d"},
         "no model: give --model START, or model.init_args.model in the config"),
        ("PPOModule", "PromptDataModule", {"model": "M", "prompts": "p"},
         "no reward: give --reward SPEC, or model.init_args.reward in the config"),
    ],
)  # fmt: skip
def test_what_a_module_must_be_given_is_asked_for_in_our_words(
    module: str, data_module: str, given: Any, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        read_methods(comparison_of([write_config(Path("a.yaml"), module, data_module)], Path("out"), **given))
    found = capsys.readouterr().err
    assert said in found and "in a.yaml; nothing has been trained yet" in found and "FILE" not in found


RULE = """
import torch_that_is_heavy
from os.path import join as joined
scale: float = 2
def gold(prompts, completions): ...
if scale:
    class Rule: ...
else:
    async def later(prompts, completions): ...
"""


def test_functions_are_looked_up_without_being_run(capsys: pytest.CaptureFixture[str]) -> None:
    Path("my_rule.py").write_text(RULE)
    for name in ("gold", "Rule", "later", "joined", "scale"):
        check_function("--gold", f"my_rule.{name}")
    with pytest.raises(Refusal):
        check_function("--gold", "my_rule.gild")
    assert "--gold my_rule.gild: " in (said := capsys.readouterr().err)
    assert "my_rule.py has no gild. Did you mean 'gold'?" in said
    Path("broken_rule.py").write_text("def f(:\n")
    with pytest.raises(Refusal):
        check_function("--gold", "broken_rule.f")
    assert "broken_rule.py:1: not Python" in capsys.readouterr().err
    Path("star_rule.py").write_text("from my_rule import *\n")
    check_function("--gold", "star_rule.anything")
    check_function("--gold", "math.sqrt")
    for comparison in (
        comparison_of([], Path("out"), gold="nope"),
        comparison_of([], Path("out"), reward="no.f"),
    ):
        with pytest.raises(Refusal):
            check_beforehand(comparison, [])
        assert "there is no module" in capsys.readouterr().err


def test_what_judges_is_found_in_every_form_of_a_reward() -> None:
    reward = [{"reward": "a.f", "weight": 1}, {"reward": {"class_path": "b.C", "init_args": {}}},
              {"reward": {"ensemble": ["c.f", "runs/rm", "http://x.y/z"]}}]  # fmt: skip
    one = method("OnlineDPOModule", {"reward": reward, "annotator": {"annotator": "d.f"}}, *PROMPTS)
    assert functions_of(one) == {
        "model.reward.0.reward": "a.f", "model.reward.1.reward.class_path": "b.C",
        "model.reward.2.reward.ensemble.0": "c.f", "model.annotator.annotator": "d.f",
    }  # fmt: skip


def test_a_functions_code_is_an_input_of_what_it_judges() -> None:
    for name in ("my_gold", "my_reward"):
        Path(f"{name}.py").write_text("def f(prompts, completions): ...\n")
    Path("site-packages").mkdir()
    Path("site-packages/theirs.py").write_text("def f(): ...\n")
    assert code_of("my_gold.f") == ("my_gold.py",)
    assert code_of("torch.sum") == code_of("RM/x") == code_of(None) == ()
    given = {"model": "M", "prompts": "p", "evaluation": "e", "gold": "my_gold.f", "reward": "my_reward.f"}
    comparison = comparison_of(
        [write_config(Path("a.yaml"), "PPOModule", "PromptDataModule")], Path("out"), **given
    )
    cells = Cells(comparison, read_methods(comparison))
    fit, answer, measure = cells.steps_of(cells.cells[0])
    assert measure.inputs[1:] == ("my_gold.py", "my_reward.py") and "my_reward.py" in fit.inputs
    assert "my_gold.py" not in fit.inputs and not {"my_gold.py", "my_reward.py"} & {*answer.inputs}
    before = fingerprint(measure.inputs[1])
    Path("my_gold.py").write_text("def f(prompts, completions): return []\n")
    assert fingerprint(measure.inputs[1]) != before


def test_installed_code_is_not_watched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    Path("site-packages").mkdir()
    Path("site-packages/theirs.py").write_text("def f(): ...\n")
    monkeypatch.syspath_prepend(tmp_path / "site-packages")
    assert code_of("theirs.f") == ()


def test_work_that_the_budget_does_not_see_is_said() -> None:
    served = method(
        "PPOModule", {"reward": "http://localhost:1"}, {"num_workers": 2, **PROMPTS[0]}, "prompts"
    )
    rows = method("SFTModule", {}, {"path": "x"}, "rows")
    seconds = comparison_of([], Path("out"), seconds=2.0, updates=None, data="d", prompts="p")
    said = notes_on(seconds, [served, rows])
    assert said == [
        "a: learns from rows of its config's own; --data and --prompts are not given to it",
        "a: the time of the server that judges and data workers is not in --seconds",
    ]
    only = notes_on(comparison_of([], Path("out"), reward=GOLD), [served])
    assert only == ["a is the only method: it is compared with the start alone"]

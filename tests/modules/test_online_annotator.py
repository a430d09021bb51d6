"""An annotator as the judge of online DPO: shared out to ranks, counted over all of them, and refused by its keys."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from lit_rlhf.cli.main import main
from lit_rlhf.labelling.annotators.judging import Judge
from lit_rlhf.labelling.annotators.opinions import Tally
from lit_rlhf.labelling.annotators.settings import Annotator
from lit_rlhf.modules import annotator_ranks as ranking
from lit_rlhf.modules.base import checked_settings
from lit_rlhf.records import Experience, Row
from lit_rlhf.rewards.protocol import RewardError
from tests.modules.ppo_runs import ROWS, TOKENIZER
from tests.modules.test_online_dpo import RULE, SaveAt, Watched, fit, make_module

HERE = "tests.modules.test_online_annotator"
asked: list[str] = []


def says_little(prompts: Any, completions: list[str], **columns: Any) -> list[float | None]:
    """Nothing of responses of an odd number of letters."""
    asked.extend(completions)
    return [None if len(text) % 2 else float(len(text)) for text in completions]


def wants_tokens(prompts: Any, completions: Any, completion_ids: Any) -> list[float]:
    return [float(len(ids)) for ids in completion_ids]


def may_have_tokens(
    prompts: Any, completions: Any, completion_ids: Any = None, **columns: Any
) -> list[float]:
    assert completion_ids is None
    return [float(len(text)) for text in completions]


def looks_for_tokens(prompts: Any, completions: Any, **columns: Any) -> list[float]:
    return [float(len(ids)) for ids in columns["completion_ids"]]


def judged_by(rule: str, **settings: Any) -> dict[str, Any]:
    return {"reward": None, "annotator": {"annotator": f"{HERE}.{rule}", **settings}}


def skipped_in(rollout: Experience) -> int:
    """Prompts of two responses none of which has a rank."""
    return sum(bool(pair.isnan().all()) for pair in rollout.ranks.split(2))


def test_skipped_prompts_are_logged_and_counted_through_a_resume(tmp_path: Path) -> None:
    whole = make_module(**judged_by("says_little"))
    fit(whole, max_epochs=3)
    by_iteration = [skipped_in(rollout) for rollout in whole.rollouts]
    assert all(0 < skipped < 8 for skipped in by_iteration)
    assert [numbers["rollout/skipped_prompts"] for numbers in whole.numbers] == by_iteration
    assert whole.annotator is not None and whole.annotator.tally.skipped == sum(by_iteration)

    begun = make_module(**judged_by("says_little"))
    fit(begun, max_epochs=3, callbacks=[SaveAt(3, tmp_path / "inside.ckpt")])  # two updates an iteration
    again = make_module(**judged_by("says_little"))
    fit(again, max_epochs=3, ckpt_path=str(tmp_path / "inside.ckpt"))
    assert again.annotator is not None and len(again.rollouts) == 1
    assert again.annotator.tally == whole.annotator.tally


def test_the_count_of_a_rewards_rollout_has_no_skipped_prompts() -> None:
    module = make_module()
    fit(module)
    assert "rollout/skipped_prompts" not in module.numbers[0]


# --- ranks ----------------------------------------------------------------------------------------------


class Ranks:
    """Processes of one run, played one after the other: the last one has what the others said."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
        self.count, self.said = count, [None] * count
        monkeypatch.setattr(ranking, "_from_all", self.gather)
        monkeypatch.setattr(ranking, "_place", lambda: (self.rank, count))

    def gather(self, mine: Any, processes: int) -> list[Any]:
        assert processes == self.count
        self.said[self.rank] = mine
        return [({}, Tally()) if said is None else said for said in self.said]

    def play(
        self, rank: int, judge: Judge, rollout: Experience, share: tuple[int, int]
    ) -> tuple[torch.Tensor, Tally]:
        self.rank = rank
        rows = [*ROWS, *ROWS]  # an iteration of eight goes on into the next pass
        return ranking.annotator_ranks(judge, rollout, rows, encoder, (0, 0), share)


class Decoder:
    def decode(self, ids: list[int]) -> str:
        return str(TOKENIZER.decode(ids, skip_special_tokens=True))


encoder: Any = Decoder()


@pytest.fixture(scope="module")
def rollout() -> Experience:
    module = make_module()
    fit(module)
    return module.rollouts[0]


def test_ranks_share_the_prompts_and_every_one_counts_all_of_them(
    rollout: Experience, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = Judge(Annotator(f"{HERE}.says_little"))
    alone, counted = Ranks(monkeypatch, 1).play(0, one, rollout, (0, 1))
    assert one.tally == counted and 0 < counted.skipped < counted.judged <= 8
    ranks, last = Ranks(monkeypatch, 2), Judge(Annotator(f"{HERE}.says_little"))
    last.tally = Tally(judged=100, ties=1)  # of earlier rollouts
    ranks.play(0, Judge(Annotator(f"{HERE}.says_little")), rollout, (0, 2))
    together, tally = ranks.play(1, last, rollout, (1, 2))
    torch.testing.assert_close(together, alone, equal_nan=True, rtol=0, atol=0)
    assert tally == counted
    assert last.tally.judged == 100 + counted.judged and last.tally.reasons == counted.reasons


def test_of_processes_with_one_share_the_first_asks_unless_they_hold_the_weights_together(
    rollout: Experience, monkeypatch: pytest.MonkeyPatch
) -> None:
    judges = [Judge(Annotator(f"{HERE}.says_little")) for _ in range(5)]
    asked = import_module(HERE).asked  # by that name it is another module than the one that is run
    alone, counted = Ranks(monkeypatch, 1).play(0, judges[4], rollout, (0, 1))
    ranks = Ranks(monkeypatch, 4)
    for rank in range(3):
        ranks.play(rank, judges[rank], rollout, (rank // 2, 2))
    assert asked
    asked.clear()
    together, tally = ranks.play(3, judges[3], rollout, (1, 2))
    assert asked == []
    torch.testing.assert_close(together, alone, equal_nan=True, rtol=0, atol=0)
    assert tally == counted
    monkeypatch.setattr(Judge, "is_sharded", True)
    asked.clear()
    _, tally = ranks.play(3, judges[3], rollout, (1, 2))
    assert asked and tally == counted, "all compute, one set of answers counts"


def test_what_one_rank_cannot_ask_ends_all_of_them(
    rollout: Experience, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranks, judge = Ranks(monkeypatch, 2), Judge(Annotator(f"{HERE}.says_little"))
    ranks.said[0] = RewardError("the judge is out")  # type: ignore[call-overload]  # as a process gathers it
    with pytest.raises(RewardError, match="the judge is out"):
        ranks.play(1, judge, rollout, (1, 2))


# --- refusals -------------------------------------------------------------------------------------------


def test_a_function_that_asks_for_tokens_is_refused_and_none_is_given_empty_ones() -> None:
    said = rf"model\.annotator\.annotator {HERE}\.wants_tokens: asks for completion_ids, .* sees text alone"
    with pytest.raises(ValueError, match=said):
        make_module(**judged_by("wants_tokens"))
    fit(make_module(**judged_by("may_have_tokens")))
    with pytest.raises(RewardError, match="looks_for_tokens raised KeyError: 'completion_ids'"):
        fit(make_module(**judged_by("looks_for_tokens")))


def test_a_column_that_a_prompt_lacks_is_said_before_anything_is_drawn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module: Watched = make_module(**judged_by("may_have_tokens", columns=["wanted"]))
    fit(module)
    assert len(module.rollouts) == 1
    module = make_module(**judged_by("may_have_tokens", columns=["answer"]))
    with pytest.raises(
        RewardError, match=r"columns: 5 of 5 prompts have no field 'answer' \(first: soup, whose"
    ):
        fit(module)
    module = make_module(**judged_by("may_have_tokens", columns=["wanted"]))
    monkeypatch.setitem(ROWS[4].columns, "other", 1)
    monkeypatch.delitem(ROWS[4].columns, "wanted")
    with pytest.raises(RewardError, match=r"1 of 5 prompts .* \(first: hotel, whose fields are: other\)"):
        fit(module)
    assert not hasattr(module, "rollouts")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("my.rule", "model.annotator: expected {annotator: …}, found 'my.rule'. Write {annotator: my.rule}."),
        (["my.rule"], "model.annotator: expected {annotator: …}, found ['my.rule']."),
        ({}, "model.annotator: expected {annotator: …}, found {}."),
        ({"flips": 0.5}, "model.annotator: expected {annotator: …}, found {'flips': 0.5}."),
        ({"anotator": "a.b"}, "model.annotator.anotator: no such key. Did you mean 'annotator'?"),
        ({**RULE, "temperature": "hot"}, "model.annotator.temperature: expected a number, found 'hot'."),
        ({**RULE, "columns": ["finished"]}, "model.annotator.columns finished: a function is told that anyway"),
        ({**RULE, "columns": ["completion_ids"]}, "columns completion_ids: an annotator sees text alone"),
    ],
)  # fmt: skip
def test_what_is_no_annotator_is_refused_by_its_key(given: Any, said: str) -> None:
    with pytest.raises(ValueError) as error:
        make_module(reward=None, annotator=given)
    assert said in str(error.value)


def test_settings_that_are_there_already_stay_as_they_are() -> None:
    given = Annotator("a.b")
    assert checked_settings(Annotator, "annotator", given) is given
    assert checked_settings(Annotator, "annotator", None) is None


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("my.rule", "error: model.annotator: expected {annotator: …}, found 'my.rule'. Write {annotator: my.rule}."),
        (f"{HERE}.wants_tokens", f"error: model.annotator: expected {{annotator: …}}, found '{HERE}.wants_tokens'."),
        ("{}", "error: model.annotator: expected {annotator: …}, found no annotator"),
        ("{annotator: a.b, flips: x}", "error: model.annotator.flips: expected float, found: x\nhelp:"),
    ],
)  # fmt: skip
def test_the_command_line_says_what_is_wanted(
    given: str, said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "the soup"}\n')
    words = ["--model", "OnlineDPOModule", "--model.model", "x", f"--model.annotator={given}"]
    with pytest.raises(SystemExit):
        main(["fit", *words, "--data", "PromptDataModule", "--data.path", str(tmp_path / "prompts.jsonl")])
    assert said in capsys.readouterr().err


def test_a_config_with_a_word_for_the_annotator_is_told_the_same(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(
        "model: {class_path: OnlineDPOModule, init_args: {model: x, annotator: my.rule}}\n"
        "data: {class_path: PromptDataModule, init_args: {path: p.jsonl}}\n"
    )
    with pytest.raises(SystemExit):
        main(["fit", "--config", str(config)])
    assert "model.annotator: expected {annotator: …}, found 'my.rule'." in capsys.readouterr().err


def test_rows_are_checked_for_every_column() -> None:
    judge = Judge(Annotator(RULE["annotator"], columns=("a", "b")))
    judge.check_columns([Row("p", columns={"a": 1, "b": 2})])
    with pytest.raises(RewardError, match=r"no field 'b' \(first: number 1, whose fields are: a\)"):
        judge.check_columns([Row("p", columns={"a": 1, "b": 2}), Row("p", columns={"a": 1})])

"""A loop's prompts and labels: disjoint slices, prompts that stay held out, duels, wins, waiting for people."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lit_rlhf.cli.loop.labels import split_labels, tells_apart, wins_by_scores, wins_of_duels, write_duels
from lit_rlhf.cli.loop.people import LeaveForPeople, settle, wait_for_people
from lit_rlhf.cli.loop.plan import Plan, held_out_places
from lit_rlhf.cli.loop.settings import Evaluation, Loop, PolicyFit
from lit_rlhf.cli.refusal import Refusal
from lit_rlhf.labelling.items import Item
from lit_rlhf.labelling.store import LabelStore
from lit_rlhf.labelling.verdicts import Verdict


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def loop_of(prompts: str, **changes: Any) -> Loop:
    settings: dict[str, Any] = {"rounds": 2, "prompts_per_round": 3, "held_out": 0.3}
    return Loop("m", prompts, PolicyFit("configs/dpo.yaml"), **{**settings, **changes})


# --- prompts


def test_rounds_take_the_next_prompts(tmp_path: Path) -> None:
    rows = [{"prompt": f"p{i}", "domain": "d"} for i in range(8)]
    plan = Plan(loop_of(write(tmp_path / "p.jsonl", rows)))
    assert [row["prompt"] for row in plan.rows_of(1)] == ["p0", "p1", "p2"]
    assert plan.rows_of(2)[0] == {"id": "prompt-4", "prompt": "p3", "domain": "d"}
    assert plan.notes() == ["prompts: 2 of the file's rows are left for further rounds"]


def test_ids_are_kept_where_they_tell_rows_apart(tmp_path: Path) -> None:
    rows = [{"prompt": f"p{i}", "id": f"row {i}"} for i in range(6)]
    assert Plan(loop_of(write(tmp_path / "p.jsonl", rows))).rows_of(2)[0]["id"] == "row 3"
    rows[5]["id"] = "row 0"
    assert Plan(loop_of(write(tmp_path / "q.jsonl", rows))).rows_of(2)[0]["id"] == "prompt-4"


def test_too_few_prompts_are_said_before_anything_is_judged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = write(tmp_path / "p.jsonl", [{"prompt": f"p{i}"} for i in range(5)])
    with pytest.raises(Refusal):
        Plan(loop_of(prompts))
    said = capsys.readouterr().err
    assert "2 rounds of 3 need 6, found 5" in said and "rounds: 1" in said


def test_prompts_that_come_twice_and_evaluation_prompts_that_train_are_counted(tmp_path: Path) -> None:
    prompts = write(tmp_path / "p.jsonl", [{"prompt": f"p{i % 4}"} for i in range(6)])
    evaluation = write(tmp_path / "e.jsonl", [{"prompt": "p1"}, {"prompt": "new"}])
    notes = Plan(loop_of(prompts, evaluation=Evaluation(evaluation))).notes()
    assert notes == [
        "prompts: 6 rows hold 4 different prompts, so some are asked again",
        "evaluation.prompts: 1 of 2 stand in `prompts` too, so they are not unseen",
    ]


def test_a_prompt_is_on_one_side_in_all_rounds() -> None:
    rounds = [[f"p{i}" for i in range(30)], [f"p{i}" for i in range(15, 55)]]
    first, second = held_out_places(rounds, 0.2, seed=3)
    assert len(first) == 6 and len(second) == 8
    out = {rounds[0][place] for place in first} | {rounds[1][place] for place in second}
    for prompts, places in zip(rounds, (first, second), strict=True):
        assert {prompts[place] for place in places} == out & set(prompts)
    assert held_out_places(rounds[:1], 0.2, seed=3) == [first], "a further round changes nothing before it"
    assert held_out_places(rounds[:1], 0.2, seed=4) != [first]


def test_where_prompts_are_few_rows_are_held_out() -> None:
    (places,) = held_out_places([["a", "b"] * 10], 0.1, seed=0)
    assert len(places) == 2
    assert held_out_places([["a"] * 3], 0.01, seed=0)[0].__len__() == 1, "one at least"
    assert len(held_out_places([[f"p{i}" for i in range(21)]], 0.999, seed=0)[0]) == 20, (
        "one is left to train on"
    )


# --- labels


def test_labels_are_split_by_the_ids(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "round-1"
    write(
        folder / "labels.jsonl",
        [{"id": "a", "chosen": "x"}, {"id": "b", "chosen": "y"}, {"id": "a", "chosen": "z"}],
    )
    said: list[str] = []
    assert split_labels(folder, ["a"], said.append)
    assert [row["chosen"] for row in read(folder / "train.jsonl")] == ["y"]
    assert [row["chosen"] for row in read(folder / "held_out.jsonl")] == ["x", "z"]
    assert said == ["round-1: 1 rows to train on, 2 held out"]
    assert not split_labels(folder, ["c"], said.append)
    assert said[-1].endswith("3 rows to train on, 0 held out, of which none tells two responses apart")
    with pytest.raises(Refusal):
        split_labels(folder, ["a", "b"], said.append)
    write(folder / "labels.jsonl", [{"chosen": "x"}])
    with pytest.raises(Refusal):
        split_labels(folder, ["a"], said.append)
    assert "expected an `id` in every row" in capsys.readouterr().err


def test_ties_measure_nothing(tmp_path: Path) -> None:
    apart = [
        {"chosen": "a"}, {"ranking": [[0], [1, 2]]}, {"scores": [1, 2]},
        {"labels": [{"choice": "tie"}, {"choice": "a"}]},
    ]  # fmt: skip
    ties = [{"tie": True}, {"ranking": [[0, 1]]}, {"scores": [3, 3]}, {"labels": [{"choice": "tie"}]}]
    assert all(map(tells_apart, apart)) and not any(map(tells_apart, ties))
    folder = tmp_path / "round-1"
    write(folder / "labels.jsonl", [{"id": "a"}, {"id": "b", "tie": True}])
    assert not split_labels(folder, ["b"], [].append)


def test_duels_leave_out_what_is_the_same(tmp_path: Path) -> None:
    def answers(name: str, *texts: str) -> Path:
        rows = [
            {
                "id": f"{i}",
                "prompt": "p",
                "responses": [text],
                "finished": [True],
                "source": "secret",
                "noun": "n",
            }
            for i, text in enumerate(texts)
        ]
        return Path(write(tmp_path / name, rows))

    start, mine = answers("start", "a", "b", "c", "d"), answers("mine", "x", "b", "y", "z")
    assert write_duels(start, mine, tmp_path / "duels.jsonl", 3) == 1
    duels = read(tmp_path / "duels.jsonl")
    assert duels[1] == {
        "id": "2",
        "prompt": "p",
        "noun": "n",
        "responses": ["c", "y"],
        "finished": [True, True],
    }
    assert len(duels) == 2


def test_wins_are_of_the_later_policy(tmp_path: Path) -> None:
    labels = Path(
        write(tmp_path / "l", [{"ranking": [[1], [0]]}, {"ranking": [[0], [1]]}, {"ranking": [[0, 1]]}])
    )
    assert wins_of_duels(labels) == [1.0, 0.0, 0.5]
    scores = [1.0, 2.0, 3.0, 1.0, 1.0, None, 3.0, 2.0, 4.0]
    rows = [{"reward_scores": [score]} for score in scores]
    assert wins_by_scores(rows, 3) == [[0.5, 0.0, None], [1.0, 0.5, 1.0]]


# --- people


@pytest.fixture
def db(tmp_path: Path) -> Path:
    with LabelStore(tmp_path / "labels.db") as store:
        store.add_items([Item("pairwise", f"p{i}", ("a", "b")) for i in range(4)])
    return tmp_path / "labels.db"


def judge(db: Path, count: int, name: str = "ann") -> None:
    with LabelStore(db) as store:
        for item in store.items()[:count]:
            store.record(
                item.number, name, Verdict(((0,), (1,)), "better"), submission=f"{name} {item.number}"
            )


def test_people_are_waited_for_until_every_item_has_its_overlap(db: Path) -> None:
    settle(db, overlap=2, programs=0, seed=5)
    said: list[str] = []
    looks = iter([lambda: judge(db, 3), lambda: judge(db, 4), lambda: judge(db, 4, "bob")])
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        next(looks)()

    wait_for_people(db, ["label", "serve", "--db", "x y"], True, 7.0, said.append, sleep)
    assert slept == [7.0] * 3
    assert "4 items wait for people" in said[0] and "lit-rlhf label serve --db 'x y'" in said[0]
    assert said[1] == "judged: 0 of 8" and said[-1] == "judged: 8 of 8 by 2 people"


def test_what_somebody_skipped_is_not_waited_for(db: Path) -> None:
    judge(db, 3)
    with LabelStore(db) as store:
        assert store.slots_left() == 1
        store.submit(store.next_task("ann").number, Verdict(skip="no idea"), submission="skip")
        assert store.slots_left() == 0 and store.progress().given == 3
    said: list[str] = []
    wait_for_people(db, ["label", "serve"], True, 1.0, said.append)
    assert said == ["judged: 3 of 4 by 1 person, 1 skipped"]


def test_nobody_is_waited_for_where_that_was_asked(db: Path) -> None:
    said: list[str] = []
    with pytest.raises(LeaveForPeople) as leave:
        wait_for_people(db, ["label", "serve"], False, 1.0, said.append)
    assert leave.value.code == 0 and "Give the same command again" in said[-1]
    judge(db, 4)
    wait_for_people(db, ["label", "serve"], False, 1.0, said.append)


@pytest.mark.parametrize(("overlap", "quota"), [(1, 2), (3, None)])
def test_programs_share_the_items_out_and_see_none_twice(overlap: int, quota: int | None, db: Path) -> None:
    settle(db, overlap=overlap, programs=3, seed=9)
    with LabelStore(db) as store:
        assert (store.settings.overlap, store.settings.quota) == (overlap, quota)
        assert (store.settings.repeats, store.settings.seed) == (0.0, 9)

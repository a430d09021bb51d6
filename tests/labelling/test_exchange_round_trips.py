"""What a store says, written in another tool's format and read again."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from lit_rlhf.labelling.exchange.entries import Said, messages_of
from lit_rlhf.labelling.exchange.label_studio_config import LabellingConfig, read_config
from lit_rlhf.labelling.exchange.reading import Format, read_file
from lit_rlhf.labelling.exchange.writing import exchange_files
from lit_rlhf.labelling.export import ExportSettings, export_judgements
from lit_rlhf.labelling.export_files import rows_as_bytes
from lit_rlhf.labelling.items import Item, Judgement
from lit_rlhf.labelling.verdicts import Verdict
from tests.labelling.export_cases import BOTH_BAD, FIRST, PAIR, SECOND, TIE, TRIPLE, judged, order

AT = "2026-01-02T03:04:05.678+00:00"
CHAT = Item(
    "pairwise", [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}], ("x", "y"), number=3
)
SKIP = Verdict(skip="no idea")
BETTER_SECOND = Verdict(((1,), (0,)), "better")
PAIRS = [
    judged(1, PAIR, "ann", FIRST, seconds=1.5, at=AT, comment="c"),
    judged(2, PAIR, "bea", SECOND, shown=(1, 0), at=AT, flag="f"),
    judged(3, PAIR, "cem", TIE, at=AT),
    judged(4, CHAT, "ann", BOTH_BAD, at=AT),
    judged(5, CHAT, "bea", SKIP, at=AT, flag="g"),
]
RANKINGS = [
    judged(1, TRIPLE, "ann", order(2, 0, 1), at=AT, seconds=2.0),
    judged(2, TRIPLE, "bea", order((0, 2), 1), at=AT, shown=(2, 1, 0)),
    judged(3, TRIPLE, "cem", Verdict(((0, 1, 2),), both_bad=True), at=AT),
    judged(4, PAIR, "ann", SECOND, at=AT),
]
RATED = Item("rating", "p", ("x",), number=1)
RATINGS = [judged(1, RATED, "ann", Verdict(ratings=(4,)), at=AT), judged(2, RATED, "bea", SKIP, at=AT)]
WRITTEN = Item("rewrite", "p", ("x",), number=1)
REWRITES = [judged(1, WRITTEN, "ann", Verdict(rewrite="=bet\rter\n", rewrite_of=0), at=AT, comment="-")]
RATED_BOTH = Item("rating", "p", ("x", "y"), number=8)
NAMES: dict[str, str] = {"label-studio": "f.json", "argilla": "f.json", "arena": "f.jsonl", "csv": "f.csv"}


def there_and_back(
    kind: Format, judgements: Sequence[Judgement], folder: Path
) -> tuple[list[tuple[Any, tuple[str, ...], Said]], dict[str, int]]:
    """(prompt, responses, what was said) of every judgement that comes back, and what the format does not hold."""
    files, written = exchange_files(folder / NAMES[kind], kind, judgements, {})
    for path, content in files.items():
        path.write_bytes(content)
    parsed = read_file(folder / NAMES[kind])
    back = [
        (entry.item.prompt, entry.item.responses, said) for entry in parsed.entries for said in entry.said
    ]
    return back, written.not_held


def of(
    judgements: Sequence[Judgement], *kept: str, **changes: Any
) -> list[tuple[Any, tuple[str, ...], Said]]:
    """What ought to come back of judgements: those of their remarks that are named, and no order unless named."""
    back = []
    for one in judgements:
        fields: dict[str, Any] = {name: getattr(one, name) for name in kept if name != "shown"}
        if "shown" in kept:
            fields["shown"] = one.task.shown
        assert one.verdict is not None
        back.append(
            (one.task.item.prompt, one.task.item.responses, Said(one.annotator, one.verdict, **fields))
        )
    return back


@pytest.mark.parametrize(
    "judgements",
    [PAIRS, RANKINGS, RATINGS, REWRITES, [judged(1, RATED_BOTH, "ann", Verdict(ratings=(2, 5)))]],
)
def test_a_table_holds_everything(judgements: list[Judgement], tmp_path: Path) -> None:
    back, not_held = there_and_back("csv", judgements, tmp_path)
    expected = of(judgements, "shown", "comment", "flag", "seconds", "at")
    assert [(*one[:2], one[2].__dict__ | {"at": one[2].at or ""}) for one in back] == [
        (*one[:2], one[2].__dict__) for one in expected
    ]
    assert not_held == {}
    if judgements is REWRITES:
        assert b"'=bet" in (tmp_path / "f.csv").read_bytes()  # a spreadsheet runs no formula of a model's


def test_an_order_that_nobody_knows_stays_so(tmp_path: Path) -> None:
    back, _ = there_and_back("csv", [judged(1, PAIR, "ann", FIRST, seen=False)], tmp_path)
    assert back[0][2].shown is None
    _, not_held = there_and_back(
        "argilla", [judged(1, PAIR, "ann", FIRST, shown=(1, 0), seen=False)], tmp_path
    )
    assert set(not_held) == {"models' names, which annotators would be sent"}


def test_a_table_holds_models_and_programs(tmp_path: Path) -> None:
    item = Item("ranking", "p", tuple("abcdefghij"), models=tuple("0123456789"), number=1)
    files, _ = exchange_files(
        tmp_path / "f.csv", "csv", [judged(1, item, "rm", order(*range(10)))], {"rm": "rule"}
    )
    (tmp_path / "f.csv").write_bytes(files[tmp_path / "f.csv"])
    (entry,) = read_file(tmp_path / "f.csv").entries
    assert (entry.item.models, entry.item.responses) == (item.models, item.responses)
    assert entry.said[0].machine == "rule"
    header = (tmp_path / "f.csv").read_text().splitlines()[0]
    assert header.startswith("id,domain,prompt,response_1,response_2,")
    assert ",response_9,response_10,annotator,choice,ranks," in header


@pytest.mark.parametrize("judgements", [PAIRS, RANKINGS, RATINGS, REWRITES])
def test_label_studio_holds_all_but_the_order_that_was_seen(
    judgements: list[Judgement], tmp_path: Path
) -> None:
    back, not_held = there_and_back("label-studio", judgements, tmp_path)
    expected = of(
        sorted(judgements, key=lambda one: one.task.item.number), "comment", "flag", "seconds", "at"
    )
    assert sorted(map(str, back)) == sorted(map(str, expected))
    orders = "orders in which responses were seen"
    assert not_held.get(orders, 0) == sum(one.task.shown != one.task.item.distinct for one in judgements)
    models = "models' names, which annotators would be sent"
    assert set(not_held) <= {orders, models}
    assert b"m-x" not in (tmp_path / "f.json").read_bytes()


def test_label_studio_configs_ask_for_what_the_tasks_hold(tmp_path: Path) -> None:
    expected: dict[str, tuple[list[Judgement], LabellingConfig]] = {
        "pairs": (PAIRS, LabellingConfig(("response_a", "response_b"))),
        "rankings": (RANKINGS, LabellingConfig(items="items", buckets=("rank_1", "rank_2", "rank_3"))),
        "ratings": (RATINGS, LabellingConfig(response="response")),
        "rewrites": (REWRITES, LabellingConfig()),
    }
    for name, (judgements, config) in expected.items():
        files, written = exchange_files(tmp_path / f"{name}.json", "label-studio", judgements, {})
        (tmp_path / f"{name}.xml").write_bytes(files[tmp_path / f"{name}.xml"])
        assert read_config(tmp_path / f"{name}.xml") == config
        root = ElementTree.fromstring(files[tmp_path / f"{name}.xml"])
        tags = {tag.get("name") for tag in root.iter() if tag.get("name")}
        results = [result for row in written.rows for one in row["annotations"] for result in one["result"]]
        assert {result["from_name"] for result in results} <= tags
        assert {result["to_name"] for result in results} <= tags
        fields = {
            tag.get("value", "").removeprefix("$") for tag in root.iter() if tag.tag in ("Text", "List")
        }
        assert all(fields <= row["data"].keys() for row in written.rows)
        words = {tag.get("value") for tag in root.iter("Choice")}
        assert {word for result in results for word in result["value"].get("choices", [])} <= words


def test_a_label_studio_project_asks_one_thing(tmp_path: Path) -> None:
    both = judged(9, RATED_BOTH, "ann", Verdict(ratings=(2, 5)))
    _, not_held = there_and_back("label-studio", [*RANKINGS, both], tmp_path)
    what = "rating judgements: a project asks one thing, this one ranking (export them apart, or as csv)"
    assert not_held[what] == 1
    files, written = exchange_files(tmp_path / "f.json", "label-studio", [both], {})
    assert written.not_held == {"rating judgements of several responses at once": 1}
    assert json.loads(files[tmp_path / "f.json"]) == []


def test_a_config_that_is_no_xml_is_refused(tmp_path: Path) -> None:
    (tmp_path / "f.xml").write_text("<View>")
    with pytest.raises(
        ValueError, match=r"f.xml: expected a labelling config in XML, found no element|unclosed"
    ):
        read_config(tmp_path / "f.xml")


@pytest.mark.parametrize(
    "judgements",
    [PAIRS, RANKINGS, RATINGS, REWRITES, [judged(1, RATED_BOTH, "ann", Verdict(ratings=(2, 5)))]],
)
def test_argilla_holds_all_but_times_and_the_order_that_was_seen(
    judgements: list[Judgement], tmp_path: Path
) -> None:
    back, not_held = there_and_back("argilla", judgements, tmp_path)
    expected = of(judgements, "comment", "flag")
    assert sorted(map(str, back)) == sorted(map(str, expected))
    assert not_held.pop("times at which and that judgements took", 0) == sum(
        bool(one.at) for one in judgements
    )
    orders = sum(one.task.shown != one.task.item.distinct for one in judgements)
    assert not_held.pop("orders in which responses were seen", 0) == orders
    assert set(not_held) <= {"models' names, which annotators would be sent"}


def test_argilla_rankings_are_names_in_order_or_ranks_where_they_tie(tmp_path: Path) -> None:
    _, written = exchange_files(tmp_path / "f.json", "argilla", RANKINGS[:2], {})
    values = [answer["value"] for answer in written.rows[0]["responses"]["ranking"]]
    assert values == [
        ["response_3", "response_1", "response_2"],
        [{"value": f"response_{number}", "rank": rank} for number, rank in [(1, 1), (3, 1), (2, 3)]],
    ]
    assert written.notes[0].startswith("1 rankings with ties stand as {value, rank}")


def test_arena_holds_pairs_and_says_what_it_does_not(tmp_path: Path) -> None:
    rest = [judged(6, TRIPLE, "ann", order(0, 1, 2)), judged(7, RATED, "ann", Verdict(ratings=(1,)))]
    back, not_held = there_and_back("arena", [*PAIRS, *rest, *REWRITES], tmp_path)
    user = messages_of(str(PAIR.prompt))
    assert back == [
        (user, ("x", "y"), Said("ann", FIRST, (0, 1), at=AT)),
        (user, ("y", "x"), Said("bea", FIRST, (0, 1), at=AT)),
        (user, ("x", "y"), Said("cem", TIE, (0, 1), at=AT)),
        (CHAT.prompt, ("x", "y"), Said("ann", BOTH_BAD, (0, 1), at=AT)),
    ]
    assert not_held == {
        "slight preferences, written as preferences": 1,
        "comments and flags": 2,
        "times that a judgement took": 1,
        "prompts that are text, written as one turn of the user": 3,
        "skips": 1,
        "rankings of more than two responses": 1,
        "ratings": 1,
        "rewrites": 1,
    }
    first = json.loads((tmp_path / "f.jsonl").read_text().splitlines()[1])
    assert (first["model_a"], first["model_b"], first["winner"]) == ("m-y", "m-x", "model_a")


@pytest.mark.parametrize("rows", ["pairs", "votes", "rankings"])
def test_our_own_rows_come_back_as_they_were_said(rows: Any, tmp_path: Path) -> None:
    exported = export_judgements(PAIRS, ExportSettings(rows))
    path = tmp_path / "rows.jsonl"
    path.write_bytes(rows_as_bytes(path, exported.rows))
    by_response = {}
    for entry in read_file(path).entries:
        for said in entry.said:
            best = None
            if said.verdict.ranking and len(said.verdict.ranking) > 1:
                best = entry.item.responses[said.verdict.ranking[0][0]]
            seen = said.shown and entry.item.responses[said.shown[0]]
            by_response[str(entry.item.prompt), said.annotator] = (
                best,
                said.verdict.strength,
                said.verdict.both_bad,
                seen,
            )
    chat = str(CHAT.prompt)
    first_seen: Any = {"x": "x", "y": "y"} if rows != "votes" else {"x": None, "y": None}
    assert by_response == {
        ("p1", "ann"): ("x", "better", False, first_seen["x"]),
        ("p1", "bea"): ("y", "slightly", False, first_seen["y"]),
        ("p1", "cem"): (None, None, False, first_seen["x"]),
        (chat, "ann"): (None, None, True, first_seen["x"]),
    }

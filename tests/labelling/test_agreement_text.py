"""The numbers as text."""

from lit_rlhf.labelling.agreement import describe_judgements, describe_lines
from lit_rlhf.labelling.agreement_lines import number
from lit_rlhf.labelling.verdicts import Verdict
from tests.labelling.agreement_cases import pair, pairs_of, rankings_of, ratings_of, said


def lines_of(judgements, machines=()):
    return describe_lines(describe_judgements(judgements, dict.fromkeys(machines, "rule")))


def test_every_number_of_the_page_is_in_the_text() -> None:
    judgements = pairs_of(*["AAa", "aAB", "BBb", "A=b"] * 4)
    judgements += [
        said(pair(1), "A", kind="swap", shown=(1, 0)),
        said(pair(50, gold=Verdict(((0,), (1,)), "better")), "A", kind="gold"),
    ]
    described = describe_judgements(judgements, {})
    text = "\n".join(describe_lines(described))
    (mode,) = described["modes"]
    for one in [*mode["agreement"], *mode["bias"], *(check for check in mode["checks"] if check["count"])]:
        assert one["label"] in text
        assert f"{number(one):<24} {one['count']} {one['unit']}" in text, one["name"]
    for row in mode["between"]:
        for one in row["measures"]:
            assert number(one) in text
    for row in mode["by_annotator"]:
        for one in row["measures"]:
            assert one["value"] is None or number(one) in text
    for counts in mode["confusion"]["counts"]:
        assert "".join(f"{count:>9}" for count in counts) in text


def test_heads_say_who_judged_how_much() -> None:
    lines = lines_of([*pairs_of("AA", "B?"), said(pair(1), "A", "length rule")], ["length rule"])
    assert lines[0] == "4 judgements of 2 items by 2 people and 1 program"
    assert "Pairs: 3 judgements of 2 items by 2 people; 1 with two or more" in lines
    assert "  and 1 by programs, which count for nothing here" in lines
    assert "  skipped: 1; both bad: 0" in lines
    assert "  1  not my language" in lines
    assert any(line.startswith("  length rule (a program: rule): 1 judgement") for line in lines)
    assert lines_of(pairs_of("A"))[0] == "1 judgement of 1 item by 1 person"
    only = lines_of(pairs_of("AA"), ["ann", "bob"])
    assert any("2 programs (no person judged: these are the programs' numbers)" in line for line in only)


def test_rankings_and_ratings() -> None:
    lines = lines_of(rankings_of("123 132", "213 213") + ratings_of("33", "45"))
    assert any("Kendall's W, mean over items (by chance 0.50)" in line for line in lines)
    assert any(", τ-b " in line for line in lines)
    assert "  Mean rank by position shown, of 3 (4 rankings): 1.50 1.75 2.75" in lines
    assert any("less the others' mean -0.500" in line for line in lines)


def test_what_has_no_value_says_why() -> None:
    assert any(
        line.split() == ["Same", "verdict", "-", "no", "item", "has", "two", "judgements"]
        for line in lines_of(pairs_of("A"))
    )


def test_only_the_first_pairs_of_annotators_are_printed(monkeypatch) -> None:
    monkeypatch.setattr("lit_rlhf.labelling.agreement_lines.MOST_PAIRS", 1)
    lines = lines_of(pairs_of("AAA", "BB."))
    assert sum(line.startswith("    ann and") for line in lines) == 1
    assert "    and 2 pairs with no more items in common" in lines


def test_signs_that_would_move_the_cursor_are_spelled_out() -> None:
    bidi = "an\u202en"
    lines = lines_of(
        [said(pair(1), "A", bidi, flag="\x1b[2J\nall gone"), said(pair(2), Verdict(skip="no\rway"))]
    )
    assert "  item 1, an\\u202en: \\x1b[2J\\nall gone" in lines
    assert "  1  no\\rway" in lines
    assert all(sign.isprintable() for line in lines for sign in line)

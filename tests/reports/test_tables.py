"""Terminal tables: nothing is lost and nothing is wider than the terminal."""

import io

import pytest
from rich.console import Console
from rich.table import Table

from lit_rlhf.reports.tables import result_table, samples_table


def printed(table: Table, width: int = 80) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=width, color_system=None).print(table)
    lines = [line.rstrip() for line in out.getvalue().splitlines()]
    assert all(len(line) <= width for line in lines)
    return lines


def test_results_show_names_numbers_and_dashes() -> None:
    table = result_table(
        "Results",
        ["policy", "gold", "steps", "seconds"],
        [["SFT", -0.694, 187, None], ["PPO, β = 0.2", 1.827, 60, 36.0]],
    )
    lines = printed(table)
    assert lines[0] == "Results"
    assert [line.split() for line in lines if "SFT" in line] == [["SFT", "-0.69", "187", "-"]]
    assert [line.split()[-3:] for line in lines if "PPO" in line] == [["1.83", "60", "36.00"]]


def test_result_row_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected 2 cells in a row, found \['SFT'\]"):
        result_table("Results", ["policy", "gold"], [["SFT"]])


@pytest.mark.parametrize("width", [80, 50])
def test_samples_stand_side_by_side_and_keep_every_word(width: int) -> None:
    before = "the superb soups look very bland but my tart is truly [bold]tasty ."
    table = samples_table("Samples", ["food soup |"], {"before": [before], "after": ["my cake is great ."]})
    lines = printed(table, width)
    text = " ".join(lines).split()
    assert set(before.split()) <= set(text)
    first = next(line for line in lines if line.lstrip().startswith("food"))
    assert first.index("the superb") < first.index("my cake")


def test_samples_missing_for_a_policy_are_refused() -> None:
    with pytest.raises(ValueError, match="samples of 'after': expected 2, one a prompt, found 1"):
        samples_table("Samples", ["a", "b"], {"before": ["x", "y"], "after": ["x"]})

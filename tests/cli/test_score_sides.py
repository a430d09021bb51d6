"""Which field of a file's row holds which response, against what the reader makes of the row."""

from __future__ import annotations

from typing import Any

import pytest

from lit_rlhf.cli.score_sides import preference_field, response_order, sides_of
from lit_rlhf.data.formats import parse_row

LABELS = [{"labeler": "x", "choice": "b"}]


def numbered(preference: int) -> dict[str, Any]:
    return {"prompt": "p", "response_1": "a", "response_2": "b", "preference_strength": preference}


@pytest.mark.parametrize(
    ("fields", "sides", "in_file_order"),
    [
        ({"prompt": "p", "chosen": "a", "rejected": "b"}, ("chosen", "rejected"), ["a", "b"]),
        ({"prompt": "p", "rejected": "b", "chosen": "a"}, ("chosen", "rejected"), ["a", "b"]),
        ({"prompt": "p", "chosen_response": "a", "rejected_response": "b"},
         ("chosen_response", "rejected_response"), ["a", "b"]),
        (numbered(-2), ("response_1", "response_2"), ["a", "b"]),
        (numbered(0), ("response_1", "response_2"), ["a", "b"]),
        (numbered(3), ("response_2", "response_1"), ["a", "b"]),
        ({"context": "p", "response1": "a", "response2": "b", "overall_preference": 1},
         ("response2", "response1"), ["a", "b"]),
        ({**numbered(3), "chosen": "c", "rejected": "d"}, ("chosen", "rejected"), ["c", "d"]),
        ({"prompt": "p", "response_a": "a", "response_b": "b", "labels": LABELS}, None, ["a", "b"]),
        ({"prompt": "p", "response_a": "a", "response_b": "b", "labels": LABELS, "chosen": "c", "rejected": "d"},
         None, ["a", "b"]),
    ],
)  # fmt: skip
def test_sides_and_order(
    fields: dict[str, Any], sides: tuple[str, str] | None, in_file_order: list[str]
) -> None:
    row = parse_row(fields, "pairs", "f:1")
    assert sides_of(fields) == sides
    assert [row.responses[place] for place in response_order(fields, 2)] == in_file_order
    if sides is not None:  # the reader agrees about which is the better one
        assert row.responses == [fields[name] for name in sides]


def test_candidates_stay_in_their_order() -> None:
    fields = {**numbered(3), "responses": ["x", "y", "z"]}
    assert preference_field(fields) is None and response_order(fields, 3) == [0, 1, 2]

"""The page's own arithmetic: an order with ties, and what differs between two texts."""

from __future__ import annotations

import pytest

MOVES = [
    # groups, moves, result
    ([[0], [1], [2]], [["step", 2, -1]], [[0], [2], [1]]),
    ([[0], [1], [2]], [["step", 0, -1]], [[0], [1], [2]]),
    ([[0], [1, 2]], [["step", 0, 1]], [[1, 2], [0]]),
    ([[0, 1, 2]], [["step", 1, -1]], [[1], [0, 2]]),
    ([[0, 1, 2]], [["step", 1, 1]], [[0, 2], [1]]),
    ([[0], [1], [2]], [["tie", 2], ["tie", 1]], [[0, 1, 2]]),
    ([[0, 1, 2]], [["tie", 1]], [[0], [1, 2]]),
    ([[0], [1]], [["tie", 0]], [[0], [1]]),
    ([[0], [1], [2]], [["drop", 2, 0]], [[2], [0], [1]]),
    ([[0, 1], [2]], [["drop", 2, 1]], [[0, 2, 1]]),
    ([[0, 1], [2]], [["drop", 0, 2]], [[1], [2], [0]]),
    ([[0], [1], [2]], [["give", 2, 2]], [[0], [2], [1]]),
    ([[0], [1], [2], [3]], [["give", 0, 2], ["give", 1, 1], ["give", 2, 2], ["give", 3, 3]], [[1], [0, 2], [3]]),
    ([[0], [1], [2]], [["give", 0, 3], ["give", 0, 1]], [[0], [1], [2]]),
    ([[0], [1], [2]], [["give", 0, 3], ["step", 0, -1], ["give", 2, 1]], [[2], [1], [0]]),
]  # fmt: skip


@pytest.fixture
def parts(serve, sit):
    """Evaluates JavaScript in a page of ours; it may `import` the page's files."""
    seat = sit(serve().address)
    return seat.page.evaluate


def test_moves_of_an_order(parts):
    made = parts(
        """async moves => {
            const { orderOf } = await import("/static/order.js");
            return moves.map(([groups, steps]) => {
                const order = orderOf(groups);
                for (const [name, ...given] of steps) order[name](...given);
                return order.groups();
            });
        }""",
        [[groups, steps] for groups, steps, _ in MOVES],
    )
    assert [sorted_within(order) for order in made] == [sorted_within(result) for _, _, result in MOVES]


def sorted_within(order):
    return [sorted(group) for group in order]


TEXTS = [
    ("", "", [], []),
    ("same", "same", [], []),
    ("the red house", "the blue house", ["red"], ["blue"]),
    ("a b c d", "a x d", ["b c"], ["x"]),
    ("one two", "one two three", [], [" three"]),
    ("naïve 中文 text", "naive 中文 text", ["naïve"], ["naive"]),
    ("", "all new", [], ["all new"]),
    ("k l m n", "x k y l z m n", [], ["x ", "y ", " z"]),
    ("p q r s t", "t q r s p", ["p", "t"], ["t", "p"]),
]


def test_differences_of_texts(parts):
    found = parts(
        """async texts => {
            const { differences, marksOf } = await import("/static/diff.js");
            return texts.map(([a, b]) => ["first", "second"].map(side => marksOf(differences(a, b), side)));
        }""",
        [[first, second] for first, second, *_ in TEXTS],
    )
    for (first, second, *only), sides in zip(TEXTS, found):
        for text, marked, pieces in zip((first, second), only, sides):
            assert "".join(piece["text"] for piece in pieces) == text
            assert [piece["text"] for piece in pieces if piece["only"]] == marked, (first, second)


def test_texts_too_long_to_compare(parts):
    script = """async length => {
        const { differences } = await import("/static/diff.js");
        return differences("a ".repeat(length), "b ".repeat(length)) === null;
    }"""
    assert parts(script, 10_000)
    assert not parts(script, 500)


def test_words_for_verdicts_and_times(parts):
    assert parts(
        """async () => {
            const { verdictInWords, durationInWords } = await import("/static/words.js");
            return [
                verdictInWords({ ranking: [[1], [0]], strength: "slightly" }, "pairwise"),
                verdictInWords({ ranking: [[0, 1]], both_bad: true }, "pairwise"),
                verdictInWords({ ranking: [[2], [0, 1]] }, "ranking"),
                verdictInWords({ ratings: [3, 5] }, "rating"),
                verdictInWords({ skip: "why" }, "rating"),
                ...[20, 300, 3600, 5400, 360000].map(durationInWords),
            ];
        }"""
    ) == [
        "B slightly better", "both bad", "C > A = B", "A 3, B 5", "skipped: why",
        "less than a minute", "about 5 min", "about 1 h", "about 1 h 30 min", "about 100 h",
    ]  # fmt: skip

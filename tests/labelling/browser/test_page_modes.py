"""Every mode by mouse, and by keyboard alone."""

from __future__ import annotations

import pytest

from lit_rlhf.labelling.items import Item

PAIR = Item("pairwise", "Which?", ("one", "two"))
FOUR = Item("ranking", "Which order?", ("one", "two", "three", "four"))
# by position: the item's index of what stands there is looked up in the store
CHOICES = {
    "1": ("A better", [[0], [1]], "better", False),
    "2": ("A slightly", [[0], [1]], "slightly", False),
    "3": ("Tie", [[0, 1]], None, False),
    "4": ("B slightly", [[1], [0]], "slightly", False),
    "5": ("B better", [[1], [0]], "better", False),
    "0": ("Both bad", [[0, 1]], None, True),
}


def by_index(served, ranking):
    shown = served.store.judgements()[-1].task.shown
    return [sorted(shown[position] for position in group) for group in ranking]


@pytest.mark.parametrize("by", ["mouse", "keyboard"])
def test_a_pair_is_judged_in_six_ways(serve, sit, by):
    served = serve(
        [Item("pairwise", f"Which of {number}?", ("one", "two")) for number in range(len(CHOICES))]
    )
    seat = sit(served.address)
    for key, (label, ranking, strength, both_bad) in CHOICES.items():
        task = seat.ready()
        seat.click(label) if by == "mouse" else seat.press(key)
        seat.after(task)
        said = served.store.judgements()[-1].verdict
        assert [list(group) for group in said.ranking] == by_index(served, ranking), label
        assert (said.strength, said.both_bad) == (strength, both_bad), label
    seat.reads("All judged")
    assert len(served.said()) == len(CHOICES)


def test_a_ranking_by_keyboard(serve, sit):
    served = serve([FOUR])
    seat = sit(served.address)
    seat.ready()
    seat.press("2", "1", "2", "4")  # A second, B first, C beside A, D last
    assert seat.page.inner_text(".summary") == "B > A = C > D"
    seat.reads("The order: B, then A tied with C, then D.", "#announcements")
    seat.press("Alt+ArrowUp")  # D was the last to be given its place: past the tie
    assert seat.page.inner_text(".summary") == "B > D > A = C"
    seat.press("=")
    assert seat.page.inner_text(".summary") == "B = D > A = C"
    seat.press("Enter")
    seat.reads("All judged")
    assert served.said() == [{"ranking": by_index(served, [[1, 3], [0, 2]])}]


def test_a_ranking_by_drag_and_buttons(serve, sit):
    served = serve([FOUR])
    seat = sit(served.address)
    seat.ready()
    grips = seat.page.locator(".order .grip")
    drag(seat.page, grips.nth(3), 0)
    seat.page.wait_for_function("() => document.querySelector('.summary').textContent === 'D > A > B > C'")
    seat.page.get_by_label("Tie C with the one above").click()
    seat.page.get_by_label("Worse place for D").click()
    assert seat.page.inner_text(".summary") == "A > D > B = C"
    # dropped between two that are tied, it joins them
    drag(seat.page, grips.nth(0), 2)
    seat.page.wait_for_function("() => document.querySelector('.summary').textContent === 'D > B = A = C'")
    seat.click("Submit order")
    seat.reads("All judged")
    assert served.said() == [{"ranking": by_index(served, [[3], [0, 1, 2]])}]


def drag(page, grip, index):
    """Drags by the mouse, and drops when the list has made room at the index; it looks 20 times a second."""
    start, end = grip.bounding_box(), page.locator(".order .grip").nth(index).bounding_box()
    page.mouse.move(start["x"] + 30, start["y"] + start["height"] / 2)
    page.mouse.down()
    page.mouse.move(end["x"] + 30, start["y"] + (end["y"] - start["y"]) / 2, steps=5)
    page.mouse.move(end["x"] + 30, end["y"] + end["height"] / 2, steps=5)
    rows = "[...document.querySelectorAll('.order li:not(.sortable-fallback)')]"
    page.wait_for_function(f"index => {rows}[index].matches('.sortable-ghost')", arg=index)
    page.mouse.up()


def test_the_order_as_shown_is_asked_for_twice(serve, sit):
    served = serve([FOUR])
    seat = sit(served.address)
    seat.ready()
    seat.press("Enter")
    seat.reads("the order in which they were shown", ".message-line")
    assert served.said() == []
    seat.press("Enter")
    seat.reads("All judged")
    assert served.said() == [{"ranking": by_index(served, [[0], [1], [2], [3]])}]


@pytest.mark.parametrize("by", ["mouse", "keyboard"])
def test_ratings(serve, sit, by):
    served = serve([Item("rating", "How good?", ("one", "two")), Item("rating", "How good is it?", ("one",))])
    seat = sit(served.address)
    for _ in range(2):
        task = seat.ready()
        scales = seat.page.locator(".scale").all()
        for scale, rating in zip(scales, "42"):
            if by == "mouse":
                scale.get_by_text(rating).click()
            else:
                seat.press(rating)
        if len(scales) == 2:  # one rating is a judgement by itself
            seat.click("Submit ratings") if by == "mouse" else seat.press("Enter")
        seat.after(task)
    found = {len(one.task.shown): one for one in served.store.judgements()}
    assert found[1].verdict.ratings == (4,)
    assert [found[2].verdict.ratings[index] for index in found[2].task.shown] == [4, 2]


def test_ratings_that_are_missing_are_named(serve, sit):
    served = serve([Item("rating", "How good?", ("one", "two"))])
    seat = sit(served.address)
    seat.ready()
    seat.press("4", "Enter")
    seat.reads("Not rated yet: B.", ".message-line")
    assert served.said() == []


@pytest.mark.parametrize("by", ["mouse", "keyboard"])
def test_a_rewrite(serve, sit, by):
    served = serve([Item("rewrite", "Say hello.", ("helo", "bye"))])
    seat = sit(served.address)
    seat.ready()
    other = seat.letters()["bye"]
    if by == "mouse":
        seat.click(f"Start from {'AB'[int(other)]}")
    else:
        seat.press("e")
        other = "0"
    seat.press("Control+End")
    seat.page.keyboard.type(" now")
    seat.reads(" now", ".changes ins")
    seat.click("Submit your version") if by == "mouse" else seat.press("Control+Enter")
    seat.reads("All judged")
    (judgement,) = served.store.judgements()
    of = judgement.task.shown[int(other)]
    assert served.said() == [{"rewrite": f"{('helo', 'bye')[of]} now", **({"rewrite_of": of})}]


@pytest.mark.parametrize("by", ["mouse", "keyboard"])
def test_skip_flag_and_comment(serve, sit, by):
    served = serve([PAIR])
    seat = sit(served.address)
    seat.ready()
    if by == "mouse":
        seat.click("Flag")
        seat.click("The prompt is broken")
        seat.click("Comment")
        seat.page.fill("#note", "twice the same")
        seat.click("Keep the comment")
        seat.click("Skip")
        seat.click("I cannot decide")
    else:
        seat.press("f", "3", "c")
        seat.page.keyboard.type("twice the same")
        seat.press("Control+Enter", "s", "3")
    seat.reads("All judged")
    (judgement,) = served.store.judgements()
    assert (judgement.verdict.skip, judgement.flag, judgement.comment) == (
        "I cannot decide", "The prompt is broken", "twice the same",
    )  # fmt: skip

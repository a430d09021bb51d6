"""What she wrote is not lost, what she pressed does what she meant, and nothing is done in another's name."""

from __future__ import annotations

import pytest

from lit_rlhf.labelling.items import Item
from lit_rlhf.labelling.verdicts import Verdict

FOUR = Item("ranking", "Which order?", ("one", "two", "three", "four"))


def pairs(count: int) -> list[Item]:
    return [Item("pairwise", f"Which of {number}?", ("one", "two")) for number in range(count)]


def test_a_long_response_is_rewritten_whole(serve, sit):
    long = "word " * 5_000 + "end"
    served = serve([Item("rewrite", "Say it.", (long,))])
    seat = sit(served.address)
    seat.expected = ("ERR_FAILED",)
    seat.page.wait_for_selector("#rewrite:enabled")
    answers = []

    def read(route):
        answers.append(route.request.url)
        route.abort() if len(answers) == 1 else route.continue_()

    seat.page.route("**/api/text/**", read)
    seat.page.reload()
    seat.reads("The server does not answer.", ".message-line")
    assert seat.page.is_disabled("#rewrite")
    seat.press("Control+Enter")  # there is nothing to be submitted yet
    seat.reads("All of A has to be read first.", ".message-line")
    seat.page.wait_for_selector("#rewrite:enabled")
    assert seat.page.input_value("#rewrite") == long
    seat.click("Read all 25,003")
    seat.press("Control+Enter")
    seat.reads("You changed nothing.", ".message-line")
    seat.press("e", "Control+Home")
    seat.page.keyboard.type("A ")
    seat.page.reload()
    assert seat.asked_to_stay == 1  # closed, the tab would have lost it
    seat.page.wait_for_selector("#rewrite:enabled")
    seat.reads("A", ".changes ins")
    seat.ready()
    seat.press("Control+Enter")
    seat.reads("All judged")
    assert served.said() == [{"rewrite": f"A {long}", "rewrite_of": 0}]


def test_a_tab_ends_when_somebody_else_signs_in_beside_it(serve, sit):
    served = serve(pairs(4))
    seat = sit(served.address, "ann")
    seat.expected = ("412",)
    first = seat.page
    task = seat.ready()
    seat.press("1")
    seat.after(task)
    seat.reads("Kept: A better. Next: Which response is better?", "#announcements")
    seat.page = seat.open_page()
    seat.page.goto(f"{served.address}/")
    seat.click("ann")
    seat.page.fill("#name", "bob")
    seat.press("Enter")
    seat.reads("bob", "#top .who")
    task = seat.ready()
    seat.press("1")
    seat.after(task)
    seat.page = first
    seat.press("u")
    seat.reads("Somebody else is signed in")
    seat.reads("signed in as bob now, and this tab was opened by ann.")
    seat.press("1")  # says nothing of an item that is gone
    seat.click("Load the page again")
    seat.reads("bob", "#top .who")
    assert [(one.annotator, bool(one.verdict)) for one in served.store.all_judgements()] == [
        ("ann", True),
        ("bob", True),
    ]


def test_what_was_typed_into_a_dialog_outlives_escape(serve, sit):
    served = serve(pairs(1))
    seat = sit(served.address)
    seat.ready()
    seat.press("s", "Tab", "Tab", "Tab", "Tab", "Tab")
    seat.page.keyboard.type("my reason")
    seat.press("Escape")
    # c on a keyboard whose letters are others
    seat.page.evaluate(
        "document.body.dispatchEvent(new KeyboardEvent('keydown', {key: '\u0441', code: 'KeyC', bubbles: true}))"
    )
    seat.page.keyboard.type("my comment")
    seat.press("Escape")
    seat.reads("my comment", ".pill")
    seat.page.reload()
    seat.ready()
    seat.reads("my comment", ".pill")
    seat.press("s")
    assert seat.page.input_value("#note") == "my reason"
    seat.press("Control+Enter")
    seat.reads("All judged")
    (said,) = served.store.judgements()
    assert (said.verdict.skip, said.comment) == ("my reason", "my comment")


def test_enter_submits_whatever_was_clicked_last(serve, sit):
    served = serve([FOUR, Item("rating", "How good?", ("one", "two"))])
    seat = sit(served.address)
    for _ in range(2):
        task = seat.ready()
        if "order" in seat.page.inner_text("h1"):
            seat.page.get_by_label("Better place for D").focus()
            seat.press("Enter", "Space")  # by keys, the button stays the one that is pressed
            assert seat.page.inner_text(".summary") == "A > D > B > C"
            seat.page.locator(".order .grip").last.click()
            seat.page.get_by_label("Better place for C").click()
        else:
            seat.page.locator(".scale").nth(0).get_by_text("4").click()
            seat.page.locator(".scale").nth(1).get_by_text("2").click()
            seat.click("Markdown")
        seat.press("Enter")
        seat.after(task)
    verdicts = {one.task.item.mode: one.verdict for one in served.store.judgements()}
    assert len(verdicts["rating"].ratings) == 2 and len(verdicts["ranking"].ranking) == 4


@pytest.mark.slow
def test_a_swipe_scrolls_and_a_finger_that_rests_drags(serve, sit):
    served = serve([Item("ranking", "Which order?", tuple(f"answer {number}" for number in range(9)))])
    seat = sit(served.address, viewport={"width": 360, "height": 640}, has_touch=True, is_mobile=True)
    seat.ready()
    grips = seat.page.locator(".order .grip")
    grips.nth(5).scroll_into_view_if_needed()
    before, scrolled = seat.page.inner_text(".summary"), seat.page.evaluate("scrollY")
    touch = seat.context.new_cdp_session(seat.page)

    def swipe(by: int, rest: int) -> None:
        box = grips.nth(3).bounding_box()
        x, y = box["x"] + 40, box["y"] + box["height"] / 2
        touch.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [{"x": x, "y": y}]})
        seat.page.wait_for_timeout(rest)
        for part in range(1, 11):
            point = {"x": x, "y": y + by * part / 10}
            touch.send("Input.dispatchTouchEvent", {"type": "touchMove", "touchPoints": [point]})
            seat.page.wait_for_timeout(16)
        seat.page.wait_for_timeout(rest)
        touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})

    swipe(120, rest=0)
    assert seat.page.inner_text(".summary") == before
    assert seat.page.evaluate("scrollY") != scrolled
    grips.nth(3).scroll_into_view_if_needed()
    swipe(90, rest=300)
    seat.page.wait_for_function(
        "before => document.querySelector('.summary').textContent !== before", arg=before
    )


def test_the_last_turn_of_a_conversation_is_seen(serve, sit):
    turns = [{"role": role, "content": f"{role} {n}. " + "Some more words. " * 60}
             for n in range(3) for role in ("user", "assistant")]  # fmt: skip
    served = serve([Item("pairwise", [*turns, {"role": "user", "content": "The question?"}], ("one", "two"))])
    seat = sit(served.address)
    seat.ready()
    inside = """() => {
        const [box, last] = [".messages", ".message:last-child .text"].map(
            (one) => document.querySelector(one).getBoundingClientRect());
        return box.top <= last.top && last.bottom <= box.bottom + 1;
    }"""
    seat.page.wait_for_function(inside)
    assert seat.page.locator(".messages").evaluate("box => box.className") == "messages folded hides-above"
    seat.click("Show all of the 7 turns")
    assert seat.page.locator(".messages").evaluate("box => box.scrollTop") == 0


def test_what_the_server_does_not_take_later_is_shown(serve, sit):
    served = serve([Item("rewrite", "Say it.", ("helo",))])
    seat = sit(served.address)
    seat.expected = ("ERR_FAILED", "409")
    task = seat.ready()
    seat.page.route("**/api/judgements", lambda route: route.abort())
    seat.page.fill("#rewrite", "hello to you")
    seat.press("Control+Enter")
    seat.reads("The server does not answer.", "#banner")
    served.store.submit(task, Verdict(rewrite="hi", rewrite_of=0), submission="from elsewhere")
    seat.page.unroute("**/api/judgements")
    seat.page.reload()
    assert seat.asked_to_stay == 1
    seat.reads("What you said before (rewritten from A) was not taken", ".leftover")
    seat.reads("hello to you", ".leftover pre")
    seat.page.reload()
    seat.click("Seen")
    seat.page.wait_for_selector(".leftover", state="detached")
    assert served.said() == [{"rewrite": "hi", "rewrite_of": 0}]


def test_the_agreement_is_asked_for_again_by_hand_alone(serve, sit):
    served = serve(pairs(1))
    seat = sit(served.address)
    seat.expected = ("ERR_FAILED",)
    asked = []
    seat.page.route("**/api/agreement", lambda route: (asked.append(1), route.abort()))
    seat.page.clock.install()
    seat.page.goto(f"{served.address}/agreement")
    seat.reads("The server does not answer.")
    seat.page.clock.fast_forward(60_000)
    seat.page.unroute("**/api/agreement")
    seat.click("Ask again")
    seat.reads("0 judgements of 0 items")
    assert asked == [1]


def test_who_only_looks_at_the_agreement_needs_no_name(serve, sit):
    served = serve(pairs(1))
    seat = sit(served.address)
    seat.enter("/agreement", name=None)
    seat.reads("Agreement", "h1")
    seat.reads("There is nothing to compare")
    assert seat.page.locator("#name").count() == 0

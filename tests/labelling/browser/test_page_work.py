"""A day at the page: others beside her, reloads, second thoughts, exercises, and the end of the work."""

from __future__ import annotations

from lit_rlhf.labelling.items import Item
from lit_rlhf.labelling.server.live import LiveModel
from lit_rlhf.labelling.verdicts import Verdict


def pairs(count: int) -> list[Item]:
    return [Item("pairwise", f"Which of {number}?", ("one", "two")) for number in range(count)]


def test_two_annotators_at_once(serve, sit):
    served = serve(pairs(2))
    ann, bob = sit(served.address, "ann"), sit(served.address, "bob")
    tasks = [ann.ready(), bob.ready()]
    prompts = [seat.page.inner_text(".prompt") for seat in (ann, bob)]
    assert prompts[0] != prompts[1]
    ann.press("1")
    ann.reads("One moment")  # bob holds what is left
    bob.press("1")
    bob.after(tasks[1])
    bob.reads("All judged")
    ann.click("Ask again")
    ann.reads("All judged")
    assert sorted(one.annotator for one in served.store.judgements()) == ["ann", "bob"]


def test_the_token_leaves_the_address_and_the_session_stays(serve, sit):
    served = serve(pairs(1))
    seat = sit(served.address)
    seat.ready()
    assert seat.page.url == f"{served.address}/"
    assert seat.page.evaluate("Object.keys(localStorage).length + document.cookie.length") == 0


def test_a_reload_and_the_back_button_lose_nothing(serve, sit):
    served = serve([Item("rewrite", f"Say {number}.", ("helo",)) for number in range(2)])
    seat = sit(served.address)
    task = seat.ready()
    seat.page.fill("#rewrite", "hello to")
    seat.press("Escape", "c")
    seat.page.keyboard.type("a typo")
    seat.press("Control+Enter")
    seat.page.reload()
    assert seat.ready() == task
    assert seat.page.input_value("#rewrite") == "hello to"
    seat.reads("a typo", ".pill")
    seat.page.goto(f"{served.address}/agreement")
    seat.page.go_back()
    assert seat.ready() == task
    assert seat.page.input_value("#rewrite") == "hello to"
    seat.press("Control+Enter")
    seat.after(task)
    (said,) = served.store.judgements()
    assert (said.verdict.rewrite, said.comment) == ("hello to", "a typo")
    assert seat.page.input_value("#rewrite") == "helo"  # the draft was the other item's


def test_an_order_outlives_a_reload(serve, sit):
    served = serve([Item("ranking", "Which order?", ("one", "two", "three"))])
    seat = sit(served.address)
    seat.ready()
    seat.press("3", "1", "1")
    seat.page.reload()
    seat.ready()
    assert seat.page.inner_text(".summary") == "B = C > A"


def test_undo_gives_the_item_again_with_what_was_said(serve, sit):
    served = serve(pairs(2))
    seat = sit(served.address)
    task = seat.ready()
    seat.press("5")
    seat.after(task)
    seat.ready()
    seat.press("u")
    seat.reads("You said: B better.", ".notice")
    assert seat.ready() == task
    assert served.said() == []
    assert seat.page.get_by_role("button", name="B better").get_attribute("aria-pressed") == "true"
    seat.press("3")
    seat.after(task)
    assert served.said() == [{"ranking": [[0, 1]]}]


def test_undo_of_nothing_says_so(serve, sit):
    seat = sit(serve(pairs(1)).address)
    seat.expected = ("404",)
    seat.ready()
    seat.press("u")
    seat.reads("There is nothing to take back.", ".message-line")


def test_the_history_opens_an_item_to_be_judged_again(serve, sit):
    served = serve(pairs(3))
    seat = sit(served.address, viewport={"width": 800, "height": 800})
    first = seat.ready()
    seat.press("1")
    seat.after(first)
    now = seat.ready()
    seat.press("h")
    seat.reads("A better", ".history .said")
    seat.page.locator(".history button").click()
    seat.reads("From your history.")
    assert seat.ready() == first
    seat.page.reload()
    assert seat.ready() == first
    seat.page.go_back()
    seat.page.wait_for_function(
        "task => document.querySelector('.item').dataset.task === String(task)", arg=now
    )
    seat.page.go_forward()
    seat.page.wait_for_function(
        "task => document.querySelector('.item').dataset.task === String(task)", arg=first
    )
    seat.ready()
    seat.press("3")
    seat.after(first)
    assert seat.ready() == now  # back in the queue
    assert served.said() == [{"ranking": [[0, 1]]}]
    assert len(served.store.all_judgements()) == 2


def test_an_exercise_is_explained(serve, sit):
    gold = Item(
        "pairwise",
        "2 + 2?",
        ("4", "5"),
        gold=Verdict(((0,), (1,)), "better"),
        explanation="Two and two are four.",
    )
    served = serve([gold, *pairs(1)], practice=1, guidelines="# Read this")
    seat = sit(served.address)
    task = seat.ready()
    seat.reads("Practice", ".notice")
    seat.reads("Read this", "#drawer")
    seat.press("Escape")
    wrong = seat.letters()["5"]
    seat.press("15"[int(wrong)])
    seat.reads("Not what was expected", ".feedback")
    right = "BA"[int(wrong)]
    seat.reads(f"Expected: {right} better. You said: {'AB'[int(wrong)]} better.", ".feedback")
    seat.reads("Two and two are four.", ".feedback")
    seat.press("1")  # takes no verdict
    seat.press("Enter")
    seat.after(task)
    seat.reads("Which of 0?", ".prompt")
    assert not seat.page.is_visible("#drawer")  # once is enough
    assert len(served.store.judgements()) == 1


def test_a_quota_ends_the_work(serve, sit):
    seat = sit(serve(pairs(2), quota=1).address)
    seat.ready()
    seat.press("1")
    seat.reads("Your share is done")


def test_an_item_judged_in_another_tab_is_shown_as_it_stands(serve, sit):
    served = serve(pairs(2))
    seat = sit(served.address)
    seat.expected = ("409",)
    task = seat.ready()
    first, second = seat.page, seat.open_page()
    second.goto(served.address)
    seat.page = second
    assert seat.ready() == task
    seat.press("5")
    seat.after(task)
    seat.page = first
    seat.press("1")
    seat.reads("judged in another tab meanwhile", ".notice")
    seat.reads("You said: B better.", ".notice")
    assert len(served.said()) == 1
    seat.ready()
    seat.press("1")
    seat.after(task)
    (said,) = served.store.judgements()
    assert [list(group) for group in said.verdict.ranking] == [[index] for index in said.task.shown]


def test_an_address_that_is_no_longer_valid(serve, sit):
    served = serve(pairs(2))
    seat = sit(served.address)
    seat.expected = ("401",)
    seat.ready()
    seat.context.clear_cookies()
    seat.press("1")
    seat.reads("You are signed out")
    # the next valid address in this tab delivers what was said
    seat.enter("/", name=None)
    seat.page.wait_for_selector("#name")
    assert seat.page.input_value("#name") == "ann"
    seat.press("Enter")
    seat.ready()
    assert len(served.said()) == 1


def test_double_keys_do_not_judge_the_next_item(serve, sit):
    served = serve(pairs(3))
    seat = sit(served.address)
    task = seat.ready()
    seat.press("1", "1", "1")
    seat.after(task)
    seat.press("1")
    seat.ready()
    assert len(served.said()) == 1


def test_guidelines_markdown_and_differences(serve, sit):
    pair = Item("pairwise", "Which? " + "x " * 11_000, ("a **red** house", "a **blue** house"))
    seat = sit(serve([pair], guidelines="# Read *both*\n\nThen [decide](https://example.org).").address)
    seat.ready()
    seat.reads("Read both", "#drawer")  # open at first, where there is room
    seat.press("g")
    assert not seat.page.is_visible("#drawer")
    assert seat.page.locator(".response .text strong").count() == 0
    seat.press("m")
    assert seat.page.locator(".response .text strong").count() == 2
    seat.reads("too long for Markdown", ".message-line")
    seat.press("d")
    pressed = (
        "[...document.querySelectorAll('.toggles [aria-pressed=true] .label')].map(one => one.textContent)"
    )
    assert seat.page.evaluate(pressed) == ["Differences"]
    assert sorted(seat.page.locator(".response mark").all_inner_texts()) == ["blue", "red"]


def test_the_time_of_an_item_leaves_pauses_out(serve, sit):
    served = serve(pairs(1))
    seat = sit(served.address)
    seat.page.clock.install()
    seat.page.reload()
    seat.page.wait_for_selector(".item")
    seat.page.clock.fast_forward(20_000)
    seat.page.mouse.move(300, 300)
    seat.page.mouse.move(310, 300)
    seat.page.clock.fast_forward(600_000)  # a minute of them counts
    seat.press("1")
    seat.reads("All judged")
    (said,) = served.store.judgements()
    assert 75 <= said.seconds < 95


def test_another_name_keeps_the_judgements_apart(serve, sit):
    served = serve(pairs(3))
    seat = sit(served.address)
    task = seat.ready()
    seat.press("1")
    seat.after(task)
    seat.click("ann")
    seat.page.fill("#name", "bea")
    seat.press("Enter")
    seat.reads("bea", "#top .who")
    seat.ready()
    seat.press("1")
    seat.reads("One moment")  # ann holds the third
    assert [one.annotator for one in served.store.judgements()] == ["ann", "bea"]


def test_a_prompt_is_typed_in_and_its_answers_ranked(serve, sit):
    model = LiveModel(lambda prompt, k: [f"{prompt} {number}" for number in range(k)])
    served = serve(live=model)
    seat = sit(served.address, path="/live")
    seat.page.fill("#prompt", "Say it")
    seat.page.fill("#count", "3")
    seat.click("Ask the model")
    seat.ready()
    seat.press("3", "2", "1", "Enter")
    seat.page.wait_for_selector("#prompt")
    (said,) = served.store.judgements()
    assert said.task.kind == "live"
    assert [list(group) for group in said.verdict.ranking] == [[index] for index in reversed(said.task.shown)]


def test_a_file_without_items_says_what_to_do(serve, sit):
    served = serve(live=LiveModel(lambda prompt, k: [f"{prompt} {number}" for number in range(k)]))
    seat = sit(served.address)
    seat.reads("Type a prompt in, and judge what the model answers.")
    seat.page.get_by_role("link", name="Type a prompt").click()
    seat.page.wait_for_selector("#prompt")
    assert seat.page.url.endswith("/live")
    empty = sit(serve().address)
    empty.reads("Nothing to judge yet")
    assert empty.page.get_by_role("link", name="Type a prompt").count() == 0

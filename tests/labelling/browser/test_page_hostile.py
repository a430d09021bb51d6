"""Responses that would like to be more than text."""

from __future__ import annotations

import pytest

from lit_rlhf.labelling.items import Item

MARKUP = (
    "<script>alert(1)</script><img src=x onerror=alert(2)><svg onload=alert(3)>"
    "<iframe src='https://example.org/'></iframe><style>body{display:none}</style>"
    "<a href='javascript:alert(4)'>here</a>"
)
MARKDOWN = (
    "![pixel](https://example.org/pixel.png) [press](javascript:alert(5)) [out](https://example.org/) "
    "<img src=https://example.org/x onerror=alert(6)>\n\n**bold**"
)


def test_markup_is_text_in_every_place(serve, sit):
    served = serve([Item("pairwise", [{"role": MARKUP[:30], "content": MARKUP}], (MARKUP, MARKDOWN))])
    seat = sit(served.address)
    seat.ready()
    texts = seat.page.locator(".text").all_inner_texts()
    assert texts.count(MARKUP) == 2
    seat.press("d", "d", "m")
    seat.page.locator(".response strong").wait_for()
    assert seat.page.locator("#work").locator("script, img, iframe, svg, style, a").count() == 0
    seat.press("c")
    seat.page.fill("#note", MARKUP)
    seat.press("Control+Enter")
    seat.reads(MARKUP, ".pill")
    seat.press("1")
    seat.reads("All judged")
    seat.press("h")
    seat.reads("A better", ".said")
    assert (
        seat.page.evaluate("document.querySelectorAll('#drawer :is(script, img, iframe, svg, style)').length")
        == 0
    )
    # the fixture looks for dialogs, and for requests to elsewhere


def test_direction_characters_stay_within_their_text(serve, sit):
    served = serve([Item("pairwise", "Which?", ("safe \u202edangerous\u202c", "مرحبا abc"))])
    seat = sit(served.address)
    seat.ready()
    seat.reads("⟦U+202E⟧", ".control")
    style = "text => [getComputedStyle(text).direction, getComputedStyle(text).unicodeBidi]"
    found = [text.evaluate(style) for text in seat.page.locator(".response .text").all()]
    assert sorted(found) == [["ltr", "isolate"], ["rtl", "isolate"]]


@pytest.mark.parametrize("width", [1280, pytest.param(360, marks=pytest.mark.slow)])
def test_a_megabyte_is_cut_and_can_be_read_whole(serve, sit, width):
    long = "W" * 1_000_000 + " end"
    served = serve(
        [Item("pairwise", "Which?", (long, "short")), Item("pairwise", "Next?", ("one", "two"))], seed=1
    )
    seat = sit(served.address, viewport={"width": width, "height": 700})
    task = seat.ready()
    if "Next?" in seat.page.inner_text(".prompt"):
        seat.press("1")
        seat.after(task)
        task = seat.ready()
    shown = "[...document.querySelectorAll('.response .text')].map(text => text.textContent.length)"
    assert sorted(seat.page.evaluate(shown)) == [5, 20_000]
    seat.click("Read all 1,000,004 characters")
    seat.page.wait_for_function(f"() => {shown}.includes(1_000_004)")
    assert seat.page.evaluate("document.documentElement.scrollWidth") == width
    seat.press("1")
    seat.after(task)
    assert len(served.said()) >= 1

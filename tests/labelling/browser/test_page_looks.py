"""Phone width, zoom, and what a screen reader or a keyboard would stumble over."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from lit_rlhf.labelling.items import Item
from lit_rlhf.labelling.server.live import LiveModel

LONG = "A sentence of some words, which is not short. " * 60 + "W" * 300
ITEMS = {
    "pairwise": Item(
        "pairwise", [{"role": "user", "content": LONG}, {"role": "assistant", "content": "So?"}], (LONG, "b")
    ),
    "ranking": Item("ranking", LONG, tuple(f"{number} {LONG}" for number in range(9))),
    "rating": Item("rating", "How good?", (LONG, "b")),
    "rewrite": Item("rewrite", "Say it.", (LONG, "b")),
}
GUIDELINES = "# Read\n\n| case | say |\n|---|---|\n| both right | tie |\n\n" + "Word " * 50
PHONE = {"width": 360, "height": 640}


@pytest.fixture(scope="module")
def axe() -> str:
    """axe-core's source."""
    found = importlib.util.find_spec("axe_playwright_python")
    if found is None:
        pytest.skip("needs axe-core: pip install axe-playwright-python")
    return (Path(found.origin).parent / "axe.min.js").read_text(encoding="utf-8")


def faults(seat, axe: str) -> list[str]:
    """The serious and critical faults of what is on the page now."""
    if not seat.page.evaluate("'axe' in window"):
        seat.page.evaluate(axe)
    found = seat.page.evaluate("() => axe.run({resultTypes: ['violations']})")
    return [
        f"{fault['id']}: {fault['help']}: {fault['nodes'][0]['html'][:200]}"
        for fault in found["violations"]
        if fault["impact"] in ("serious", "critical")
    ]


def overflow(page) -> int:
    """Pixels that stick out to the right."""
    return page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


@pytest.mark.parametrize("mode", ITEMS)
def test_each_mode_by_phone(serve, sit, mode):
    served = serve([ITEMS[mode]], guidelines=GUIDELINES)
    seat = sit(served.address, viewport=PHONE, has_touch=True, is_mobile=True)
    seat.ready()
    assert overflow(seat.page) == 0
    for name in ("History", "Guidelines"):
        seat.page.get_by_role("button", name=name, exact=True).tap()
        seat.page.wait_for_selector("#drawer h2")
        assert overflow(seat.page) == 0
        seat.page.get_by_label(f"Close {name}").tap()
    if mode == "pairwise":
        seat.page.get_by_role("button", name="A better").tap()
    elif mode == "ranking":
        seat.page.get_by_label("Better place for C").tap()
        seat.page.get_by_role("button", name="Submit order").tap()
    elif mode == "rating":
        for scale in seat.page.locator(".scale").all():
            scale.get_by_text("3").tap()
        seat.page.get_by_role("button", name="Submit ratings").tap()
    else:
        seat.page.fill("#rewrite", "It.")
        seat.page.get_by_role("button", name="Submit your version").tap()
    seat.reads("All judged")
    assert overflow(seat.page) == 0
    assert len(served.said()) == 1


@pytest.mark.parametrize("mode", ITEMS)
def test_no_serious_fault_for_assistive_technology(serve, sit, axe, mode):
    served = serve([ITEMS[mode]], guidelines=GUIDELINES)
    seat = sit(served.address, color_scheme="dark" if mode in ("ranking", "rewrite") else "light")
    seat.ready()
    assert seat.page.is_visible("#drawer")
    assert faults(seat, axe) == []
    if mode == "pairwise":
        seat.press("d", "f", "1", "c")
        assert faults(seat, axe) == []
        seat.press("Escape", "?")
        assert faults(seat, axe) == []
        seat.press("Escape", "1")
        seat.reads("All judged")
        seat.press("h")
        seat.reads("A better", ".said")
        assert faults(seat, axe) == []


@pytest.mark.parametrize("scheme", ["light", pytest.param("dark", marks=pytest.mark.slow)])
def test_no_serious_fault_on_the_other_pages(serve, sit, axe, scheme):
    served = serve(
        [Item("pairwise", f"{n}?", ("one", "two")) for n in range(4)],
        LiveModel(lambda prompt, k: []),
        overlap=2,
    )
    for name in ("ann", "bob"):
        for _ in range(3):
            task = served.store.next_task(name)
            verdict = {"ann": ((0,), (1,)), "bob": ((0, 1),)}[name]
            served.store.submit(
                task.number, verdict_of(verdict), submission=f"{name}{task.number}", seconds=3.0
            )
    seat = sit(served.address, None, color_scheme=scheme)
    seat.page.wait_for_selector("#name")
    assert faults(seat, axe) == []
    seat.page.keyboard.type("cid")
    seat.press("Enter")
    seat.ready()
    seat.page.goto(f"{served.address}/live")
    seat.page.wait_for_selector("#prompt")
    assert faults(seat, axe) == []
    seat.page.goto(f"{served.address}/agreement")
    seat.reads("Pairwise comparisons")
    assert faults(seat, axe) == []
    seat.page.set_viewport_size(PHONE)
    assert overflow(seat.page) == 0


def verdict_of(ranking):
    from lit_rlhf.labelling.verdicts import Verdict

    return Verdict(ranking, strength="better" if len(ranking) == 2 else None)


def test_twice_the_size_fits_and_the_bar_lets_the_text_be_read(serve, sit):
    # 200 % zoom of a 1280 x 720 window
    seat = sit(
        serve([ITEMS["pairwise"]]).address, viewport={"width": 640, "height": 360}, device_scale_factor=2
    )
    seat.ready()
    assert overflow(seat.page) == 0
    assert seat.page.evaluate("getComputedStyle(document.querySelector('.bar')).position") == "static"

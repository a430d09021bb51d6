"""Somebody who sits at the page, and what she does there."""

from __future__ import annotations

from typing import Any

TOKEN = "token-of-the-owner"
BOUNCE = 260
"""Milliseconds in which the page takes no verdict on an item that has just appeared."""
PATIENCE = 10_000
"""Milliseconds until something that should happen has not."""


class Seat:
    """A browser context with one page.

    Args:
        context: of Playwright.
        address: of the server.
        token: that lets her in.
    """

    def __init__(self, context: Any, address: str, token: str = TOKEN) -> None:
        self.context, self.address, self.token = context, address, token
        self.troubles: list[str] = []
        self.expected: tuple[str, ...] = ()
        """What a trouble may hold without being one: a test that stops the server expects refused connections."""
        self.asked_to_stay = 0
        """How often the browser asked whether the page is to be left."""
        self.page = self.open_page()

    def open_page(self) -> Any:
        """Another tab; dialogs, errors, and requests to elsewhere are troubles."""
        page = self.context.new_page()
        page.set_default_timeout(PATIENCE)
        page.on("pageerror", lambda error: self._note(f"error: {error}"))
        page.on("console", lambda line: self._note(f"console: {line.text}") if line.type == "error" else None)
        page.on("request", lambda sent: self._look_at(sent.url))
        page.on("dialog", self._close)
        return page

    def _close(self, dialog: Any) -> None:
        if dialog.type == "beforeunload":
            self.asked_to_stay += 1
        else:
            self._note(f"dialog: {dialog.message}")
        dialog.accept()

    def _note(self, trouble: str) -> None:
        if not any(part in trouble for part in self.expected):
            self.troubles.append(trouble)

    def _look_at(self, url: str) -> None:
        if not url.startswith(f"{self.address}/"):
            self._note(f"request to elsewhere: {url[:200]}")

    def enter(self, path: str = "/", name: str | None = "ann") -> None:
        """Opens the page by its token; with a name, signs in by keyboard."""
        self.page.goto(f"{self.address}{path}?token={self.token}")
        if name is not None:
            self.page.wait_for_selector("#name")
            self.page.keyboard.type(name)
            self.page.keyboard.press("Enter")
            self.page.wait_for_selector("#top .who")

    def ready(self) -> int:
        """Waits until an item can be judged, and returns its task's number."""
        self.page.wait_for_selector("#work:not([inert]) .item")
        self.page.wait_for_timeout(BOUNCE)
        return self.task()

    def task(self) -> int:
        """The number of the task on the page."""
        return int(self.page.get_attribute(".item", "data-task"))

    def press(self, *keys: str) -> None:
        """One key after the other."""
        for key in keys:
            self.page.keyboard.press(key)

    def click(self, name: str) -> None:
        """Clicks the button that begins with these words."""
        self.page.locator("button", has_text=name).first.click()

    def after(self, task: int) -> None:
        """Waits until another item, or the end, has taken the place of this task."""
        self.page.wait_for_function(
            "task => document.querySelector('#work:not([inert])') && "
            "document.querySelector('.item')?.dataset.task !== String(task)",
            arg=task,
        )

    def reads(self, words: str, where: str = "body") -> None:
        """Waits until the page has these words."""
        self.page.locator(where, has_text=words).first.wait_for()

    def letters(self) -> dict[str, str]:
        """The letter under which each response stands, by its text."""
        cards = self.page.locator(".response").all()
        return {card.locator(".text").inner_text(): card.get_attribute("data-position") for card in cards}

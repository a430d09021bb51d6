"""One Chromium for all tests of this folder, servers on stores of items, and annotators who sit at them."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from starlette.types import ASGIApp

from browser.sitting import TOKEN, Seat
from lit_rlhf.labelling.items import Item, Settings
from lit_rlhf.labelling.server.access import Access
from lit_rlhf.labelling.server.app import create_app
from lit_rlhf.labelling.server.live import LiveModel
from lit_rlhf.labelling.server.running import base_address, listen
from lit_rlhf.labelling.store import LabelStore

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="package")
def chromium() -> Iterator[Any]:
    """The browser; it ends with the folder, because a loop of its own runs in this thread until then."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="needs playwright: pip install -e '.[test]'"
    )
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("needs Chromium on the PATH, such as Debian's package chromium")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=path, args=FLAGS)
        yield opened
        opened.close()


class Served:
    """A server with its store."""

    def __init__(self, store: LabelStore, address: str) -> None:
        self.store, self.address = store, address

    def said(self) -> list[dict[str, Any] | None]:
        """What is current in the store, by the item's own indices, in order."""
        return [one.verdict.to_json() if one.verdict else None for one in self.store.judgements()]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Served]]:
    """Serves items from a thread, with no repeats and no tests among them."""
    with ExitStack() as stack:

        def start(
            items: Sequence[Item] = (), live: LiveModel | None = None, guidelines: str = "", **settings: Any
        ) -> Served:
            store = stack.enter_context(LabelStore(tmp_path / "labels.db"))
            store.configure(Settings(**{"repeats": 0.0, "guidelines": guidelines, **settings}))
            store.add_items(items)
            address = stack.enter_context(running(create_app(store, Access(b"s" * 32, TOKEN), live=live)))
            return Served(store, address)

        yield start


@contextmanager
def running(app: ASGIApp) -> Iterator[str]:
    """The address of an application that answers until the block ends."""
    listening = listen("127.0.0.1", 0)
    config = uvicorn.Config(app, log_level="error", ws="none", lifespan="off", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield base_address(listening)
    finally:
        server.should_exit = True
        thread.join()
        listening.close()


@pytest.fixture
def sit(chromium: Any) -> Iterator[Callable[..., Seat]]:
    """Opens the page in a fresh profile and signs in; at the end nothing may have gone wrong on any of the pages."""
    seats: list[Seat] = []

    def take(
        address: str, name: str | None = "ann", path: str = "/", token: str = TOKEN, **context: Any
    ) -> Seat:
        options = {"viewport": {"width": 1280, "height": 800}, "reduced_motion": "reduce", **context}
        seat = Seat(chromium.new_context(**options), address, token)
        seats.append(seat)
        seat.enter(path, name)
        return seat

    yield take
    for seat in seats:
        seat.context.close()
    assert [trouble for seat in seats for trouble in seat.troubles] == []

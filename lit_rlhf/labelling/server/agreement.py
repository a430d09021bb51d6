"""How annotators agree, for whoever asks in a browser: counted by one thread of its own, once for all who wait."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import Any

from anyio import CapacityLimiter, to_thread

from lit_rlhf.labelling.server.answers import presentable
from lit_rlhf.labelling.store import LabelStore


@dataclass(frozen=True)
class _Counted:
    """What was counted, of which state of the file, and when that began."""

    state: Any
    began: float
    content: bytes


@dataclass
class AgreementPage:
    """What ``/api/agreement`` answers. Counting takes seconds where there is much: judging must not wait for it."""

    store: LabelStore
    _turn: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(1))
    _counted: _Counted | None = None
    _newest: int = 0

    async def answer(self) -> bytes:
        """JSON; nothing is counted again before somebody says something more."""
        asked = time.monotonic()
        return await to_thread.run_sync(self._content, asked, limiter=self._turn, abandon_on_cancel=True)

    def _content(self, asked: float) -> bytes:
        state = self._state()
        known = self._counted
        # what was begun while she waited for her turn is new enough, although more was said since
        if known is None or (known.state != state and known.began < asked):
            from lit_rlhf.labelling.agreement import describe  # brings torch, which nothing else here needs

            began = time.monotonic()
            content = json.dumps(presentable(describe(self.store)), ensure_ascii=False, allow_nan=False)
            self._counted = known = _Counted(state, began, content.encode())
        return known.content

    def _state(self) -> object:
        """Differs where anything was said, revised or taken back since."""
        self._newest = max((one.number for one in self.store.judgements(self._newest)), default=self._newest)
        # what is taken back leaves the numbers as they are, and one less with her who did it
        return self._newest, self.store.progress().by_annotator, self.store.machines()

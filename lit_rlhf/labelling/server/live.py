"""Prompts that are typed into the page, answered by a model that was loaded with the server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from anyio import to_thread
from starlette.exceptions import HTTPException

from lit_rlhf.labelling.items import Item, Prompt

MOST_WAITING = 20
"""Prompts that wait for the model at once."""


class LiveModel:
    """Draws responses, for one prompt at a time.

    Args:
        draw: a prompt and K to up to K responses, all different; a ``ValueError`` of it is said to who asked.
        name: of the model, for exports; never shown.
        k: responses where nobody says how many.
        is_chat: whether prompts are kept as a conversation's first message, as chat templates take them.
    """

    def __init__(
        self, draw: Callable[[str, int], Sequence[str]], name: str = "", k: int = 4, is_chat: bool = False
    ) -> None:
        self.draw, self.name, self.k, self.is_chat = draw, name, k, is_chat
        self._turn = asyncio.Lock()
        self._waiting = 0

    async def item(self, prompt: str, k: int) -> Item:
        """What is to be judged: a pair, or a ranking.

        Raises:
            HTTPException: 429, too many wait; 400, the prompt cannot be answered, or by one response only.
        """
        if self._waiting >= MOST_WAITING:
            raise HTTPException(429, "Too many prompts wait for the model; try again.", {"Retry-After": "5"})
        self._waiting += 1
        try:
            async with self._turn:
                drawn = await to_thread.run_sync(self.draw, prompt, k, abandon_on_cancel=True)
        except ValueError as error:
            raise HTTPException(400, str(error)) from error
        finally:
            self._waiting -= 1
        responses = tuple(dict.fromkeys(drawn))
        if len(responses) < 2:
            raise HTTPException(400, "The model says the same every time, so there is nothing to compare.")
        asked: Prompt = [{"role": "user", "content": prompt}] if self.is_chat else prompt
        models = (self.name,) * len(responses) if self.name else None
        return Item("pairwise" if len(responses) == 2 else "ranking", asked, responses, models=models)

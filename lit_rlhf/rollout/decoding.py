"""The decoding engine: prompts packed, rows dense, nothing padded, nothing computed for a response that is over.

Waiting prompts are computed packed in one row, each once for all of its responses; every unfinished response is a row
of one new token a step; a finished row makes room at once. Rows and prompts that do not fit into the stated number
of tokens wait.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lit_rlhf.models.actor_critic import ActorCritic
from lit_rlhf.models.decoding import Feed, most_over_ranks
from lit_rlhf.models.key_value_store import Buffers, PromptAttention
from lit_rlhf.models.policy import NextTokens, PolicyNetwork
from lit_rlhf.rollout.cuda_steps import COLUMNS_AT_A_TIME, StaticSteps, takes_static_steps
from lit_rlhf.rollout.responses import Recorder
from lit_rlhf.rollout.rows import KEY, LIMIT, RESPONSE, STEPS, TOKEN, Room, Rows
from lit_rlhf.rollout.settings import TOO_FEW_CACHED, SamplingSettings

PROMPT_TOKENS = 4096
"""Prompt tokens in one forward, unless one prompt has more."""
REFILL_SHARE = 8
"""Waiting prompts are taken in once this part of the rows is free: one by one they would be computed one by one."""


@dataclass
class Waiting:
    """A prompt with those of its responses that have not been begun."""

    ids: list[int]
    responses: list[int]


def group_by_prompt(prompts: list[list[int]]) -> list[Waiting]:
    """Equal prompts together, in the order in which they first come."""
    groups: dict[tuple[int, ...], Waiting] = {}
    for number, prompt in enumerate(prompts):
        groups.setdefault(tuple(prompt), Waiting(prompt, [])).responses.append(number)
    return list(groups.values())


def room_for(groups: list[Waiting], limits: list[int], budget: int | None, shares: bool = True) -> Room:
    """As many rows as the budget allows, and no more than there are responses.

    Args:
        groups: the prompts.
        limits: most tokens of each response.
        budget: tokens whose keys and values are held at once; None = any number.
        shares: whether a prompt with several responses is held once for all of them.

    Raises:
        ValueError: the budget is too small for one row.
    """
    if not groups:
        return Room(0, 0, 0, 0)
    count = sum(len(group.responses) for group in groups)
    longest_prompt, longest_response = max(len(group.ids) for group in groups), max(limits)
    longest = max(len(group.ids) + limits[number] for group in groups for number in group.responses)

    def room(rows: int) -> Room:
        if count == len(groups) or not shares:
            return Room(rows, 0, longest, 0)
        # the tail of several prompts may be under way at once: one more than so many rows have on average
        prompts = min(len(groups), -(-rows * len(groups) // count) + 1)
        return Room(rows, prompts, longest_response, longest_prompt)

    rows = count
    if budget is not None:
        rows = max(1, bisect_right(range(1, count + 1), budget, key=lambda rows: room(rows).tokens))
    found = room(rows)
    if budget is not None and found.tokens > budget:
        found = Room(1, min(found.prompts, 1), found.columns, found.prompt_columns)
        if found.tokens > budget:
            raise ValueError(TOO_FEW_CACHED.format(found.tokens, budget))
    return found


class Decoder:
    """One run of the engine over some prompts.

    Args:
        network: of a model that decodes through our attention.
        prompts: N lists of ids, none empty.
        keys: Long ``[N]``.
        limits: most tokens of each response.
        settings: how much is held at once.
        record: draws, keeps and judges the tokens.
        sharded: whether a forward is an act of all ranks together, so that those that are done go on with them.
        device: where the network is.
    """

    def __init__(
        self,
        network: PolicyNetwork | ActorCritic,
        prompts: list[list[int]],
        keys: Tensor,
        limits: list[int],
        settings: SamplingSettings,
        record: Recorder,
        sharded: bool,
        device: torch.device,
    ) -> None:
        self.network, self.record, self.sharded, self.device = network, record, sharded, device
        self.keys = keys
        self.limits = torch.tensor(limits, device=device, dtype=torch.long)
        self.waiting = deque(group_by_prompt(prompts))
        self.begun = 0  # responses that are no longer waiting
        static = takes_static_steps(device, sharded)
        room = room_for(list(self.waiting), limits, settings.max_cached_tokens, shares=not static)
        self.rows = Rows(room, device, COLUMNS_AT_A_TIME if static else 1)
        self.forward: Callable[[Feed], NextTokens] = network.next_token_logits
        if static:
            self.forward = StaticSteps(network, self.rows.buffers, device)

    def run(self, progress: Callable[[int], None]) -> None:
        """Decode until every response is over, telling `progress` how many are."""
        while True:
            forward = self._next_forward()
            if not self._anyone(forward is not None):
                return
            if forward is None:
                self._keep_company()
                continue
            forward()
            progress(self.begun - self.rows.count)

    def _next_forward(self) -> Callable[[], None] | None:
        room, rows = self.rows.room, self.rows
        free = room.rows - rows.count
        has_prompt_room = not room.prompts or len(rows.prompt_lengths) < room.prompts
        if self.waiting and has_prompt_room and (rows.count == 0 or free * REFILL_SHARE >= room.rows):
            return self._begin
        return self._go_on if rows.count else None

    def _begin(self) -> None:
        """Take in waiting prompts, compute them, and draw the first token of their responses."""
        rows, tokens = self.rows, 0
        prompts: list[list[int]] = []
        responses: list[list[int]] = []
        free = rows.room.rows - rows.count
        free_prompts = rows.room.prompts - len(rows.prompt_lengths) if rows.room.prompts else free
        while self.waiting and free and free_prompts:
            group = self.waiting[0]
            if prompts and tokens + len(group.ids) > PROMPT_TOKENS:
                break
            taken, group.responses = group.responses[:free], group.responses[free:]
            if not group.responses:
                self.waiting.popleft()
            prompts.append(group.ids)
            responses.append(taken)
            tokens, free, free_prompts = tokens + len(group.ids), free - len(taken), free_prompts - 1
        before = rows.count
        feed, source = rows.admit(prompts, responses, self.keys, self.limits)
        self.begun += len(source)
        self.record.begin(before, rows.count, source, prompts)
        seen = self.network.next_token_logits(feed)
        rows.hand_out_prompts(source)
        self._draw(before, seen, source)

    def _go_on(self) -> None:
        """Draw the next token of every row."""
        self._draw(0, self.forward(self.rows.next_tokens()), None)

    def _draw(self, first: int, seen: NextTokens, source: Tensor | None) -> None:
        """Draw for the rows from `first` on, whose logits are those at `source`, and let go of those that end."""
        rows, new = self.rows, slice(first, None)
        logits, values = seen.logits, seen.values
        if source is not None:
            logits, values = logits[source], None if values is None else values[source]
        steps = rows.field(STEPS)[new]
        tokens, ended = self.record.draw(
            first,
            rows.field(RESPONSE)[new],
            steps,
            rows.field(KEY)[new],
            rows.field(LIMIT)[new],
            logits,
            values,
        )
        rows.field(TOKEN)[new] = tokens
        steps += 1
        if bool(ended.any()):
            over = torch.zeros(rows.count, dtype=torch.bool, device=self.device)
            over[new] = ended
            self.record.move(*rows.leave(over))

    def _anyone(self, busy: bool) -> bool:
        """Whether this rank, or one that forwards together with it, has something to do."""
        return bool(most_over_ranks(int(busy), self.sharded, self.device))

    def _keep_company(self) -> None:
        """A forward of one token that nobody reads: sharded weights are gathered by all ranks or by none."""
        zero = torch.zeros(1, dtype=torch.long, device=self.device)
        buffers = Buffers(1, 1)
        buffers.grow(1)
        self.network.next_token_logits(Feed(zero, zero, PromptAttention(buffers, zero, zero), [1]))

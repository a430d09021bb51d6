"""The unfinished responses of a decoding run: what is known of each, and where its keys and values are."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor

from lit_rlhf.models.decoding import Feed
from lit_rlhf.models.key_value_store import Buffers, NextTokenAttention, PromptAttention, Sharing

FIELDS = RESPONSE, PROMPT, PROMPT_LENGTH, STEPS, TOKEN, KEY, LIMIT = range(7)
"""What a row's column of the table holds: number of its response, place of its prompt among those held, tokens of
the prompt, tokens that the response has, the newest of them, its key for randomness, most tokens it may have."""


@dataclass(frozen=True)
class Room:
    """How much is held at once."""

    rows: int
    prompts: int
    """Held once for all of their rows; 0 where every row holds its own."""
    columns: int
    """Tokens of a row."""
    prompt_columns: int
    """Tokens of a prompt that is held once."""

    @property
    def tokens(self) -> int:
        """Whose keys and values the full buffers hold."""
        return self.rows * self.columns + self.prompts * self.prompt_columns


class Rows:
    """The rows of a decoding run, kept dense: a finished one is overwritten by the last.

    Args:
        room: what there is room for.
        device: where the network is.
        columns_at_a_time: the rows' buffers grow to a multiple of so many tokens.
    """

    def __init__(self, room: Room, device: torch.device, columns_at_a_time: int = 1) -> None:
        self.room, self.device, self.columns_at_a_time = room, device, columns_at_a_time
        self.buffers = Buffers(room.rows, room.columns)
        self.prompt_buffers = Buffers(room.prompts, room.prompt_columns) if room.prompts else None
        self.prompt_lengths: list[int] = []  # of the prompts that are held once
        self._table = torch.zeros(len(FIELDS), room.rows, dtype=torch.long, device=device)
        self._numbers = torch.arange(room.rows, device=device)
        self._sharing: Sharing | None = None
        self._seen = 0  # columns of the rows' buffers that hold something
        self.count = 0

    def field(self, name: int) -> Tensor:
        """A field of :data:`FIELDS` for every row, Long ``[n]``, to read or to write."""
        return self._table[name, : self.count]

    def admit(
        self, prompts: list[list[int]], responses: list[list[int]], keys: Tensor, limits: Tensor
    ) -> tuple[Feed, Tensor]:
        """Take in prompts, each with some responses to it.

        Args:
            prompts: ids.
            responses: the numbers of each one's responses.
            keys: Long, of all responses.
            limits: Long, of all responses.
        Returns:
            What has to be computed, and for each new row the prompt among `prompts` that it follows, Long.
        """
        lengths = torch.tensor([len(prompt) for prompt in prompts])
        counts = torch.tensor([len(some) for some in responses])
        source = torch.arange(len(prompts)).repeat_interleave(counts)
        first, first_prompt = self.count, len(self.prompt_lengths)
        self.count += len(source)
        numbers = torch.tensor([number for some in responses for number in some])
        new = self._table[:, first : self.count]
        places = source + first_prompt if self.prompt_buffers else torch.zeros_like(source)
        known = (numbers, places, lengths[source], torch.zeros_like(source), torch.zeros_like(source))
        new[: len(known)] = torch.stack(known).to(self.device)
        new[KEY], new[LIMIT] = keys[numbers], limits[numbers]

        if self.prompt_buffers:
            buffers, holders = self.prompt_buffers, first_prompt + torch.arange(len(prompts))
            buffers.grow(int(lengths.max()))
            self.prompt_lengths += lengths.tolist()
            self._see(0)  # there are more rows, which may move before their first token is fed
        else:
            # the first of a prompt's rows; the others get copies
            buffers, holders = self.buffers, first + counts.cumsum(0) - counts
            self._see(int(lengths.max()))
        held = holders.repeat_interleave(lengths)
        positions = torch.cat([torch.arange(length) for length in lengths.tolist()]).to(self.device)
        feed = Feed(
            input_ids=torch.tensor([token for prompt in prompts for token in prompt], device=self.device),
            position_ids=positions,
            attention=PromptAttention(buffers, held.to(self.device), positions),
            prompt_lengths=lengths.tolist(),
        )
        self._sharing = None
        return feed, source.to(self.device)

    def hand_out_prompts(self, source: Tensor) -> None:
        """Copy each prompt that was computed for one of its new rows to the others, where rows hold their own.

        Args:
            source: of :meth:`admit`, in ascending order.
        """
        if self.prompt_buffers is not None:
            return
        first = self.count - len(source)
        holders, own = first + torch.searchsorted(source, source), self._numbers[first : self.count]
        copies = holders != own
        if bool(copies.any()):
            self.buffers.move(holders[copies], own[copies], self._seen)

    def next_tokens(self) -> Feed:
        """The newest token of every row, which the model has not seen yet."""
        positions = self.field(PROMPT_LENGTH) + self.field(STEPS) - 1
        columns = self.field(STEPS) - 1 if self.prompt_buffers else positions
        self._seen = 0
        self._see(int(columns.max()) + 1)
        attention = NextTokenAttention(
            buffers=self.buffers,
            rows=self._numbers[: self.count],
            columns=columns,
            sharing=self._who_shares(),
        )
        return Feed(self.field(TOKEN), positions, attention)

    def leave(self, ended: Tensor) -> tuple[Tensor, Tensor]:
        """Drop the rows where `ended`, Bool ``[n]``, is True; the last rows move into their places.

        Returns:
            The rows that moved and where to, Long each.
        """
        keep = ended.logical_not().nonzero().squeeze(1)
        left = len(keep)
        holes = ended[:left].nonzero().squeeze(1)
        movers = keep[keep >= left]
        if len(holes):
            self.buffers.move(movers, holes, self._seen)
            self._table[:, holes] = self._table[:, movers]
        self.count = left
        self._drop_prompts()
        self._sharing = None
        return movers, holes

    def _see(self, columns: int) -> None:
        """So many columns of the rows' buffers hold something, or will."""
        self._seen = max(self._seen, columns)
        rounded = -(-columns // self.columns_at_a_time) * self.columns_at_a_time
        # rows that left are not copied along; captured steps, for which columns are rounded, write to them too
        rows = self.count if self.columns_at_a_time == 1 else None
        self.buffers.grow(min(rounded, self.room.columns), rows)

    def _drop_prompts(self) -> None:
        """Prompts that no row looks at any more make room."""
        if self.prompt_buffers is None:
            return
        looked_at = set(self.field(PROMPT).tolist())
        for place in range(len(self.prompt_lengths) - 1, -1, -1):
            if place in looked_at:
                continue
            last = len(self.prompt_lengths) - 1
            if place != last:
                both = torch.tensor([last], device=self.device), torch.tensor([place], device=self.device)
                self.prompt_buffers.move(*both, self.prompt_lengths[last])
                self.prompt_lengths[place] = self.prompt_lengths[last]
                places = self.field(PROMPT)
                places[places == last] = place
            self.prompt_lengths.pop()

    def _who_shares(self) -> Sharing | None:
        if self.prompt_buffers is None:
            return None
        if self._sharing is None:
            places = self.field(PROMPT).tolist()
            width = max(Counter(places).values())
            taken: Counter[int] = Counter()
            slots = []
            for place in places:
                slots.append(place * width + taken[place])
                taken[place] += 1
            self._sharing = Sharing(
                buffers=self.prompt_buffers,
                slots=torch.tensor(slots, device=self.device),
                width=width,
                prompt_lengths=torch.tensor(self.prompt_lengths, device=self.device),
                columns=self.prompt_buffers.allocated,
                rows_in_order=slots == list(range(len(self.prompt_lengths) * width)),
            )
        return self._sharing

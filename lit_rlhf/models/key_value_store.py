"""Keys and values of responses that are being decoded, and the attention of their next tokens over them.

A row is one unfinished response. Where responses share a prompt, its keys and values are held, and read, once for
all of them; the rows then hold their response alone. Else a row holds its prompt too. Every layer has one pair of
buffers, ``[rows, key heads, columns, D_head]``; rows stay dense, so a step reads what it needs and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

COLUMNS_AT_A_TIME = 16
"""Buffers grow by this many tokens, or by that part of what they have. They are read as a whole, with what is not
filled yet masked out: a processor reads memory without gaps three times as fast."""


class Buffers:
    """One pair of buffers a layer, made when the layer first writes to them.

    Args:
        rows: how many there is room for.
        columns: the most tokens that a row may come to hold; the buffers grow up to it.
    """

    def __init__(self, rows: int, columns: int) -> None:
        self.rows, self.columns = rows, columns
        self.layers: dict[int, tuple[Tensor, Tensor]] = {}
        self.allocated, self.allocated_rows = 0, 0

    def grow(self, columns: int, rows: int | None = None) -> None:
        """Make room for so many tokens a row, at least.

        Args:
            columns: tokens of a row.
            rows: how many rows, from the first, hold something or will before the next call; None = all that there
                is room for. Where the buffers are made anew they have no more than these, since what nobody reads
                need not be copied along.
        """
        rows = self.rows if rows is None else rows
        if columns <= self.allocated and rows <= self.allocated_rows:
            return
        if columns > self.allocated:
            step = max(COLUMNS_AT_A_TIME, self.allocated // COLUMNS_AT_A_TIME)
            self.allocated = min(max(columns, self.allocated + step), self.columns)
        self.allocated_rows = rows
        for number, (keys, values) in self.layers.items():
            self.layers[number] = (self._resized(keys), self._resized(values))

    def places(self, heads: int, rows: Tensor, columns: Tensor) -> Tensor:
        """Where to put away T tokens of so many key heads, each at its row and column; good until the next growth."""
        firsts = rows[:, None] * heads + torch.arange(heads, device=rows.device)
        return (firsts * self.allocated + columns[:, None]).flatten()

    def write(self, layer: int, keys: Tensor, values: Tensor, places: Tensor) -> None:
        """Put away keys and values ``[T, key heads, D_head]`` of T tokens at their :meth:`places`."""
        if layer not in self.layers:
            shape = (self.allocated_rows, keys.shape[1], self.allocated)
            # zeros: what is masked out has weight 0, and 0 times what memory happens to hold may not be a number
            self.layers[layer] = (
                keys.new_zeros(*shape, keys.shape[2]),
                values.new_zeros(*shape, values.shape[2]),
            )
        for held, new in zip(self.layers[layer], (keys, values), strict=True):
            held.view(-1, held.shape[3]).index_copy_(0, places, new.reshape(-1, new.shape[2]))

    def move(self, sources: Tensor, targets: Tensor, columns: int) -> None:
        """Copy the first `columns` tokens of some rows over others."""
        for keys, values in self.layers.values():
            keys[targets, :, :columns] = keys[sources, :, :columns]
            values[targets, :, :columns] = values[sources, :, :columns]

    def _resized(self, held: Tensor) -> Tensor:
        resized = held.new_zeros(self.allocated_rows, held.shape[1], self.allocated, held.shape[3])
        resized[: len(held), :, : held.shape[2]] = held[: self.allocated_rows]
        return resized


@dataclass
class Sharing:
    """Which of the rows look at which shared prompt. Rows of a prompt stand in its slots, in any order."""

    buffers: Buffers
    """The prompts' own."""
    slots: Tensor
    """Long ``[n]``: prompt times `width` plus the row's place among its prompt's rows."""
    width: int
    """Slots of a prompt: the most rows that one has."""
    prompt_lengths: Tensor
    """Long ``[G]``."""
    columns: int
    """Of the buffers."""
    rows_in_order: bool
    """Whether `slots` is 0, 1, 2, ...: then there is nothing to rearrange."""

    @property
    def row_prompt_lengths(self) -> Tensor:
        """Long ``[n]``."""
        return self.prompt_lengths[self.slots // self.width]


@dataclass
class NextTokenAttention:
    """Attention of one new token in each of n rows; handed through the model to its attention layers."""

    buffers: Buffers
    rows: Tensor
    """Long ``[n]``: 0, 1, 2, ..."""
    columns: Tensor
    """Long ``[n]``: where the new token goes."""
    sharing: Sharing | None = None
    _masks: dict[int | None, Tensor] = field(default_factory=dict)
    _places: dict[int, Tensor] = field(default_factory=dict)

    def attend(
        self,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        scaling: float | None,
        window: int | None,
    ) -> Tensor:
        """``[1, n, heads, D_head]`` of queries ``[1, heads, n, D_head]`` over what is held and their own tokens."""
        layer: int = module.layer_idx  # type: ignore[assignment]  # transformers' attention layers number themselves
        scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
        query, key, value = (part[0].transpose(0, 1) for part in (query * scaling, key, value))
        return self.attend_rows(layer, query, key, value, window)[None]

    def attend_rows(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, window: int | None
    ) -> Tensor:
        """``[n, heads, D_head]`` of scaled queries of that shape, and of keys and values ``[n, key heads, D_head]``."""
        heads = key.shape[1]
        if heads not in self._places:
            self._places[heads] = self.buffers.places(heads, self.rows, self.columns)
        self.buffers.write(layer, key, value, self._places[heads])
        count = len(query)
        keys, values = (held[:count] for held in self.buffers.layers[layer])
        grouped = query.reshape(count, keys.shape[1], -1, query.shape[-1])
        scores = grouped @ keys.transpose(2, 3)
        if self.sharing is not None:
            prompt_keys, prompt_values = self.sharing.buffers.layers[layer]
            scores = torch.cat([self._prompt_scores(self.sharing, grouped, prompt_keys), scores], -1)
        scores += self._mask(window, scores.dtype)
        weights = torch.softmax(scores, -1, dtype=torch.promote_types(scores.dtype, torch.float32))
        weights = weights.to(values.dtype)
        if self.sharing is None:
            output = weights @ values
        else:
            prompt_weights, own_weights = weights.split([self.sharing.columns, values.shape[2]], -1)
            output = own_weights @ values + self._prompt_output(self.sharing, prompt_weights, prompt_values)
        return output.reshape(count, query.shape[1], -1)  # values may have another size than keys

    @staticmethod
    def _prompt_scores(sharing: Sharing, query: Tensor, keys: Tensor) -> Tensor:
        """``[n, key heads, group, P]``: all rows of a prompt against its keys in one multiplication."""
        prompts = len(sharing.prompt_lengths)
        by_prompt = _by_prompt(sharing, query)
        scores = by_prompt.flatten(2, 3) @ keys[:prompts].transpose(2, 3)
        return _by_row(sharing, scores.unflatten(2, by_prompt.shape[2:4]))

    @staticmethod
    def _prompt_output(sharing: Sharing, weights: Tensor, values: Tensor) -> Tensor:
        """``[n, key heads, group, D_head]``."""
        prompts = len(sharing.prompt_lengths)
        by_prompt = _by_prompt(sharing, weights)
        output = by_prompt.flatten(2, 3) @ values[:prompts]
        return _by_row(sharing, output.unflatten(2, by_prompt.shape[2:4]))

    def _mask(self, window: int | None, dtype: torch.dtype) -> Tensor:
        """``[n, 1, 1, columns]``, -inf where a row may not look and 0 elsewhere; made once a step for each window."""
        if window not in self._masks:
            own = torch.arange(self.buffers.allocated, device=self.columns.device)[None]
            newest = self.columns[:, None]
            hidden = own > newest
            if self.sharing is None:
                hidden = hidden if window is None else hidden | (own <= newest - window)
            else:
                lengths = self.sharing.row_prompt_lengths[:, None]
                prompt = torch.arange(self.sharing.columns, device=self.columns.device)[None]
                hidden_prompt = prompt >= lengths
                if window is not None:
                    hidden = hidden | (own <= newest - window)
                    hidden_prompt = hidden_prompt | (prompt <= lengths + newest - window)
                hidden = torch.cat([hidden_prompt, hidden], 1)
            # added to the scores: filling them where a mask of fewer dimensions says so is six times slower
            nothing = torch.zeros(hidden.shape, dtype=dtype, device=hidden.device)
            self._masks[window] = nothing.masked_fill_(hidden, -torch.inf)[:, None, None]
        return self._masks[window]


def _by_prompt(sharing: Sharing, rows: Tensor) -> Tensor:
    """``[n, heads, group, X]`` -> ``[G, heads, width, group, X]``, zero in empty slots."""
    if not sharing.rows_in_order:
        places = len(sharing.prompt_lengths) * sharing.width
        rows = rows.new_zeros(places, *rows.shape[1:]).index_copy_(0, sharing.slots, rows)
    return rows.unflatten(0, (-1, sharing.width)).transpose(1, 2)


def _by_row(sharing: Sharing, prompts: Tensor) -> Tensor:
    """Back from :func:`_by_prompt`."""
    rows = prompts.transpose(1, 2).flatten(0, 1)
    return rows if sharing.rows_in_order else rows[sharing.slots]


@dataclass
class PromptAttention:
    """Attention within prompts that are computed packed in one row, whose keys and values are put away."""

    buffers: Buffers
    rows: Tensor
    """Long ``[T]``: of the buffers, for each token."""
    columns: Tensor
    """Long ``[T]``."""

    def put_away(self, module: nn.Module, key: Tensor, value: Tensor) -> None:
        """Keep keys and values ``[1, key heads, T, D_head]``."""
        layer: int = module.layer_idx  # type: ignore[assignment]
        places = self.buffers.places(key.shape[1], self.rows, self.columns)
        self.buffers.write(layer, key[0].transpose(0, 1), value[0].transpose(0, 1), places)

"""Reference log-probabilities of whole splits in memory: computed once, looked up by row while training."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from time import monotonic
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from lit_rlhf.data.trees import pack_trees
from lit_rlhf.records import ResponseTrees, Tree

TOKENS_PER_FORWARD = 8192
"""A row longer than this has a forward of its own."""
SECONDS_BETWEEN_PARTS = 30
"""What an interruption loses at the most."""
SECONDS_BETWEEN_LINES = 10

WritePart = Callable[[Tensor, Tensor], Any]
"""Takes log-probabilities and the numbers of their responses."""


class ReferenceCache:
    """log π_ref(y|x) of every response of every row, by split and row number.

    Numbers are kept under the fingerprint of their rows, so that a split whose rows have changed is known not
    to be there.
    """

    def __init__(self) -> None:
        self.model = ""
        """Fingerprint of the reference that the numbers are of; empty where none is known."""
        self._numbers: dict[str, tuple[Tensor, Tensor]] = {}
        self._splits: dict[str, str] = {}

    def __contains__(self, split: str) -> bool:
        return split in self._splits

    def take_model(self, model: str) -> None:
        """From now on the numbers are of this reference; those of another are forgotten."""
        if model != self.model:
            self._numbers, self._splits = {}, {}
        self.model = model

    def assign(self, split: str, rows: str) -> bool:
        """Whether the numbers of these rows (by their fingerprint) are here; if so they are the split's."""
        self._splits.pop(split, None)
        if rows in self._numbers:
            self._splits[split] = rows
        return split in self._splits

    def put(self, split: str, rows: str, logprobs: Tensor, starts: Tensor) -> None:
        """Keep a split's numbers.

        Args:
            split: the name they are asked for by.
            rows: fingerprint of its rows.
            logprobs: float32 ``[N]``.
            starts: Long ``[rows + 1]``, where each row's responses begin.
        """
        self._numbers[rows] = logprobs, starts
        self._splits[split] = rows

    def look_up(self, split: str, batch: ResponseTrees) -> Tensor:
        """What was computed for the batch's responses, float32 ``[N]``, on the batch's device.

        Raises:
            ValueError: the batch's rows carry no number, so they cannot be found.
        """
        if (batch.row_indices < 0).any():
            raise ValueError(
                "reference_storage: precomputed needs rows numbered by the data modules of lit_rlhf; "
                "set model.reference_storage to frozen for batches of your own."
            )
        logprobs, starts = self._numbers[self._splits[split]]
        places = responses_of(batch.row_indices.cpu(), starts)
        return logprobs[places].to(batch.input_ids.device)

    def state_dict(self) -> dict[str, Any]:
        """Plain values: part of the checkpoint, since the policy has moved from the reference by then."""
        return {"model": self.model, "numbers": {rows: self._numbers[rows] for rows in self._splits.values()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        # Numbers that are here already stay: a sharded fit looks for its rows before its checkpoint comes.
        self.model = state["model"]
        self._numbers |= state["numbers"]


def responses_of(rows: Iterable[Any], starts: Tensor) -> Tensor:
    """Numbers of the rows' responses, row after row, Long ``[N]``."""
    return torch.cat([torch.arange(int(starts[row]), int(starts[row + 1])) for row in rows])


def lacking_rows(logprobs: Tensor, starts: Tensor) -> list[int]:
    """Rows with a response whose log-probability is NaN."""
    before = torch.cat([starts.new_zeros(1), logprobs.isnan().cumsum(0)])[starts]
    return (before.diff() > 0).nonzero().flatten().tolist()


def plan_forwards(trees: Sequence[Tree], rows: Iterable[int]) -> list[list[int]]:
    """Rows of like length together, within a bound of tokens; the longest first, so that they fit or fail at once."""
    forwards: list[list[int]] = []
    room = 0
    for row in sorted(rows, key=lambda row: -_padded_tokens(trees[row])):
        size = _padded_tokens(trees[row])
        if size > room:
            forwards.append([])
            room = TOKENS_PER_FORWARD
        forwards[-1].append(row)
        room -= size
    return forwards


def _padded_tokens(tree: Tree) -> int:
    """What a row takes on the padded path, the larger of the two."""
    return len(tree.response_ids) * (len(tree.prompt_ids) + max(map(len, tree.response_ids), default=0))


@torch.no_grad()
def fill(
    logprobs: Tensor,
    trees: Sequence[Tree],
    starts: Tensor,
    sequence_logprobs: Callable[[ResponseTrees], Tensor],
    write_part: WritePart,
    device: torch.device,
    data_rank: int,
    data_ranks: int,
) -> None:
    """Put in what lacks, each rank computing its share and all ranks seeing the whole.

    Args:
        logprobs: float32 ``[N]``, NaN where it lacks; filled in place.
        trees: the rows, in the order that batches number them.
        starts: Long ``[rows + 1]``, where each row's responses begin.
        sequence_logprobs: a batch to log π_ref(y|x), ``[N]``.
        write_part: keeps what is finished, on the first data rank, every :data:`SECONDS_BETWEEN_PARTS` and on an
            interruption.
        device: where the reference is.
        data_rank: which share is this process's.
        data_ranks: how many shares there are.

    Raises:
        FloatingPointError: a log-probability is not finite; the message names the row.
    """
    lacking = lacking_rows(logprobs, starts)
    forwards = plan_forwards(trees, lacking)
    progress = _Progress(sum(_padded_tokens(trees[row]) for row in lacking), len(lacking))
    pending: list[Tensor] = []
    try:
        for start in range(0, len(forwards), data_ranks):
            # Every rank does the same number of forwards, which a sharded reference needs.
            mine = forwards[min(start + data_rank, len(forwards) - 1)]
            found = sequence_logprobs(pack_trees([trees[row] for row in mine]).to(device)).float().cpu()
            for rows, values in _gathered((mine, found), data_ranks)[: len(forwards) - start]:
                places = responses_of(rows, starts)
                _check_finite(values, places, starts, trees)
                logprobs[places] = values
                pending.append(places)
                progress.count(sum(_padded_tokens(trees[row]) for row in rows), len(rows))
            if progress.part_is_due() and data_rank == 0:
                write_part(logprobs[torch.cat(pending)], torch.cat(pending))
                pending = []
            progress.say_if_due()
    except BaseException:
        if pending and data_rank == 0:
            write_part(logprobs[torch.cat(pending)], torch.cat(pending))
        raise


def _gathered(share: Any, data_ranks: int) -> list[Any]:
    """Every share; ranks that compute layers together, which stand side by side, have the same one."""
    if not torch.distributed.is_initialized():
        return [share]
    shares: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(shares, share)
    return shares[:: len(shares) // data_ranks]


def _check_finite(values: Tensor, places: Tensor, starts: Tensor, trees: Sequence[Tree]) -> None:
    wrong = places[~values.isfinite()]
    if wrong.numel():
        row = int(torch.searchsorted(starts, wrong[:1], right=True)) - 1
        raise FloatingPointError(
            f"{trees[row].id or f'row {row}'}: the reference gives a response the log-probability "
            f"{values[~values.isfinite()][0].item()}. Look at its weights, or at trainer.precision."
        )


class _Progress:
    """When to write and to speak, and how long it will take still."""

    def __init__(self, tokens: int, rows: int) -> None:
        self.tokens, self.rows = tokens, rows
        self._tokens_done = self._rows_done = 0
        self._start = self._wrote = self._spoke = monotonic()

    def count(self, tokens: int, rows: int) -> None:
        self._tokens_done += tokens
        self._rows_done += rows

    def part_is_due(self) -> bool:
        due = monotonic() - self._wrote >= SECONDS_BETWEEN_PARTS
        if due:
            self._wrote = monotonic()
        return due

    def say_if_due(self) -> None:
        now = monotonic()
        if now - self._spoke < SECONDS_BETWEEN_LINES:
            return
        self._spoke = now
        left = (now - self._start) * (self.tokens / self._tokens_done - 1)
        time_left = f"{left:.0f} s" if left < 90 else f"{left / 60:.0f} min"
        rank_zero_info(
            f"Reference log-probabilities: {self._rows_done} of {self.rows} rows, about {time_left} left"
        )

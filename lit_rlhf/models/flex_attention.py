"""Attention over response trees in one call on a GPU: torch's FlexAttention under a block mask.

The mask is made once a batch from the segments of the flat row, by blocks of 128 x 128 tokens: those that nobody
looks into are skipped, those that are seen in full need no mask, and only the others ask token by token. So
nothing of T x T is ever made. Eager FlexAttention would make it: here it always runs compiled.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from torch.nn.functional import pad
from transformers import PreTrainedModel

BLOCK = 128
"""Tokens of a block: FlexAttention's own size."""
DEVICES = {"cuda"}
"""Where the compiled kernel knows the way back (on CPU it has none)."""
HEAD_SIZES = range(16, 257)
"""Of one head; below, Triton's matrix product refuses, and above its blocks outgrow the shared memory."""

log = logging.getLogger(__name__)


class Segment(NamedTuple):
    """A run of tokens in the flat row."""

    length: int
    prompt: int | None
    """For a response, the number of its prompt's segment; None for a prompt."""


class Kernel:
    """Compiled when first called; given up for good, with one warning, where that fails.

    Compiled once for all lengths of the row, for they change with every batch. In fp32 it multiplies as
    ``torch.set_float32_matmul_precision`` says (TF32 on ``high``, as all of torch's matrix products).

    Args:
        compiled: makes what is called as ``flex_attention``.
    """

    def __init__(self, compiled: Callable[[], Callable[..., Tensor]]) -> None:
        self._make = compiled
        self._kernel: Callable[..., Tensor] | None = None
        self.failed = False

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor | None:
        """The attention, or None where it could not be compiled."""
        if self.failed:
            return None
        if self._kernel is None:
            self._kernel = self._make()
        try:
            # Networks, with and without gradient, each compile their own; the default limit is eight in all.
            with torch._dynamo.config.patch(recompile_limit=64):
                return self._kernel(*args, **kwargs)
        except (torch._dynamo.exc.TorchDynamoException, torch._dynamo.exc.FailOnRecompileLimitHit) as error:
            self.failed = True
            reason = str(error).strip().splitlines() or [""]
            log.warning(
                "FlexAttention could not be compiled here (%s: %s); response trees go on through SDPA.",
                type(error).__name__,
                reason[0],
            )
            return None


KERNEL = Kernel(lambda: torch.compile(flex_attention, dynamic=True, fullgraph=True))


def why_not_flex(model: PreTrainedModel) -> str | None:
    """What keeps the model's family from FlexAttention; None if nothing does."""
    if not model._supports_flex_attn:
        return "its family does not take FlexAttention"
    config = model.config.get_text_config()
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if size not in HEAD_SIZES:
        return f"FlexAttention takes heads of {HEAD_SIZES[0]} to {HEAD_SIZES[-1]}, not {size}"
    return None


def takes_flex(model: PreTrainedModel, device: torch.device) -> bool:
    """Whether the model's attention goes through FlexAttention on this device."""
    return device.type in DEVICES and not KERNEL.failed and why_not_flex(model) is None


class BlockMasks:
    """The block masks of one batch, each made when first asked for and shared by all layers.

    A model with full and sliding layers asks for two.
    """

    def __init__(self, segments: Sequence[Segment], device: torch.device) -> None:
        self._row = _padded(segments)
        self._device = device
        self._masks: dict[int | None, BlockMask] = {}

    def of(self, window: int | None) -> BlockMask:
        """The mask in which a token looks `window` positions back, itself included; None = to the start."""
        if window not in self._masks:
            self._masks[window] = block_mask(self._row, window, self._device)
        return self._masks[window]


def flex_tree_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: BlockMask, scaling: float | None
) -> Tensor | None:
    """Attention of the flat row under its mask.

    Args:
        query: ``[1, heads, T, D_head]``.
        key: ``[1, key heads, T, D_head]``.
        value: as `key`.
        mask: of the row, T rounded up to whole blocks.
        scaling: of the products; None = 1/√D_head.
    Returns:
        ``[1, heads, T, D_head]``, or None where there is no kernel for it.
    """
    if query.shape[-1] not in HEAD_SIZES or value.shape[-1] not in HEAD_SIZES:
        return None
    device = query.device.type
    if torch.is_autocast_enabled(device):
        # FlexAttention stands on no list of autocast's, and rotary embeddings leave query and key in fp32.
        dtype = torch.get_autocast_dtype(device)
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    length = query.shape[2]
    groups = query.shape[1] // key.shape[1]
    query, key, value = (pad(x, (0, 0, 0, mask.shape[-1] - length)) for x in (query, key, value))
    output = KERNEL(query, key, value, block_mask=mask, scale=scaling, enable_gqa=groups > 1)
    return None if output is None else output[:, :, :length]


def block_mask(segments: Sequence[Segment], window: int | None, device: torch.device) -> BlockMask:
    """Who looks at whom in a row of whole blocks, as FlexAttention takes it.

    Args:
        segments: of the row; their lengths add up to a multiple of 128.
        window: how many positions back a token may look, itself included.
        device: of the mask.
    """
    lengths = torch.tensor([segment.length for segment in segments])
    number = torch.arange(len(segments))
    prompts = torch.tensor([n if s.prompt is None else s.prompt for n, s in enumerate(segments)])
    starts = lengths.cumsum(0) - lengths
    position_starts = torch.where(prompts == number, 0, lengths[prompts])
    own = number.repeat_interleave(lengths)
    prompt = prompts[own]
    position = torch.arange(len(own)) - (starts - position_starts)[own]
    earliest = torch.zeros_like(position) if window is None else position - window + 1

    some = _seen_blocks(segments, starts.tolist(), len(own) // BLOCK)
    own_low, own_high = _extremes(own)
    tree_low, tree_high = _extremes(prompt)
    later = torch.ones_like(some).tril(-1)
    in_one_segment, in_one_tree = own_low == own_high, tree_low == tree_high
    # In full: a block inside a branch sees an earlier one inside it, and a block inside a tree one inside its prompt.
    branch = in_one_segment[:, None] & (own_low[:, None] == own_low)
    below_prompt = in_one_tree[:, None] & (tree_low[:, None] == own_low)
    full = later & in_one_segment & (branch | below_prompt)
    if window is not None:
        low, high = _extremes(position)
        some &= low[:, None] - high < window
        full &= high[:, None] - low < window

    own, prompt, position, earliest = (x.int().to(device) for x in (own, prompt, position, earliest))

    def sees(_batch: Tensor, _head: Tensor, i: Tensor, j: Tensor) -> Tensor:
        in_path = (own[j] == own[i]) | (own[j] == prompt[i])
        return (j <= i) & in_path & (position[j] >= earliest[i])

    return BlockMask.from_kv_blocks(
        *_ordered(some & ~full), *_ordered(full), BLOCK_SIZE=BLOCK, mask_mod=sees
    ).to(device)


def _padded(segments: Sequence[Segment]) -> list[Segment]:
    """The segments with a tree of padding behind them that fills the last block.

    Two blocks at the least: a size of one would be compiled apart, and so would rows shorter than a block.
    """
    length = sum(segment.length for segment in segments)
    rest = max(2 * BLOCK, -(-length // BLOCK) * BLOCK) - length
    return [*segments, Segment(rest, None)] if rest else list(segments)


def _seen_blocks(segments: Sequence[Segment], starts: list[int], blocks: int) -> Tensor:
    """Bool ``[blocks, blocks]``: True where a token of the row's block looks at one of the column's."""
    seen = torch.zeros(blocks, blocks, dtype=torch.bool)
    touched = [
        slice(start // BLOCK, -(-(start + segment.length) // BLOCK))
        for start, segment in zip(starts, segments, strict=True)
    ]
    for number, segment in enumerate(segments):
        if segment.length == 0:
            continue
        seen[touched[number], touched[number]] = True
        if segment.prompt is not None:
            seen[touched[number], touched[segment.prompt]] = True
    return seen.tril()


def _extremes(of_tokens: Tensor) -> tuple[Tensor, Tensor]:
    """The lowest and the highest of each block."""
    blocks = of_tokens.view(-1, BLOCK)
    return blocks.amin(1), blocks.amax(1)


def _ordered(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """How many blocks a row looks at, ``[1, 1, blocks]``, and which, those first, ``[1, 1, blocks, blocks]``."""
    count = blocks.sum(1, dtype=torch.int32)
    which = blocks.int().argsort(dim=1, descending=True, stable=True).int()
    return count[None, None], which[None, None]

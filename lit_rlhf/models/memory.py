"""How many bytes a decoder's forward and backward keep: arithmetic on sizes, nothing is loaded or run.

The formulas count what *this* code keeps, in the order of the forward: transformers' Llama-like layers with the
attention of :mod:`lit_rlhf.models.tree_attention`, the last layer of :mod:`lit_rlhf.models.last_layer` and the head of
:mod:`lit_rlhf.models.head`. A tensor counts where autograd holds it for the backward, once however many hold it. The
method is that of Korthikanti et al. 2022 (https://arxiv.org/abs/2205.05198, section 4), whose layer keeps other things.

Letters beside those of ``records.py``: ``D`` hidden, ``Q`` heads times head size, ``F`` the feed-forward network's
width, ``T`` tokens of the row and ``M`` those whose last state is read.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass

FULL = 4
"""Bytes of fp32."""


@dataclass(frozen=True)
class NetworkSize:
    """Sizes of a decoder, as its ``config.json`` and its parameters on the meta device give them."""

    hidden: int
    layers: int
    heads: int
    key_heads: int
    head_size: int
    intermediate: int
    vocabulary: int
    gated: bool
    """Whether the feed-forward network is gated, as Llama's (three maps), or plain, as GPT-2's (two)."""
    parameters: int
    """All of them, tied ones once."""
    layer_parameters: int
    """Of the largest layer."""
    layer_weights: int
    """Those of its parameters that are matrices of linear maps."""
    root_parameters: int
    """Those outside the layers: embeddings, the last norm, and the head or a scorer's."""
    tied: bool
    """Whether the language-model head is the input embeddings' matrix."""

    @property
    def queries(self) -> int:
        """Q."""
        return self.heads * self.head_size


@dataclass(frozen=True)
class Widths:
    """Bytes of an element."""

    weights: int
    """Of a stored weight."""
    compute: int
    """Of what linear maps read and write: half of the weights' under autocast."""

    @property
    def mixed(self) -> bool:
        """Whether autocast casts what it computes with: the residual stream stays as wide as the weights."""
        return self.compute < self.weights


@dataclass(frozen=True)
class Trained:
    """What of a decoder's layers is trained."""

    weights: bool
    """Its own weights."""
    adapted: frozenset[str] = frozenset()
    """The last part of the names of linear maps with adapters."""
    rank: int = 0
    """Of the adapters."""

    def inputs(self, *maps: str) -> int:
        """How many of these linear maps need their input in the backward."""
        return len(maps) if self.weights else len(self.adapted.intersection(maps))


@dataclass(frozen=True)
class RowSize:
    """Tokens of one rank's micro-batch, a flat row of response trees."""

    tokens: int
    """T."""
    read: int
    """M: positions that predict a counted token, or those where a score is read."""
    keys: int
    """Tokens whose keys attention holds: T, and Σ (P + R) over branches of several, which copy their prompt's."""
    masks: int
    """Elements of the masks of those branches, Σ R·(P + R)."""
    last_masks: int
    """The same in the last layer, where a segment of which few tokens are read has a mask of those."""

    def __add__(self, other: RowSize) -> RowSize:
        mine, theirs = astuple(self), astuple(other)
        return RowSize(*(one + two for one, two in zip(mine, theirs, strict=True)))


def row_of_trees(trees: int, prompt: int, response: int, branches: int, scores: bool) -> RowSize:
    """The row of trees that are all alike.

    Args:
        trees: how many.
        prompt: P, tokens of a prompt.
        response: R, tokens of a response, all of which count.
        branches: K, responses of a prompt.
        scores: whether only the last token of each response is read, as a scorer does.
    """
    whole = prompt + response
    read = branches * (1 if scores else response)
    few = 2 * (1 if scores else response) <= (whole if branches == 1 else response)
    masks = 0 if branches == 1 else branches * response * whole
    return RowSize(
        tokens=trees * (prompt + branches * response),
        read=trees * read,
        keys=trees * (whole if branches == 1 else prompt + branches * (response + whole)),
        masks=trees * masks,
        last_masks=trees * (read * whole if few else masks),
    )


def kept_by_layer(
    size: NetworkSize, widths: Widths, trained: Trained, row: RowSize, flex: bool, split: int = 1
) -> int:
    """Bytes that one layer's forward keeps for the backward, weights left out.

    In fp32 with all weights trained and one response a prompt 4·T·(6·D + 5·Q + 4·F): two norms keep their input,
    what they normalised and what they give; attention its queries, its keys and values (copied for the query heads
    that share them), its output, and that laid out for the next map; the network its two branches, the activation and
    the product. A map that is not trained keeps no input; under autocast each that is keeps a cast of its own.

    Args:
        size: of the decoder.
        widths: bytes of an element.
        trained: what is trained.
        row: the micro-batch.
        flex: whether attention is FlexAttention, which copies no keys and makes no masks.
        split: ranks that share out each map by tensor parallelism; the residual stream is not shared out.
    """
    queries = size.queries // split
    kept = 2 * row.tokens * _norm(size, widths, trained)
    kept += _inputs(size, widths, trained, row.tokens, "q_proj", "k_proj", "v_proj")
    kept += _attended(size, widths, row, row.tokens, row.masks, flex, split)
    kept += widths.compute * row.tokens * queries * trained.inputs("o_proj")
    return kept + _network(size, widths, trained, row.tokens, split) + _adapters(widths, trained, row.tokens)


def kept_by_last_layer(
    size: NetworkSize, widths: Widths, trained: Trained, row: RowSize, flex: bool, split: int = 1
) -> int:
    """As :func:`kept_by_layer`, of the layer that computes queries and the network at M positions alone.

    What is put back among all positions is kept once more, M·(Q + 2·D).
    """
    queries = size.queries // split
    kept = 2 * row.tokens * _norm(size, widths, trained)
    kept += _inputs(size, widths, trained, row.read, "q_proj")
    kept += _inputs(size, widths, trained, row.tokens, "k_proj", "v_proj")
    kept += _attended(size, widths, row, row.tokens if flex else row.read, row.last_masks, flex, split)
    kept += widths.compute * row.read * (queries * trained.inputs("o_proj") + queries + 2 * size.hidden)
    return kept + _network(size, widths, trained, row.read, split) + _adapters(widths, trained, row.read)


def _norm(size: NetworkSize, widths: Widths, trained: Trained) -> int:
    """A token's share of one norm: it computes in fp32, and keeps what it normalised where its weight is trained."""
    return FULL * (size.hidden + 1) + (widths.weights * size.hidden if trained.weights else 0)


def _inputs(size: NetworkSize, widths: Widths, trained: Trained, tokens: int, *maps: str) -> int:
    """What maps that read the same states keep of them: one tensor, but under autocast a cast each."""
    wanted = trained.inputs(*maps)
    return tokens * size.hidden * widths.compute * (wanted if widths.mixed else min(wanted, 1))


def _attended(
    size: NetworkSize, widths: Widths, row: RowSize, asked: int, masks: int, flex: bool, split: int
) -> int:
    """Keys and values, queries and outputs of the tokens that ask, a softmax denominator a head, and masks."""
    queries = size.queries // split
    keys = row.tokens * size.key_heads * size.head_size // split if flex else row.keys * queries
    kept = widths.compute * (2 * keys + 2 * asked * queries) + FULL * asked * size.heads // split
    return kept if flex else kept + widths.compute * masks


def _network(size: NetworkSize, widths: Widths, trained: Trained, tokens: int, split: int) -> int:
    """The feed-forward network: gated, or plain with an activation of elementary operations, as GPT-2's."""
    names = ("gate_proj", "up_proj", "down_proj") if size.gated else ("c_fc", "c_proj")
    own = 3 if size.gated else 4
    kept = widths.compute * tokens * (size.intermediate // split) * (own + trained.inputs(names[-1]))
    return kept + _inputs(size, widths, trained, tokens, *names[:-1])


def _adapters(widths: Widths, trained: Trained, tokens: int) -> int:
    """What adapters have between their two maps."""
    return widths.compute * tokens * trained.rank * len(trained.adapted)


def kept_around_layers(size: NetworkSize, widths: Widths, trained: Trained, row: RowSize) -> int:
    """Bytes that a trunk keeps outside its layers: the last norm, the states that are read, cosines and sines."""
    states = widths.weights * row.read * size.hidden
    return row.tokens * (_norm(size, widths, trained) + 2 * widths.weights * size.head_size) + states


def kept_by_trunk(
    size: NetworkSize, widths: Widths, trained: Trained, row: RowSize, flex: bool, split: int = 1
) -> int:
    """Bytes that a whole forward keeps, activation checkpointing off; of autocast's copies of weights see below."""
    layers = (size.layers - 1) * kept_by_layer(size, widths, trained, row, flex, split)
    layers += kept_by_last_layer(size, widths, trained, row, flex, split)
    return layers + kept_around_layers(size, widths, trained, row)


def kept_with_checkpointing(size: NetworkSize, widths: Widths, trained: Trained, row: RowSize) -> int:
    """Bytes that a whole forward keeps where layers run again in the backward: the input of each."""
    inputs = size.layers * row.tokens * size.hidden * widths.weights
    return inputs + kept_around_layers(size, widths, trained, row)


def cast_weights(size: NetworkSize, widths: Widths, layers: int, split: int = 1) -> int:
    """Bytes of autocast's copies of so many layers' matrices: the backward needs them, and each is one of its own."""
    return widths.compute * layers * size.layer_weights // split if widths.mixed else 0


@dataclass(frozen=True)
class HeadPeak:
    """Bytes that the language-model head needs for a moment."""

    forward: int
    backward: int


def head_peak(
    size: NetworkSize, widths: Widths, read: int, trained: bool, logits: int, rest: int
) -> HeadPeak:
    """What the head takes above what is kept: one chunk's logits, in the backward with their gradients.

    The backward of a chunk computes its logits again, in fp32, and writes their gradient over them. The gradient of
    the matrix is summed over chunks: the sum and the newest part are there together.

    Args:
        size: of the decoder.
        widths: bytes of an element.
        read: M.
        trained: whether the head's matrix is.
        logits: most logits of a chunk, :data:`lit_rlhf.models.head.MAX_LOGITS`.
        rest: logits of which the softmax has a second copy, :data:`lit_rlhf.models.head.CACHED_LOGITS`.
    """
    rows = min(read, max(1, logits // size.vocabulary))
    chunks = -(-read // rows) if rows else 0
    count, matrix = rows * size.vocabulary, size.vocabulary * size.hidden
    narrow = widths.compute if widths.compute < FULL else 0
    cast = widths.compute * matrix if widths.mixed else 0
    forward = max(count * (narrow + FULL), count * FULL + FULL * min(count, rest), cast + narrow * count)
    gradient = widths.weights * matrix * min(chunks, 2) if trained else 0
    backward = count * (FULL + narrow) + cast + gradient + (cast if trained else 0)
    return HeadPeak(forward, backward)


def key_value_bytes(size: NetworkSize, widths: Widths, tokens: int, split: int = 1) -> int:
    """Bytes of the keys and values of so many tokens: under autocast rotary embeddings leave keys in full."""
    return size.layers * tokens * size.key_heads * size.head_size * (widths.weights + widths.compute) // split


def passing_bytes(size: NetworkSize, widths: Widths, tokens: int, split: int = 1) -> int:
    """Bytes that a forward without gradient holds for a moment: a layer's states and its widest products."""
    wide = 3 if size.gated else 4
    return tokens * (wide * widths.compute * size.intermediate // split + 3 * widths.weights * size.hidden)


def flowing_bytes(size: NetworkSize, widths: Widths, tokens: int, split: int = 1) -> int:
    """Bytes of the gradients of states that a layer's backward holds for a moment: two of the network's, two others."""
    return 2 * tokens * (widths.compute * size.intermediate // split + widths.weights * size.hidden)


def drawing_bytes(size: NetworkSize, widths: Widths, rows: int, columns: int) -> int:
    """Bytes that one step of sampling holds for a moment, keys and values left out.

    Logits as the model gives them and in fp32, probabilities, and logits made finite, ``[n, V]``; or a layer's
    attention scores, with its prompt's, and weights, ``[n, heads, columns]``.
    """
    narrow = widths.compute if widths.compute < FULL else 0
    logits = rows * size.vocabulary * (3 * FULL + narrow)
    scores = rows * size.heads * columns * (2 * widths.weights + FULL)
    return max(logits, scores)

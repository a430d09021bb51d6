"""What crosses rooms: text rows, token trees, batches, experience. Torch only.

Letters, used in every shape of the project:

====  =====================================================================
B     prompts in a batch (one tree each)
K     responses of one prompt
N     responses in the batch, all prompts together
P     prompt tokens
R     response tokens (the longest of the batch, where a grid is meant)
T     tokens in a packed row, prompts and responses together
C     comparisons in the batch
V     vocabulary
D     hidden size
====  =====================================================================

Masks are True where the token counts. A *grid* is a per-token quantity of the responses as
``[N, R]``, response tokens left-aligned, zero where its mask is False.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor

Message: TypeAlias = dict[str, str]
"""One turn of a conversation: ``{"role": ..., "content": ...}``."""
Prompt: TypeAlias = str | list[Message]
Response: TypeAlias = str | list[Message]
"""The text, or the turns that follow the prompt (user turns among them are not counted)."""


@dataclass(frozen=True)
class Comparison:
    """What somebody said of two responses of one prompt."""

    better: int
    """Index of the preferred response among the row's responses."""
    worse: int
    """Index of the other one."""
    target: float = 1.0
    """Probability that `better` is better: 1, 1/2 for a tie, or the share of votes."""
    margin: float = 0.0
    """By how much it is better, in units of the score; 0 where nobody said."""
    weight: float = 1.0
    """How much the comparison counts."""
    tie: float = 0.0
    """Share of the judgements that were ties; `target` has half of it."""


@dataclass(frozen=True)
class Label:
    """What somebody said of one response by itself."""

    desirable: bool
    """Whether it is as it should be."""
    weight: float = 1.0
    """How much the label counts."""


@dataclass(frozen=True)
class Vote:
    """One annotator's judgement of the two responses of a row."""

    annotator: str
    choice: float
    """1 = the first response is better, 0 = the second, 1/2 = a tie."""


@dataclass
class Row:
    """One line of a data file in the project's one shape: a prompt with its responses."""

    prompt: Prompt
    responses: list[Response] = field(default_factory=list)
    comparisons: list[Comparison] = field(default_factory=list)
    ranks: list[float | None] | None = None
    """Per response, 1 = best, equal = tie, None = not judged."""
    ratings: list[float | None] | None = None
    """Per response what somebody gave it, higher = better, None = not rated; in the annotator's own scale."""
    votes: list[Vote] = field(default_factory=list)
    """Where several people judged the same two responses; `comparisons` is what was made of them."""
    labels: list[Label] = field(default_factory=list)
    """One a response, where each was judged by itself; else none."""
    is_text: bool = False
    """A `text` row: no prompt, and text over the limit is cut into windows instead of truncated."""
    domain: str | None = None
    annotator: str | None = None
    id: str | None = None
    columns: dict[str, Any] = field(default_factory=dict)
    """Every other field of the line; handed to reward functions."""
    place: str = ""
    """``file:line``, for messages."""


@dataclass
class Tree:
    """A row in tokens: a prompt and its branches."""

    prompt_ids: list[int]
    response_ids: list[list[int]] = field(default_factory=list)
    response_masks: list[list[bool]] = field(default_factory=list)
    """Per response, True where the token counts (the EOS does)."""
    comparisons: list[Comparison] = field(default_factory=list)
    ranks: list[float | None] | None = None
    ratings: list[float | None] | None = None
    domain: str | None = None
    annotator: str | None = None
    id: str = ""
    """The row's id, or its place where it has none."""
    labels: list[Label] = field(default_factory=list)
    """One a response, or none."""

    @property
    def num_tokens(self) -> int:
        return len(self.prompt_ids) + sum(map(len, self.response_ids))


@dataclass
class ResponseTrees:
    """Trees packed end to end in one flat row: each prompt once, its responses behind it.

    Token i may look at token j when both are in the same tree, j is not later, and j is in the
    prompt or in i's own branch. Padding never enters.
    """

    input_ids: Tensor
    """Long ``[T]``."""
    position_ids: Tensor
    """Long ``[T]``; restart at the end of the prompt for every branch."""
    response_index: Tensor
    """Long ``[T]``: which of the N responses the token belongs to, -1 in a prompt."""
    response_mask: Tensor
    """Bool ``[T]``: True where a response token counts, its EOS included."""
    prompt_lengths: list[int]
    """Tokens of each prompt, B of them."""
    response_lengths: list[int]
    """Tokens of each response, N of them."""
    tree_index: Tensor
    """Long ``[N]``: the tree (prompt) of each response."""
    better: Tensor
    """Long ``[C]``: the preferred response of each comparison, an index into the N responses."""
    worse: Tensor
    """Long ``[C]``."""
    target: Tensor
    """Float ``[C]``: probability that `better` is better."""
    margin: Tensor
    """Float ``[C]``, in units of the score."""
    weight: Tensor
    """Float ``[C]``; see :class:`Comparison`."""
    tie: Tensor
    """Float ``[C]``: share of the judgements that were ties, half of it in `target`."""
    ranks: Tensor
    """Float ``[N]``, 1 = best, NaN = not judged."""
    ratings: Tensor
    """Float ``[N]``, higher = better, in the scale of the row's annotator, NaN = not rated."""
    desirable: Tensor
    """Float ``[N]``: 1 = somebody called the response desirable, 0 = undesirable, NaN = it has no label."""
    label_weight: Tensor
    """Float ``[N]``: see :class:`Label`; 0 where there is no label."""
    domains: list[str | None]
    """One per tree."""
    annotators: list[str | None]
    """One per tree."""
    row_ids: list[str]
    """One per tree."""
    row_indices: Tensor
    """Long ``[B]``: the place of the tree in its data set, -1 where it has none."""

    @property
    def num_trees(self) -> int:
        """B."""
        return len(self.prompt_lengths)

    @property
    def num_responses(self) -> int:
        """N."""
        return len(self.response_lengths)

    @property
    def segment_lengths(self) -> list[int]:
        """Lengths in the order of the flat row: prompt, its responses, prompt, its responses, ..."""
        lengths: list[int] = []
        response = 0
        counts = torch.bincount(self.tree_index.cpu(), minlength=self.num_trees).tolist()
        for prompt_length, count in zip(self.prompt_lengths, counts, strict=True):
            lengths.append(prompt_length)
            lengths.extend(self.response_lengths[response : response + count])
            response += count
        return lengths

    def grid(self, flat: Tensor) -> Tensor:
        """Per-token values ``[T]`` of the flat row as a grid ``[N, R]``, zero outside the responses."""
        in_response = self.response_index >= 0
        lengths = torch.tensor(self.response_lengths, device=flat.device)
        width = max(self.response_lengths, default=0)
        inside = torch.arange(width, device=flat.device)[None, :] < lengths[:, None]
        out = flat.new_zeros(self.num_responses, width)
        out[inside] = flat[in_response]
        return out

    def response_grid_mask(self) -> Tensor:
        """`response_mask` as a grid, bool ``[N, R]``."""
        return self.grid(self.response_mask)

    def comparison_weights(self, without_ties: bool = False) -> Tensor:
        """What each comparison adds to a mean over prompts of per-prompt means, ``[C]``.

        A prompt with C(K,2) comparisons weighs as much as one with a single pair; explicit weights multiply.

        Args:
            without_ties: comparisons that are nothing but a tie add nothing, and are not among those of their prompt.
        """
        tree = self.tree_index[self.better]
        counted = self.tie < 1 if without_ties else torch.ones_like(self.tie, dtype=torch.bool)
        per_tree = torch.bincount(tree[counted], minlength=self.num_trees)
        return torch.where(counted, self.weight / per_tree[tree], 0.0)

    def label_weights(self) -> Tensor:
        """What each response with a label adds to a mean over prompts of per-prompt means, ``[N]``; others 0."""
        labelled = ~self.desirable.isnan()
        per_tree = torch.bincount(self.tree_index[labelled], minlength=self.num_trees)
        return torch.where(labelled, self.label_weight / per_tree[self.tree_index], 0.0)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> ResponseTrees:
        """The same batch with every tensor on `device`."""
        moved = {
            f.name: getattr(self, f.name).to(device, non_blocking=non_blocking)
            for f in fields(self)
            if isinstance(getattr(self, f.name), Tensor)
        }
        return replace(self, **moved)


@dataclass
class Experience:
    """One iteration's responses with everything an update needs, over all ranks.

    Grids are ``[N, R]``; see the module's letters.
    """

    prompt_ids: list[list[int]]
    """N lists."""
    response_ids: list[list[int]]
    """N lists; an EOS, where one was drawn, is the last."""
    prompt_names: list[str]
    """N names for messages: the row's id, or its place."""
    prompt_index: Tensor
    """Long ``[N]``: which of the iteration's prompts it answers; responses of one prompt are a group."""
    response_mask: Tensor
    """Bool grid, made from the lengths."""
    sampled_logprobs: Tensor
    """Grid: log-probability of each token as the sampler gave it."""
    old_logprobs: Tensor
    """Grid: what the update takes its ratio to: the sampler's, or recomputed where the two differ."""
    recomputed_logprobs: Tensor
    """Grid: by the forward that the update uses; NaN in responses that were not looked at again."""
    reference_logprobs: Tensor
    """Grid."""
    values: Tensor
    """Grid: the critic's value before each token."""
    scores: Tensor
    """``[N]``: what the reward said of each response."""
    shaped_scores: Tensor
    """``[N]``: what was made of it for training: length penalties, running scale, clip."""
    gold_scores: Tensor
    """``[N]``: what the gold reward said, which trains nothing; NaN where there is none."""
    failed: Tensor
    """Bool ``[N]``: its reward failed and was skipped; it counts nowhere, and its scores are 0."""
    ranks: Tensor
    """Float ``[N]``: among the responses of its prompt, 1 = best, equal = tie, NaN = not judged; where comparisons are
    what is learnt."""
    weights: Tensor
    """``[N]``: what the response counts in training, where that is not the same for all."""
    entropy: Tensor
    """Grid: entropy of the distribution each token was drawn from, in nats."""
    rewards: Tensor
    """Grid: the shaped score at the last token minus the KL price of each token."""
    advantages: Tensor
    """Grid, whitened where the module whitens."""
    returns: Tensor
    """Grid, in the scale of the rewards: what the critic learns."""
    truncated: Tensor
    """Bool ``[N]``: no EOS within the limit."""

    @property
    def counted_mask(self) -> Tensor:
        """`response_mask` without the responses whose reward failed, bool ``[N, R]``."""
        return self.response_mask & ~self.failed[:, None]

    def __len__(self) -> int:
        return len(self.response_ids)


@dataclass
class ExperienceBatch:
    """The part of an :class:`Experience` that one training step sees."""

    trees: ResponseTrees
    old_logprobs: Tensor
    """Grid, as those below."""
    reference_logprobs: Tensor
    values: Tensor
    advantages: Tensor
    returns: Tensor
    weights: Tensor
    """``[N]``, in the order of the trees' responses."""
    pretraining: ResponseTrees | None = None
    """This share of the minibatch's pretraining rows, where there is a mix."""
    pretraining_scale: float = 0.0
    """Items that the whole minibatch counts of responses, to one pretraining token of it: puts a sum of pretraining
    losses on the scale of the sum of PPO's."""

    def to(self, device: torch.device | str, non_blocking: bool = False) -> ExperienceBatch:
        """The same batch with every tensor on `device`."""
        moved = {
            f.name: getattr(self, f.name).to(device, non_blocking=non_blocking)
            for f in fields(self)
            if isinstance(getattr(self, f.name), Tensor | ResponseTrees)
        }
        return replace(self, **moved)


@dataclass
class LossOutput:
    """What a phase's `compute_loss` returns: a sum and what to divide it by.

    The mean is taken once, over the whole optimizer batch: all ranks and accumulation steps.
    """

    total: Tensor
    """Scalar with gradient: the sum of the counted items' losses on this rank."""
    count: Tensor
    """Scalar: how many items (tokens, or prompts) the sum runs over on this rank."""
    metrics: dict[str, Tensor] = field(default_factory=dict)
    """Detached scalars to log, by their logged name."""

"""The scorer: a decoder's trunk with one scalar head, or several. Reward models and critics are scorers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lit_rlhf.models.components import (
    Components,
    combine_scores,
    disagreement,
)
from lit_rlhf.models.deferred_weights import has_deferred, read_weights
from lit_rlhf.models.final_norm import final_norm
from lit_rlhf.models.loading import (
    is_scorer_folder,
    load_causal_lm,
    load_sequence_classifier,
    resolve_model_name,
)
from lit_rlhf.models.reading import Attention, Reading, end_states, predicting_states
from lit_rlhf.models.stored_scorer import restore_components, restore_head, stored_components
from lit_rlhf.ops.links import log_softplus
from lit_rlhf.records import ResponseTrees

Link = Literal["bradley_terry", "luce"]


class ScorerNetwork(nn.Module):
    """One score a response, read at its last token (the EOS), or one value a response token.

    With C components (1 without) a response has C raw scores, which losses are taken of; normalised ones, raw·gain −
    offset, which are on one scale; and the one that they are combined to.

    Args:
        trunk: a decoder without its head, as ``causal_lm.base_model``.
        link: how a head's output becomes the raw score. ``bradley_terry``: it is the score. ``luce``: the
            response's strength is softplus of it, and the score is the strength's logarithm, so that
            σ(score difference) is the ratio s_w/(s_w+s_l).
        components: several heads and how they are combined; None = one head.
    """

    def __init__(
        self, trunk: PreTrainedModel, link: Link = "bradley_terry", components: Components | None = None
    ) -> None:
        super().__init__()
        self.trunk = trunk
        self.link = link
        self.components = components
        width, count = trunk.config.get_text_config().hidden_size, components.count if components else 1
        self.head = nn.Linear(width, count)
        # Stiennon et al. 2020 (their text omits the root): scores of order one at the start.
        nn.init.normal_(self.head.weight, std=1 / math.sqrt(width + 1))
        nn.init.zeros_(self.head.bias)
        self.gate: nn.Linear | None = None
        if components is not None and components.combine == "gate":
            self.gate = nn.Linear(width, count)
            nn.init.zeros_(self.gate.weight)  # every component weighs the same at the start
            nn.init.zeros_(self.gate.bias)
        self.gain: Tensor
        self.score_offset: Tensor
        self.weights: Tensor
        self.register_buffer("gain", torch.ones(count))
        self.register_buffer("score_offset", torch.zeros(count))
        self.register_buffer("weights", torch.full((count,), 1 / count))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> ScorerNetwork:
        # a model in bf16 keeps these in full: two digits would shift scores and leave weights that do not sum to 1
        full = {name: getattr(self, name) for name in ("gain", "score_offset", "weights")}
        super()._apply(fn, recurse)
        for name, value in full.items():
            if getattr(self, name).dtype in (torch.bfloat16, torch.float16):
                self._buffers[name] = value.to(getattr(self, name).device)
        return self

    @property
    def num_components(self) -> int:
        """C."""
        return self.head.out_features

    def forward(self, trees: ResponseTrees) -> Tensor:
        """Scores ``[N]``, fp32, combined. What stands behind a response's last token changes nothing."""
        return self._with_disagreement(trees)[0]

    def forward_with_disagreement(self, trees: ResponseTrees) -> tuple[Tensor, Tensor]:
        """Scores ``[N]``, and the standard deviation of a response's normalised scores over components ``[N]``."""
        return self._with_disagreement(trees)

    # What is called from outside gathers weights that are spread over ranks, and must not call another that does:
    # FSDP2 would drop them behind the inner one.
    def _with_disagreement(self, trees: ResponseTrees) -> tuple[Tensor, Tensor]:
        reading = self._read(trees)
        raw = self.raw(reading.states)
        logits = None if self.gate is None else self.gate_logits(reading)[trees.tree_index]
        scores = self.combined(raw, logits)
        return scores.clone(), disagreement(self.normalized(raw))  # no view: FSDP2 hangs its hook on it

    def read(self, trees: ResponseTrees) -> Reading:
        """The states that heads read, and those that the gate reads, where there is one; one pass over the trunk."""
        return self._read(trees)

    def _read(self, trees: ResponseTrees) -> Reading:
        return end_states(self.trunk, trees, prompts=self.gate is not None)

    def raw(self, states: Tensor) -> Tensor:
        """Scores of the components, ``[N, D]`` to ``[N, C]``, fp32, before gain and offset: what losses are of."""
        output = _in_full(self.head, states)
        return log_softplus(output) if self.link == "luce" else output

    def normalized(self, raw: Tensor) -> Tensor:
        """Raw scores ``[N, C]`` on the components' common scale: raw·gain − offset."""
        return raw * self.gain.to(raw.dtype) - self.score_offset.to(raw.dtype)

    def gate_logits(self, reading: Reading) -> Tensor:
        """How much each prompt is like each component's domain, ``[B, C]``, fp32; their softmax weighs components.

        The states are detached: learning to tell domains apart changes no component's scores.

        Raises:
            ValueError: there is no gate.
        """
        if self.gate is None or reading.prompt_states is None:
            raise ValueError("This scorer has no gate: one comes with components.combine: gate.")
        return _in_full(self.gate, reading.prompt_states.detach())

    def combined(self, raw: Tensor, gate_logits: Tensor | None = None) -> Tensor:
        """The score of each response from its raw ones ``[N, C]``; the gate's logits are by response, ``[N, C]``."""
        scores = self.normalized(raw)
        if self.components is None:
            return scores.squeeze(-1)
        combine, k = self.components.combine, self.components.k
        return combine_scores(scores, combine, k, self.weights.to(raw.dtype), gate_logits)

    def preference(
        self,
        raw_a: Tensor,
        raw_b: Tensor,
        gate_weights: Tensor | None = None,
        tie_width: Tensor | float = 0.0,
    ) -> Tensor:
        """P(a ≻ b), a tie counted half: the components' mean Σ w_c p_c, of raw scores ``[..., C]``, as ``[...]``.

        p_c = (σ(d − θ) + σ(d + θ)) / 2 with d = r_c(a) − r_c(b), which is σ(d) where ties have no width θ.

        Args:
            raw_a: raw scores, which the components' probabilities are taken of.
            raw_b: of the other responses, to the same prompts.
            gate_weights: softmax of the gate's logits, ``[..., C]``; None = the network's `weights`.
            tie_width: θ of Rao and Kupper, in units of the raw score.
        """
        weights = self.weights.to(raw_a.dtype) if gate_weights is None else gate_weights
        difference = raw_a - raw_b
        probability = (torch.sigmoid(difference - tie_width) + torch.sigmoid(difference + tie_width)) / 2
        return (probability * weights).sum(-1)

    def values(self, trees: ResponseTrees) -> Tensor:
        """The value before each response token, grid ``[N, R]``, fp32, zero outside the counted tokens.

        The state before a token is read at the position that predicts it. For one component.
        """
        counted = trees.response_grid_mask()
        output = _in_full(self.head, predicting_states(self.trunk, trees))
        (values,) = (output if self.link == "luce" else self.normalized(output)).unbind(-1)
        return values.new_zeros(counted.shape).masked_scatter(counted, values)

    @torch.no_grad()
    def rescale(self, gain: Tensor, offset: Tensor) -> None:
        """Set what normalises the raw scores of the components, raw·gain − offset; no loss changes.

        Args:
            gain: ``[C]``, positive and finite.
            offset: ``[C]``, in the scale of the normalised scores.

        Raises:
            ValueError: a gain of 0 or under, or one that is not finite.
        """
        if not (gain.isfinite().all() and (gain > 0).all()):
            raise ValueError(
                f"Expected gains over 0, found {gain.tolist()}: do a component's scores differ at all?"
            )
        self.gain.copy_(gain)
        self.score_offset.copy_(offset)

    @torch.no_grad()
    def shift(self, amount: Tensor) -> None:
        """Take `amount`, a scalar or ``[C]``, off every normalised score.

        Raw scores stay as they are, and with them what is learned from; an export folds it into the head's bias.
        """
        self.score_offset.add_(amount)

    @torch.no_grad()
    def weigh(self, weights: Tensor) -> None:
        """Set the components' weights in the mean ``[C]``, as :func:`components.fit_weights` finds them.

        Raises:
            ValueError: the components are not combined by a mean, which alone has weights.
        """
        if self.components is None or self.components.combine != "mean":
            raise ValueError(
                "Few-shot weights weigh components that are combined by their mean (combine: mean)."
            )
        self.weights.copy_(weights)

    def zero_head(self) -> None:
        """Start all values at 0, as a critic that was not made from a reward model does."""
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def without_trunk(self) -> dict[str, Tensor]:
        """Everything but the trunk by its name in ``state_dict``, detached: heads, gate, gain, offsets, weights."""
        layers = {"head": self.head, **({} if self.gate is None else {"gate": self.gate})}
        linear = {
            f"{n}.{part}": getattr(layer, part) for n, layer in layers.items() for part in ("weight", "bias")
        }
        buffers = {name: getattr(self, name) for name in ("gain", "score_offset", "weights")}
        return {name: tensor.detach() for name, tensor in {**linear, **buffers}.items()}


def _in_full(layer: nn.Linear, hidden: Tensor) -> Tensor:
    # bf16 has three digits, and differences of scores are what is learned: no autocast here
    with torch.autocast(hidden.device.type, enabled=False):
        return layer(hidden.to(layer.weight.dtype)).float()


def load_scorer(
    model: str | nn.Module,
    link: Link | None = None,
    attention: Attention = "auto",
    components: Components | None = None,
) -> ScorerNetwork:
    """A scorer from a reward export (heads, biases, link and components kept) or from a causal LM (new heads).

    Args:
        model: a folder, a hub name, or a causal language model already built.
        link: the link of a new head; a reward export has its own, and another one asked for is an error.
        attention: over trees or over padded rows.
        components: those of a new network. An export keeps its own; other domains or members asked for are an error,
            another `combine` or `k` is taken, since heads are trained alike for all of them.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: `link` or `components` contradict the export's.
    """
    name = model if isinstance(model, nn.Module) else resolve_model_name(model)
    if isinstance(name, nn.Module) or not is_scorer_folder(name):
        return ScorerNetwork(load_causal_lm(name, attention).base_model, link or "bradley_terry", components)
    classifier = load_sequence_classifier(name, attention)
    stored_link: Link = getattr(classifier.config, "score_link", "bradley_terry")
    if link is not None and link != stored_link:
        raise ValueError(
            f"model {model!r} was trained with link {stored_link!r}; {link!r} was asked for. "
            "Leave the link out, or start from a causal language model."
        )
    if has_deferred(classifier):  # the head is worked with at once, and is small
        for part in (classifier.score, final_norm(classifier.base_model) or nn.Identity()):
            read_weights(part, "cpu")
    kept = stored_components(model, classifier.config, components)
    scorer = ScorerNetwork(classifier.base_model, stored_link, kept)
    if kept is None:
        restore_head(scorer, classifier)
    else:
        restore_components(scorer, name)
    return scorer

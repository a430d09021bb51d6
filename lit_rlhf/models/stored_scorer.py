"""A scorer's heads in a folder: one head for plain transformers, and what it cannot hold beside it."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel
from transformers.utils import cached_file

from lit_rlhf.models.components import Components
from lit_rlhf.models.final_norm import final_norm_bias

if TYPE_CHECKING:
    from lit_rlhf.models.scorer import ScorerNetwork

FILE = "components.safetensors"
"""Every head of several with its gain, offset and weight, and the gate."""
NORM_BIAS = "norm_bias"
"""In it: the final norm's bias before the one head's was folded into it."""

log = logging.getLogger(__name__)


def one_head(network: ScorerNetwork) -> tuple[Tensor, Tensor]:
    """Weight ``[1, D]`` and bias (a scalar), fp64, of the one linear head that comes nearest to the scores.

    With the Bradley-Terry link and one head or the mean of several it gives the scores themselves, gain, offset and
    weights in it. ``min``, ``mean_minus_std`` and ``gate`` leave the mean of the normalised scores, and the luce link
    the mean of the heads' outputs, before link, gain and offset.
    """
    weight, bias, gain, offset, weights = (
        tensor.detach().double()
        for tensor in (
            network.head.weight,
            network.head.bias,
            network.gain,
            network.score_offset,
            network.weights,
        )
    )
    if network.components is not None and network.components.combine != "mean":
        weights = torch.full_like(weights, 1 / network.num_components)
    if network.link == "bradley_terry":
        weight, bias = gain[:, None] * weight, gain * bias - offset
    return (weights[:, None] * weight).sum(0, keepdim=True), (weights * bias).sum()


def score_numbers(network: ScorerNetwork, folded: bool) -> dict[str, Any]:
    """What ``config.json`` says of the one head beside its weight; `folded`: its bias is in the final norm."""
    numbers: dict[str, Any] = {
        "score_link": network.link,
        "score_bias": 0.0 if folded else one_head(network)[1].item(),
    }
    if network.components is not None:
        return {**numbers, "score_components": network.components.plain()}
    return {**numbers, "score_gain": network.gain.item(), "score_offset": network.score_offset.item()}


def write_components(network: ScorerNetwork, folder: Path, norm_bias: Tensor | None = None) -> None:
    """All heads of several, and the gate, in a file of their own; nothing for one head.

    Args:
        network: the scorer.
        folder: of the export.
        norm_bias: the final norm's, where the export's is another one.
    """
    if network.components is None:
        return
    tensors = network.without_trunk()
    if norm_bias is not None:
        tensors[NORM_BIAS] = norm_bias
    stored = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    described = {"format": "pt", "components": json.dumps(network.components.plain())}
    save_file(stored, folder / FILE, metadata=described)


def warn_of_losses(network: ScorerNetwork) -> None:
    """Say what plain transformers' scores lack of ours, beside a constant."""
    combine = "mean" if network.components is None else network.components.combine
    k = None if network.components is None else network.components.k
    lost = {
        "min": "the minimum over components",
        "mean_minus_std": f"the {k} standard deviations that are taken off where components disagree",
        "gate": "the gate, which weighs components by the prompt",
    }.get(combine)
    count = network.num_components
    if network.link == "luce":
        gives = "its head's output" if count == 1 else f"the mean of its {count} heads' outputs"
        order = ", which orders responses alike" if count == 1 else ""
        gives, lost = f"{gives}{order}", " and ".join(filter(None, ["the luce link", lost]))
    elif lost:
        gives = f"the mean of its {count} components"
    if lost:
        log.warning(
            "Export of a reward model: plain transformers gives %s. Lost there: %s. lit_rlhf reads the folder in full.",
            gives,
            lost,
        )


def stored_components(model: object, config: Any, asked: Components | None) -> Components | None:
    """The export's components, combined as `asked`.

    Raises:
        ValueError: other domains or members are asked for than the export has.
    """
    stored = Components.of(getattr(config, "score_components", None))
    if asked is None:
        return stored
    if stored is None or (stored.domains, stored.members) != (asked.domains, asked.members):
        had = "one head" if stored is None else f"domains {stored.domains} and members {stored.members}"
        raise ValueError(
            f"model {model!r} was trained with {had}; model.components asks for domains {asked.domains} and members "
            f"{asked.members}. Leave them out, or start from a causal language model."
        )
    return replace(stored, combine=asked.combine, k=asked.k)


@torch.no_grad()
def restore_head(scorer: ScorerNetwork, classifier: PreTrainedModel) -> None:
    """The one head from what plain transformers reads and the numbers in ``config.json``."""
    config = classifier.config
    scorer.gain.fill_(getattr(config, "score_gain", 1.0))
    scorer.score_offset.fill_(getattr(config, "score_offset", 0.0))
    scorer.head.weight.copy_(classifier.score.weight)
    scorer.head.bias.fill_(getattr(config, "score_bias", 0.0))
    if scorer.link == "bradley_terry":  # the stored head gives the normalised score
        scorer.head.bias.add_(scorer.score_offset).div_(scorer.gain)
        scorer.head.weight.div_(scorer.gain)


@torch.no_grad()
def restore_components(scorer: ScorerNetwork, name: str) -> None:
    """All heads of several from the file beside the weights.

    Args:
        scorer: its trunk is the export's.
        name: the folder, or the hub name.
    """
    stored = load_file(cached_file(name, FILE))
    norm_bias, own_norm_bias = stored.pop(NORM_BIAS, None), final_norm_bias(scorer.trunk)
    if norm_bias is not None and own_norm_bias is not None:
        own_norm_bias.copy_(norm_bias)
    own = scorer.without_trunk()
    for part in sorted(own.keys() ^ stored.keys()):  # the gate, where it was asked for anew, or no more
        log.info("%s: %s %s", name, part, "starts at 0" if part in own else "is left out")
    scorer.load_state_dict({part: stored[part] for part in own.keys() & stored.keys()}, strict=False)

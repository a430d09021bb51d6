"""What direct methods make of responses that were judged by themselves: labels, desirable or not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lit_rlhf.losses.lengths import sft_term
from lit_rlhf.losses.preference import implicit_reward
from lit_rlhf.modules.direct_methods import METHODS, Labelled
from lit_rlhf.records import ResponseTrees, Tree

if TYPE_CHECKING:
    from lit_rlhf.modules.direct_objective import DirectObjective

LEAST, MOST = 1.0, 1.5
"""What KTO's source wants λ_D·n_D / (λ_U·n_U) to be within: Ethayarajh et al. 2024, arXiv 2402.01306."""


def label_items(
    objective: DirectObjective,
    logprobs: Tensor,
    reference: Tensor,
    batch: ResponseTrees,
    reference_point: Tensor | None,
    learning: bool,
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Losses of the labelled responses, what each adds to the mean, and what the method shows of itself.

    The likelihood of desirable responses is added where `sft_coef` asks for that of better ones.

    Args:
        objective: the method with its fields.
        logprobs: log π(y|x), ``[N]``, with gradient.
        reference: log π_ref(y|x), ``[N]``.
        batch: with labels.
        reference_point: KTO's z₀, a scalar.
        learning: whether the batch is trained on, so that it moves BCO's δ.

    Returns:
        Losses and weights, each ``[L]``; detached scalars by their logged name.

    Raises:
        ValueError: the method or one of its fields has no use for labels; the first row with one is named.
    """
    _refuse(objective, batch)
    assert objective.method.of_labels is not None
    given = ~batch.desirable.isnan()
    desirable, weights = batch.desirable[given] == 1, batch.label_weights()[given]
    policy, frozen = logprobs[given], reference[given]
    point = logprobs.new_zeros(()) if reference_point is None else reference_point
    losses = objective.method.of_labels(objective, Labelled(policy, frozen, desirable, point))
    shown: dict[str, Tensor] = {}
    if objective.loss == "bco":
        shown["bco/reward_shift"] = logprobs.new_tensor(objective.reward_shift.value)
        if learning:
            rewards = implicit_reward(policy, frozen, objective.price)
            objective.reward_shift.watch_labels(rewards, desirable, weights)
    if objective.sft_coef and desirable.any():
        nll = sft_term(policy, batch.response_grid_mask().sum(1)[given]) * desirable
        shown["nll"] = (weights * nll.detach()).sum() / (weights * desirable).sum().clamp(min=1e-12)
        losses = losses + objective.sft_coef * nll
    return losses, weights, shown


def labels_at_start(objective: DirectObjective, batch: ResponseTrees) -> Tensor:
    """The losses of a batch's labelled responses where the policy is its reference and z₀ is 0, float64 ``[L]``."""
    desirable = batch.desirable[~batch.desirable.isnan()] == 1
    if objective.method.of_labels is None:
        return desirable.new_zeros(0, dtype=torch.float64)
    zeros = torch.zeros(len(desirable), dtype=torch.float64, device=desirable.device)
    return objective.method.of_labels(objective, Labelled(zeros, zeros, desirable, zeros.new_zeros(())))


def _refuse(objective: DirectObjective, batch: ResponseTrees) -> None:
    row = batch.row_ids[int(batch.tree_index[(~batch.desirable.isnan()).nonzero()[0]])]
    if objective.method.of_labels is None:
        takers = ", ".join(name for name, method in METHODS.items() if method.of_labels is not None)
        raise ValueError(
            f"{row}: expected a comparison for model.loss {objective.loss}, found a label of one response. Take a loss "
            f"that learns from labels ({takers}), or give pairs."
        )
    of_pairs = {
        "length_desensitization": objective.length_desensitization is not None,
        "wpo": objective.wpo,
    }
    for field, is_set in of_pairs.items():
        if is_set:
            raise ValueError(
                f"{row}: expected a comparison for model.{field}, found a label of one response. Leave the field out, "
                "or give pairs."
            )


def describe_balance(trees: Sequence[Tree], desirable_weight: float, undesirable_weight: float) -> str | None:
    """What to say of labels where one kind weighs more than KTO's source wants; None = nothing.

    n is the sum of what the responses add to the loss, so that prompts count alike: of prompts with one response each,
    their number.

    Args:
        trees: of the training rows; those without labels count nothing.
        desirable_weight: λ_D.
        undesirable_weight: λ_U.
    """
    given = [(label, len(tree.labels)) for tree in trees for label in tree.labels]
    sums = {
        kind: sum(label.weight / among for label, among in given if label.desirable is kind)
        for kind in (True, False)
    }
    counts = {kind: sum(label.desirable is kind for label, _ in given) for kind in (True, False)}
    wanted = "the source wants λ_D·n_D / (λ_U·n_U) within 1 and 3/2"
    said = f"kto: {counts[True]} responses are desirable and {counts[False]} undesirable"
    if not given:
        return None
    if not (sums[True] and sums[False]):
        return f"{said}, and {wanted}: it is meant for both kinds."
    rate = sums[True] / sums[False]
    ratio = desirable_weight * rate / undesirable_weight
    if LEAST - 1e-6 <= ratio <= MOST + 1e-6:
        return None
    if ratio > MOST:
        field, bounds = "undesirable_weight", [desirable_weight * rate / end for end in (MOST, LEAST)]
    else:
        field, bounds = "desirable_weight", [undesirable_weight / rate * end for end in (LEAST, MOST)]
    return (
        f"{said}. Prompts counted alike, and with λ_D {desirable_weight:g} and λ_U {undesirable_weight:g}, the first "
        f"weigh {ratio:.3g} times what the others do; {wanted}: model.{field} of {bounds[0]:.3g} to {bounds[1]:.3g}."
    )

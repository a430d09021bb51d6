"""How an export combines a reward model's components: another rule, or weights fitted on a few pairs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from lit_rlhf.cli.refusal import refuse
from lit_rlhf.data.files import BadRowsError, read_rows
from lit_rlhf.data.tokenization import TextEncoder
from lit_rlhf.data.trees import pack_trees, plant_tree
from lit_rlhf.models.components import Combine, Components, fit_weights
from lit_rlhf.models.modes import evaluating
from lit_rlhf.models.scorer import ScorerNetwork
from lit_rlhf.records import Tree

ROWS_AT_ONCE = 32
"""Pairs in one forward."""
SKIP_ADVICE = ", or --data.bad_rows skip"
OTHERS_ADVICE = ", or leave them out with --data.bad_rows skip."
"""Of the data room's messages."""


def components_of(module: Any, option: str) -> Components:
    """The module's components; refuses a module that has none, for which `option` makes no sense."""
    components = getattr(getattr(module, "network", None), "components", None)
    if components is None:
        refuse(
            f"{option}: this {type(module).__name__} has one head, nothing to combine.",
            "Train with --model.components.domains or --model.components.members.",
        )
    found: Components = components
    return found


def recombine(module: Any, combine: Combine | None, k: float | None) -> None:
    """Combine the components of a reward module otherwise; None leaves it as it was trained.

    The heads are trained alike for all rules but ``gate``, whose router is made and trained with it alone.
    """
    if combine is None and k is None:
        return
    components = components_of(module, "--combine" if combine else "--k")
    network: ScorerNetwork = module.network
    combine = combine or components.combine
    if k is not None and combine != "mean_minus_std":
        refuse(f"--k: only mean_minus_std takes off standard deviations, and this is {combine}.")
    if combine == "gate" and network.gate is None:
        refuse(
            "--combine gate: this model has no router, which learns beside its heads.",
            "Train with --model.components.combine gate; every other rule can then be exported too.",
        )
    network.components = replace(components, combine=combine, k=components.k if k is None else k)
    if combine != "gate":
        network.gate = None


def fit_few_shot(module: Any, path: str) -> list[str]:
    """Fit the weights of the components' mean on the pairs of a file, and say what they are.

    Raises:
        ValueError: the file holds nothing that tells two responses apart, or a row that cannot be read.
    """
    components = components_of(module, "--few-shot")
    network: ScorerNetwork = module.network
    if components.combine != "mean":
        refuse(
            f"--few-shot fits the weights of a mean, and these components are combined by {components.combine}.",
            "Add --combine mean.",
        )
    trees, left_out = read_few_shot(path, module.encoder)
    better, worse = [], []
    with evaluating(network), torch.no_grad():
        for start in range(0, len(trees), ROWS_AT_ONCE):
            batch = pack_trees(trees[start : start + ROWS_AT_ONCE])
            scores = network.normalized(network.raw(network.read(batch).states))
            better.append(scores[batch.better])
            worse.append(scores[batch.worse])
    weights = fit_weights(torch.cat(better), torch.cat(worse))
    network.weigh(weights)
    differences = torch.cat(better) - torch.cat(worse)
    names = components.domains or [f"member {number}" for number in range(components.count)]
    right = [(column > 0).double().mean().item() for column in (*differences.T, differences @ weights)]
    split = sum(one.target < 1 for tree in trees for one in tree.comparisons)
    lines = [
        f"weights fitted on {len(differences)} pairs, and the share of them that each component orders right:",
        *(
            f"  {name}: weight {weight:.3f}, right {share:.3f}"
            for name, weight, share in zip(names, weights.tolist(), right, strict=False)
        ),
        f"  weighted: right {right[-1]:.3f} (of the pairs that it was fitted on)",
    ]
    if split:
        lines.append(f"  {split} of the pairs are split, and count whole for the side of more than half")
    if left_out:
        lines.append(f"  {left_out} more are left out: no side has more than half of what was said")
    return lines


def read_few_shot(path: str, encoder: TextEncoder) -> tuple[list[Tree], int]:
    """The pairs of a file of which more than half of what was said takes one side, and how many others there are.

    Raises:
        ValueError: there are none, or a row cannot be read.
    """
    try:
        rows = read_rows(path, "pairs").rows
    except BadRowsError as error:
        # This command skips nothing, so it must not advise an option of others.
        said = str(error).replace(SKIP_ADVICE, "").replace(OTHERS_ADVICE, ".")
        raise ValueError(f"--few-shot {path}: {said}") from None
    trees, left_out = [], 0
    for row in rows:
        (tree,), _ = plant_tree(row, encoder)
        # Half of the ties is in the target; they are on nobody's side.
        tree.comparisons = [one for one in tree.comparisons if one.target - one.tie / 2 > 0.5]
        if tree.comparisons:
            trees.append(tree)
        else:
            left_out += 1
    if not trees:
        raise ValueError(f"--few-shot {path}: no row tells two responses apart.")
    return trees, left_out

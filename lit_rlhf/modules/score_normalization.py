"""Where the scores lie: reference responses average 0, and have unit variance where that is asked for."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from lit_rlhf.data.datamodules import read_reference_trees
from lit_rlhf.data.streaming.streamed import looked_at
from lit_rlhf.data.trees import pack_trees
from lit_rlhf.models.modes import evaluating
from lit_rlhf.models.scorer import ScorerNetwork
from lit_rlhf.models.sharding import is_sharded
from lit_rlhf.ops.normalization import gain_and_bias
from lit_rlhf.records import Tree

MAX_REFERENCES = 512
"""Reference responses that the mean is taken over, at most; spread evenly over the data, of each domain as many."""
SHARE = 32
"""References of one forward, on each rank."""


class ScoreNormalization:
    """Settles gain and bias of a reward module's scores on reference responses; no comparison's loss changes.

    Args:
        module: the reward module whose scores are normalised.
        center: take off what makes the references average 0.
        unit_variance: divide by the references' standard deviation.
        references: demonstrations file; None = the preferred responses of the training data.
    """

    def __init__(self, module: Any, center: bool, unit_variance: bool, references: str | None) -> None:
        self.module = module
        self.center = center
        self.unit_variance = unit_variance
        self.references = references
        self._settled_at: int | None = None

    def start(self) -> None:
        """A fit begins: what was settled at an update of an earlier one is out of date."""
        self._settled_at = None

    @torch.no_grad()
    def settle(self) -> None:
        """Set gain and bias anew, once an update at the most."""
        network, step = self._network, self.module.trainer.global_step
        several = network.num_components > 1
        if not (self.center or self.unit_variance or several) or self._settled_at == step:
            return
        self._settled_at = step
        trees = self._reference_trees()
        if not trees:
            rank_zero_warn(
                "RewardModule: no reference responses were found to settle the mean score on. Give "
                "model.references, or set model.center and model.unit_variance to false."
            )
            return
        # weights that are gathered in bf16 need the autocast of a step around them; whole ones are read in fp32
        context = (
            self.module.trainer.precision_plugin.forward_context() if is_sharded(network) else nullcontext()
        )
        with evaluating(network), context:
            raw, gates = self._raw_scores(trees)
        said = []
        if self.unit_variance or several:
            said.append(self._rescale(raw, trees))
        if self.center:
            mean = network.combined(raw, gates).mean()
            network.shift(mean)
            said.append(f"shifted by {-mean.item():+.4f}: they now average 0")
        rank_zero_info(f"Scores on {len(trees)} reference responses: {', '.join(said)}.")

    @property
    def _network(self) -> ScorerNetwork:
        network: ScorerNetwork = self.module.network
        return network

    def _rescale(self, raw: Tensor, trees: list[Tree]) -> str:
        """Unit variance of each component on the references of its own domain, where it has one."""
        columns = []
        for number, scores in enumerate(raw.unbind(1)):
            own = self._of_domain(number, trees)
            if own.sum() < 2:
                rank_zero_warn(
                    f"RewardModule: {int(own.sum())} reference responses are of component {number}'s domain; it is "
                    "standardised on all of them. Give model.references with a `domain` in each row."
                )
            mine = scores[own] if own.sum() > 1 else scores
            deviation = mine.std(correction=0) if len(mine) > 1 else mine.new_ones(())
            spread = torch.where(deviation > 0, deviation, torch.ones_like(deviation))
            columns.append(gain_and_bias(mine.mean(), spread))
        gain, bias = (torch.stack(list(column)) for column in zip(*columns, strict=True))
        # one head's own zero stays where it is, also where it came with an export
        kept = self._network.score_offset * gain / self._network.gain
        self._network.rescale(gain, -bias if self._network.num_components > 1 else kept)
        return "divided by " + ", ".join(f"{1 / one:.3f}" for one in gain.tolist())

    def _of_domain(self, number: int, trees: list[Tree]) -> Tensor:
        components = self._network.components
        domain = components.domains[number] if components is not None and components.domains else None
        device = self.module.device
        return torch.tensor([domain is None or tree.domain == domain for tree in trees], device=device)

    def _raw_scores(self, trees: list[Tree]) -> tuple[Tensor, Tensor | None]:
        """Raw scores of the references ``[R, C]`` and their gate logits, each rank having read its share."""
        network, module = self._network, self.module
        rank, world = module.data_rank, module.data_ranks
        raw = torch.zeros(len(trees), network.num_components, dtype=torch.float32, device=module.device)
        gates: Tensor | None = None
        for start in range(0, len(trees), SHARE * world):
            share = list(range(start + rank, min(start + SHARE * world, len(trees)), world))
            batch = pack_trees([trees[place] for place in share or [0]]).to(module.device)
            if network.num_components == 1:  # what the module makes of it, should somebody have overridden it
                scores = module.score(batch)[:, None]
                if share:
                    raw[share] = ((scores + network.score_offset) / network.gain).float()
                continue
            reading = network.read(batch)  # every rank takes part
            if share:
                raw[share] = network.raw(reading.states).float()
            if network.gate is not None:
                gates = torch.zeros_like(raw) if gates is None else gates
                if share:
                    gates[share] = network.gate_logits(reading).float()  # one response a tree
        return self._over_ranks(raw), None if gates is None else self._over_ranks(gates)

    def _over_ranks(self, rows: Tensor) -> Tensor:
        if self.module.trainer.world_size == 1:
            return rows
        summed: Tensor = self.module.trainer.strategy.reduce(rows, reduce_op="sum")
        return summed / (self.module.trainer.world_size // self.module.data_ranks)  # read so often each

    def _reference_trees(self) -> list[Tree]:
        module = self.module
        if self.references is not None:
            return self._spread(read_reference_trees(self.references, module.encoder))
        trees = module.datamodule.trees("train") if hasattr(module.datamodule, "trees") else []
        return self._spread([single for tree in looked_at(trees) if (single := _preferred_only(tree))])

    def _spread(self, trees: list[Tree]) -> list[Tree]:
        """So many of them as are scored: evenly over their order, the same number of each component's domain."""
        components = self._network.components
        named = components.domains if components is not None else None
        domains: list[str | None] = [*named] if named else [None]
        chosen: list[Tree] = []
        for domain in domains:
            own = [tree for tree in trees if domain is None or tree.domain == domain]
            count = min(len(own), MAX_REFERENCES // len(domains))
            chosen += [own[number * len(own) // count] for number in range(count)]
        return chosen or trees[:MAX_REFERENCES]


def _preferred_only(tree: Tree) -> Tree | None:
    """The tree with its most preferred response alone: never the worse one of a comparison, if there is one."""
    losers = {c.worse for c in tree.comparisons if c.target > 0.5}
    winners = [c.better for c in tree.comparisons if c.target > 0.5 and c.better not in losers]
    if not winners:
        return None
    best = winners[0]
    return Tree(
        tree.prompt_ids,
        [tree.response_ids[best]],
        [tree.response_masks[best]],
        domain=tree.domain,
        id=tree.id,
    )

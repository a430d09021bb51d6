"""Means of named scalars over an epoch."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn
from torchmetrics import MeanMetric


class NamedMeans(nn.Module):
    """Weighted means of several named scalars over an epoch and over ranks.

    Args:
        names: the logged names; one that is never updated is left out of the result.
    """

    def __init__(self, names: Iterable[str]) -> None:
        super().__init__()
        self._means = {name: MeanMetric() for name in names}
        # registered under names without slashes and dots, which submodules may not have
        for number, mean in enumerate(self._means.values()):
            self.add_module(f"mean_{number}", mean)

    def update(self, name: str, value: Tensor, weight: Tensor | float = 1.0) -> None:
        """Add a scalar, or a tensor of them, with its weight."""
        self._means[name].update(value, weight)

    def compute(self) -> dict[str, Tensor]:
        """The means by name; everything starts anew afterwards."""
        means = {name: mean.compute() for name, mean in self._means.items() if mean.update_called}
        for mean in self._means.values():
            mean.reset()
        return means

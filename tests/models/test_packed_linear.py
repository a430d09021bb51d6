"""Maps from laid out copies of their weights: the same products, and back to what they were."""

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from lit_rlhf.models import packed_linear
from lit_rlhf.models.packed_linear import packed_linear_maps, packed_map

SIDE = 512
"""A square map of this side is worth a copy, one of half the side is not."""


def maps() -> nn.ModuleDict:
    return nn.ModuleDict(
        {
            "biased": nn.Linear(SIDE, SIDE),
            "plain": nn.Linear(SIDE, SIDE + 8, bias=False),
            "transposed": Conv1D(SIDE + 16, SIDE),
            "small": nn.Linear(SIDE // 2, SIDE // 2),
            "bf16": nn.Linear(SIDE, SIDE).bfloat16(),
        }
    )


def replaced(parts: nn.ModuleDict) -> set[str]:
    return {name for name, part in parts.items() if "forward" in vars(part)}


@torch.no_grad()
def test_products_are_those_of_the_maps_themselves():
    parts, hidden = maps(), torch.randn(1, 5, SIDE)
    nn.init.normal_(parts["transposed"].bias)
    own = {name: parts[name](hidden) for name in ("biased", "plain", "transposed")}
    with packed_linear_maps(parts.modules()):
        assert replaced(parts) == set(own)
        for name, expected in own.items():
            assert torch.allclose(parts[name](hidden), expected, atol=1e-5), name
    assert not replaced(parts)


@torch.no_grad()
def test_autocast_and_other_dtypes_take_the_maps_own_forward():
    parts, hidden = maps(), torch.randn(3, SIDE)
    with packed_linear_maps(parts.modules()):
        with torch.autocast("cpu", torch.bfloat16):
            assert parts["biased"](hidden).dtype == torch.bfloat16
        with pytest.raises(RuntimeError, match="dtype"):  # as the map itself says
            parts["biased"](hidden.bfloat16())


def test_a_map_whose_weight_is_made_by_a_hook_stays_as_it_is():
    """Its weight is another after every update, and only the hook knows."""
    parts = maps()
    parts["biased"].register_forward_pre_hook(lambda *_: None)
    with packed_linear_maps(parts.modules()):
        assert replaced(parts) == {"plain", "transposed"}


def test_the_first_maps_are_copied_as_far_as_allowed():
    parts = maps()
    several = [parts["plain"], parts["biased"], parts["plain"], parts["transposed"]]
    plain, biased = parts["plain"].weight.numel(), parts["biased"].weight.numel()
    for allowed, expected in (
        (plain + biased, {"plain", "biased"}),
        (plain + biased - 1, {"plain"}),
        (plain - 1, {"biased"}),
        (biased - 1, set()),
    ):
        with packed_linear_maps(several, allowed):
            assert replaced(parts) == expected
    assert packed_linear.MOST_WEIGHTS * 4 == 2**30  # bytes, as its docstring says


def test_maps_are_restored_after_an_exception_and_a_replaced_forward_is_kept():
    parts = maps()
    other = parts["plain"].forward = lambda hidden: hidden
    with pytest.raises(KeyError), packed_linear_maps(parts.modules()):
        assert parts["plain"].forward is other
        raise KeyError
    assert replaced(parts) == {"plain"}


@torch.no_grad()
@pytest.mark.parametrize("side", [SIDE, SIDE // 2])
@pytest.mark.parametrize("biased", [False, True])
def test_a_map_of_a_weight_that_does_not_change(side: int, biased: bool):
    weight, bias, hidden = torch.randn(side + 8, side), torch.randn(side + 8), torch.randn(3, side)
    expected = hidden.double() @ weight.double().T + (bias.double() if biased else 0)
    found = packed_map(weight, bias if biased else None)(hidden)
    assert torch.allclose(found.double(), expected, atol=1e-3)

"""Loss and every gradient of a phase over response trees, against the papers' losses on plain padded rows.

The other side is written here from nothing of the package but its records: transformers' own forward over
right-padded rows with an attention mask, full logits, and the published losses one comparison at a time.
"""

import copy
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lit_rlhf import DPOModule, RewardModule, SFTModule
from lit_rlhf.data.trees import pack_trees
from lit_rlhf.models import reading
from lit_rlhf.records import Comparison, Tree
from tests.conftest import make_llama, make_tokenizer
from tests.modules.training import quiet_trainer

TOKENIZER = make_tokenizer()
BETA = 0.3


def tree(prompt: list[int], *responses: list[int]) -> Tree:
    """A prompt whose earlier responses are better than the later ones."""
    pairs = [Comparison(i, j) for i in range(len(responses)) for j in range(i + 1, len(responses))]
    return Tree(prompt, list(responses), [[True] * len(r) for r in responses], pairs)


ONE_TOKEN_PROMPT = tree([0], [31, 32, 33, 1], [34, 1])
ONE_TOKEN_RESPONSES = tree([0, 21, 22], [1], [35])
SHARED_PREFIX = tree([0, 23], [40, 41, 42, 43, 1], [40, 41, 42, 44, 1])
LARGEST = tree([0, *range(50, 90)], [*range(90, 140), 1], [*range(100, 130), 1])
PAIRS = [ONE_TOKEN_PROMPT, ONE_TOKEN_RESPONSES, SHARED_PREFIX, LARGEST]


def ranking(size: int, start: int) -> Tree:
    return tree(
        [0, *range(start, start + 5)], *([*range(start + 10 * k, start + 11 * k + 1), 1] for k in range(size))
    )


TREES = {
    "pairs": PAIRS,
    "rankings of 3": [ranking(3, 10), tree([0], [60], [61], [62, 1]), ranking(3, 120)],
    "rankings of 8": [ranking(8, 10), ranking(8, 120)],
    "ragged rankings": [*PAIRS, ranking(8, 10), ranking(3, 50), ranking(5, 200)],
}
COUNTED_IN_PART = Tree([0, 9], [[70, 71, 1, 72, 73, 1]], [[True, True, True, False, False, True]])


class Rows(NamedTuple):
    """Prompt and response of every response, right-padded."""

    input_ids: Tensor
    attention_mask: Tensor
    counted: Tensor
    """True at the response tokens that count."""
    last: Tensor
    """Where each row's last token stands."""


def rows_of(trees: list[Tree]) -> Rows:
    ids = [t.prompt_ids + response for t in trees for response in t.response_ids]
    counted = [[False] * len(t.prompt_ids) + mask for t in trees for mask in t.response_masks]
    width = max(map(len, ids))
    return Rows(
        torch.tensor([row + [2] * (width - len(row)) for row in ids]),
        torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in ids]),
        torch.tensor([row + [False] * (width - len(row)) for row in counted]),
        torch.tensor([len(row) - 1 for row in ids]),
    )


def plain_logprobs(model: PreTrainedModel, rows: Rows) -> Tensor:
    """log π of every token of the rows but the first, from full logits."""
    logits = model(input_ids=rows.input_ids, attention_mask=rows.attention_mask).logits.float()
    return logits.log_softmax(-1)[:, :-1].gather(-1, rows.input_ids[:, 1:, None])[..., 0]


def plain_sft(model: PreTrainedModel, trees: list[Tree]) -> Tensor:
    """Minus the mean log-likelihood of the counted tokens (Ouyang et al. 2022, section 3.5)."""
    rows = rows_of(trees)
    return -plain_logprobs(model, rows)[rows.counted[:, 1:]].mean()


def mean_over_prompts(trees: list[Tree], of_response: list[Tensor]) -> Tensor:
    """Mean over prompts of the mean over the prompt's comparisons of -log σ(difference)."""
    of_prompt, start = [], 0
    for t in trees:
        margins = [of_response[start + c.better] - of_response[start + c.worse] for c in t.comparisons]
        of_prompt.append(torch.stack([-nn.functional.logsigmoid(margin) for margin in margins]).mean())
        start += len(t.response_ids)
    return torch.stack(of_prompt).mean()


def plain_reward(trunk: PreTrainedModel, head: nn.Linear, trees: list[Tree]) -> Tensor:
    """InstructGPT's loss over all C(K, 2) pairs of a prompt (Ouyang et al. 2022, equation 1)."""
    rows = rows_of(trees)
    hidden = trunk(input_ids=rows.input_ids, attention_mask=rows.attention_mask).last_hidden_state
    return mean_over_prompts(trees, [head(h[i])[0].float() for h, i in zip(hidden, rows.last, strict=True)])


def plain_dpo(model: PreTrainedModel, reference: PreTrainedModel, trees: list[Tree]) -> Tensor:
    """Rafailov et al. 2023, equation 7."""
    rows = rows_of(trees)
    with torch.no_grad():
        of_reference = plain_logprobs(reference, rows)
    ratios = (plain_logprobs(model, rows) - of_reference) * rows.counted[:, 1:]
    return mean_over_prompts(trees, list(BETA * ratios.sum(1)))


class Phase(NamedTuple):
    """A phase's module with the same networks beside it for the plain loss."""

    module: SFTModule | RewardModule | DPOModule
    plain: nn.Module
    reference: PreTrainedModel | None = None

    def losses(self, trees: list[Tree]) -> tuple[Tensor, Tensor]:
        """The module's loss, and the plain one."""
        output = self.module.compute_loss(pack_trees(trees))
        if isinstance(self.module, RewardModule):
            return output.total / output.count, plain_reward(self.plain.trunk, self.plain.head, trees)
        if self.reference is not None:
            return output.total / output.count, plain_dpo(self.plain.causal_lm, self.reference, trees)
        return output.total / output.count, plain_sft(self.plain.causal_lm, trees)

    def gradients(self, trees: list[Tree]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Of both, by the parameter's name."""
        for loss, network in zip(self.losses(trees), (self.module.network, self.plain), strict=True):
            network.zero_grad()
            loss.backward()
        return tuple(
            {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
            for network in (self.module.network, self.plain)
        )


def make_phase(
    phase: str, folder: Path, attention: str = "trees", dtype: torch.dtype = torch.float32
) -> Phase:
    torch.manual_seed(0)
    model, reference = make_llama(TOKENIZER).to(dtype), None
    shared = {"tokenizer": TOKENIZER, "attention": attention}
    if phase == "dpo":  # a reference that is not the start, or every ratio is 1
        reference = make_llama(TOKENIZER, seed=1)
        reference.save_pretrained(folder)
        module = DPOModule(model, beta=BETA, reference=str(folder), **shared)
        module.trainer = quiet_trainer()
    else:
        module = {"sft": SFTModule, "reward": RewardModule}[phase](model, **shared)
    plain = copy.deepcopy(module.network.to(dtype))
    trunk = plain.trunk if phase == "reward" else plain.causal_lm
    trunk.set_attn_implementation("sdpa")
    return Phase(module.train(), plain.train(), reference)


@pytest.fixture(autouse=True)
def _flat_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short segments too, and every reading is on the flat row."""
    monkeypatch.setattr(reading, "MIN_MEAN_SEGMENT", 0)


CASES = [("sft", "pairs"), *(("reward", name) for name in TREES), *(("dpo", name) for name in TREES)]


@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "activation checkpointing"])
@pytest.mark.parametrize("phase, name", CASES)
def test_loss_and_every_gradient_are_those_of_plain_padded_rows(
    phase: str, name: str, checkpointing: bool, tmp_path: Path
):
    made = make_phase(phase, tmp_path)
    trees = [*TREES[name], *([COUNTED_IN_PART] if phase == "sft" else [])]
    if checkpointing:
        network = made.module.network
        (network.trunk if phase == "reward" else network.causal_lm).activation_checkpointing_enable()
    ours, plain = made.losses(trees)
    torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-6)
    gradients, expected = made.gradients(trees)
    assert gradients.keys() == expected.keys() == {name for name, _ in made.plain.named_parameters()}
    # what is zero but for rounding is held to the whole gradient: a key's bias, or the head's, which no pair feels
    floor = 1e-6 * torch.stack([g.norm() for g in expected.values()]).norm()
    wrong = {
        name: f"{(gradients[name] - g).norm() / g.norm():.1e}"
        for name, g in expected.items()
        if (gradients[name] - g).norm() > 1e-4 * g.norm() + floor
    }
    assert not wrong


def test_the_cases_are_what_they_are_called():
    assert max(t.num_tokens for t in PAIRS) > sum(t.num_tokens for t in PAIRS) / 2
    assert [len(list(same)) for _, same in groupby(SHARED_PREFIX.response_ids, key=lambda r: r[:3])] == [2]
    assert {len(t.response_ids) for t in TREES["ragged rankings"]} == {2, 3, 5, 8}
    assert {len(t.response_ids) for t in TREES["rankings of 8"]} == {8}
    assert [c for c in map(attrgetter("comparisons"), TREES["rankings of 8"]) if len(c) != 28] == []


@pytest.mark.parametrize("how", ["autocast", "weights"])
@pytest.mark.parametrize("phase", ["sft", "reward", "dpo"])
def test_bf16_costs_trees_no_more_than_it_costs_padded_rows(phase: str, how: str, tmp_path: Path):
    """Against fp32 the gradient's error may be twice that of padded rows.

    Both round the same products and sums to 8 bits and sum them in another order: errors of one size, drawn anew.
    Their norms over the 30 thousand numbers of a gradient differ by a fifth at the most here (0.80 to 1.14); a
    wrong mask is off by far more. The loss is one number, so that its error is one draw: it is held to what 16
    products in a row, rounded by 2⁻⁹ each and all to one side, would make of it, which is 2⁻⁵.
    """
    trees = TREES["ragged rankings"]
    exact, _ = make_phase(phase, tmp_path).gradients(trees)
    exact_loss, _ = make_phase(phase, tmp_path).losses(trees)
    made = make_phase(phase, tmp_path, dtype=torch.bfloat16 if how == "weights" else torch.float32)
    with torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"):
        losses = made.losses(trees)
        gradients = made.gradients(trees)
    assert all(loss.dtype == torch.float32 for loss in losses)
    of_trees, of_padded = (
        torch.cat([(gradient[name].float() - g).flatten() for name, g in exact.items()]).norm()
        for gradient in gradients
    )
    assert 0 < of_trees < 2 * of_padded
    assert abs(losses[0] - exact_loss) < 2**-5 * exact_loss

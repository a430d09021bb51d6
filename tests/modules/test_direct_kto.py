"""KTO's reference point: prompts with other prompts' responses, over all ranks, and where there are none."""

import logging
from pathlib import Path

import pytest
import torch

from lit_rlhf import DPOModule, PairDataModule
from lit_rlhf.data.trees import pack_trees
from lit_rlhf.models.policy import PolicyNetwork, sequence_logprobs
from lit_rlhf.modules.mismatched import mismatched, trees_of
from lit_rlhf.records import Comparison, Tree
from tests.conftest import make_llama, make_tokenizer
from tests.distributed import run_distributed
from tests.modules.direct_formulas import s
from tests.modules.training import quiet_trainer, random_trees, sgd, weights_of

TOKENIZER = make_tokenizer()
BETA = 0.3


def tree(prompt: list[int], *responses: list[int]) -> Tree:
    return Tree(prompt, list(responses), [[True] * len(r) for r in responses], [Comparison(0, 1)])


A, B, C = (
    tree([0, 5], [9, 1], [10, 11, 1]),
    tree([0, 6, 7], [12, 1], [13, 1]),
    tree([0, 8], [14, 1], [15, 1], [16, 1]),
)


def made_of(
    *trees: Tree, positions: int | None = None
) -> tuple[list[tuple[list[int], list[list[int]]]], list[bool]]:
    changed, counted = mismatched(pack_trees(list(trees)), positions)
    return [(one.prompt_ids, one.response_ids) for one in trees_of(changed)], counted.tolist()


def test_each_prompt_has_the_next_ones_responses():
    found, counted = made_of(A, B, C)
    expected = [
        (A.prompt_ids, B.response_ids),
        (B.prompt_ids, C.response_ids),
        (C.prompt_ids, A.response_ids),
    ]
    assert found == expected and counted == [True] * 7


def test_another_row_of_the_same_prompt_is_passed_over():
    again = tree([0, 5], [17, 1], [18, 1])
    found, counted = made_of(A, again, B)
    assert [responses for _, responses in found] == [B.response_ids, B.response_ids, A.response_ids]
    assert all(counted)


def test_what_runs_past_the_positions_is_left_out():
    found, counted = made_of(A, B, positions=5)  # B's prompt of 3 with A's response of 3 would be 6
    assert found == [(A.prompt_ids, B.response_ids), (B.prompt_ids, [[9, 1]])] and counted == [True] * 3


@pytest.mark.parametrize("trees", [[A], [A, tree([0, 5], [17, 1], [18, 1])]])
def test_one_prompt_alone_counts_nothing(trees: list[Tree]):
    assert not any(made_of(*trees)[1])


def test_masks_go_with_their_responses():
    partly = Tree([0, 9], [[20, 21, 1]], [[False, True, True]])
    changed = mismatched(pack_trees([A, partly])).trees
    assert next(trees_of(changed)).response_masks == [[False, True, True]]


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("other")
    make_llama(TOKENIZER, seed=9).save_pretrained(folder)
    return str(folder)


def make_module(**settings) -> DPOModule:
    return DPOModule(make_llama(TOKENIZER), BETA, "kto", tokenizer=TOKENIZER, optimizer=sgd, **settings)


def ratios(trees: list[Tree], policy: int = 0, reference: int = 9) -> list[float]:
    """log π/π_ref of each response, of the models of two seeds."""
    with torch.no_grad():
        ours, theirs = (
            sequence_logprobs(PolicyNetwork(make_llama(TOKENIZER, seed=seed))(pack_trees(trees)))
            for seed in (policy, reference)
        )
    return (ours - theirs).tolist()


TURNED = [tree(A.prompt_ids, *B.response_ids), tree(B.prompt_ids, *A.response_ids)]


@pytest.mark.parametrize(("policy", "reference"), [(0, 9), (9, 0)])
def test_the_loss_is_the_papers_on_the_two_responses(policy: int, reference: int, tmp_path: Path):
    """Two pairs, each prompt with the other's responses, once with z₀ above 0 and once with it held there."""
    far = ratios(TURNED, policy, reference)
    z = max(0.0, sum(far) / len(far))
    assert (z == 0) == (policy == 9)
    own = ratios([A, B], policy, reference)
    losses = [
        (1.25 * (1 - s(BETA * (w - z))) + 0.75 * (1 - s(BETA * (z - b)))) / 2
        for w, b in zip(own[::2], own[1::2], strict=True)
    ]
    make_llama(TOKENIZER, seed=reference).save_pretrained(tmp_path)
    module = DPOModule(
        make_llama(TOKENIZER, seed=policy), BETA, "kto", reference=str(tmp_path), tokenizer=TOKENIZER,
        desirable_weight=1.25, undesirable_weight=0.75,
    )  # fmt: skip
    output = module.compute_loss(pack_trees([A, B]))
    assert (output.total / output.count).item() == pytest.approx(sum(losses) / 2, rel=1e-4)
    assert output.metrics["kto/reference_point"].item() == pytest.approx(z, rel=1e-4)


def test_no_gradient_flows_through_the_reference_point(other: str):
    module = make_module(reference=other)
    batch = pack_trees([A, B])
    judgement = module.judge(batch)
    point = judgement.metrics["kto/reference_point"]
    assert not point.requires_grad
    through_module = torch.autograd.grad(judgement.losses.sum(), module.network.causal_lm.lm_head.weight)[0]
    module._reference_point = lambda batch: point
    fixed = torch.autograd.grad(module.judge(batch).losses.sum(), module.network.causal_lm.lm_head.weight)[0]
    assert torch.equal(through_module, fixed)


class Shares:
    """One batch, of which each rank takes its share."""

    def __init__(self, trees: list[Tree], rank: int, ranks: int) -> None:
        self.trees = trees[rank * len(trees) // ranks : (rank + 1) * len(trees) // ranks]

    def __len__(self) -> int:
        return 1

    def __iter__(self):
        yield pack_trees(self.trees)


POOLED = [*random_trees(2, 3, 2), *random_trees(2, 4, 2)]


class Watched(DPOModule):
    points: list[float]

    def compute_loss(self, batch):
        output = super().compute_loss(batch)
        self.points = [*getattr(self, "points", []), output.metrics["kto/reference_point"].item()]
        return output


def _one_update(reference: str) -> tuple[float, float]:
    torch.manual_seed(0)
    trainer = quiet_trainer(devices=2, strategy="ddp")
    module = Watched(
        make_llama(TOKENIZER, seed=9), BETA, "kto", reference=reference, tokenizer=TOKENIZER, optimizer=sgd
    )
    trainer.fit(module, Shares(POOLED, trainer.global_rank, 2))
    return module.points[0], weights_of(module.network).double().sum().item()


def test_ranks_share_one_reference_point(tmp_path: Path):
    """Each turns its own prompts; the mean is over the responses of both."""
    make_llama(TOKENIZER).save_pretrained(tmp_path)
    (one, weights), (two, other_weights) = run_distributed(_one_update, 2, str(tmp_path))
    turned = [
        [Tree(a.prompt_ids, b.response_ids, b.response_masks) for a, b in ((x, y), (y, x))]
        for x, y in (POOLED[:2], POOLED[2:])
    ]
    far = [ratio for rank in turned for ratio in ratios(rank, 9, 0)]
    assert one == two == pytest.approx(max(0.0, sum(far) / len(far)), rel=1e-4)
    assert one > 0 and weights == other_weights


ROWS = [{"prompt": f"the soup {i}", "chosen": " is tasty .", "rejected": " is late ."} for i in range(5)]


def test_a_batch_of_one_prompt_is_counted_and_said(caplog: pytest.LogCaptureFixture):
    """The last batch of five rows in twos."""
    with caplog.at_level(logging.INFO, logger="lightning.pytorch.utilities.rank_zero"):
        quiet_trainer().fit(make_module(), datamodule=PairDataModule(ROWS, batch_size=2))
    (said,) = [line for line in caplog.messages if line.startswith("kto:")]
    assert said.startswith("kto: 1 batches had one prompt only") and "z₀ was taken as 0" in said


@pytest.mark.parametrize(
    ("rows", "batch_size", "said"),
    [
        (ROWS[:1], 2, r"model\.loss: kto's .*, and all training rows have one prompt"),
        ([ROWS[0], {**ROWS[0], "chosen": " is fresh ."}], 2, "all training rows have one prompt"),
        (ROWS, 1, r"data\.batch_size: kto's .* expected 2 or more, two for each rank, found 1"),
    ],
)
def test_data_in_which_no_batch_has_a_second_prompt_is_refused(rows: list[dict], batch_size: int, said: str):
    with pytest.raises(ValueError, match=said):
        quiet_trainer().fit(make_module(), datamodule=PairDataModule(rows, batch_size=batch_size))


def test_its_reference_cannot_be_precomputed():
    with pytest.raises(
        ValueError, match=r"model\.reference_storage: kto looks at prompts with other prompts'"
    ):
        make_module(reference_storage="precomputed")


@pytest.mark.parametrize(("policy", "reference"), [(0, 9), (9, 0)])
def test_where_nothing_counts_the_point_is_0_whatever_the_own_responses_say(
    policy: int, reference: int, tmp_path: Path
):
    make_llama(TOKENIZER, seed=reference).save_pretrained(tmp_path)
    module = DPOModule(
        make_llama(TOKENIZER, seed=policy), loss="kto", reference=str(tmp_path), tokenizer=TOKENIZER
    )
    assert module.judge(pack_trees([A])).metrics["kto/reference_point"] == 0

"""BCO's δ: the mean reward of everything trained on before, however batches are cut, shared out or resumed."""

from pathlib import Path

import pytest
import torch

from lit_rlhf import DPOModule, PairDataModule
from lit_rlhf.data.trees import pack_trees
from lit_rlhf.modules.reward_shift import RewardShift
from lit_rlhf.records import Comparison, Tree
from tests.conftest import make_llama, make_tokenizer
from tests.distributed import run_distributed
from tests.modules.direct_formulas import nls
from tests.modules.test_direct_methods import Groups
from tests.modules.training import quiet_trainer, random_trees, sgd, weights_of

TOKENIZER = make_tokenizer()
BETA = 0.3


def seen(shift: RewardShift, better: list[float], worse: list[float], weights: list[float]) -> None:
    shift.watch(torch.tensor(better), torch.tensor(worse), torch.tensor(weights))


def test_it_is_the_mean_of_both_sides_of_all_updates_before() -> None:
    shift = RewardShift()
    seen(shift, [2.0, 0.0], [1.0, -1.0], [1.0, 1.0])
    assert shift.value == 0
    shift.end_update(lambda sums: sums)
    assert shift.value == 0.5  # of 2, 0, 1, -1
    seen(shift, [7.0], [2.0], [1.0])
    assert shift.value == 0.5
    shift.end_update(lambda sums: sums)
    assert shift.value == pytest.approx((2 + 0 + 1 - 1 + 7 + 2) / 6)


def test_comparisons_count_as_in_the_loss() -> None:
    shift = RewardShift()
    seen(shift, [2.0, 50.0], [1.0, 60.0], [0.5, 0.0])
    seen(shift, [8.0], [4.0], [1.0])
    shift.end_update(lambda sums: sums)
    assert shift.value == pytest.approx((0.5 * 1.5 + 1.0 * 6) / 1.5)


def test_an_update_that_never_came_and_one_of_nothing_leave_it() -> None:
    shift = RewardShift()
    seen(shift, [2.0], [1.0], [1.0])
    shift.forget_watched()
    shift.end_update(lambda sums: sums)
    seen(shift, [2.0], [1.0], [0.0])
    shift.end_update(lambda sums: sums)
    assert shift.value == 0


def test_it_is_half_way_however_many_there_are_of_each_kind() -> None:
    shift = RewardShift()
    desirable = torch.tensor([True, True, True, False])
    shift.watch_labels(torch.tensor([2.0, 2.0, 2.0, -2.0]), desirable, torch.ones(4))
    shift.end_update(lambda sums: sums)
    assert shift.value == 0.0
    shift.watch_labels(torch.tensor([6.0]), torch.tensor([True]), torch.tensor([3.0]))
    shift.end_update(lambda sums: sums)
    assert shift.value == 1.0  # of 4 and -2


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("other")
    make_llama(TOKENIZER, seed=9).save_pretrained(folder)
    return str(folder)


class Watched(DPOModule):
    """Keeps of each micro-batch its δ, its rewards by comparison, its weights and its loss."""

    steps: list[tuple[float, list[tuple[float, float]], list[float], float]]

    def compute_loss(self, batch):
        output = super().compute_loss(batch)
        with torch.no_grad():
            shift = self.objective.reward_shift.value
            rewards = self.objective.scores(
                torch.sum(self.network(batch).logprobs, 1), self.reference_logprobs(batch), batch
            )
        pairs = list(zip(rewards[batch.better].tolist(), rewards[batch.worse].tolist(), strict=True))
        step = (shift, pairs, batch.comparison_weights(True).tolist(), (output.total / output.count).item())
        self.steps = [*getattr(self, "steps", []), step]
        return output


def fitted(groups: list[list[Tree]], reference: str, **trainer) -> Watched:
    module = Watched(
        make_llama(TOKENIZER), BETA, "bco", reference=reference, tokenizer=TOKENIZER, optimizer=sgd
    )
    quiet_trainer(**trainer).fit(module, Groups(groups))
    return module


def test_each_update_has_the_mean_of_those_before_it(other: str) -> None:
    trees = random_trees(6, 2)
    module = fitted([trees[:2], trees[2:3], trees[3:]], other)
    total, weight = 0.0, 0.0
    for shift, pairs, weights, loss in module.steps:
        assert shift == pytest.approx(total / weight if weight else 0.0, rel=1e-4)
        losses = [nls(w - shift) + nls(shift - b) for w, b in pairs]
        expected = sum(a * b for a, b in zip(weights, losses, strict=True)) / sum(weights)
        assert loss == pytest.approx(expected, rel=1e-4)
        total += sum(each * (w + b) / 2 for each, (w, b) in zip(weights, pairs, strict=True))
        weight += sum(weights)
    assert len({shift for shift, *_ in module.steps}) == 3
    assert abs(module.steps[1][0]) > 0.1


def test_it_does_not_depend_on_how_updates_are_cut(other: str) -> None:
    trees = random_trees(8, 2)
    whole = fitted([trees[:4], trees[4:]], other)
    cut = fitted(
        [[trees[k] for k in group] for group in ([2], [3, 0, 1], [7, 5], [4, 6])],
        other,
        accumulate_grad_batches=2,
    )
    assert [step[0] for step in cut.steps] == pytest.approx(
        [whole.steps[n][0] for n in (0, 0, 1, 1)], rel=1e-4
    )
    assert cut.steps[2][0] != 0
    apart = (weights_of(cut.network) - weights_of(whole.network)).abs().max()
    moved = (weights_of(whole.network) - weights_of(make_llama(TOKENIZER))).abs().max()
    assert apart < 1e-3 * moved


SHARED = random_trees(8, 3)


def _two_updates(reference: str) -> tuple[float, float, float]:
    torch.manual_seed(0)
    trainer = quiet_trainer(devices=2, strategy="ddp")
    module = Watched(
        make_llama(TOKENIZER), BETA, "bco", reference=reference, tokenizer=TOKENIZER, optimizer=sgd
    )
    mine = SHARED[trainer.global_rank :: 2]
    trainer.fit(module, Groups([mine[:2], mine[2:]]))
    return (
        module.steps[1][0],
        module.objective.reward_shift.value,
        weights_of(module.network).double().sum().item(),
    )


def test_ranks_share_one_shift(other: str) -> None:
    first, second = run_distributed(_two_updates, 2, other)
    assert first == second
    alone = fitted([SHARED[:4], SHARED[4:]], other)
    assert first[:2] == pytest.approx((alone.steps[1][0], alone.objective.reward_shift.value), rel=1e-4)


ROWS = [
    {"prompt": f"the soup {i}", "chosen": " is tasty .", "rejected": " is late and big ."} for i in range(6)
]


def run(module: DPOModule, epochs: int, checkpoint: Path | None = None, **settings):
    trainer = quiet_trainer(max_epochs=epochs, **settings)
    data = PairDataModule(ROWS, val_path=ROWS, batch_size=2, seed=0)
    trainer.fit(module, datamodule=data, ckpt_path=None if checkpoint is None else str(checkpoint))
    return trainer


def make_module() -> DPOModule:
    return DPOModule(make_llama(TOKENIZER), BETA, "bco", tokenizer=TOKENIZER, optimizer=sgd)


def test_it_goes_on_from_a_checkpoint(tmp_path: Path) -> None:
    straight = make_module()
    run(straight, 2)
    half, again = make_module(), make_module()
    run(half, 1).save_checkpoint(tmp_path / "half.ckpt")
    run(again, 2, tmp_path / "half.ckpt")
    assert again.objective.reward_shift.value == straight.objective.reward_shift.value != 0
    assert torch.equal(weights_of(again.network), weights_of(straight.network))
    loaded = DPOModule.load_from_checkpoint(
        tmp_path / "half.ckpt", model=make_llama(TOKENIZER), tokenizer=TOKENIZER
    )
    assert loaded.objective.reward_shift.value == half.objective.reward_shift.value != 0


def test_the_loss_is_bcos_at_the_shift_as_it_stands(other: str) -> None:
    module = DPOModule(make_llama(TOKENIZER), BETA, "bco", reference=other, tokenizer=TOKENIZER).eval()
    module.objective.reward_shift.load_state_dict({"sums": [1.4, 2.0, 1.4, 2.0]})
    tree = Tree([0, 5], [[9, 1], [10, 1]], [[True] * 2] * 2, [Comparison(0, 1)])
    judgement = module.judge(pack_trees([tree]))
    better, worse = judgement.scores.tolist()
    assert judgement.losses.item() == pytest.approx(nls(better - 0.7) + nls(0.7 - worse), rel=1e-4)
    assert judgement.metrics["bco/reward_shift"].item() == pytest.approx(0.7)
    module.objective.reward_shift.end_update(lambda sums: sums)
    assert module.objective.reward_shift.value == 0.7


def test_validation_reads_it_and_leaves_it() -> None:
    module = make_module()
    trainer = run(module, 1)
    shift = module.objective.reward_shift.value
    logged = trainer.callback_metrics
    assert logged["val/bco/reward_shift"].item() == pytest.approx(shift, rel=1e-5)
    quiet_trainer().validate(
        module, datamodule=PairDataModule(ROWS, val_path=ROWS, batch_size=2), verbose=False
    )
    assert module.objective.reward_shift.value == shift != 0


def test_what_was_looked_at_before_a_fit_is_not_of_it(other: str) -> None:
    shifts = []
    for looked in (False, True):
        module = DPOModule(
            make_llama(TOKENIZER), BETA, "bco", reference=other, tokenizer=TOKENIZER, optimizer=sgd
        )
        if looked:
            module.compute_loss(pack_trees(random_trees(2, 7)))
        run(module, 1)
        shifts.append(module.objective.reward_shift.value)
    assert shifts[0] == shifts[1] != 0


def test_a_dropped_tie_does_not_move_it() -> None:
    module = make_module()
    tied = Tree([0, 5], [[9, 1], [10, 1]], [[True] * 2] * 2, [Comparison(0, 1, target=0.5, tie=1.0)])
    module.judge(pack_trees([tied]))
    module.objective.reward_shift.end_update(lambda sums: sums)
    assert module.objective.reward_shift.state_dict() == {"sums": [0.0] * 4}

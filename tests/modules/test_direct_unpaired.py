"""Direct methods on responses that were judged by themselves, against the papers' formulas on plain rows."""

import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid
from transformers import PreTrainedModel

from lit_rlhf import DPOModule, PairDataModule, RewardModule
from lit_rlhf.data.trees import pack_trees
from lit_rlhf.models import reading
from lit_rlhf.modules.direct_labels import describe_balance
from lit_rlhf.records import Comparison, Label, Tree
from tests.conftest import make_llama, make_tokenizer
from tests.distributed import run_distributed
from tests.modules.training import quiet_trainer, sgd, weights_of

TOKENIZER = make_tokenizer()
BETA = 0.3
GOOD, BAD = Label(True), Label(False)


def tree(prompt: list[int], responses: list[list[int]], labels: list[Label]) -> Tree:
    return Tree(prompt, responses, [[True] * len(r) for r in responses], labels=labels, id="f:7")


TREES = [
    tree([0, 5], [[9, 1], [10, 11, 1], [12, 1]], [GOOD, BAD, Label(True, 3.0)]),
    tree([0, 6, 7], [[13, 14, 1]], [BAD]),
    tree([0, 8], [[15, 1], [16, 17, 18, 1]], [GOOD, GOOD]),
]
WEIGHTS = [1 / 3, 1 / 3, 3 / 3, 1.0, 1 / 2, 1 / 2]
"""What each response's loss is multiplied by: its weight over how many its prompt has."""
DESIRABLE = [True, False, True, False, True, True]


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A reference that is not the start."""
    folder = tmp_path_factory.mktemp("other")
    make_llama(TOKENIZER, seed=9).save_pretrained(folder)
    return str(folder)


@pytest.fixture(autouse=True)
def _flat_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short segments too, and every reading is on the flat row."""
    monkeypatch.setattr(reading, "MIN_MEAN_SEGMENT", 0)


def make_module(loss: str = "kto", **settings) -> DPOModule:
    return DPOModule(make_llama(TOKENIZER), BETA, loss, tokenizer=TOKENIZER, optimizer=sgd, **settings)


def plain_logprobs(model: PreTrainedModel, rows: list[tuple[list[int], list[int]]]) -> Tensor:
    """log π(y|x) of prompts with a response each, one row at a time, from full logits."""
    found = []
    for prompt, response in rows:
        logits = model(input_ids=torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1]
        found.append(logits.log_softmax(-1)[torch.arange(len(response)), torch.tensor(response)].sum())
    return torch.stack(found)


OWN = [(t.prompt_ids, response) for t in TREES for response in t.response_ids]
NEXT = [*TREES[1:], TREES[0]]
TURNED = [
    (one.prompt_ids, response) for one, b in zip(TREES, NEXT, strict=True) for response in b.response_ids
]
"""Each prompt with the next one's responses."""


def plain_kto(
    model: PreTrainedModel, reference: PreTrainedModel, up: float = 1.0, down: float = 1.0
) -> Tensor:
    """Ethayarajh et al. 2024, equations 7 and 8, the mean over prompts of what their responses weigh."""
    with torch.no_grad():
        far = plain_logprobs(model, TURNED) - plain_logprobs(reference, TURNED)
        held = plain_logprobs(reference, OWN)
    z = max(0.0, far.mean().item())
    ratios = plain_logprobs(model, OWN) - held
    losses = [
        up * (1 - torch.sigmoid(BETA * (ratio - z)))
        if desirable
        else down * (1 - torch.sigmoid(BETA * (z - ratio)))
        for ratio, desirable in zip(ratios, DESIRABLE, strict=True)
    ]
    return sum(w * loss for w, loss in zip(WEIGHTS, losses, strict=True)) / sum(WEIGHTS)


def gradients(loss: Tensor, model: torch.nn.Module) -> Tensor:
    found = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    return torch.cat([g.flatten() for g in found if g is not None])


def loss_of(module: DPOModule, trees: list[Tree]) -> Tensor:
    output = module.compute_loss(pack_trees(trees))
    return output.total / output.count


@pytest.mark.parametrize("attention", ["trees", "padded"])
def test_loss_and_gradient_are_the_papers_on_plain_rows(attention: str, other: str):
    module = make_module(reference=other, attention=attention, desirable_weight=1.2, undesirable_weight=0.7)
    ours = loss_of(module, TREES)
    model = make_llama(TOKENIZER)
    plain = plain_kto(model, make_llama(TOKENIZER, seed=9), 1.2, 0.7)
    torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-6)
    found, expected = gradients(ours, module.network), gradients(plain, model)
    assert expected.norm() > 1e-3 and (found - expected).norm() < 1e-4 * expected.norm()


def plain_others(loss: str, shift: float) -> Tensor:
    model, reference = make_llama(TOKENIZER), make_llama(TOKENIZER, seed=9)
    with torch.no_grad():
        rewards = BETA * (plain_logprobs(model, OWN) - plain_logprobs(reference, OWN))
    sign = torch.tensor([1.0 if desirable else -1.0 for desirable in DESIRABLE])
    losses = -logsigmoid(sign * (rewards - shift)) if loss == "bco" else torch.sigmoid(-sign * rewards)
    weights = torch.tensor(WEIGHTS)
    return (weights * losses).sum() / weights.sum()


@pytest.mark.parametrize(("loss", "shift"), [("bco", 0.0), ("bco", 0.4), ("apo_zero", 0.0)])
def test_other_losses_of_single_responses(loss: str, shift: float, other: str):
    module = make_module(loss, reference=other)
    module.objective.reward_shift.load_state_dict({"sums": [shift, 1.0, shift, 1.0]})
    torch.testing.assert_close(loss_of(module, TREES), plain_others(loss, shift), rtol=1e-5, atol=1e-6)


def test_bcos_threshold_is_half_way_between_the_rewards_of_both_kinds(other: str):
    module = make_module("bco", reference=other).train()
    scores = module.judge(pack_trees(TREES)).scores.detach()
    module.objective.reward_shift.end_update(lambda sums: sums)
    weights, good = torch.tensor(WEIGHTS), torch.tensor(DESIRABLE, dtype=torch.bool)
    means = [(weights * scores)[kind].sum() / weights[kind].sum() for kind in (good, ~good)]
    expected = (means[0] + means[1]).item() / 2  # half-way, however many there are of each
    assert abs(expected) > 0.01
    assert module.objective.reward_shift.value == pytest.approx(expected, rel=1e-5)
    shown = module.eval().judge(pack_trees(TREES[1:])).metrics["bco/reward_shift"]
    assert shown.item() == pytest.approx(expected, rel=1e-5)
    module.objective.reward_shift.end_update(lambda sums: sums)  # validation moves nothing
    assert module.objective.reward_shift.value == pytest.approx(expected, rel=1e-5)


def test_at_the_reference_the_loss_is_half_the_weight_of_the_label():
    module = make_module(desirable_weight=1.2, undesirable_weight=0.7)
    losses = module.judge(pack_trees(TREES)).losses
    assert losses.tolist() == pytest.approx([0.6, 0.35, 0.6, 0.35, 0.6, 0.6], abs=1e-5)


@pytest.mark.parametrize("groups", [[[2, 0, 1]], [[0], [1, 2]], [[1], [0], [2]]])
@pytest.mark.parametrize("loss", ["kto", "bco", "apo_zero"])
def test_orders_and_splits_of_the_batch_change_nothing_where_the_point_is_given(
    loss: str, groups: list[list[int]], other: str
):
    module = make_module(loss, reference=other)
    module._reference_point = lambda batch: torch.tensor(0.7)
    whole = loss_of(module, TREES)
    outputs = [module.compute_loss(pack_trees([TREES[place] for place in group])) for group in groups]
    parts = sum(o.total for o in outputs) / sum(o.count for o in outputs)
    torch.testing.assert_close(parts, whole)
    found, expected = gradients(parts, module.network), gradients(whole, module.network)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_the_order_of_a_prompts_responses_changes_nothing(other: str):
    module = make_module(reference=other)
    turned = [
        replace(one, response_ids=one.response_ids[::-1], labels=one.labels[::-1],
                response_masks=one.response_masks[::-1])
        for one in TREES
    ]  # fmt: skip
    torch.testing.assert_close(loss_of(module, turned), loss_of(module, TREES))


SIDES = [[9, 1], [10, 11, 1]]


def pair_beside(labels: list[Label], comparisons: list[Comparison]) -> list[Tree]:
    return [replace(tree([0, 5], SIDES, labels), comparisons=comparisons), *TREES[1:]]


def test_a_pair_among_labels_is_its_two_responses(other: str):
    """Of KTO, whose loss of a pair is their mean; of the others it is the sum, and so the pair counts as two."""
    paired, single = pair_beside([], [Comparison(0, 1)]), pair_beside([GOOD, BAD], [])
    module = make_module(reference=other, desirable_weight=1.2)
    torch.testing.assert_close(loss_of(module, paired), loss_of(module, single))
    for loss in ("bco", "apo_zero"):
        module = make_module(loss, reference=other)
        pair, *_ = module.judge(pack_trees(paired)).losses
        first, second, *_ = module.judge(pack_trees(single)).losses
        torch.testing.assert_close(pair, first + second)


def test_numbers_of_a_batch_with_pairs_and_labels(other: str):
    module = make_module(reference=other)
    judgement = module.judge(pack_trees(pair_beside([], [Comparison(1, 0)])))
    numbers = module._metrics(judgement, pack_trees(pair_beside([], [Comparison(1, 0)])))
    scores, logprobs = judgement.scores.tolist(), judgement.logprobs.tolist()
    assert numbers["rewards/chosen"].item() == pytest.approx(sum(scores[n] for n in (1, 3, 4)) / 3)
    assert numbers["rewards/rejected"].item() == pytest.approx((scores[0] + scores[2]) / 2)
    assert numbers["logps/chosen"].item() == pytest.approx(sum(logprobs[n] for n in (1, 3, 4)) / 3)
    assert numbers["logps/rejected"].item() == pytest.approx((logprobs[0] + logprobs[2]) / 2)
    assert numbers["rewards/margins"].item() == pytest.approx(scores[1] - scores[0], abs=1e-6)
    assert numbers["rewards/accuracies"].item() == float(scores[1] > scores[0])


def test_the_likelihood_term_is_that_of_desirable_responses(other: str):
    lengths = [len(response) for _, response in OWN]
    nll = [
        -lp / n for lp, n in zip(plain_logprobs(make_llama(TOKENIZER), OWN).tolist(), lengths, strict=True)
    ]
    kinds = list(zip(WEIGHTS, nll, DESIRABLE, strict=True))
    term = sum(w * x for w, x, good in kinds if good)
    module = make_module(reference=other, sft_coef=0.5)
    output = module.compute_loss(pack_trees(TREES))
    without = loss_of(make_module(reference=other), TREES).item()
    expected = without + 0.5 * term / sum(WEIGHTS)
    assert (output.total / output.count).item() == pytest.approx(expected, rel=1e-5)
    mean = term / sum(w for w, _, good in kinds if good)
    assert output.metrics["nll"].item() == pytest.approx(mean, rel=1e-5)
    assert (
        "nll" not in module.compute_loss(pack_trees([TREES[1], replace(TREES[1], prompt_ids=[0, 9])])).metrics
    )


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"loss": "sigmoid"}, r"f:7: expected a comparison for model\.loss sigmoid, found .* \(kto, bco, apo_zero\)"),
        ({"loss": "plackett_luce"}, r"f:7: expected a comparison for model\.loss plackett_luce"),
        ({"loss": "apo_zero", "wpo": True}, r"f:7: expected a comparison for model\.wpo, found a label"),
        ({"loss": "bco", "length_desensitization": 0.0}, r"f:7: expected a comparison for model\.length_desens"),
    ],
)  # fmt: skip
def test_what_has_no_use_for_labels_refuses_batches_of_ones_own(settings: dict, said: str):
    with pytest.raises(ValueError, match=said):
        make_module(**settings).compute_loss(pack_trees(TREES))


def test_reward_models_refuse_labels():
    module = RewardModule(make_llama(TOKENIZER), tokenizer=TOKENIZER)
    with pytest.raises(ValueError, match="RewardModule needs comparisons; f:7 has none"):
        module.compute_loss(pack_trees(TREES))
    with pytest.raises(
        ValueError, match="rows:1: expected two responses that are compared, found one with a `lab"
    ):
        quiet_trainer().fit(module, datamodule=PairDataModule(ROWS, batch_size=4))


WORDS = [
    ("soup", " is tasty .", " is late ."),
    ("cake", " is fresh .", " is big ."),
    ("hotel", " is lovely .", " is late ."),
]
ROWS = [
    {"prompt": f"the {word} {k}", "completion": (good, bad)[k % 2], "label": k % 2 == 0}
    for k in range(6)
    for word, good, bad in WORDS
]


class WatchedDPO(DPOModule):
    """Keeps what was logged."""

    def __init__(self, *arguments, **settings) -> None:
        super().__init__(*arguments, **settings)
        self.numbers: dict[str, list[float]] = {}

    def log(self, name, value, *arguments, **settings):
        self.numbers.setdefault(name, []).append(float(value))

    def log_dict(self, numbers, *arguments, **settings):
        for name, value in numbers.items():
            self.log(name, value)


@pytest.mark.parametrize("loss", ["kto", "bco", "apo_zero"])
def test_a_fit_raises_desirable_responses_and_lowers_others(loss: str):
    """As validation sees it, on prompts that were not trained on."""
    module = WatchedDPO(make_llama(TOKENIZER), 0.5, loss, tokenizer=TOKENIZER, optimizer=sgd_fast)
    trainer = quiet_trainer(max_epochs=3)
    held_out = [{**row, "prompt": row["prompt"] + "0"} for row in ROWS]
    data = PairDataModule(ROWS, val_path=held_out, batch_size=4)
    trainer.fit(module, datamodule=data)
    chosen, rejected = module.numbers["val/rewards/chosen"], module.numbers["val/rewards/rejected"]
    assert chosen[-1] > 0.05 and rejected[-1] < -0.05
    assert module.numbers["val/loss"][-1] < module.numbers["val/loss"][0]
    assert {"val/logps/chosen", "val/logps/rejected", "train/loss"} <= module.numbers.keys()
    assert (
        not {"val/rewards/accuracies", "val/rewards/margins", "val/calibration/ece"} & module.numbers.keys()
    )
    label = {row["prompt"]: "desirable" if row["label"] else "undesirable" for row in held_out}
    table = module.sample_table()
    assert table and {tuple(row) for row in table} == {("prompt", "response", "label", "score")}
    assert all(label[row["prompt"].removeprefix("<|bos|>")] == row["label"] for row in table)


def sgd_fast(parameters) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=1.0)


def test_validation_numbers_are_over_responses_whatever_the_batches(other: str):
    """A batch of one desirable response weighs less than one of three."""
    rows = [{"prompt": f"p{k}", "response": " good" + " x" * k, "label": k not in (1, 6)} for k in range(7)]
    found = []
    for size in (2, 3, 7):
        module = WatchedDPO(make_llama(TOKENIZER), BETA, "apo_zero", reference=other, tokenizer=TOKENIZER)
        quiet_trainer().validate(
            module, datamodule=PairDataModule(val_path=rows, batch_size=size), verbose=False
        )
        found.append({name: values[-1] for name, values in module.numbers.items()})
    assert {"val/loss", "val/rewards/chosen", "val/rewards/rejected"} <= found[0].keys()
    assert found[0] == pytest.approx(found[2], rel=1e-4) and found[1] == pytest.approx(found[2], rel=1e-4)


class OneKindARank:
    """The first rank has desirable responses only, the second one others only."""

    def __init__(self, rank: int) -> None:
        self.trees = [[TREES[2], replace(TREES[2], prompt_ids=[0, 30])], [TREES[1]]][rank]

    def __len__(self) -> int:
        return 1

    def __iter__(self):
        yield pack_trees(self.trees)


def _validated(other: str) -> dict[str, float]:
    trainer = quiet_trainer(devices=2, strategy="ddp")
    module = DPOModule(make_llama(TOKENIZER), BETA, "apo_zero", reference=other, tokenizer=TOKENIZER)
    (numbers,) = trainer.validate(module, OneKindARank(trainer.global_rank), verbose=False)
    return dict(numbers)


def test_ranks_that_see_one_kind_each_have_the_numbers_of_both(other: str):
    one, two = run_distributed(_validated, 2, other)
    assert one == two and {"val/loss", "val/rewards/chosen", "val/rewards/rejected"} <= one.keys()
    alone = make_module("apo_zero", reference=other).judge(pack_trees([TREES[1]]))
    assert one["val/rewards/rejected"] == pytest.approx(alone.scores.item(), rel=1e-4)


def test_a_precomputed_reference_is_the_frozen_one(other: str, tmp_path: Path):
    trained = []
    for storage in ("frozen", "precomputed"):
        module = make_module("apo_zero", reference=other, reference_storage=storage)
        quiet_trainer().fit(module, datamodule=PairDataModule(ROWS, batch_size=4, seed=1))
        trained.append(weights_of(module.network))
    torch.testing.assert_close(trained[0], trained[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("rows", "batch_size", "said"),
    [
        (ROWS[:1], 2, "all training rows have one prompt"),
        (
            [ROWS[0], {**ROWS[0], "completion": " is big ."}],
            2,
            "all training rows have one prompt.*take apo_zero",
        ),
        (ROWS, 1, r"data\.batch_size: kto's .* expected 2 or more, two for each rank, found 1"),
    ],
)
def test_kto_on_one_example_is_refused(rows: list[dict], batch_size: int, said: str):
    with pytest.raises(ValueError, match=said):
        quiet_trainer().fit(make_module(), datamodule=PairDataModule(rows, batch_size=batch_size))


def labelled(*given: list[Label]) -> list[Tree]:
    return [tree([0, k], [[9, 1]] * len(labels), labels) for k, labels in enumerate(given)]


def test_what_weighs_more_than_the_source_wants_is_said():
    unbalanced = labelled([GOOD], [GOOD], [GOOD], [BAD])
    assert describe_balance(unbalanced, 1.0, 1.0) == (
        "kto: 3 responses are desirable and 1 undesirable. Prompts counted alike, and with λ_D 1 and λ_U 1, the first "
        "weigh 3 times what the others do; the source wants λ_D·n_D / (λ_U·n_U) within 1 and 3/2: "
        "model.undesirable_weight of 2 to 3."
    )
    assert "weigh 0.333 times" in (
        said := describe_balance(labelled([GOOD], [BAD], [BAD], [BAD]), 1.0, 1.0) or ""
    )
    assert said.endswith("model.desirable_weight of 3 to 4.5.")
    for inside in (2.0, 3.0):
        assert describe_balance(unbalanced, 1.0, inside) is None
    for outside in (1.99, 3.01):
        assert describe_balance(unbalanced, 1.0, outside) is not None
    assert describe_balance(labelled([GOOD], [BAD]), 1.0, 1.0) is None
    assert describe_balance(labelled([GOOD]), 1.0, 1.0) == (
        "kto: 1 responses are desirable and 0 undesirable, and the source wants λ_D·n_D / (λ_U·n_U) within 1 and 3/2: "
        "it is meant for both kinds."
    )
    assert (
        describe_balance([Tree([0], SIDES, [[True] * 2, [True] * 3], [Comparison(0, 1)])], 1.0, 9.0) is None
    )


def test_counts_are_of_what_the_loss_is_a_mean_of():
    """Three desirable responses of one prompt weigh as much as one, and a weight of 2 as two."""
    assert describe_balance(labelled([GOOD, GOOD, GOOD], [BAD]), 1.0, 1.0) is None
    assert "weigh 2 times" in (describe_balance(labelled([Label(True, 2.0)], [BAD]), 1.0, 1.0) or "")


def test_the_balance_is_said_once_a_fit(caplog: pytest.LogCaptureFixture):
    rows = [row for row in ROWS if row["label"]] + [row for row in ROWS if not row["label"]][:3]
    with caplog.at_level(logging.INFO, logger="lightning.pytorch.utilities.rank_zero"):
        quiet_trainer(max_epochs=2).fit(make_module(), datamodule=PairDataModule(rows, batch_size=4))
    said = [
        line
        for line in caplog.messages
        if line.startswith("kto: 9 responses are desirable and 3 undesirable")
    ]
    assert len(said) == 1 and said[0].endswith("model.undesirable_weight of 2 to 3.")

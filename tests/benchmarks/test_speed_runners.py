"""Our side's processes, run here on a network of no size; TRL's needs an environment of its own."""

import math

import pytest
import torch

from benchmarks.speed import rows, run_ours, run_raw
from benchmarks.speed.job import Job, read_report

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def run(monkeypatch, capsys):
    def run_here(program, job):
        monkeypatch.setattr("sys.argv", ["run", job.to_json()])
        program.main()
        return read_report(capsys.readouterr().out)

    return run_here


def real_tokens(job):
    """Of the timed steps, from the rows."""
    timed = rows.comparisons(job)[job.warm * job.batch :]
    return sum(len(row.prompt) + len(ids) for row in timed for ids in row.responses)


def test_dpo_starts_at_ln_2_and_tells_its_share_of_the_peak(run, monkeypatch):
    monkeypatch.setattr("benchmarks.speed.flops.SHAPES", ((32, 32, 32),))
    job = Job("dpo", "ours", "tiny", 80, 60, steps=2, with_peak=True)
    found = run(run_ours, job)
    assert found.first_loss == pytest.approx(math.log(2), abs=1e-6)
    assert (found.steps, found.tokens) == (2, real_tokens(job))
    assert found.slots < found.tokens  # the prompt once
    assert found.facts["attention"] != "sdpa"
    assert found.facts["useful_flops_per_second"] > 0
    assert found.facts["peak_flops_per_second"] > 0
    assert {"fused": True, "lr": 1e-4, "weight_decay": 0.0, "class": "AdamW"}.items() <= found.facts[
        "optimizer"
    ].items()


def test_a_ranking_has_one_loss_by_trees_by_rows_by_pairs_and_without_a_trainer(run):
    job = Job("reward", "ours", "tiny", 80, 60, responses=3, steps=1)
    settings = [
        (run_ours, {}),
        (run_ours, {"attention": "padded"}),
        (run_ours, {"attention": "padded", "as_pairs": True}),
        (run_raw, {"program": "raw"}),
    ]
    found = [run(program, Job(**{**vars(job), **changes})) for program, changes in settings]
    assert [each.first_loss for each in found] == pytest.approx([found[0].first_loss] * 4, abs=1e-5)
    # each of three responses stands in two of the three comparisons
    assert [each.tokens for each in found] == [real_tokens(job) * times for times in (1, 1, 2, 1)]
    assert found[1].slots > found[0].slots


def test_packing_to_a_budget_tells_the_loss_of_the_other_sides_first_rows(run):
    job = Job("sft", "ours", "tiny", lengths=(80, 128), batch=4, steps=3)
    padded = Job(**{**vars(job), "attention": "padded"})
    packed = Job(**{**vars(job), "max_tokens": 200})
    one, other = run(run_ours, padded), run(run_ours, packed)
    # what transformers itself says of the first four rows, each weighing as its response is long
    model, first = rows.causal_lm(job), rows.demonstrations(job)[:4]
    losses = [
        model(
            input_ids=torch.tensor([row.prompt + row.response]),
            labels=torch.tensor([[-100] * len(row.prompt) + row.response]),
        ).loss.item()
        for row in first
    ]
    tokens = [len(row.response) for row in first]
    expected = sum(loss * count for loss, count in zip(losses, tokens)) / sum(tokens)
    assert [one.first_loss, other.first_loss] == pytest.approx([expected] * 2, abs=1e-5)
    assert one.steps == 3
    assert other.slots == other.tokens


def test_the_raw_loop_knows_reward_models_alone(run):
    with pytest.raises(ValueError, match="found phase 'dpo'"):
        run(run_raw, Job("dpo", "raw", "tiny", 8, 4))

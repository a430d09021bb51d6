"""Benchmarks of sampling: lengths that both sides keep to, tokens that have to agree, and our processes at no size."""

import random
from dataclasses import replace

import pytest
import torch
from transformers import GenerationConfig

from benchmarks import ppo, rollout
from benchmarks.gpu import sampling
from benchmarks.speed import bandwidth, lengths, rows, run_ours_ppo, run_rollout
from benchmarks.speed.conditions import conditions
from benchmarks.speed.contest import RESPONSE_SPEED, Contest, Line
from benchmarks.speed.greedy import near_ties, parted_at_ties
from benchmarks.speed.job import Job, Measured, read_report
from benchmarks.speed.meter import Stopwatch
from lit_rlhf.rollout import collect

JOB = Job("rollout", "ours", "tiny", 12, responses=1, lengths=(8, 24), batch=6, steps=2, jitter=0.5)
PPO = Job(
    "ppo", "ours", "tiny", 12, responses=1, lengths=(8, 24), batch=4, microbatch=2, epochs=2, steps=2, jitter=0.0,
    clip=None,
)  # fmt: skip


def measured(greedy_tokens, near_ties=(), **facts):
    facts = {"greedy_tokens": greedy_tokens, "near_ties": list(near_ties), **facts}
    return Measured(1.0, 2, 100, 100, 10.0, None, {}, facts)


# --- lengths ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_a_heavy_tail_has_exactly_its_mean_and_its_largest_first(seed):
    for drawn in lengths.response_limits(replace(JOB, batch=64, lengths=(32, 128), seed=seed)):
        assert len(drawn) == 64
        assert sum(drawn) == 64 * 32
        assert drawn[0] == max(drawn) == 128
        assert min(drawn) >= 4
        assert sum(each > 32 for each in drawn) < 25  # most are shorter than the mean


def test_geometric_lengths_are_those_of_an_end_at_every_step():
    drawn = lengths.geometric(random.Random(0), 40_000, 40, 128)
    # mean of min(X, 128): the sum over steps of the probability to come so far
    assert sum(drawn) / len(drawn) == pytest.approx(sum((39 / 40) ** step for step in range(128)), rel=0.01)
    assert drawn.count(128) / len(drawn) == pytest.approx((39 / 40) ** 127, rel=0.1)
    assert min(drawn) == 1


def test_every_iteration_has_lengths_of_its_own_and_a_seed_the_same_again():
    first, second, third = lengths.response_limits(PPO)
    assert len(first) == 4
    assert not first == second == third
    assert lengths.response_limits(PPO)[0] == first
    assert lengths.response_limits(PPO.with_seed(1))[0] != first
    assert lengths.response_limits(replace(PPO, lengths=(7, 7), responses=2)) == [[7] * 8] * 3


def test_generate_pads_the_rows_that_are_over(monkeypatch):
    model, limits = rows.policy(JOB).eval(), [[3, 5], [6, 2]]
    monkeypatch.setattr(lengths, "response_limits", lambda job: limits)
    lengths.keep_to(model, JOB)
    settings = GenerationConfig(max_new_tokens=24, do_sample=False, eos_token_id=None, pad_token_id=rows.PAD)
    prompts = torch.tensor([[1, 5, 6], [1, 7, 8]])
    for each in limits:
        out = model.generate(prompts, attention_mask=torch.ones_like(prompts), generation_config=settings)
        assert out.shape[1] == 3 + max(each)
        assert ((out[:, 3:] != rows.PAD).sum(1)).tolist() == each


def test_the_policy_never_ends_a_response_and_does_not_repeat_one_token():
    model = rows.policy(replace(JOB, size="A")).eval()
    prompts = torch.tensor([ids[:6] for ids in rows.prompts(replace(JOB, size="A", jitter=0.0))])
    ids = model.generate(
        prompts,
        attention_mask=torch.ones_like(prompts),
        max_new_tokens=24,
        do_sample=False,
        eos_token_id=None,
    )
    logprobs = model(ids).logits.log_softmax(-1)
    assert logprobs[..., [rows.PAD, rows.BOS, rows.EOS]].max() < -20
    assert ids[:, 6:].unique().numel() > 10


# --- the same tokens --------------------------------------------------------------------------------------


def test_greedy_tokens_may_part_at_one_tie_in_64_rows():
    ours = measured([[5, 6, 7], [5, 6, 7]], near_ties=[(1, 2, 7, 9)])
    assert parted_at_ties(ours, measured([[5, 6, 7], [5, 6, 7]])) == []
    assert parted_at_ties(ours, measured([[5, 6, 7], [5, 6, 9]])) == [1]
    for wrong in (
        [[5, 6, 7], [5, 6, 8]],
        [[5, 6, 7], [5, 9, 7]],
        [[5, 6, 9], [5, 6, 7]],
        [[5, 6, 7], [5, 6]],
    ):
        with pytest.raises(ValueError, match="parts at step"):
            parted_at_ties(ours, measured(wrong))
    both = measured([[5, 6, 7], [4, 6, 7]], near_ties=[(0, 2, 7, 9), (1, 2, 7, 9)])
    with pytest.raises(ValueError, match="2 of 2 greedy responses part, though each at a tie"):
        parted_at_ties(both, measured([[5, 6, 9], [4, 6, 9]]))
    one_prompt_twice = measured([[5, 6, 7]] * 2, both.facts["near_ties"])
    assert parted_at_ties(one_prompt_twice, measured([[5, 6, 9]] * 2)) == [0, 1]


def test_ties_are_where_a_fresh_forward_has_two_likeliest_tokens():
    model = rows.policy(JOB).eval()
    with torch.no_grad():
        model.lm_head.weight[9] = model.lm_head.weight[8]
    prompt, response = [1, 5, 6], [10, 11, 12, 13]
    logits = model(torch.tensor([prompt + response])).logits[0]
    expected = [
        (0, step, {8, 9})
        for step in range(4)
        if logits[2 + step].argmax() in (8, 9)  # by whose side its twin stands
    ]
    found = near_ties(model, [prompt], [response])
    assert [(row, step, {a, b}) for row, step, a, b in found] == expected


def test_sides_with_other_tokens_lengths_updates_or_a_kl_are_not_compared():
    contest = Contest({"ours": JOB, "generate": JOB}, [Line("tail", "generate", "ours", "generate")], "")
    run = measured([[5, 6]], response_lengths={"mean": 2.0}, updates=4, first_kl=0.0)
    contest.check({"ours": run, "generate": run})
    for change, message in (
        ({"greedy_tokens": [[5, 7]]}, "ours and generate: greedy response 0 parts at step 1"),
        ({"response_lengths": {"mean": 3.0}}, "the same response_lengths on all sides"),
        ({"updates": 5}, "the same updates"),
        ({"first_kl": 0.01}, r"no KL before the first update, found 0\.01 \(generate\)"),
    ):
        other = replace(run, facts={**run.facts, **change})
        with pytest.raises(RuntimeError, match=message):
            contest.check({"ours": run, "generate": other})
    loose = replace(contest, kl_within=0.1)
    loose.check({"ours": run, "generate": replace(run, facts={**run.facts, "first_kl": 0.01})})


def test_rows_that_parted_at_a_tie_are_counted_in_the_conditions():
    contest = Contest({"ours": JOB, "generate": JOB}, [Line("tail", "generate", "ours", "generate")], "")
    runs = {"ours": [measured([[5, 6]], [(0, 1, 6, 7)])], "generate": [measured([[5, 7]])]}
    said = conditions(contest, contest.lines[0], runs, [0.5], quick=True)
    assert said["greedy_responses"] == {"compared": [1], "parted_at_a_tie": [1]}
    assert "greedy_tokens" not in said


# --- our processes ----------------------------------------------------------------------------------------


@pytest.fixture
def run(monkeypatch, capsys):
    def run_here(program, job):
        monkeypatch.setattr("sys.argv", ["run", job.to_json()])
        program.main()
        return read_report(capsys.readouterr().out)

    return run_here


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("responses, greedy", [(1, True), (3, False)])
def test_both_samplers_come_to_the_same_tokens(run, responses, greedy):
    job = replace(
        JOB, responses=responses, greedy=greedy, with_peak=True, lengths=(8, 24) if greedy else (8, 8)
    )
    ours, theirs = run(run_rollout, job), run(run_rollout, replace(job, program="generate"))
    count = job.batch * responses
    assert len(ours.facts["greedy_tokens"]) == (3 if greedy else 1) * count
    assert ours.facts["greedy_tokens"] == theirs.facts["greedy_tokens"]
    assert len(ours.facts["greedy_tokens"][0]) == job.lengths[1]
    assert ours.tokens == theirs.tokens == 2 * 8 * count
    assert (ours.slots, theirs.slots) == (2 * 8 * count, 2 * job.lengths[1] * count)
    assert ours.facts["response_lengths"]["largest"] == job.lengths[1]
    for side in (ours, theirs):
        assert side.facts["decode_bytes_per_second"] > 0
        assert side.facts["copy_bytes_per_second"] > 0


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "changes", [{}, {"critic": "shared"}, {"phase": "grpo", "responses": 2, "clip": 1.0}]
)
def test_an_iteration_of_ours_keeps_to_the_lengths_and_updates_once_an_epoch(run, changes, monkeypatch):
    monkeypatch.setattr(collect, "sample_responses", collect.sample_responses)  # put back afterwards
    job = replace(PPO, **changes)
    found = run(run_ours_ppo, job)
    timed = [length for limits in lengths.response_limits(job)[1:] for length in limits]
    assert found.tokens == sum(timed)
    assert found.facts["response_lengths"]["largest"] == max(timed)
    assert found.facts["updates"] == 3 * job.epochs
    assert abs(found.facts["first_kl"]) < 1e-3
    assert {"sampling", "update forward", "backward", "optimizer", "other"} <= set(found.facts["parts"])


def test_the_stopwatch_gives_each_part_its_own_time(monkeypatch):
    clock = iter([0.0, 1.0, 3.0, 10.0])
    monkeypatch.setattr("benchmarks.speed.meter.now", lambda device: next(clock))

    class Owner:
        def inner(self):
            pass

        def outer(self):
            self.inner()

    owner, watch = Owner(), Stopwatch("cpu")
    watch.watch(owner, "inner", "in")
    watch.watch(owner, "outer", lambda: "out")
    owner.outer()
    assert watch.shares(12.0) == {"in": 2.0, "out": 8.0, "other": 2.0}
    watch.start_over()
    assert watch.shares(1.0) == {"other": 1.0}


# --- what is run ------------------------------------------------------------------------------------------


def keys(module, size):
    return [key for contest in module.contests(size) for key in contest.keys]


def test_the_rows_that_were_asked_for():
    assert keys(rollout, "B") == [
        (work, "generate", size) for work in ("heavy tail", "equal lengths", "n=8") for size in "AB"
    ]
    assert sorted(keys(ppo, "B")) == sorted(
        [
            *(
                (f"ppo {work}", "trl 1.12", size)
                for work in ("geometric", "full length", "shared trunk")
                for size in "AB"
            ),
            *(("grpo n=4", "trl", size) for size in "AB"),
            ("ppo memory", "trl 1.12", "B"),
        ]
    )
    assert {size for *_, size in [*keys(rollout, "A"), *keys(ppo, "A")]} == {"A"}
    assert ("ppo memory", "trl 1.12", "A") in keys(ppo, "A")


def test_both_sides_of_an_iteration_have_one_job():
    for contest in ppo.contests("B"):
        for side, job in contest.sides.items():
            assert replace(job, program="ours", critic="separate") == contest.sides["ours"], side


def test_the_gpu_samples_in_bf16_and_without_trl_too():
    job = Job("dpo", "ours", "1B", device="cuda", bf16=True)
    alone = sampling.contests(job, sampling.FULL, with_trl=False, with_trl_ppo=False)
    everything = sampling.contests(job, sampling.FULL, with_trl=True, with_trl_ppo=True)
    jobs = [job for contest in everything for job in contest.sides.values()]
    assert all(job.bf16 and job.device == "cuda" and job.size == "1B" for job in jobs)
    assert {job.program for contest in alone for job in contest.sides.values()} == {"ours", "generate"}
    found = {key[:2] for contest in everything for key in contest.keys}
    assert found >= {("decode bandwidth share", "copy"), ("ppo geometric", "trl 1.12"), ("grpo n=8", "trl")}


def test_bytes_of_a_decoding_step_by_hand():
    """tiny: D 32, one layer, inner 64, V 128; 4·32² + 3·32·64 + 32·128 weights; keys and values of 2·32 a token."""
    assert bandwidth.weight_bytes("tiny", 4) == 4 * (4 * 1024 + 6144 + 4096)
    assert bandwidth.key_value_bytes("1B", 3, 2) == 2 * 2 * 22 * 256 * 3
    job = replace(JOB, lengths=(10, 10), jitter=0.0, bf16=True)
    assert bandwidth.decode_bytes(job) == 2 * 14336 + 6 * (12 + 5) * 2 * 2 * 32


def test_response_tokens_are_what_the_unit_says():
    run = Measured(2.0, 1, 30, 60, 1.0, None, {}, {})
    assert (RESPONSE_SPEED.unit, RESPONSE_SPEED.ours(run)) == ("response tokens/s", 15.0)

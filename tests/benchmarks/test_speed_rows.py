"""Rows, models' operations and token counts: what both sides of a speed benchmark are given."""

import pytest

from benchmarks.speed import rows
from benchmarks.speed.flops import dpo_flops, forward_flops
from benchmarks.speed.job import Job, Measured, read_report
from benchmarks.speed.rows import Comparisons
from benchmarks.speed.run_ours import count, make_loader, make_trees
from lit_rlhf.data.trees import pack_trees

JOB = Job("dpo", "ours", "tiny", prompt=40, response=10, batch=3, warm=1, steps=4)


class Tape:
    """In the meter's place: keeps what it is told."""

    def __init__(self, job):
        self.job = job
        self.batches = []

    def batch(self, tokens, slots):
        self.batches.append((tokens, slots))


def test_a_job_reaches_its_process_as_it_was(monkeypatch):
    job = Job("sft", "trl", "A", lengths=(80, 256), max_tokens=512, packed=True)
    monkeypatch.setattr("sys.argv", ["run", job.to_json()])
    assert Job.from_arguments() == job


def test_the_report_is_found_among_other_output(capsys):
    measured = Measured(2.0, 4, 100, 120, 5.0, 0.69, {"torch": "2"}, {"attention": "sdpa"})
    print("{'train_loss': 1}")
    measured.report()
    print("goodbye")
    assert read_report(capsys.readouterr().out) == measured
    assert measured.tokens_per_second == 50
    assert measured.ms_per_step == 500
    assert read_report("nothing to see") is None


def test_comparisons_are_drawn_by_the_seed_within_the_jitter_and_end_with_eos():
    drawn = rows.comparisons(JOB)
    assert len(drawn) == 3 * 5
    assert drawn == rows.comparisons(JOB)
    assert drawn != rows.comparisons(JOB.with_seed(1))
    assert all(28 <= len(row.prompt) <= 52 and row.responses[0] != row.responses[1] for row in drawn)
    for response in (ids for row in drawn for ids in row.responses):
        assert 7 <= len(response) <= 13
        assert response[-1] == rows.EOS
        assert all(3 <= token < 128 for token in response[:-1])


def test_demonstrations_have_the_mean_and_the_limit_of_their_job():
    job = Job("sft", "ours", "tiny", lengths=(160, 512), batch=100, steps=39)
    lengths = [len(row.prompt) + len(row.response) for row in rows.demonstrations(job)]
    assert max(lengths) == 512
    assert min(lengths) >= 16
    # the cut at 512 takes about 11 off the mean of 160: E min(X, 512) of this lognormal by its closed form
    assert sum(lengths) / len(lengths) == pytest.approx(153, abs=5)


def test_models_are_the_same_wherever_they_are_made():
    one, other = rows.causal_lm(JOB), rows.causal_lm(JOB)
    assert all((a == b).all() for a, b in zip(one.parameters(), other.parameters()))
    assert len(rows.tokenizer("tiny")) == rows.SIZES["tiny"]["vocabulary"]


def test_tokens_count_the_prompt_for_each_response_and_padding_never():
    """Trees of 2 + (3, 1) and 1 + (4,) tokens: rows of 5, 3 and 5."""
    trees = [_tree(2, [3, 1]), _tree(1, [4])]
    batch = pack_trees(trees)
    assert count(batch, padded=False) == (13, 11)
    assert count(batch, padded=True) == (13, 15)


def test_comparisons_as_pairs_keep_the_step_and_its_comparisons():
    job = Job("reward", "ours", "tiny", 20, 6, responses=4, batch=2, steps=1)
    as_pairs = Job("reward", "ours", "tiny", 20, 6, responses=4, batch=2, steps=1, as_pairs=True)
    ranked, paired = (list(make_loader(each, Tape(each))) for each in (job, as_pairs))
    assert len(ranked) == len(paired) == 2
    assert [len(batch.better) for batch in ranked] == [len(batch.better) for batch in paired] == [12, 12]
    assert [batch.num_responses for batch in ranked] == [8, 8]
    assert [batch.num_responses for batch in paired] == [24, 24]
    # the first tree's pairs in the order of its comparisons: 0 over 1, 0 over 2, ...
    assert make_trees(as_pairs)[1].response_ids == [make_trees(job)[0].response_ids[at] for at in (0, 2)]


def test_steps_take_the_rows_in_their_order_and_the_meter_hears_of_each():
    tape = Tape(JOB)
    batches = list(make_loader(JOB, tape))
    drawn = rows.comparisons(JOB)
    expected = [
        sum(2 * len(row.prompt) + sum(map(len, row.responses)) for row in drawn[start : start + 3])
        for start in range(0, 15, 3)
    ]
    assert [tokens for tokens, _ in tape.batches] == expected
    assert batches[1].prompt_lengths == [len(row.prompt) for row in drawn[3:6]]


def test_useful_operations_of_a_forward_by_hand():
    """tiny: D 32, one layer, inner 64, V 128; a prompt of 2 with responses of 1 and 3 tokens.

    Weights 4·32² + 3·32·64 = 10,240. Looks: 1 + 2 in the prompt, 2 + 1 of the short and 3·2 + 1 + 2 + 3 of the long
    response. So 2·10,240·6 + 4·32·18 + 2·32·128·4.
    """
    row = Comparisons([5, 6], [[7], [8, 9, 10]])
    assert forward_flops("tiny", row) == 122_880 + 2_304 + 32_768
    assert dpo_flops("tiny", [row, row]) == 8 * forward_flops("tiny", row)


def test_grouped_keys_have_smaller_weights():
    """1B: 32 heads share 4 keys, so keys and values are 256 wide instead of 2,048."""
    weights = 22 * (2 * 2048**2 + 2 * 2048 * 256 + 3 * 2048 * 5632)
    assert forward_flops("1B", Comparisons([5], [[6]])) == 4 * weights + 4 * 2048 * 22 * 3 + 2 * 2048 * 32000


def _tree(prompt, responses):
    from benchmarks.speed.run_ours import tree_of

    return tree_of([5] * prompt, [[6] * length for length in responses])

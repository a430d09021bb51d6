import pytest

from benchmarks.prepare import prepare, read, write


@pytest.fixture
def data(tmp_path):
    """30 debates of 2 pairs, 2 dialogues, 150 prompts of which SFT leaves 40 to its validation file."""

    def folder(name, train, valid=()):
        (tmp_path / "data" / name).mkdir(parents=True)
        write(tmp_path / "data" / name / "train.jsonl", train)
        write(tmp_path / "data" / name / "valid.jsonl", valid)

    debates = [
        {"prompt": f"debate {n}", "chosen": f"yes {n}", "rejected": f"no {m}"}
        for n in range(30)
        for m in (n, n + 1)
    ]
    dialogues = [{"prompt": f"Human {n}", "chosen": " well", "rejected": " ill"} for n in range(2)]
    demos = [{"prompt": f"MR {n}", "response": "text"} for n in range(150)]
    prompts = [{"id": str(n), "prompt": f"MR {n}", "gold": {}} for n in range(150)]
    folder("pairs_ukp_convarg", debates)
    folder("pairs_hh_harmless", dialogues)
    folder("demos_e2e", demos[40:], demos[:40])
    folder("prompts_e2e", prompts)
    return tmp_path / "data"


def test_no_debate_stands_on_both_sides(data, tmp_path):
    prepare(data, tmp_path / "out")
    training, development = (
        {row["prompt"] for row in read(tmp_path / "out" / f"ukp_{part}.jsonl")} for part in ("train", "dev")
    )
    assert len(training) == 27
    assert development == {"debate 27", "debate 28", "debate 29"}
    assert not training & development


def test_all_prompts_that_sft_has_not_seen_are_held_out_of_ppo(data, tmp_path):
    counts = prepare(data, tmp_path / "out")
    assert (counts["prompts_train"], counts["prompts_val"], counts["prompts_sampled"]) == (50, 100, 400)
    held_out = read(tmp_path / "out" / "prompts_val.jsonl")
    assert {row["prompt"] for row in held_out if not row["seen_in_sft"]} == {f"MR {n}" for n in range(40)}
    assert not {row["prompt"] for row in held_out} & {
        row["prompt"] for row in read(tmp_path / "out" / "prompts_train.jsonl")
    }


def test_pretraining_sees_both_answers_once_each(data, tmp_path):
    prepare(data, tmp_path / "out")
    texts = [row["text"] for row in read(tmp_path / "out" / "pretrain_pairs.jsonl")]
    assert len(texts) == len(set(texts)) == 30 + 31 + 4
    assert {"yes 3", "no 3", "Human 0 well", "Human 0 ill"} <= set(texts)

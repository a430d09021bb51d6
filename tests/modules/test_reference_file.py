"""Reference log-probabilities on disk: what a file is of, where it stands, and how it comes about."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from lit_rlhf.modules.reference_file import Identity, ReferenceFile, data_file_of, rows_fingerprint
from lit_rlhf.records import Tree
from tests.modules.training import random_trees

IDENTITY = Identity("a model", "some rows", "32-true")
LOGPROBS = torch.tensor([-1.5, -2.0, -3.25, -0.5, -7.0])


def file_in(*folders: Path, identity: Identity = IDENTITY) -> ReferenceFile:
    """Three rows of 2, 1 and 2 responses."""
    return ReferenceFile(identity, folders, "pairs.jsonl", [2, 1, 2])


def test_it_is_read_as_it_was_written(tmp_path: Path):
    path = file_in(tmp_path).finish(LOGPROBS, {"reference": "the start"})
    assert path == tmp_path / f"pairs.jsonl.reference-{IDENTITY.key[:12]}.safetensors"
    logprobs, where = file_in(tmp_path).read()
    assert torch.equal(logprobs, LOGPROBS) and where == path
    with safe_open(path, framework="pt") as content:
        header = content.metadata()
        assert content.get_tensor("starts").tolist() == [0, 2, 3, 5]
    assert header["rows"] == "3" and header["responses"] == "5" and header["reference"] == "the start"
    assert (header["model"], header["data"], header["precision"]) == ("a model", "some rows", "32-true")
    assert header["made"].startswith("20") and header["format"].endswith("/1")
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("change", [{"model": "b"}, {"rows": "b"}, {"precision": "bf16-mixed"}])
def test_another_identity_has_another_file(tmp_path: Path, change: dict):
    file_in(tmp_path).finish(LOGPROBS, {})
    other = file_in(tmp_path, identity=replace(IDENTITY, **change))
    assert other.read() is None
    [(path, header)] = other.others()
    assert path.name == file_in(tmp_path).name
    assert other.identity.differs_in(header) == [{"rows": "data"}.get(next(iter(change)), next(iter(change)))]
    assert list(file_in(tmp_path).others()) == []


def test_parts_are_put_together_and_removed(tmp_path: Path):
    file = file_in(tmp_path)
    file.write_part(LOGPROBS[3:], torch.tensor([3, 4]))
    file.write_part(LOGPROBS[:2], torch.tensor([0, 1]))
    again = file_in(tmp_path)
    assert again.read() is None
    known = again.read_parts()
    assert known[[0, 1, 3, 4]].tolist() == LOGPROBS[[0, 1, 3, 4]].tolist() and known[2].isnan()
    assert file_in(tmp_path, identity=replace(IDENTITY, model="b")).read_parts().isnan().all()
    again.finish(LOGPROBS, {})
    assert [path.name for path in tmp_path.iterdir()] == [again.name]


def test_two_runs_at_once_leave_one_whole_file(tmp_path: Path):
    one, other = file_in(tmp_path), file_in(tmp_path)
    one.write_part(LOGPROBS[:2], torch.tensor([0, 1]))
    other.write_part(LOGPROBS[:3], torch.tensor([0, 1, 2]))
    one.finish(LOGPROBS, {})
    other.write_part(LOGPROBS[3:], torch.tensor([3, 4]))
    other.finish(LOGPROBS, {})
    assert torch.equal(file_in(tmp_path).read()[0], LOGPROBS)
    assert [path.name for path in tmp_path.iterdir()] == [one.name]


def test_a_crash_while_writing_leaves_the_old_file(tmp_path: Path, monkeypatch):
    file = file_in(tmp_path)
    file.finish(LOGPROBS, {})

    def crash(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("lit_rlhf.modules.reference_file.os.replace", crash)
    with pytest.raises(KeyboardInterrupt):
        file.finish(LOGPROBS + 1, {})
    assert torch.equal(file_in(tmp_path).read()[0], LOGPROBS)


def test_a_folder_that_cannot_be_written_is_passed_over_and_named(tmp_path: Path):
    blocked, run = tmp_path / "blocked", tmp_path / "run"
    blocked.write_text("a file where a folder should be: nobody can write into it, not even root")
    file = file_in(blocked, run)
    assert file.finish(LOGPROBS, {}) == run / file.name
    assert len(file.refused) == 1 and f"{blocked} cannot be written" in file.refused[0]
    assert file_in(blocked, run).read()[1] == run / file.name
    assert file_in(blocked).finish(LOGPROBS, {}) is None


def test_broken_and_foreign_files_are_not_read(tmp_path: Path):
    file = file_in(tmp_path)
    (tmp_path / file.name).write_bytes(b"half of a fi")
    assert file.read() is None
    save_file({"logprobs": LOGPROBS}, tmp_path / file.name)
    assert file.read() is None
    save_file({"logprobs": LOGPROBS}, tmp_path / "pairs.jsonl.reference-of-mine.safetensors")
    assert list(file.others()) == []
    other = file_in(tmp_path, identity=replace(IDENTITY, model="b"))
    other.finish(LOGPROBS, {}).rename(tmp_path / file.name)
    assert file.read() is None


def test_names_with_wildcards_are_names(tmp_path: Path):
    file = ReferenceFile(IDENTITY, [tmp_path], "pairs[1].jsonl", [1])
    file.write_part(LOGPROBS[:1], torch.tensor([0]))
    assert file.read_parts().tolist() == [-1.5]
    file.finish(LOGPROBS[:1], {})
    other = ReferenceFile(replace(IDENTITY, model="b"), [tmp_path], "pairs[1].jsonl", [1])
    assert [path.name for path, _ in other.others()] == [file.name]


def test_rows_are_told_apart_by_tokens_masks_and_shape():
    trees = random_trees(5)
    assert rows_fingerprint(trees) == rows_fingerprint(random_trees(5))
    seen = {rows_fingerprint(trees), rows_fingerprint(trees[::-1]), rows_fingerprint(trees[:4])}
    one = Tree([1, 2], [[3], [4]], [[True], [True]])
    for tree in (
        one,
        Tree([1], [[2, 3], [4]], [[True, True], [True]]),
        Tree([1, 2], [[3, 4]], [[True, True]]),
        Tree([1, 2], [[3], [4]], [[True], [False]]),
        Tree([1, 2], [[4], [3]], [[True], [True]]),
    ):
        seen.add(rows_fingerprint([tree]))
    assert len(seen) == 8
    named = replace(one, id="a name", ranks=[1.0, 2.0])
    assert rows_fingerprint([named]) == rows_fingerprint([one])


def test_the_first_local_path_has_the_file_beside_it(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "a.jsonl").write_text("")
    assert data_file_of(str(tmp_path / "a.jsonl")) == tmp_path / "a.jsonl"
    assert data_file_of("a.jsonl") == Path("a.jsonl")
    assert data_file_of("data/").name == "data"  # beside the folder, and not in it
    assert data_file_of(".") == tmp_path
    assert data_file_of(["someone/on_the_hub", "data", "a.jsonl"]) == Path("data")
    assert data_file_of([{"path": "a.jsonl", "weight": 2}]) == Path("a.jsonl")
    assert data_file_of("someone/on_the_hub") is None
    assert data_file_of([{"prompt": "a", "chosen": "b", "rejected": "c"}]) is None
    assert data_file_of(None) is None

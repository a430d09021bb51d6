"""``lit-rlhf sample`` stopped and begun again: nothing is drawn twice, and the file is the one of a run left alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from lit_rlhf.cli import sample_draws
from lit_rlhf.cli.main import main
from lit_rlhf.cli.sample_policy import Policy


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(name: str, rows: list[dict[str, Any]]) -> str:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return name


def refusal(capsys: pytest.CaptureFixture[str], *argv: str, code: int = 2) -> str:
    with pytest.raises(SystemExit) as stop:
        main(["sample", *argv])
    assert stop.value.code == code
    return capsys.readouterr().err


def test_a_stopped_run_goes_on_where_it_was(
    tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = write("a.jsonl", [{"prompt": f"row {number}"} for number in range(11)])
    argv = ["sample", str(tiny_model_dir), "--prompts", prompts, "-k", "2", "--max-new-tokens", "8"]
    main([*argv, "--out", "whole.jsonl"])
    monkeypatch.setattr(sample_draws, "FIRST_RESPONSES", 4)
    monkeypatch.setattr(sample_draws, "SECONDS", 1e9)  # windows of 2, 4, 8 ... prompts
    draw, asked = Policy.draw, []

    def interrupted(self: Policy, prompts: list[list[int]], *others: Any) -> Any:
        if len(asked) == 2:
            raise KeyboardInterrupt
        asked.append(len(prompts))
        return draw(self, prompts, *others)

    with monkeypatch.context() as patch:
        patch.setattr(Policy, "draw", interrupted)
        said = refusal(capsys, *argv[1:], "--out", "o.jsonl", code=130)
    assert asked == [4, 8]
    (part,) = Path().glob("o.jsonl.*.part")
    assert f"interrupted; what was drawn so far is kept in {part}\n" in said
    assert f"go on with: lit-rlhf {' '.join(argv)} --out o.jsonl" in said
    assert not Path("o.jsonl").exists()
    assert len(part.read_text().splitlines()) == 6
    with open(part, "a") as file:
        file.write('{"id": "a.jsonl:7", "respon')  # as a kill in the middle of a line leaves it
    again: list[int] = []

    def noted(self: Policy, prompts: list[list[int]], *others: Any) -> Any:
        again.append(len(prompts))
        return draw(self, prompts, *others)

    monkeypatch.setattr(Policy, "draw", noted)
    main([*argv, "--out", "o.jsonl"])
    assert sum(again) == 2 * (11 - 6)
    assert Path("o.jsonl").read_bytes() == Path("whole.jsonl").read_bytes()
    assert not part.exists()
    said = capsys.readouterr()
    assert "6 of 11 rows are there already" in said.out and "o.jsonl: 11 rows, 22 responses" in said.out
    assert "line 7 is not whole; the rows from there on (1 in the file) are sampled again" in said.err


def test_two_of_the_same_command_do_not_write_one_file(
    tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = write("a.jsonl", [{"prompt": "a"}, {"prompt": "b"}])
    argv = [str(tiny_model_dir), "--prompts", prompts, "--max-new-tokens", "2", "--out", "o.jsonl"]
    draw, said = Policy.draw, []

    def twice(self: Policy, *arguments: Any) -> Any:
        if not said:
            said.append("")
            said.append(refusal(capsys, *argv, code=1))
        return draw(self, *arguments)

    monkeypatch.setattr(Policy, "draw", twice)
    main(["sample", *argv])
    assert (
        ".part: another run of the same command is writing it. Wait for it, or give another --out." in said[1]
    )
    assert len(Path("o.jsonl").read_text().splitlines()) == 2


def test_nothing_is_kept_where_nothing_was_drawn(
    tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: Any) -> Any:
        raise KeyboardInterrupt

    prompts = write("a.jsonl", [{"prompt": "a"}])
    argv = [str(tiny_model_dir), "--prompts", prompts, "--out", "o.jsonl"]
    monkeypatch.setattr(Policy, "draw", interrupted)
    said = refusal(capsys, *argv, code=130)
    assert "interrupted; nothing was drawn yet\ngo on with: " in said
    assert not list(Path().glob("o.jsonl*"))
    monkeypatch.setattr("lit_rlhf.cli.sample_files.load_policy", interrupted)
    assert "\ninterrupted\ngo on with: " in refusal(capsys, *argv, code=130)


def test_a_part_of_other_settings_is_left_alone(
    tiny_model_dir: Path,
    tiny_tokenizer: PreTrainedTokenizerFast,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = [{"prompt": "a", "note": 1}, {"prompt": "c"}]
    monkeypatch.setattr(sample_draws, "FIRST_RESPONSES", 1)
    monkeypatch.setattr(sample_draws, "SECONDS", 0)  # windows of one prompt
    argv = [
        str(tiny_model_dir),
        "--prompts",
        write("a.jsonl", rows),
        "--out",
        "o.jsonl",
        "--max-new-tokens",
        "2",
    ]

    draw, last = Policy.draw, tiny_tokenizer.convert_tokens_to_ids("c")

    def interrupted(self: Policy, prompts: list[list[int]], keys: Any, report: Any) -> Any:
        if report is not None and prompts[0][-1] == last:
            raise KeyboardInterrupt
        return draw(self, prompts, keys, report)

    with monkeypatch.context() as patch:
        patch.setattr(Policy, "draw", interrupted)
        for options in ([], ["--seed", "1"], ["-k", "2"], ["--top-p", "0.5"], ["--max-cached-tokens", "99"]):
            refusal(capsys, *argv, *options, code=130)
        assert len(list(Path().glob("o.jsonl.*.part"))) == 4  # what is held at once changes nothing
        refusal(capsys, f"{tiny_model_dir}/", *argv[1:], code=130)  # `source` would be spelled in two ways
        assert len(list(Path().glob("o.jsonl.*.part"))) == 5
        write("a.jsonl", [{"prompt": "a", "note": 2}, {"prompt": "c"}])
        refusal(capsys, *argv, code=130)
        write("a.jsonl", [{"prompt": "b", "note": 2}, {"prompt": "c"}])
        refusal(capsys, *argv, code=130)
    others = sorted(map(str, Path().glob("o.jsonl.*.part")))
    assert len(others) == 7
    main(["sample", *argv, "--seed", "9"])
    said = capsys.readouterr().out
    what = "model (or spelling of it), settings or rows"
    assert f"unfinished, of another {what}, yours to delete: {', '.join(others)}" in said
    assert sorted(map(str, Path().glob("o.jsonl.*.part"))) == others

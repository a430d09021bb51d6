"""The checks for a GPU, without one: what is planned, fitted and resumed, with processes that cost nothing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.gpu import phases
from benchmarks.gpu.cells import FULL, QUICK, Cell, cells
from benchmarks.gpu.folders import SHAPES, data_file
from benchmarks.scale.compute import Tree, forward_flops

CELL = Cell("dpo", "A", False, "bf16-mixed", "auto")
UPDATES = [
    {"step": step, "seconds": 0.5, "loss": 1.0 / step, "trees": [[8, [4, 4]]]} for step in (1, 2, 3, 4)
]
SEEN = {
    "first_step": 0, "updates": UPDATES, "warm": 1, "seconds_in_all": 2.0, "peak_bytes": 90 * 2**20,
    "reserved_bytes": 95 * 2**20, "process_mb": 300.0, "device": "cpu",
}  # fmt: skip
RESUMED = {**SEEN, "first_step": 2, "updates": UPDATES[2:]}
PLAN = {
    "fits": True, "peak": 2**30, "assumptions": [],
    "moments": {"forward": {"tensors": 100 * 2**20}, "update": {"tensors": 1}},
}  # fmt: skip


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Commands that would have run."""
    asked: list[list[str]] = []
    monkeypatch.setattr(phases, "run_plan", lambda shared, memory, folder: PLAN)
    monkeypatch.setattr(Cell, "arguments", lambda *_: ["--same"])

    def fit(shared, run, save_at=0, checkpoint=None):
        asked.append([*shared, str(save_at)])
        if checkpoint is not None:
            checkpoint.write_bytes(b"x" * 2**20)
        return RESUMED if checkpoint is None else SEEN

    monkeypatch.setattr(phases, "fit", fit)
    return asked


def test_a_cell_is_planned_fitted_and_resumed_from_its_middle(tmp_path: Path, processes: list[list[str]]):
    memory, share, clock, resume = phases.run_cell(CELL, tmp_path, QUICK, "cpu", peak=1e9)
    assert processes[0] == ["--same", "2"]
    assert processes[1][1].endswith("middle.ckpt")
    assert (memory["ours"], memory["theirs"], memory["ratio"]) == (90, 100, 1.1111)
    assert clock["ours"] == 16 / 0.5  # three timed updates, 16 tokens each
    flops = 4 * forward_flops(SHAPES["A"], Tree(8, 4, 2))
    assert share["ours"] == round(flops / 0.5 / 1e9, 2)
    assert (resume["ours"], resume["theirs"]) == (0.25, 0.25)
    assert resume["conditions"]["furthest_apart"] == 0
    assert memory["conditions"]["checkpoint_mb"] == 1


def test_what_the_plan_refuses_is_not_run(tmp_path, processes, monkeypatch):
    monkeypatch.setattr(phases, "run_plan", lambda *_: {**PLAN, "fits": False})
    (row,) = phases.run_cell(CELL, tmp_path, QUICK, "cpu", peak=1e9)
    assert processes == []
    assert "does not fit by plan: not run" in phases.table([row])


def test_a_resumed_fit_has_to_begin_at_the_checkpoint_and_end_with_the_other():
    with pytest.raises(RuntimeError, match=r"expected to go on from update 2 to 4, found \(0, 4\)"):
        phases.resume_row(CELL, SEEN, SEEN, 2, {})


def test_operations_of_adapters_and_of_ppo():
    trees = [[8, [4]], [8, [4]]]
    whole, states = (2 * forward_flops(SHAPES["A"], Tree(8, 4), head) for head in (True, False))
    of = {
        ("sft", False): 3 * whole,
        ("sft", True): 2 * whole,
        ("reward", False): 3 * states,
        ("ppo", False): 3 * whole + 3 * states,
        ("ppo", True): 2 * whole,
    }
    for (phase, lora), expected in of.items():
        assert phases.useful_flops(Cell(phase, "A", lora, "bf16-true", "auto"), trees) == expected


def test_cells_stop_in_time_and_go_on(tmp_path, monkeypatch, capsys):
    run: list[str] = []
    monkeypatch.setattr(phases.time, "monotonic", lambda: 100.0 * len(run))  # each takes 100 s

    def run_cell(cell, *_):
        run.append(cell.name)
        return [
            {**phases._row(cell, "memory", "plan"), "conditions": {"cell": cell.name, "plan": {"fits": True}}}
        ]

    monkeypatch.setattr(phases, "run_cell", run_cell)
    monkeypatch.setattr(phases, "peak_flops", lambda *_, **__: 1e9)
    arguments = [
        "phases",
        "--quick",
        "--device",
        "cpu",
        "--work",
        str(tmp_path),
        "--out",
        str(tmp_path / "gpu.json"),
    ]
    monkeypatch.setattr(sys, "argv", [*arguments, "--minutes", "4"])
    phases.main()
    assert len(run) == 2  # a third would be over after 300 s
    assert "2 left: run the same command again." in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", arguments)
    phases.main()
    assert run == [cell.name for cell in cells(quick=True)]
    assert "nothing is left." in capsys.readouterr().out


def test_every_phase_size_precision_and_strategy_has_a_cell():
    found = {(cell.phase, cell.size, cell.lora, cell.precision, cell.strategy) for cell in cells(quick=False)}
    for phase in ("sft", "reward", "dpo", "ppo"):
        for precision in ("bf16-mixed", "bf16-true"):
            for strategy in ("auto", "fsdp2"):
                assert (phase, "1B", False, precision, strategy) in found
        assert (phase, "1B", True, "bf16-true", "auto") in found
        assert (phase, "8B", True, "bf16-true", "auto") in found
    assert len({cell.name for cell in cells(quick=False)}) == len(found)


def test_rows_are_as_long_as_they_may_be(tmp_path: Path):
    rows = [json.loads(line) for line in data_file(tmp_path, "A", "dpo", 10, 5).read_text().splitlines()]
    assert {len(row["prompt"].split()) for row in rows} == {9}  # and the BOS
    assert {len(row[side].split()) for row in rows for side in ("chosen", "rejected")} == {4}  # and the EOS
    assert FULL.rows % FULL.micro_batches == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", [cell.name for cell in cells(quick=True)])
def test_it_runs_on_a_cpu(tmp_path: Path, name: str):
    out = tmp_path / "gpu.json"
    command = [sys.executable, "-m", "benchmarks.gpu.phases", "--quick", "--device", "cpu", "--only", name]
    subprocess.run(
        [*command, "--work", str(tmp_path), "--out", str(out)], check=True, capture_output=True, timeout=300
    )
    rows = json.loads(out.read_text())
    resume = next(row for row in rows if row["work"].endswith("resume"))
    assert resume["conditions"]["furthest_apart"] < 1e-6

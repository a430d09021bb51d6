"""Predictions, exponents, the page, and a start that goes on where another was stopped."""

import json
import math
from dataclasses import replace
from itertools import pairwise

import pytest

from benchmarks.scale import __main__ as scale
from benchmarks.scale import communication, efficiency, growth, results, volume
from benchmarks.scale.collectives import Tally
from benchmarks.scale.compute import Tree, decode_step_seconds, forward_flops, layer_weights
from benchmarks.scale.hardware import BASE, Hardware, collective_seconds, latency
from benchmarks.scale.launch import run_ranks
from benchmarks.scale.networks import SHAPE_8B
from benchmarks.scale.page import page
from benchmarks.scale.runs import Counted, Run
from benchmarks.speed.flops import forward_flops as flops_of_rows
from benchmarks.speed.rows import SIZES, Comparisons

H100 = efficiency.MACHINES[0]
KEYS = {"work", "size", "against", "ours", "theirs", "ratio", "unit", "repeats", "spread", "conditions"}


def test_forward_operations_are_those_of_the_speed_benchmarks():
    rows = Comparisons([0] * 20, [[0] * 7, [0] * 7, [0] * 7])
    assert forward_flops(SIZES["A"], Tree(20, 7, 3)) == flops_of_rows("A", rows)
    head = 2 * 128 * 512 * 21
    assert forward_flops(SIZES["A"], Tree(20, 7, 3), head=False) == flops_of_rows("A", rows) - head


def test_decoding_reads_all_weights_once_for_few_rows_and_computes_for_many():
    weights = 2 * (layer_weights(SHAPE_8B) + 4096 * 128256)
    few = decode_step_seconds(SHAPE_8B, 1, 0, H100)
    assert few == pytest.approx(weights / (3.35e12 * 0.8))
    many = decode_step_seconds(SHAPE_8B, 10_000, 0, H100)
    assert many == pytest.approx(10_000 * weights / (989e12 * 0.5))


def test_a_large_collective_takes_as_long_as_its_slowest_link_and_a_small_one_its_hops():
    gigabyte = Tally(1, 1e9)
    near = collective_seconds("all_gather", gigabyte, 8, H100) - latency("all_gather", 8, 8)
    assert near == pytest.approx(1e9 * 7 / 8 / (0.8 * 450e9))
    far = collective_seconds("all_gather", gigabyte, 64, H100) - latency("all_gather", 64, 8)
    assert far == pytest.approx(1e9 * 63 / 64 / (0.8 * 400e9))
    assert latency("all_gather", 16, 8) == pytest.approx(BASE + 14 * 3.4e-6 + 14e-6)
    assert latency("all_reduce", 16, 8) == pytest.approx(BASE + 2 * (7 * 4e-6 + 14e-6))
    assert latency("all_gather", 1, 8) == 0


def test_an_8b_update_in_numbers_by_hand():
    """Two gathers of 6.98 B layer weights and one of 1.05 B others, and one reduction, all of 2 bytes."""
    layers, root = 32 * (layer_weights(SHAPE_8B) // 32 + 2 * 4096), 2 * 128256 * 4096 + 4096
    setup = efficiency.SETUPS[0]
    (part,) = efficiency.predict("sft", setup, H100, "weak", 8).parts.values()
    gathered, reduced = part.tallies["all_gather", "weights"], part.tallies["reduce_scatter", "gradients"]
    assert gathered == Tally(65, 2 * (2 * layers + root))
    assert reduced == Tally(33, 2 * (layers + root))
    assert part.sending == pytest.approx(
        (gathered.payload + reduced.payload) * 7 / 8 / 360e9, abs=4e-3
    )  # and hops


def test_a_decoding_step_of_an_8b_policy_sends_all_its_layers_but_with_adapters_or_kept_weights():
    full, _, kept, whole, lora = (
        efficiency.predict("ppo", setup, H100, "weak", 64).parts["decoding step"].tallies
        for setup in efficiency.SETUPS
    )
    assert full["all_gather", "weights"].payload == pytest.approx(2 * 6.98e9, rel=1e-3)
    assert ("all_gather", "weights") not in kept.keys() | whole.keys()
    assert lora == {}


def test_parts_of_an_iteration_are_the_whole_of_it():
    """Decoding, looks and updates together send what the model says of a rollout and its updates."""
    setup = efficiency.SETUPS[0]
    work = efficiency.Work("ppo", setup, H100, 8, efficiency.rows_of("ppo", "weak", 8))
    parts = work.parts()
    rollout = volume.Rollout(512, 64, 16, 512, 512, looks_again=4)
    collected, _ = volume.steady_iteration(work.settings, work._models(), rollout, 8)
    for key, tally in collected.items():
        steps = parts["decoding step"]
        found = parts["looks"].tallies[key] + steps.tallies.get(key, Tally()).times(steps.steps)
        assert found.calls == pytest.approx(tally.calls)
        assert found.payload == pytest.approx(tally.payload)


def test_efficiencies_are_shares_and_fall_with_the_number_of_gpus():
    for phase in ("dpo", "ppo"):
        for setup in efficiency.SETUPS[:2]:
            for scaling in ("weak", "strong"):
                found = [
                    efficiency.predict(phase, setup, H100, scaling, gpus).efficiency for gpus in (8, 64, 512)
                ]
                assert all(0 < low <= high <= 1 + 1e-9 for low, high in found)
                assert all(later[0] <= earlier[0] for earlier, later in pairwise(found))


def test_sending_for_nothing_on_a_machine_with_endless_links_is_ideal():
    fast = Hardware("fast", H100.flops, H100.memory_rate, link_rate=math.inf, network_rate=math.inf)
    prediction = efficiency.predict("sft", efficiency.SETUPS[0], fast, "weak", 8)
    assert prediction.efficiency[0] > 0.99


def test_a_predicted_row_says_so_and_has_its_assumptions():
    row = efficiency.row(efficiency.predict("dpo", efficiency.SETUPS[4], H100, "strong", 64))
    assert row.keys() == KEYS
    assert row["conditions"]["kind"] == "predicted, not measured"
    assert row["conditions"]["hardware"]["flops"] == 989e12
    assert row["spread"][0] <= row["spread"][1]


def test_the_exponent_of_a_power_and_its_error():
    numbers = [1, 2, 4, 8]
    line = growth.fit(numbers, [3 * number**1.5 for number in numbers])
    assert line.exponent == pytest.approx(1.5)
    assert line.error == pytest.approx(0, abs=1e-9)
    bent = growth.fit([1, 10, 100], [1, 10, 1000])
    assert (bent.exponent, bent.last) == (pytest.approx(1.5), pytest.approx(2))
    assert bent.error == pytest.approx(math.sqrt(1 / 6 / 2))  # residuals 1/6, -1/3, 1/6 over a spread of 2
    with pytest.raises(ValueError, match="three points"):
        growth.fit([1, 2], [1, 2])
    with pytest.raises(ValueError, match="above 0"):
        growth.fit([1, 2, 3], [1, 0, 2])


def test_every_axis_has_a_decade_and_three_points_with_quick():
    for axis in growth.AXES:
        assert max(axis.jobs) >= 10 * min(axis.jobs)
        assert len(axis.points(quick=True)) >= 3


def test_memory_is_without_what_every_step_needs():
    points = [growth.Point(number, 0.1 * number, 50 + 2 * number) for number in (1, 2, 4)]
    (_, seconds), (_, memory) = growth.quantities(points, growth.Point(0, 0.1, 50)).values()
    assert (seconds, memory) == ([0.1, 0.2, 0.4], [2, 4, 8])


def counted_as_on_paper(run: Run) -> Counted:
    return communication.on_paper(run)


def grown(number: int, job: object) -> growth.Point:
    return growth.Point(number, 0.01 * max(number, 1), 20.0 + number)


@pytest.fixture
def without_running(monkeypatch: pytest.MonkeyPatch) -> list[Run]:
    asked: list[Run] = []

    def count(run: Run) -> Counted:
        asked.append(run)
        return counted_as_on_paper(run)

    monkeypatch.setattr(scale, "count", count)
    monkeypatch.setattr(growth, "measure", grown)
    return asked


def start(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr("sys.argv", ["scale", *arguments])
    scale.main()


def test_a_second_start_goes_on_and_counts_anew_what_paper_sees_otherwise_now(
    tmp_path, monkeypatch, without_running, capsys
):
    out = tmp_path / "scale.json"
    arguments = ("--quick", "--only", "communication", "--only", "growth", "--out", str(out))
    start(monkeypatch, *arguments)
    assert len(without_running) == len(communication.runs(quick=True))
    rows = json.loads(out.read_text())
    assert all(row.keys() == KEYS for row in rows)
    assert (tmp_path / "scale_growth.png").exists()
    text = (tmp_path / "scale.md").read_text()
    assert "| dpo rows: time | pairs of a step | 1 | 8 | 1.00 ± 0.00 | 1.00 | 1 |" in text
    assert "With --quick: not results to keep." in text

    without_running.clear()
    monkeypatch.setattr(scale, "draw", lambda rows, out: [])
    start(monkeypatch, *arguments)
    assert without_running == []
    rows[-1 if rows[-1]["conditions"]["kind"] == "counted" else 2]["theirs"] = 1.5
    out.write_text(json.dumps(rows))
    start(monkeypatch, *arguments)
    assert len(without_running) == 1
    with pytest.raises(ValueError, match="expected rows without --quick, found"):
        start(monkeypatch, "--only", "communication", "--out", str(out))


def test_the_page_shows_counts_beside_paper():
    run = Run("sft", "fsdp2", 2)
    rows = results.communication_rows(run, counted_as_on_paper(run), results.machine(quick=False))
    other = replace(run, ranks=1)
    rows += results.communication_rows(other, counted_as_on_paper(other), results.machine(quick=False))
    text = page(rows)
    assert "| sft bytes a step | fsdp2 | 2 | 5.348 MB | 5.348 MB | 1.0000 |" in text
    assert "weights 6.96, gradients 3.74" in text
    assert "| sft bytes a step | fsdp2 | 1 | 0 B | 0 B | 1.0000 |" in text


def test_predictions_stand_on_the_page_with_what_they_assume(monkeypatch):
    monkeypatch.setattr(efficiency, "PHASES", ("sft",))
    rows = [efficiency.row(each) for each in efficiency.predictions()]
    text = page(rows)
    assert "predicted, not measured" in text
    assert text.count("| sft | fsdp2, bf16-true | H100 SXM | ") == 2
    assert "989 TFLOP/s dense bf16, 3.35 TB/s of memory, 450 GB/s each way" in text


def broken() -> None:
    raise ValueError("a rank's own words")


def exits() -> None:
    raise SystemExit(3)


def test_an_error_of_a_rank_is_told():
    with pytest.raises(RuntimeError, match="a rank's own words"):
        run_ranks(broken, 2)
    with pytest.raises(RuntimeError, match="SystemExit: 3"):
        run_ranks(exits, 1)

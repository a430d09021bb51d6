"""Reference log-probabilities in memory: what is computed, in which forwards, on which ranks, and found again."""

from collections.abc import Callable

import pytest
import torch

from lit_rlhf.data.trees import pack_trees
from lit_rlhf.models.policy import PolicyNetwork, sequence_logprobs
from lit_rlhf.modules import reference_cache
from lit_rlhf.modules.reference_cache import ReferenceCache, fill, lacking_rows, plan_forwards, responses_of
from lit_rlhf.records import ResponseTrees, Tree
from tests.conftest import make_llama, make_tokenizer
from tests.distributed import run_distributed
from tests.modules.training import random_trees

CPU = torch.device("cpu")


def first_tokens(batch: ResponseTrees) -> torch.Tensor:
    """A stand-in for log-probabilities that tells responses apart."""
    return batch.grid(batch.input_ids)[:, 0].float()


def starts_of(trees: list[Tree]) -> torch.Tensor:
    return torch.tensor([0, *(len(tree.response_ids) for tree in trees)]).cumsum(0)


def filled(
    trees: list[Tree],
    look: Callable[[ResponseTrees], torch.Tensor] = first_tokens,
    logprobs: torch.Tensor | None = None,
    write_part: Callable[..., None] = lambda *part: None,
    rank: int = 0,
    world_size: int = 1,
) -> torch.Tensor:
    starts = starts_of(trees)
    logprobs = torch.full((int(starts[-1]),), torch.nan) if logprobs is None else logprobs
    fill(logprobs, trees, starts, look, write_part, CPU, rank, world_size)
    return logprobs


def found(rank: int, world_size: int) -> list[float]:
    trees = random_trees(70)
    cache = ReferenceCache()
    cache.put("train", "rows", filled(trees, rank=rank, world_size=world_size), starts_of(trees))
    picked = [69, 0, 33]
    return cache.look_up("train", pack_trees([trees[i] for i in picked], picked)).tolist()


def found_on_a_rank() -> list[float]:
    reference_cache.TOKENS_PER_FORWARD = 200  # several rounds, the last one uneven
    torch.distributed.init_process_group("gloo")
    answer = found(torch.distributed.get_rank(), torch.distributed.get_world_size())
    torch.distributed.destroy_process_group()
    return answer


def test_each_row_is_found_on_one_process_and_on_two():
    trees = random_trees(70)
    expected = [float(response[0]) for i in (69, 0, 33) for response in trees[i].response_ids]
    assert found(0, 1) == expected
    assert run_distributed(found_on_a_rank, 2) == [expected, expected]


def test_forwards_keep_the_bound_and_begin_with_the_longest(monkeypatch):
    monkeypatch.setattr(reference_cache, "TOKENS_PER_FORWARD", 100)
    trees = [Tree([1] * prompt, [[2] * 5, [2] * 10]) for prompt in (5, 40, 200, 10, 5)]
    # two responses, padded to 10, each with the prompt: 30, 100, 420, 40, 30 tokens
    assert plan_forwards(trees, range(5)) == [[2], [1], [3, 0, 4]]
    assert plan_forwards(trees, [4, 1]) == [[1], [4]]


def test_only_what_lacks_is_computed():
    trees = random_trees(6)
    starts = starts_of(trees)
    logprobs = filled(trees)
    expected = logprobs.clone()
    logprobs[starts[2]] = logprobs[starts[5]] = torch.nan
    assert lacking_rows(logprobs, starts) == [2, 5]
    seen: list[str] = []

    def look(batch: ResponseTrees) -> torch.Tensor:
        seen.extend(batch.row_ids)
        return first_tokens(batch)

    assert torch.equal(filled(trees, look, logprobs), expected)
    assert sorted(seen) == ["row 2", "row 5"]


def test_the_numbers_do_not_depend_on_the_forwards(monkeypatch):
    network = PolicyNetwork(make_llama(make_tokenizer())).eval()
    trees = random_trees(20)
    together = filled(trees, lambda batch: sequence_logprobs(network(batch)))
    monkeypatch.setattr(reference_cache, "TOKENS_PER_FORWARD", 1)
    apart = filled(trees, lambda batch: sequence_logprobs(network(batch)))
    assert together.isfinite().all() and together.unique().numel() > 20
    assert torch.allclose(together, apart, rtol=1e-5, atol=1e-4)
    assert not together.requires_grad


def test_parts_come_in_time_and_on_an_interruption(monkeypatch):
    monkeypatch.setattr(reference_cache, "TOKENS_PER_FORWARD", 1)
    trees = random_trees(5)
    complete, forwards = filled(trees), plan_forwards(trees, range(5))
    parts: list[tuple[torch.Tensor, torch.Tensor]] = []

    def look(batch: ResponseTrees) -> torch.Tensor:
        if batch.row_ids == [f"row {forwards[3][0]}"]:
            raise KeyboardInterrupt
        return first_tokens(batch)

    with pytest.raises(KeyboardInterrupt):
        filled(trees, look, write_part=lambda *part: parts.append(part))
    [(logprobs, responses)] = parts
    assert torch.equal(complete[responses], logprobs)
    assert torch.equal(responses, responses_of([row for [row] in forwards[:3]], starts_of(trees)))
    monkeypatch.setattr(reference_cache, "SECONDS_BETWEEN_PARTS", 0)
    parts.clear()
    filled(trees, write_part=lambda *part: parts.append(part))
    assert len(parts) == 5
    assert sorted(torch.cat([part[1] for part in parts]).tolist()) == list(range(len(complete)))


def test_how_long_it_takes_still_is_said(monkeypatch):
    said = []
    monkeypatch.setattr(reference_cache, "rank_zero_info", said.append)
    monkeypatch.setattr(reference_cache, "TOKENS_PER_FORWARD", 1)
    clock = iter(range(0, 10_000, 4))
    monkeypatch.setattr(reference_cache, "monotonic", lambda: next(clock))
    filled([Tree([1, 1], [[2, 2]], [[True, True]]) for _ in range(10)])
    assert any("of 10 rows, about" in line for line in said)
    assert 2 <= len(said) <= 9  # not after each forward


def test_a_log_probability_that_is_not_finite_names_its_row():
    trees = random_trees(5)

    def look(batch: ResponseTrees) -> torch.Tensor:
        logprobs = first_tokens(batch)
        logprobs[torch.tensor([batch.row_ids[tree] == "row 3" for tree in batch.tree_index])] = -torch.inf
        return logprobs

    with pytest.raises(FloatingPointError, match=r"^row 3: .* -inf"):
        filled(trees, look)


def test_batches_without_numbered_rows_are_refused():
    cache, trees = ReferenceCache(), random_trees(3)
    cache.put("train", "rows", filled(trees), starts_of(trees))
    with pytest.raises(ValueError, match="reference_storage to frozen"):
        cache.look_up("train", pack_trees(trees))


def test_numbers_belong_to_their_rows_and_their_model():
    cache, trees = ReferenceCache(), random_trees(3)
    cache.take_model("a")
    cache.put("train", "rows", filled(trees), starts_of(trees))
    restored = ReferenceCache()
    restored.load_state_dict(cache.state_dict())
    assert "train" not in restored  # until somebody says that these are its rows
    assert not restored.assign("train", "other rows")
    assert restored.assign("train", "rows") and "train" in restored
    assert not restored.assign("train", "other rows") and "train" not in restored
    restored.take_model("a")
    assert restored.assign("val", "rows")
    restored.take_model("b")
    assert not restored.assign("val", "rows")

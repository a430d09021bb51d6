"""FlexAttention over trees: the block mask is the trees' mask, and the one call gives what SDPA gives.

torch runs FlexAttention on CPU in plain operations. It refuses the way back there, though the plain operations
have one; the tests take the refusal out. What is compiled for a GPU is not run here.
"""

import logging
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention import flex_attention as torch_flex
from torch.utils._python_dispatch import TorchDispatchMode

from lit_rlhf.data.trees import pack_trees
from lit_rlhf.models import flex_attention, reading
from lit_rlhf.models.flex_attention import BLOCK, BlockMasks, Kernel, Segment, block_mask
from lit_rlhf.models.reading import choose_attention, last_states, predicting_states, reads_flat
from lit_rlhf.records import Tree
from tests.conftest import make_llama, make_tokenizer
from tests.models.families import FAMILIES, gradients_without_and_with_checkpointing
from tests.modules.training import random_trees

TOKENIZER = make_tokenizer()
CPU = torch.device("cpu")
FLEX = [name for name in FAMILIES if name != "gpt2"]


class Calls(Kernel):
    """FlexAttention in plain operations, and what it was called with."""

    def __init__(self) -> None:
        super().__init__(lambda: torch_flex.flex_attention)
        self.masks: list[torch_flex.BlockMask] = []
        self.dtypes: list[torch.dtype] = []

    def __call__(self, query, *others, block_mask, **settings_of_call):
        self.masks.append(block_mask)
        self.dtypes.append(query.dtype)
        return super().__call__(query, *others, block_mask=block_mask, **settings_of_call)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Trees go through FlexAttention on this CPU."""
    kernel = Calls()
    monkeypatch.setattr(flex_attention, "DEVICES", {"cpu"})
    monkeypatch.setattr(flex_attention, "KERNEL", kernel)
    monkeypatch.setattr(torch_flex, "_validate_device", lambda *_: None)
    monkeypatch.setattr(torch_flex, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)
    return kernel


def looks(segments: list[Segment], window: int | None) -> torch.Tensor:
    """Bool ``[T, T]``, told token by token: the path from the root of the tree down to each token."""
    starts = [0]
    for segment in segments:
        starts.append(starts[-1] + segment.length)
    spans = [list(range(a, b)) for a, b in pairwise(starts)]
    mask = torch.zeros(starts[-1], starts[-1], dtype=torch.bool)
    for span, segment in zip(spans, segments, strict=True):
        above = [] if segment.prompt is None else spans[segment.prompt]
        for depth, token in enumerate(span):
            path = above + span[: depth + 1]
            mask[token, path if window is None else path[-window:]] = True
    return mask


@st.composite
def rows(draw) -> list[Segment]:
    """Trees whose segments are shorter than a block, about one, or longer."""
    length = st.sampled_from([1, 2, 40, 127, 128, 129, 256, 300])
    segments: list[Segment] = []
    for responses in draw(st.lists(st.integers(0, 3), min_size=1, max_size=3)):
        prompt = len(segments)
        segments.append(Segment(draw(length), None))
        segments.extend(Segment(draw(length), prompt) for _ in range(responses))
    return segments


def by_block(mask: torch.Tensor) -> torch.Tensor:
    """``[blocks, blocks, 128 * 128]``."""
    count = len(mask) // BLOCK
    return mask.view(count, BLOCK, count, BLOCK).transpose(1, 2).reshape(count, count, -1)


def marked(count: torch.Tensor, which: torch.Tensor) -> torch.Tensor:
    """Bool ``[blocks, blocks]`` from a block mask's counts and indices."""
    marks = torch.zeros(which.shape[-2:], dtype=torch.bool)
    for row, (number, columns) in enumerate(zip(count[0, 0].tolist(), which[0, 0].tolist(), strict=True)):
        marks[row, columns[:number]] = True
    return marks


@settings(max_examples=25, deadline=None)
@given(segments=rows(), window=st.sampled_from([None, 1, 50, 128, 200]))
def test_the_block_mask_is_the_mask_of_the_trees(segments: list[Segment], window: int | None):
    mask = BlockMasks(segments, CPU).of(window)
    length = mask.shape[-1]
    tokens = sum(segment.length for segment in segments)
    assert length == max(2 * BLOCK, -(-tokens // BLOCK) * BLOCK)
    padding = [Segment(length - tokens, None)] if length > tokens else []
    expected = looks([*segments, *padding], window)
    assert torch.equal(torch_flex.create_mask(mask.mask_mod, 1, 1, length, length, "cpu")[0, 0], expected)
    blocks = by_block(expected)
    partial = marked(mask.kv_num_blocks, mask.kv_indices)
    full = marked(mask.full_kv_num_blocks, mask.full_kv_indices)
    segment_of = torch.tensor([n for n, s in enumerate([*segments, *padding]) for _ in range(s.length)])
    in_one_segment = (segment_of.view(-1, BLOCK) == segment_of.view(-1, BLOCK)[:, :1]).all(1)
    assert torch.equal(full, blocks.all(-1) & in_one_segment)  # the others are asked token by token
    assert not (partial & full).any()
    assert ((partial | full) >= blocks.any(-1)).all()
    if window is None:  # else a block may be looked over in vain
        assert torch.equal(partial | full, blocks.any(-1))
    # the way back walks the same blocks from the other side
    assert torch.equal(marked(mask.q_num_blocks, mask.q_indices), partial.T)
    assert torch.equal(marked(mask.full_q_num_blocks, mask.full_q_indices), full.T)


def test_a_window_skips_the_blocks_that_it_leaves_behind():
    mask = block_mask([Segment(32 * BLOCK, None)], BLOCK, CPU)
    assert mask.kv_num_blocks.max() == 2


class Largest(TorchDispatchMode):
    """The largest tensor that any operation gives."""

    size = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.size = max(self.size, tensor.numel())
        return result


def test_a_long_row_makes_nothing_of_its_length_squared():
    segments = [Segment(16384, None), Segment(8000, 0), Segment(8383, 0)]
    with Largest() as largest:
        mask = BlockMasks(segments, CPU).of(None)
    assert mask.shape[-1] == 32768
    assert largest.size <= 2 * 256 * 256


@pytest.mark.parametrize("family", FLEX)
def test_every_family_gives_the_states_and_gradients_of_sdpa(family: str, calls: Calls, monkeypatch):
    monkeypatch.setattr(reading, "MIN_MEAN_SEGMENT", 0)
    model = FAMILIES[family]()
    choose_attention(model, "trees")
    batch = pack_trees([*random_trees(12), Tree([7] * 150, [[8] * 130, [9] * 3], [[True] * 130, [True] * 3])])
    found = []
    for devices in (set(), {"cpu"}):
        monkeypatch.setattr(flex_attention, "DEVICES", devices)
        model.zero_grad()
        states = torch.cat([predicting_states(model.base_model, batch), last_states(model.base_model, batch)])
        (states @ torch.linspace(-1, 1, 32)).sin().sum().backward()
        gradient = torch.cat([p.grad.flatten() for p in model.base_model.parameters() if p.grad is not None])
        assert bool(calls.masks) == bool(devices)
        found.append((states.detach(), gradient))
    (by_segment, gradient), (flex, flex_gradient) = found
    assert torch.allclose(flex, by_segment, atol=1e-5 * by_segment.abs().max().item())
    assert (flex_gradient - gradient).norm() < 1e-4 * gradient.norm()


@pytest.mark.parametrize("family, masks", [("llama", 1), ("gemma3, sliding window", 2)])
def test_a_batchs_mask_is_made_once_for_all_layers_of_its_kind(family: str, masks: int, calls: Calls):
    model = FAMILIES[family]()
    choose_attention(model, "trees")
    predicting_states(model.base_model, pack_trees(random_trees(3)))
    layers = model.config.num_hidden_layers
    assert len(calls.masks) == layers and len(set(map(id, calls.masks))) == masks
    predicting_states(model.base_model, pack_trees(random_trees(4)))
    assert len(calls.masks) == 2 * layers and len(set(map(id, calls.masks))) == 2 * masks


def test_short_segments_take_the_flat_row_where_it_is_one_call(calls: Calls):
    model = make_llama(TOKENIZER, head_dim=16)
    short = pack_trees([Tree([5], [[6], [7]], [[True], [True]])])
    assert not reads_flat(model.base_model, short)  # not chosen yet
    choose_attention(model, "trees")
    assert reads_flat(model.base_model, short)
    choose_attention(small_heads := make_llama(TOKENIZER), "trees")
    assert not reads_flat(small_heads.base_model, short)


def test_activation_checkpointing_recomputes_under_the_same_mask(calls: Calls):
    model = make_llama(TOKENIZER, head_dim=16).train()
    choose_attention(model, "trees")
    gradients = gradients_without_and_with_checkpointing(model, pack_trees(random_trees(4)))
    layers = model.config.num_hidden_layers
    assert len(calls.masks) == 3 * layers and len(set(map(id, calls.masks))) == 2
    assert torch.allclose(gradients[0], gradients[1], atol=1e-5 * gradients[0].abs().max().item())


def test_attention_dropout_takes_sdpa_while_it_is_on(calls: Calls, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(reading, "MIN_MEAN_SEGMENT", 0)
    model = make_llama(TOKENIZER, head_dim=16, attention_dropout=0.5).train()
    choose_attention(model, "trees")
    batch = pack_trees(random_trees(4))
    one, other = (predicting_states(model.base_model, batch) for _ in range(2))
    assert not calls.masks and not torch.allclose(one, other)
    predicting_states(model.eval().base_model, batch)
    assert calls.masks


def test_autocast_holds_in_the_one_call_too(calls: Calls):
    model = make_llama(TOKENIZER, head_dim=16)
    choose_attention(model, "trees")
    batch = pack_trees(random_trees(4))
    exact = predicting_states(model.base_model, batch)
    assert set(calls.dtypes) == {torch.float32}
    calls.dtypes.clear()
    with torch.autocast("cpu", torch.bfloat16):
        rounded = predicting_states(model.base_model, batch)
    assert set(calls.dtypes) == {torch.bfloat16}
    assert (rounded - exact).norm() < 0.02 * exact.norm()


def test_what_cannot_be_compiled_goes_on_through_sdpa_and_says_so_once(
    calls: Calls, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def refuse(*_, **__):
        raise torch._dynamo.exc.TorchDynamoException("Cannot find a working triton installation.\nMore.")

    model = make_llama(TOKENIZER, head_dim=16)
    choose_attention(model, "trees")
    batch = pack_trees(random_trees(4))
    expected = predicting_states(model.base_model, batch)
    monkeypatch.setattr(flex_attention, "KERNEL", Kernel(lambda: refuse))
    found = predicting_states(model.base_model, batch)
    assert torch.allclose(found, expected, atol=1e-5 * expected.abs().max().item())
    predicting_states(model.base_model, batch)
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == [
        "FlexAttention could not be compiled here (TorchDynamoException: Cannot find a working triton "
        "installation.); response trees go on through SDPA."
    ]


def test_other_errors_are_not_taken_for_a_missing_compiler(calls: Calls, monkeypatch: pytest.MonkeyPatch):
    def run_out(*_, **__):
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(flex_attention, "KERNEL", Kernel(lambda: run_out))
    model = make_llama(TOKENIZER, head_dim=16)
    choose_attention(model, "trees")
    with pytest.raises(torch.OutOfMemoryError):
        predicting_states(model.base_model, pack_trees(random_trees(4)))


@pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"
)  # torch's own
def test_rows_of_other_lengths_and_windows_are_not_compiled_anew(monkeypatch: pytest.MonkeyPatch):
    """What torch.compile traces is counted; a GPU's kernels are made from those traces."""
    monkeypatch.setattr(torch_flex, "_validate_device", lambda *_: None)
    torch._dynamo.reset()
    traced = []

    def backend(graph, inputs):
        traced.append(len(inputs))
        return graph.forward

    kernel = Kernel(
        lambda: torch.compile(torch_flex.flex_attention, dynamic=True, fullgraph=True, backend=backend)
    )
    monkeypatch.setattr(flex_attention, "KERNEL", kernel)
    after = []
    for lengths in ([3, 4, 5], [200, 120, 90], [300, 257, 1], [64, 500, 128]):
        segments = [Segment(lengths[0], None), Segment(lengths[1], 0), Segment(lengths[2], 0)]
        row = BlockMasks(segments, CPU)
        for window in (None, 7, 130):
            # as many heads as the row has blocks would count as one size, and be compiled apart
            query = torch.randn(1, 16, sum(lengths), 16, requires_grad=True)
            key = torch.randn(1, 8, sum(lengths), 16, requires_grad=True)
            output = flex_attention.flex_tree_attention(query, key, key, row.of(window), None)
            assert output is not None and output.shape == query.shape
        after.append(len(traced))
    assert after == [1, 1, 1, 1]


@pytest.mark.parametrize(
    "family, through",
    [
        ("llama", "FlexAttention on CUDA and SDPA elsewhere"),
        ("gpt2", "SDPA everywhere (its family does not take FlexAttention)"),
        ("heads of 8", "SDPA everywhere (FlexAttention takes heads of 16 to 256, not 8)"),
    ],
)
def test_what_attends_is_named(family: str, through: str, caplog: pytest.LogCaptureFixture):
    model = make_llama(TOKENIZER) if family == "heads of 8" else FAMILIES[family]()
    with caplog.at_level("INFO"):
        choose_attention(model)
    assert f"attention over response trees, each prompt computed once, through {through}" in caplog.text


def test_heads_that_it_does_not_take_go_through_sdpa(calls: Calls, monkeypatch: pytest.MonkeyPatch):
    """Some layers' heads are of another size than the config's."""
    monkeypatch.setattr(reading, "MIN_MEAN_SEGMENT", 0)
    model = make_llama(TOKENIZER)
    choose_attention(model, "trees")
    batch = pack_trees(random_trees(4))
    expected = predicting_states(model.base_model, batch)
    monkeypatch.setattr(flex_attention, "why_not_flex", lambda _: None)
    assert torch.equal(predicting_states(model.base_model, batch), expected)
    assert not calls.masks

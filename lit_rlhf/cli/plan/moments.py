"""What a rank holds at each moment of a run, by the formulas of ``models/memory.py`` and ``memory_ranks.py``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from lit_rlhf.models.head import CACHED_LOGITS, MAX_LOGITS
from lit_rlhf.models.memory import (
    HeadPeak,
    RowSize,
    Trained,
    cast_weights,
    drawing_bytes,
    flowing_bytes,
    head_peak,
    kept_by_layer,
    kept_by_trunk,
    kept_with_checkpointing,
    key_value_bytes,
    passing_bytes,
)
from lit_rlhf.models.memory_ranks import (
    Network,
    Spread,
    bucket_bytes,
    gathered_layer_bytes,
    gradient_bytes,
    optimizer_bytes,
    root_bytes,
    sampling_layer_bytes,
    weight_bytes,
    whole_gradient_bytes,
)

GIB = 2**30
CONTEXT = GIB
"""Bytes that CUDA, cuBLAS and NCCL take on a device before the first tensor: an allowance, not a sum."""
FRAGMENTATION = 0.05
"""Share of the tensors' bytes that the allocator of a GPU holds beside them: an allowance too."""


@dataclass(frozen=True)
class Forward:
    """A network that reads a row."""

    network: Network
    row: RowSize


@dataclass(frozen=True)
class Rollout:
    """How a rank of PPO draws, scores and prices its responses."""

    rows: int
    """Responses under way at once."""
    columns: int
    """Tokens of the longest prompt and response."""
    cached: int
    """Tokens whose keys and values are held."""
    prompt_tokens: int
    """Of one forward over prompts."""
    looks: tuple[Forward, ...]
    """Forwards without gradient: the reward's, the reference's, the policy's and the critic's own."""


@dataclass(frozen=True)
class Run:
    """All that decides how much memory a rank needs."""

    phase: str
    networks: tuple[Network, ...]
    """Those that are held, the one that is sampled from first."""
    updates: tuple[Forward, ...]
    """Forwards with gradient of one micro-batch; all are kept until its backward."""
    looks: tuple[Forward, ...] = ()
    """Forwards without gradient beside them."""
    rollout: Rollout | None = None
    spread: Spread = field(default_factory=Spread)
    cuda: bool = True
    flex: bool = True
    accumulates: bool = False
    """Whether gradients of earlier micro-batches are there in a backward."""
    checkpointing: bool = False
    offload_activations: bool = False
    state_per_weight: float = 2.0
    """Bytes of the optimizer's state to a byte of weight."""
    step_per_weight: float = 0.0
    """Bytes that an update needs for a moment, to a byte of the weights that it changes."""
    step_weights: int = 0
    """Bytes of the largest weight's, where an update goes through them one by one."""


@dataclass(frozen=True)
class Moment:
    """What is held at one moment."""

    name: str
    held: dict[str, int]
    """Bytes by the name of the row."""

    @property
    def total(self) -> int:
        """Bytes of all tensors."""
        return sum(self.held.values())


def moments(run: Run) -> list[Moment]:
    """The moments at which a rank may need most, in the order of the run."""
    found = []
    if run.rollout is not None:
        found += [_moment("sampling", run, _sampling), _moment("pricing", run, _pricing)]
    found += [_moment("forward", run, _forward), _moment("backward", run, _backward)]
    return [*found, _moment("update", run, _update)]


def margin(tensors: int, cuda: bool) -> int:
    """Bytes beside the tensors: the device's context and what the allocator cannot hand out."""
    return CONTEXT + round(FRAGMENTATION * tensors) if cuda else 0


def host_bytes(run: Run) -> int:
    """Bytes in the memory of the CPU that are there to spare the device: weights in parts, states, activations."""
    if not run.cuda:
        return 0
    here, stays = run.spread, replace(run.spread, offload=False, offload_optimizer=False)
    moved = 0
    for network in run.networks:
        moved += weight_bytes(network, stays) - weight_bytes(network, here)
        if network.trained is not None:
            moved += gradient_bytes(network, stays) - gradient_bytes(network, here)
            both = (optimizer_bytes(network, spread, run.state_per_weight) for spread in (stays, here))
            moved += next(both) - next(both)
    if run.offload_activations:
        moved += _kept(replace(run, offload_activations=False))["activations"]
    return moved


def _moment(name: str, run: Run, more: Callable[[Run], Counter[str]]) -> Moment:
    held = Counter[str]()
    for network in run.networks:
        held[f"{network.name}: weights"] += weight_bytes(network, run.spread)
        if network.trained is None:
            continue
        held["optimizer state"] += optimizer_bytes(network, run.spread, run.state_per_weight)
        held["buffers to reduce gradients in"] += bucket_bytes(network, run.spread)
    return Moment(name, held + more(run))


def _gradients(run: Run) -> int:
    return sum(gradient_bytes(network, run.spread) for network in run.networks)


def _roots(run: Run, pricing: bool = False) -> int:
    """Embeddings and heads: a forward without gradient leaves them gathered, in PPO until the rollout ends."""
    here = [n for n in run.networks if pricing or run.rollout is None or n.trained is not None]
    return sum(root_bytes(network, run.spread) for network in here)


def _layers(run: Run) -> int:
    return max(gathered_layer_bytes(network, run.spread) for network in run.networks)


def _passing(run: Run, looks: tuple[Forward, ...]) -> int:
    """The most that one of these forwards without gradient holds for a moment."""
    split = run.spread.tensor_parallel
    most = 0
    for look in looks:
        states = passing_bytes(look.network.size, look.network.widths, look.row.tokens, split)
        logits = _head(look).forward if look.network.language_model else 0
        most = max(most, states, logits)
    return most


def _head(forward: Forward) -> HeadPeak:
    network = forward.network
    trained = network.trained is not None and network.trained.weights
    return head_peak(network.size, network.widths, forward.row.read, trained, MAX_LOGITS, CACHED_LOGITS)


def _kept(run: Run) -> Counter[str]:
    """What the forwards of a micro-batch leave for its backward."""
    held, split = Counter[str](), run.spread.tensor_parallel
    for forward in run.updates:
        network, row = forward.network, forward.row
        size, widths, trained = network.size, network.widths, _trained(network)
        if run.checkpointing:
            kept = kept_with_checkpointing(size, widths, trained, row)
        else:
            kept = kept_by_trunk(size, widths, trained, row, run.flex, split)
            held["weights cast by autocast"] += _casts(run, network, size.layers)
        held["activations"] += 0 if run.offload_activations else kept
    return held


def _casts(run: Run, network: Network, layers: int) -> int:
    spread = run.spread  # weights that are gathered as narrow as what they compute need no cast
    casts = spread.kind in ("single", "ddp") or (spread.kind == "fsdp2" and not spread.gathers_narrow)
    return cast_weights(network.size, network.widths, layers, run.spread.tensor_parallel) if casts else 0


def _trained(network: Network) -> Trained:
    assert network.trained is not None
    return network.trained


def _one_layer(run: Run) -> Counter[str]:
    """What one layer keeps, where the backward computes it again."""
    most, casts, flowing = 0, 0, 0
    for forward in run.updates:
        network = forward.network
        size, widths = network.size, network.widths
        split = run.spread.tensor_parallel
        layer = kept_by_layer(size, widths, _trained(network), forward.row, run.flex, split)
        most, casts = max(most, layer), max(casts, _casts(run, network, 1))
        flowing = max(flowing, flowing_bytes(size, widths, forward.row.tokens, split))
    return Counter(
        {
            "activations of one layer": most,
            "weights cast by autocast": casts,
            "gradients of states": flowing,
        }
    )


def _sampling(run: Run) -> Counter[str]:
    assert run.rollout is not None
    rollout, network = run.rollout, run.networks[0]
    size, widths, split = network.size, network.widths, run.spread.tensor_parallel
    cache = key_value_bytes(size, widths, rollout.cached, split)
    prompts = passing_bytes(size, widths, rollout.prompt_tokens, split)
    held = Counter(
        {
            "gathered weights": _roots(run) + sampling_layer_bytes(network, run.spread),
            "keys and values": cache + cache // size.layers,  # one layer's are there twice while they grow
            "logits and scores": max(drawing_bytes(size, widths, rollout.rows, rollout.columns), prompts),
        }
    )
    return held


def _pricing(run: Run) -> Counter[str]:
    assert run.rollout is not None
    return Counter(
        {
            "gathered weights": _roots(run, pricing=True) + _layers(run),
            "logits and scores": _passing(run, run.rollout.looks),
        }
    )


def _forward(run: Run) -> Counter[str]:
    """The end of the forward: the gradients of the update before are dropped behind it."""
    logits = max((_head(f).forward for f in run.updates if f.network.language_model), default=0)
    held = _kept(run)
    held["gradients"] = _gradients(run)
    held["gathered weights"] = _roots(run) + _layers(run)
    held["logits and scores"] = max(logits, _passing(run, run.looks))
    return held


def _backward(run: Run) -> Counter[str]:
    """Its start, with all activations and the head's logits, or its end, with all gradients; whichever is more."""
    gathered = _roots(run) + _layers(run)
    whole = sum(whole_gradient_bytes(f.network, run.spread) for f in run.updates)
    start = _kept(run)
    start["logits and scores"] = max(
        (_head(f).backward for f in run.updates if f.network.language_model), default=0
    )
    start["gathered weights"] = gathered
    if run.accumulates:
        start["gradients"] = _gradients(run)
    if run.checkpointing or run.offload_activations:
        later = Counter(start)
        later["logits and scores"] = 0
        later += _one_layer(run)
        later["gathered gradients"] = whole
        start = max(start, later, key=_total)
    end = _one_layer(run)
    end["gradients"] = _gradients(run)
    end["gathered weights"] = gathered
    end["gathered gradients"] = whole + sum(_tied(f.network) for f in run.updates)
    return max(start, end, key=_total)


def _tied(network: Network) -> int:
    """The gradient of the embeddings by themselves, before that of the head is added to it."""
    size, trained = network.size, _trained(network).weights and network.language_model
    return size.vocabulary * size.hidden * network.widths.weights if size.tied and trained else 0


def _update(run: Run) -> Counter[str]:
    changed = _gradients(run)
    temporary = round(run.step_per_weight * changed) if run.step_per_weight else run.step_weights
    return Counter({"gradients": changed, "buffers of the update": temporary})


def _total(held: Counter[str]) -> int:
    return sum(held.values())

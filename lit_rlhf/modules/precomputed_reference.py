"""DPO's reference as numbers computed beforehand, so that no second model is held while training.

The reference is a folder's model, loaded only if something must be computed and let go then; or the policy as it
starts, which the policy itself is until its first update. A run that goes on from a checkpoint has its numbers from
there, and loads the model it started from anew where other rows come up.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from lit_rlhf.data.sources import Split
from lit_rlhf.models.fingerprint import fingerprint_of, fingerprint_of_stored
from lit_rlhf.models.loading import check_same_vocabulary, load_causal_lm, resolve_model_name
from lit_rlhf.models.modes import evaluating
from lit_rlhf.models.policy import PolicyNetwork, sequence_logprobs
from lit_rlhf.models.reading import Attention
from lit_rlhf.models.reference import AdapterOff
from lit_rlhf.modules.base import PhaseModule
from lit_rlhf.modules.reference_cache import ReferenceCache, fill, lacking_rows
from lit_rlhf.modules.reference_file import Identity, ReferenceFile, data_file_of, rows_fingerprint
from lit_rlhf.records import ResponseTrees, Tree

SHOWN = 5
"""Older files that are named."""


class PrecomputedReference:
    """log π_ref of the rows of a data module, on disk beside them and in memory.

    Args:
        name: folder or hub name of the reference; None = the policy as it starts.
        start: folder or hub name that the policy starts from; None where it came as a model already built.
        attention: how a model loaded for this reads response trees.
        untrained: the policy without its adapters, which stays what it started as; None = it has none.

    Raises:
        FileNotFoundError: `name` is a local folder that is not there.
    """

    def __init__(
        self, name: str | None, start: str | None, attention: Attention, untrained: AdapterOff | None = None
    ) -> None:
        if name is not None:
            resolve_model_name(name)
        self.name = name
        self.start = start
        self.attention = attention
        self.untrained = untrained
        self.policy_has_moved = False
        """Whether the policy is no longer the one that it started as: after a fit, or from a checkpoint."""
        self._cache = ReferenceCache()
        self._name_in_checkpoint: str | None = None
        self._named: set[Path] = set()

    def look_up(self, split: Split, batch: ResponseTrees) -> Tensor:
        """log π_ref(y|x) ``[N]`` of a batch's responses; see :meth:`ReferenceCache.look_up`.

        Raises:
            RuntimeError: the split was not prepared.
        """
        if split not in self._cache:
            raise RuntimeError(
                f"The reference log-probabilities of the {split} rows are computed when a fit, validate or test "
                "starts, and none has. For batches of your own set model.reference_storage to frozen."
            )
        return self._cache.look_up(split, batch)

    def prepare(self, module: PhaseModule, *splits: Split) -> None:
        """See to it that all rows of these splits can be looked up; on every rank.

        They come from the checkpoint, from the file beside the data, or from the reference, in this order.

        Raises:
            ValueError: the data module is not of lit_rlhf; or the reference is needed and not to be had.
        """
        data = module.datamodule
        if not hasattr(data, "trees"):
            raise ValueError(
                "model.reference_storage: precomputed needs a data module of lit_rlhf, found "
                f"{type(data).__name__}. Use frozen with data of your own."
            )
        if getattr(data, "streaming", False):
            raise ValueError(
                "model.reference_storage: precomputed goes through all training rows before the first update and keeps "
                "a number for each response, and data.streaming holds none of them. Use frozen, or leave "
                "data.streaming false."
            )
        trees = {split: list(data.trees(split)) for split in splits if data.trees(split)}
        rows = {split: rows_fingerprint(trees[split]) for split in trees}
        network = functools.cache(lambda: self._network(module))  # loaded when needed, let go with this frame

        def sequence_logprobs_of(batch: ResponseTrees) -> Tensor:
            with evaluating(module.network), module.trainer.precision_plugin.forward_context():
                return sequence_logprobs(network()(batch))

        self._settle_model(module, network)
        for split in trees:
            if not self._cache.assign(split, rows[split]):
                files = {name: self._file(module, name, trees[name], rows[name]) for name in trees}
                logprobs = self._obtain(module, split, trees[split], files, sequence_logprobs_of)
                self._cache.put(split, rows[split], logprobs, files[split].starts)

    def state_dict(self) -> dict[str, Any]:
        """Plain values: the numbers, of which model they are, and how that was given."""
        return {**self._cache.state_dict(), "name": self.name}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._cache.load_state_dict(state)
        self._name_in_checkpoint = state["name"]

    def _settle_model(self, module: PhaseModule, network: Callable[[], Any]) -> None:
        """Know the reference by its fingerprint; numbers of another one are forgotten."""
        if self.name is not None:
            self._cache.take_model(_of_rank_0(module, fingerprint_of_stored(self.name)))
        elif not self.policy_has_moved or (self.untrained and self._name_in_checkpoint is None):
            self._cache.take_model(_of_rank_0(module, fingerprint_of(module.network.causal_lm)))
        elif self._name_in_checkpoint is not None:
            raise ValueError(
                f"model.reference: the checkpoint's reference is {self._name_in_checkpoint}, and null was given. "
                "Give the same again."
            )
        elif not self._cache.model:
            network()

    def _network(self, module: PhaseModule) -> PolicyNetwork | AdapterOff:
        """The reference, on the module's device: the policy itself as long as it is that."""
        if self.name is not None:
            network = PolicyNetwork(load_causal_lm(self.name, self.attention))
            check_same_vocabulary("reference", network.causal_lm, module.network.causal_lm)
        elif self.untrained is not None:
            return self.untrained
        elif not self.policy_has_moved:
            return module.network  # type: ignore[return-value]  # a policy's phase
        else:
            network = self._start_anew(module)
        return network.to(module.device).requires_grad_(False).eval()

    def _start_anew(self, module: PhaseModule) -> PolicyNetwork:
        """The model that the policy started from, loaded again, if it is still the one."""
        problem = "it was given as a model already built"
        if self.start is not None:
            loaded = PolicyNetwork(load_causal_lm(self.start, self.attention))
            network: PolicyNetwork = module.trainer.precision_plugin.convert_module(loaded)  # type: ignore[assignment]
            fingerprint = _of_rank_0(module, fingerprint_of(network.causal_lm))
            if self._cache.model in ("", fingerprint):
                self._cache.model = fingerprint
                return network
            problem = f"{self.start} (model.model) is not that model, or trainer.precision has changed"
        raise ValueError(
            "Some rows have no reference log-probabilities in the checkpoint: the data, the tokenizer, the chat "
            "template or a limit of lengths is not what it was. Computing them needs the model that the policy "
            f"started from, and {problem}. Give its folder as model.reference, or the data of the checkpoint."
        )

    def _file(self, module: PhaseModule, split: Split, trees: list[Tree], rows: str) -> ReferenceFile:
        """Beside the split's data where that has a place here, else in the run folder."""
        paths = getattr(module.datamodule, "paths", {})
        path = paths.get(split)
        if path is None and split == "val":  # set aside from the training data
            path = paths.get("train")
        data = data_file_of(path)
        folders = [] if data is None else [data.parent]
        run_folder = str(module.trainer.default_root_dir)
        if "://" not in run_folder and all(
            Path(run_folder).resolve() != folder.resolve() for folder in folders
        ):
            folders.append(Path(run_folder))
        return ReferenceFile(
            Identity(self._cache.model, rows, str(module.trainer.precision)),
            folders,
            split if data is None else data.name,
            [len(tree.response_ids) for tree in trees],
        )

    def _obtain(
        self,
        module: PhaseModule,
        split: Split,
        trees: list[Tree],
        files: dict[Split, ReferenceFile],
        sequence_logprobs_of: Callable[[ResponseTrees], Tensor],
    ) -> Tensor:
        """A split's log-probabilities, read or computed, ``[N]`` on every rank."""
        file = files[split]
        known = None
        if module.global_rank == 0:
            trial = module.trainer.fast_dev_run or any(  # type: ignore[attr-defined]  # an int or a share, or 1.0
                limit not in (1.0, None)
                for limit in (module.trainer.limit_train_batches, module.trainer.limit_val_batches)
            )
            known = self._read(file, split, {other.identity.key for other in files.values()}, bool(trial))
        logprobs = _of_rank_0(module, known)
        if not logprobs.isnan().any():
            return logprobs
        fill(
            logprobs,
            trees,
            file.starts,
            sequence_logprobs_of,
            file.write_part if module.global_rank == 0 else _leave_it,
            module.device,
            module.data_rank,
            module.data_ranks,
        )
        if module.global_rank == 0:
            path = file.finish(logprobs, {"reference": self.name or f"the start: {self.start}"})
            for reason in file.refused:
                _say(reason)
            _say(f"written to {path}" if path else "kept in memory and in checkpoints only")
        return logprobs

    def _read(self, file: ReferenceFile, split: Split, in_use: set[str], trial: bool) -> Tensor:
        """What is on disk, ``[N]``, NaN where nothing is known; says what is missing, and why."""
        parts = file.read_parts()
        whole = file.read()  # after the parts, which another process may put together now
        rows = len(file.starts) - 1
        if whole is not None:
            _say(f"{rows} {split} rows read from {whole[1]}, nothing to compute")
            file.remove_parts()
            return whole[0]
        others = [(path, header) for path, header in file.others() if header["key"] not in in_use]
        lacking = len(lacking_rows(parts, file.starts))
        if lacking < rows:
            _say(
                f"{rows - lacking} of {rows} {split} rows were computed before an interruption, {lacking} lack"
            )
        else:
            _say(f"computing {rows} {split} rows, once ({_why(file.identity, others)})")
        if trial:
            _say("all rows, though this is a trial of a few; reference_storage: frozen needs those few alone")
        new = [path for path, _ in others if path not in self._named]
        self._named.update(new)
        if new:
            shown = ", ".join(map(str, new[:SHOWN])) + (
                f" and {len(new) - SHOWN} more" if len(new) > SHOWN else ""
            )
            _say(f"older files, yours to delete if no run needs them: {shown}")
        return parts


def _why(identity: Identity, others: list[tuple[Path, dict[str, str]]]) -> str:
    if not others:
        return "none found for this model and data"
    path, header = min(others, key=lambda other: len(identity.differs_in(other[1])))
    changed = " and the ".join(identity.differs_in(header))
    return f"the {changed} changed since {path.name} was made, {header['made']}"


def _leave_it(logprobs: Tensor, places: Tensor) -> None:
    """Another rank writes it."""


def _of_rank_0(module: PhaseModule, value: Any) -> Any:
    return module.trainer.strategy.broadcast(value)


def _say(text: str) -> None:
    rank_zero_info(f"Reference log-probabilities: {text}")

"""The loader of phases that draw what they learn from: a pass collects a rollout, then deals it out in minibatches.

One Lightning epoch is one iteration. The loader is sized, so Lightning asks for no batch ahead and the
policy that samples is the one that has just been updated.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import torch

from lit_rlhf.data.trees import pack_trees
from lit_rlhf.ops.noise import seed_from
from lit_rlhf.records import Experience, ExperienceBatch, Row, Tree
from lit_rlhf.rollout.experience import experience_state

if TYPE_CHECKING:
    from lit_rlhf.modules.iteration_phase import IterationPhase


class RolloutLoader:
    """Rollout, then `epochs` passes over it in minibatches shared out to ranks and accumulation steps.

    Every rank holds the whole iteration's experience and takes its share of each minibatch, so a minibatch
    is the same set of responses however many ranks there are.

    Args:
        module: collects, and says how the experience is dealt out.
        rows: the prompts.
        batch_size: prompts an iteration, over all ranks; None = the `batch_size` of the trainer's data module.
        seed: of the order of prompts and minibatches.
    """

    def __init__(
        self, module: IterationPhase, rows: Sequence[Row], batch_size: int | None, seed: int
    ) -> None:
        if not rows:
            raise ValueError("data.path: expected at least one prompt, found none.")
        self.module = module
        self.rows = rows
        self._batch_size = batch_size
        self.seed = seed
        self._experience: Experience | None = None
        self._position = 0
        self._resumed: tuple[Experience, int] | None = None

    @property
    def batch_size(self) -> int:
        """Prompts an iteration, over all ranks."""
        size = self._batch_size or getattr(self.module.datamodule, "batch_size", None)
        if size is None:
            raise ValueError("rollout_loader: give batch_size, since the trainer's data module has none.")
        return int(size)

    @property
    def num_responses(self) -> int:
        """Responses that are learnt from in an iteration, over all ranks."""
        return self.batch_size * self.module.learned_per_prompt

    @property
    def indivisible(self) -> int:
        """Responses that stay together when a minibatch is cut."""
        return self.module.learned_per_prompt if self.module.whole_prompts else 1

    @property
    def shares(self) -> int:
        """Parts that each minibatch is dealt out in: ranks times accumulation steps."""
        return self.module.data_ranks * self.module.trainer.accumulate_grad_batches

    @property
    def minibatches(self) -> int:
        """Of one pass over a rollout; the last may be smaller."""
        return math.ceil(self.num_responses / self.module.minibatch_size)

    def __len__(self) -> int:
        self._check_sizes()
        return self.module.epochs * self.minibatches * self.module.trainer.accumulate_grad_batches

    def __iter__(self) -> Iterator[ExperienceBatch]:
        iteration = self.module.trainer.current_epoch
        if self._resumed is not None:
            (self._experience, start), self._resumed = self._resumed, None
        else:
            self.module.on_rollout_start(iteration)
            self._experience, start = self.module.collect(self.prompts(iteration), iteration), 0
            if self.module.before_updates:
                self.module.check_first_rollout(self._experience)
            self.module.on_rollout_end(self._experience)
        experience = self._experience
        for position, (indices, pretraining) in enumerate(self._plan(experience, iteration)):
            if position < start:
                continue
            self._position = position + 1
            yield replace(self.module.batch_of(experience, indices), **pretraining)

    def prompts(self, iteration: int) -> list[Row]:
        """The iteration's prompts: the file is gone through in a new order each time round."""
        chosen: list[Row] = []
        first, behind = iteration * self.batch_size, (iteration + 1) * self.batch_size
        for times_round in range(first // len(self.rows), (behind - 1) // len(self.rows) + 1):
            start = times_round * len(self.rows)
            order = _permutation(len(self.rows), self.seed, times_round)
            chosen += [self.rows[i] for i in order[max(first - start, 0) : behind - start]]
        return chosen

    def _plan(self, experience: Experience, iteration: int) -> Iterator[tuple[list[int], dict[str, Any]]]:
        """This rank's share of every micro-batch, in order: responses, and fields of the pretraining mix."""
        rank, world = self.module.data_rank, self.module.data_ranks
        for epoch in range(self.module.epochs):
            order = self._order(iteration, epoch)
            for number in range(self.minibatches):
                size = self.module.minibatch_size
                minibatch = order[number * size : (number + 1) * size]
                update = (iteration * self.module.epochs + epoch) * self.minibatches + number
                mix = self.module.pretraining_of(experience, minibatch, update)
                pieces = len(minibatch) // self.indivisible
                for step in range(self.module.trainer.accumulate_grad_batches):
                    share = step * world + rank
                    first, behind = (
                        pieces * edge // self.shares * self.indivisible for edge in (share, share + 1)
                    )
                    yield minibatch[first:behind], self._share_of(mix, slice(share, None, self.shares))

    def _order(self, iteration: int, epoch: int) -> list[int]:
        """All responses in the order of this pass: prompts shuffled, and the responses of each side by side.

        So most are in a minibatch with the others of their prompt, which is computed once for them.
        """
        samples = self.module.learned_per_prompt
        prompts = _permutation(self.batch_size, self.seed, iteration, epoch)
        return [prompt * samples + sample for prompt in prompts for sample in range(samples)]

    @staticmethod
    def _share_of(mix: tuple[list[Tree], float] | None, share: slice) -> dict[str, Any]:
        if mix is None:
            return {}
        # a share without rows looks at one all the same: ranks that share out the weights run every forward together
        mine = mix[0][share]
        return {"pretraining": pack_trees(mine or mix[0][:1]), "pretraining_scale": mix[1] if mine else 0.0}

    def _check_sizes(self) -> None:
        size, together = self.module.minibatch_size, self.indivisible
        if size % together:
            raise ValueError(
                f"model.minibatch_size: responses of a prompt are learnt from together; expected a multiple of the "
                f"{together} of each, found {size}."
            )
        ragged = self.num_responses % size
        smallest = ragged or min(size, self.num_responses)
        if smallest // together < self.shares:
            unit = "responses" if together == 1 else f"prompts with {together} responses each"
            raise ValueError(
                f"model.minibatch_size: the smallest minibatch of an iteration has {smallest // together} {unit} "
                f"(data.batch_size {self.batch_size} x {self.module.learned_per_prompt} responses of a prompt in "
                f"minibatches of {size}), too few for {self.shares} shares (ranks x trainer.accumulate_grad_batches). "
                "Make the minibatches larger, or of equal size."
            )
        self.module.check_rollout_size(self.num_responses)

    def state_dict(self) -> dict[str, Any]:
        """The experience and the position in it, while an iteration is under way; else nothing."""
        if self._experience is None or self._position >= len(self):
            return {"experience": None, "position": 0, "plan": self._fingerprint()}
        return {
            "experience": experience_state(self._experience),
            "position": self._position,
            "plan": self._fingerprint(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on inside the iteration that the state was saved in.

        Raises:
            ValueError: what deals the experience out has changed since.
        """
        if state["experience"] is None:
            return
        fields_then, fields_now = set(state["experience"]), {entry.name for entry in fields(Experience)}
        if fields_then != fields_now:
            raise ValueError(
                "The checkpoint was saved inside an iteration by another version, whose experience has other fields ("
                f"{', '.join(sorted(fields_then ^ fields_now))}). Start from one saved between iterations."
            )
        then, now = state["plan"], self._fingerprint()
        changed = [name for name in now if then.get(name) != now[name]]
        if changed:
            said = ", ".join(f"{name} ({then.get(name)} then, {now[name]} now)" for name in changed)
            raise ValueError(
                f"The checkpoint was saved inside an iteration, and {said} changed since. Continue with the same "
                "settings to the end of the iteration, or start from a checkpoint saved between iterations."
            )
        self._resumed = (Experience(**state["experience"]), state["position"])

    def _fingerprint(self) -> dict[str, int]:
        """What an iteration's prompts and minibatches depend on."""
        return {
            "data.path": zlib.crc32(json.dumps([row.prompt for row in self.rows]).encode()),
            "data.batch_size": self.batch_size,
            "model.samples_per_prompt": self.module.samples_per_prompt,
            "model.minibatch_size": self.module.minibatch_size,
            "the responses learnt of each prompt": self.module.learned_per_prompt,
            "model.epochs": self.module.epochs,
            "model.seed": self.seed,
            "trainer.accumulate_grad_batches": self.module.trainer.accumulate_grad_batches,
        }


def _permutation(length: int, *counters: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed_from(*counters))
    return torch.randperm(length, generator=generator).tolist()

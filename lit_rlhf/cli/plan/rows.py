"""The longest rows that a run's limits allow, since the data itself is not read; and the room of a rollout."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lit_rlhf.cli.plan.moments import Forward, Rollout
from lit_rlhf.cli.refusal import refuse
from lit_rlhf.data.accumulation import batches_an_update
from lit_rlhf.models.memory import RowSize, row_of_trees
from lit_rlhf.models.memory_ranks import SPREADS_WEIGHTS, Network, Spread
from lit_rlhf.rollout.decoding import PROMPT_TOKENS, group_by_prompt, room_for

BRANCHES = {"DemonstrationDataModule": 1, "PairDataModule": 2}
RANKED = 4
"""Responses of a ranking, where the data alone says how many."""
SAMPLING = ("ppo", "online-dpo", "expert-iteration")
"""Phases that draw the responses they learn from."""
REWARD_BATCH = 64
"""Responses that a reward model scores at once."""


class Rows:
    """Rows of one rank's micro-batch.

    Args:
        phase: a name of :data:`lit_rlhf.cli.plan.settings.PHASES`.
        model: arguments of the module.
        data: arguments of the data module.
        data_class: its name.
        accumulate: ``trainer.accumulate_grad_batches``.
        spread: over which ranks.
        notes: gets a sentence about each length that is taken for granted.
    """

    def __init__(
        self,
        phase: str,
        model: Any,
        data: Any,
        data_class: str,
        accumulate: int,
        spread: Spread,
        notes: list[str],
    ) -> None:
        self.phase, self.model, self.data, self.notes = phase, model, data, notes
        self.ranks = spread.data_parallel
        self.branches = BRANCHES.get(data_class, RANKED)
        self.accumulate = accumulate
        if data.get("tokens_per_update") is not None and data.get("max_tokens") is not None:
            self.accumulate = batches_an_update(data["tokens_per_update"], data["max_tokens"], self.ranks)

    def limit(self, key: str) -> int:
        """A limit of the data module's.

        Raises:
            SystemExit: there is none.
        """
        limit = self.data.get(key)
        if limit is None:
            refuse(
                f"data.{key} is null, and the data is not read, so the length of a row is unknown.",
                f"Give --data.{key} N, the tokens of the longest one.",
            )
        return int(limit)

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt with all its responses."""
        return self.limit("max_prompt_tokens") + self.branches * self.limit("max_response_tokens")

    def micro_batch(self) -> RowSize:
        """The row that one step of training reads."""
        if self.phase in SAMPLING:
            return self._responses()
        prompt, response = self.limit("max_prompt_tokens"), self.limit("max_response_tokens")
        alike = f"of {prompt} tokens (data.max_prompt_tokens) with "
        alike += f"{self.branches} responses" if self.branches > 1 else "one response"
        alike += f" of {response} (data.max_response_tokens)"
        if self.branches == RANKED:
            alike += f"; how many responses a ranking has is not known, {RANKED} are taken"
        budget = self.data.get("max_tokens")
        if budget is not None:
            self.notes.append(f"rows of {budget} tokens (data.max_tokens), full of prompts {alike}")
            return stretched(
                self._trees(max(1, budget // self.longest), prompt, response, self.branches), budget
            )
        prompts = -(-self.data["batch_size"] // self.ranks)
        self.notes.append(
            f"rows of {prompts * self.longest} tokens: {prompts} of the {self.data['batch_size']} prompts of "
            f"data.batch_size, {alike}"
        )
        return self._trees(prompts, prompt, response, self.branches)

    def _responses(self) -> RowSize:
        """A share of a minibatch of responses, and of what is pretrained beside it."""
        shares, samples = self.ranks * self.accumulate, self.model["samples_per_prompt"]
        if self.phase == "expert-iteration" and self.model["method"] != "reward_weighted":
            samples = self.model["keep"]  # the others are not learnt from
        responses = max(1, -(-self.model["minibatch_size"] // shares))
        prompts = -(-responses // samples)
        prompt, response = self.limit("max_prompt_tokens"), self.model["max_new_tokens"]
        row = self._trees(prompts, prompt, response, min(samples, responses))
        self.notes.append(
            f"rows of {row.tokens} tokens: {responses} responses (model.minibatch_size {self.model['minibatch_size']} "
            f"in {shares} shares) of {response} tokens (model.max_new_tokens) to {prompts} prompts of {prompt} "
            "(data.max_prompt_tokens)"
        )
        mix = self.model.get("pretraining")
        if mix:
            texts = -(-mix["batch_size"] // shares)
            row += self._trees(texts, 0, mix["max_tokens"], 1)
            self.notes.append(f"beside them {texts} texts of {mix['max_tokens']} tokens (model.pretraining)")
        return row

    def _trees(self, trees: int, prompt: int, response: int, branches: int) -> RowSize:
        scores = self.phase == "reward"
        if self.model.get("attention") == "padded":  # a row a response
            return row_of_trees(trees * branches, prompt, response, 1, scores)
        return row_of_trees(trees, prompt, response, branches, scores)

    def rollout(self, networks: Sequence[Network], row: RowSize, cuda: bool, spread: Spread) -> Rollout:
        """How much of an iteration's responses is under way at once on a rank.

        Args:
            networks: all that are held; each looks at the responses once.
            row: of one forward of those that price them.
            cuda: whether it runs on a GPU.
            spread: over which ranks.
        """
        samples, total = (
            self.model["samples_per_prompt"],
            self.data["batch_size"] * self.model["samples_per_prompt"],
        )
        prompt, response = self.limit("max_prompt_tokens"), self.model["max_new_tokens"]
        mine = [place // samples for place in range(0, total, self.ranks)]
        groups = group_by_prompt([[place] * prompt for place in mine])
        # decoding in steps of fixed shapes, as on a GPU with whole weights, gives each row its prompt
        shares_prompts = not cuda or spread.kind in SPREADS_WEIGHTS
        room = room_for(groups, [response] * len(mine), self.model.get("max_cached_tokens"), shares_prompts)
        self.notes.append(
            f"{len(mine)} responses an iteration (data.batch_size {self.data['batch_size']} times "
            f"model.samples_per_prompt {samples} over {self.ranks} ranks), {room.rows} under way at once, none over "
            "before model.max_new_tokens"
        )
        scored = min(REWARD_BATCH, len(mine))
        scores = row_of_trees(-(-scored // samples), prompt, response, min(samples, scored), scores=True)
        return Rollout(
            rows=room.rows,
            columns=prompt + response,
            cached=room.tokens,
            prompt_tokens=min(max(PROMPT_TOKENS, prompt), prompt * len(groups)),
            looks=tuple(
                Forward(network, scores if network.name in ("reward", "gold reward") else row)
                for network in networks
            ),
        )


def stretched(row: RowSize, tokens: int) -> RowSize:
    """A row of so many tokens, of trees of the same kind, the last one in part."""
    share = tokens / row.tokens
    numbers = (row.tokens, row.read, row.keys, row.masks, row.last_masks)
    return RowSize(*(round(number * share) for number in numbers))

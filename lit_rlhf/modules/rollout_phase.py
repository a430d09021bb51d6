"""A phase whose policy draws the responses that it learns from, and has them scored."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from lit_rlhf.data.trees import plant_tree
from lit_rlhf.metrics import NamedMeans
from lit_rlhf.models.actor_critic import ActorCritic
from lit_rlhf.models.lora import LoraAdapter
from lit_rlhf.models.reference import MovingReference, Reference
from lit_rlhf.models.sharding import reshard
from lit_rlhf.modules.base import Movable, networks_of, prompts_of
from lit_rlhf.modules.policy_phase import PolicyPhase
from lit_rlhf.modules.rollout_numbers import sequence_kl
from lit_rlhf.ops.noise import counter_key
from lit_rlhf.records import Experience, ResponseTrees, Row
from lit_rlhf.rewards.adapter import with_adapter_rewards
from lit_rlhf.rewards.build import RewardSpec, build_reward, refuse_if_all_failed, score_completions
from lit_rlhf.rewards.protocol import Completions, RewardError
from lit_rlhf.rollout.collect import RolloutRequest, collect_rollout
from lit_rlhf.rollout.experience import join_ranks
from lit_rlhf.rollout.truths import sampler_agrees, tolerance_of
from lit_rlhf.strategies.limits import why_not_sampling

VALIDATION_MEANS = [
    "val/objective/scores",
    "val/objective/gold",
    "val/objective/kl",
    "val/rollout/response_length",
    "val/rollout/eos_rate",
]


class RolloutPhase(PolicyPhase):
    """A phase that samples, scores and measures its own responses; abstract.

    A phase sets `network`, `_reference`, `seed`, `samples_per_prompt` and `minibatch_size`.
    """

    network: ActorCritic
    adapter: LoraAdapter | None
    _reference: Reference
    seed: int
    samples_per_prompt: int
    minibatch_size: int

    @property
    def draws_from_reference(self) -> bool:
        """Whether it is the reference that draws an iteration's responses. Validation is always the policy's."""
        return False

    def set_rewards(
        self,
        reward: RewardSpec | None,
        gold_reward: RewardSpec | None,
        timeout: float | None,
        failed: Literal["stop", "skip"],
    ) -> None:
        """What scores responses, and what judges them beside it; without a reward no response has a score.

        Called behind the networks, whose adapters may be rewards.
        """
        reward, gold_reward = (
            with_adapter_rewards(spec, key, self.network, self.adapter, self.tokenizer)
            for key, spec in {"reward": reward, "gold_reward": gold_reward}.items()
        )
        self.reward = None if reward is None else build_reward(reward, self.tokenizer, timeout)
        self.gold_reward = (
            None if gold_reward is None else build_reward(gold_reward, self.tokenizer, timeout, "gold_reward")
        )
        self.failed_rewards = failed
        self.val_means = NamedMeans(VALIDATION_MEANS)
        self._table: list[dict[str, Any]] = []

    def score(self, completions: Completions) -> Tensor:
        """Scores ``[N]`` of responses; NaN where the reward failed and is skipped. Meant to be overridden."""
        if self.reward is None:
            return torch.zeros(len(completions.texts))
        return score_completions(self.reward, completions, self.failed_rewards)

    @property
    def before_updates(self) -> bool:
        """Whether nothing has been updated yet: what is drawn now is looked at more closely."""
        return bool(self.trainer.global_step == 0)

    def draw_responses(self, rows: list[Row], iteration: int) -> Experience:
        """All ranks' responses to an iteration's prompts, scored, with what the networks say of them.

        Raises:
            RewardError: on every rank, where one rank's reward failed, or none of them has a score.
            ValueError: on every rank, where sampling and training forward have come apart.
        """
        try:
            local: Experience | RewardError = self._draw(
                self._request(rows, iteration), self._report_progress, self.draws_from_reference
            )
        except RewardError as error:
            local = error
        for network in (network for frozen in self.frozen() for network in networks_of(frozen)):
            reshard(network)  # what it has left gathered is memory that the updates need
        experience = join_ranks(local, self.data_ranks, self.trainer.world_size // self.data_ranks)
        refuse_if_all_failed(experience.failed)
        # the first rollout is looked at with all else that has to be true of it; other settings differ by intent
        if self.sampling.is_plain and not self.before_updates:
            agreement = sampler_agrees(experience, tolerance_of(str(self.trainer.precision)))
            if not agreement.holds:
                raise ValueError(f"Not so: {agreement.name}; {agreement.explanation}")
        return experience

    def _request(self, rows: list[Row], iteration: int) -> RolloutRequest:
        """This rank's responses: r, r + W, r + 2W, ... of all that the iteration draws."""
        total = len(rows) * self.samples_per_prompt
        mine = torch.arange(self.data_rank, total, self.data_ranks)
        prompt, sample = mine // self.samples_per_prompt, mine % self.samples_per_prompt
        encoder, places = self.encoder, prompt.tolist()
        limit = getattr(self.datamodule, "max_prompt_tokens", None)
        encoded = {place: plant_tree(rows[place], encoder, limit)[0][0].prompt_ids for place in set(places)}
        keys = counter_key(self.seed, iteration, prompt, sample)
        return RolloutRequest([rows[p] for p in places], prompt, [encoded[p] for p in places], keys)

    def _draw(
        self,
        request: RolloutRequest,
        progress: Callable[[int, int], None] | None = None,
        from_reference: bool = False,
    ) -> Experience:
        shares = self.data_ranks * self.trainer.accumulate_grad_batches
        gold_score = None
        if self.gold_reward is not None:
            gold_score = partial(score_completions, self.gold_reward, on_failure=self.failed_rewards)
        with self.trainer.precision_plugin.forward_context():
            return collect_rollout(
                self.network,
                self._reference,
                self.score,
                gold_score,
                request,
                self.sampling,
                self.encoder,
                max(1, self.minibatch_size // shares),
                self.device,
                recompute=self.before_updates,
                progress=progress,
                from_reference=from_reference,
            )

    def _report_progress(self, done: int, total: int) -> None:
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]  # set by its callback connector
            if hasattr(callback, "on_rollout_progress"):
                callback.on_rollout_progress(self.trainer, self, done, total)

    def validation_step(self, batch: ResponseTrees, batch_idx: int) -> None:
        """Score one response to each validation prompt, drawn with the same noise every time."""
        if not hasattr(self.datamodule, "rows"):
            raise ValueError(
                f"{type(self).__name__} validates on prompts with their columns: give the trainer a PromptDataModule."
            )
        all_rows = self.datamodule.rows("test" if self.trainer.testing else "val")
        rows = [all_rows[index] for index in batch.row_indices.tolist()]
        keys = counter_key(self.seed, -1, batch.row_indices.cpu())
        experience = self._draw(RolloutRequest(rows, torch.arange(len(rows)), prompts_of(batch), keys))
        counted = ~experience.failed
        numbers = {
            "val/objective/scores": experience.scores[counted & (self.reward is not None)],
            "val/objective/gold": experience.gold_scores[~experience.gold_scores.isnan()],
            "val/objective/kl": sequence_kl(experience)[counted],
            "val/rollout/response_length": experience.response_mask.sum(1)[counted].float(),
            "val/rollout/eos_rate": (~experience.truncated)[counted].float(),
        }
        for name, values in numbers.items():
            # where this rank has none it takes part all the same, or the others would wait for it
            weight = float(len(values) > 0)
            self.val_means.update(name, values if weight else values.new_zeros(1), weight)

    def on_validation_epoch_end(self) -> None:
        for name, value in self.val_means.compute().items():
            if not value.isnan():  # nobody had any
                self.log(name, value, sync_dist=True)

    test_step = validation_step
    on_test_epoch_end = on_validation_epoch_end

    def sample_table(self) -> list[dict[str, Any]] | None:
        """The first responses of the last rollout."""
        return self._table or None

    def setup(self, stage: str) -> None:
        """Refuse strategies under which nothing can be drawn.

        Raises:
            ValueError: this is one.
        """
        super().setup(stage)
        if name := why_not_sampling(self.trainer.strategy):
            raise ValueError(
                f"trainer.strategy: under {name} weights are whole in a training forward only, and "
                f"{type(self).__name__} has to sample. Use fsdp2, which spreads them too, or ddp."
            )

    def _refuse_to_shard(self) -> None:
        super()._refuse_to_shard()
        if isinstance(self._reference, MovingReference) and self._reference.adapter is not None:
            raise ValueError(
                "model.reference: one that moves is made of merged adapters, which are whole on no rank under fsdp2. "
                "Train full weights, take another reference, or another strategy, such as ddp."
            )

    def frozen(self) -> list[Movable]:
        rewards = [reward for reward in (self.reward, self.gold_reward) if reward is not None]
        return [self._reference, *rewards]

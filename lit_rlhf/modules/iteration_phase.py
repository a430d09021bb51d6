"""A phase whose epochs are iterations: a rollout, then passes over it in minibatches."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lit_rlhf.data.seed import settled_seed
from lit_rlhf.models.actor_critic import ActorCritic
from lit_rlhf.models.execution import Execution, set_execution
from lit_rlhf.models.export import export_policy
from lit_rlhf.models.lora import LoraAdapter
from lit_rlhf.models.ppo_networks import build_actor_critic, build_reference
from lit_rlhf.models.reading import Attention
from lit_rlhf.models.reference import MovingReference
from lit_rlhf.modules.base import check_argument
from lit_rlhf.modules.policy_phase import SHOWN
from lit_rlhf.modules.rollout_loader import RolloutLoader
from lit_rlhf.modules.rollout_numbers import rollout_numbers, rollout_table
from lit_rlhf.modules.rollout_phase import RolloutPhase
from lit_rlhf.records import Experience, ExperienceBatch, LossOutput, ResponseTrees, Row, Tree
from lit_rlhf.rollout.experience import training_batch
from lit_rlhf.rollout.reward_truths import head_is_stored, model_folders
from lit_rlhf.rollout.truth import Truth
from lit_rlhf.rollout.truths import rollout_truths, tolerance_of

SHOWN_IN_THE_BAR = ("objective/scores", "objective/kl")


def check_iteration(given: Mapping[str, Any]) -> None:
    """Refuse numbers out of their range, by their config keys, among the arguments that all such phases have.

    Args:
        given: the constructor's arguments by name.

    Raises:
        ValueError: one makes no sense.
    """
    temperature = given["temperature"]
    check_argument("temperature", temperature, temperature > 0, "more than 0, since responses are sampled")
    for name in ("samples_per_prompt", "epochs", "minibatch_size"):
        whole = isinstance(given[name], Integral) and not isinstance(given[name], bool)
        check_argument(name, given[name], whole and given[name] >= 1, "a whole number, 1 or more")
    if given["reward"] is None and "annotator" not in given:
        raise ValueError("model.reward: expected what scores the responses, found nothing.")
    for name in ("reward_timeout", "max_cached_tokens"):
        check_argument(name, given[name], given[name] is None or given[name] > 0, "more than 0, or null")


class IterationPhase(RolloutPhase):
    """One Lightning epoch is one iteration: responses are drawn and judged, then gone through `epochs` times; abstract.

    A phase sets `execution`, calls :meth:`set_iteration`, :meth:`set_networks` and `set_rewards`, and defines
    :meth:`prepare` and `compute_loss`.
    """

    execution: Execution | None

    whole_prompts = False
    """Whether minibatches, and what each rank has of one, are cut between prompts only."""

    def set_iteration(
        self, samples_per_prompt: int, epochs: int, minibatch_size: int, seed: int | None
    ) -> None:
        """The sizes of an iteration, and the seed of its order; called once by the constructor."""
        self.samples_per_prompt = samples_per_prompt
        self.epochs = epochs
        self.minibatch_size = minibatch_size
        self.seed = settled_seed(seed)
        self._rollout_metrics: dict[str, float] = {}
        self._rollout_ended = 0.0
        self._updated = False  # whether the policy is no longer what it was made from

    def set_networks(
        self,
        model: str | nn.Module,
        reference: str | dict[str, Any] | None,
        reference_storage: Literal["frozen", "adapter_off"],
        attention: Attention,
        lora: dict[str, Any] | None,
        critic: str | None = None,
        wants_critic: bool = False,
    ) -> None:
        """What is trained, and the reference: the policy as it starts unless it is another; called once, too.

        The arguments are those of :func:`lit_rlhf.models.ppo_networks.build_actor_critic` and ``build_reference``.
        """
        self.network, self.adapter = build_actor_critic(model, critic, wants_critic, attention, lora)
        self._reference = build_reference(reference, reference_storage, self.network, self.adapter, attention)
        set_execution(self.network, self.execution)  # behind the copies, which are never trained

    @property
    def learned_per_prompt(self) -> int:
        """Responses of each prompt that :meth:`collect` leaves to learn from."""
        return self.samples_per_prompt

    # --- the rollout ------------------------------------------------------------------------------------

    def rollout_loader(self, rows: Sequence[Row], batch_size: int | None = None) -> RolloutLoader:
        """The training loader over prompt rows, from any data module or handed to the trainer as it is.

        Args:
            rows: the prompts, with their columns for the reward.
            batch_size: prompts an iteration over all ranks; None = the data module's `batch_size`.
        """
        return RolloutLoader(self, rows, batch_size, self.seed)

    def check_rollout_size(self, responses: int) -> None:
        """Refuse a number of responses an iteration that the phase cannot work with. Meant to be extended."""

    def on_rollout_start(self, iteration: int) -> None:
        """What changes between iterations, such as a reference that moves. Meant to be extended."""
        self.zero_grad(set_to_none=True)  # Lightning would keep the last update's through the rollout
        if isinstance(self._reference, MovingReference):
            self._reference.advance(self.network.policy, iteration)

    def collect(self, rows: list[Row], iteration: int) -> Experience:
        """Sample, score and prepare for learning, over all ranks. Meant to be overridden."""
        started = time.perf_counter()
        experience = self.draw_responses(rows, iteration)
        self._rollout_metrics = {"time/rollout_seconds": time.perf_counter() - started}
        return self.prepare(experience)

    def prepare(self, experience: Experience) -> Experience:
        """What is learnt from, made of all ranks' responses and scores."""
        raise NotImplementedError

    def on_rollout_end(self, experience: Experience) -> None:
        """Numbers of the rollout, logged at the end of the iteration. Runs once a rollout. Meant to be extended."""
        self._rollout_metrics |= rollout_numbers(experience)
        self._rollout_metrics["episodes"] = float((self.current_epoch + 1) * len(experience))
        self._table = rollout_table(experience, self.encoder, SHOWN)
        self._rollout_ended = time.perf_counter()

    def check_first_rollout(self, experience: Experience) -> None:
        """What has to be true before anything is updated; override it where your own `collect` breaks it on purpose.

        Raises:
            ValueError: something is not; the message says what is likely wrong.
        """
        truths = self.first_truths(experience)
        truths += map(head_is_stored, model_folders(self.hparams.get("reward")))
        failures = [f"Not so: {truth.name}; {truth.explanation}" for truth in truths if not truth.holds]
        if failures:
            raise ValueError("The first rollout does not hold together. " + " ".join(failures))

    def first_truths(self, experience: Experience) -> list[Truth]:
        """What the first rollout shows by itself. Meant to be extended."""
        start = self.hparams.get("reference") is None and not self._updated and not self.draws_from_reference
        return rollout_truths(experience, self.encoder, start, tolerance_of(str(self.trainer.precision)))

    # --- the updates ------------------------------------------------------------------------------------

    def batch_of(self, experience: Experience, indices: list[int]) -> ExperienceBatch:
        """What one training step sees of the experience. Meant to be overridden."""
        return training_batch(experience, indices)

    def pretraining_of(
        self, experience: Experience, minibatch: list[int], update: int
    ) -> tuple[list[Tree], float] | None:
        """Further rows that go with a minibatch, over all ranks, and what their summed loss is multiplied by."""
        return None

    def refuse_other_batches(self, batch: Any) -> None:
        """Say so where a trainer was given rows that the policy did not draw.

        Raises:
            ValueError: the batch is no experience.
        """
        if not isinstance(batch, ExperienceBatch):
            raise ValueError(
                f"{type(self).__name__} trains on what it has drawn itself, found a batch of {type(batch).__name__}. "
                "Give it a PromptDataModule, or a loader made by its rollout_loader(rows)."
            )

    def training_step(self, batch: ExperienceBatch, batch_idx: int) -> Tensor:
        output: LossOutput = self.compute_loss(batch)
        loss = self.mean_loss(output, batch.trees.row_ids)
        self.log_training(output)
        for name in SHOWN_IN_THE_BAR:  # of this rollout, from its first update on
            if name in self._rollout_metrics:
                self.log(name, self._rollout_metrics[name], prog_bar=True, logger=False)
        return loss

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        super().on_before_optimizer_step(optimizer)
        self._updated = True

    def on_train_epoch_end(self) -> None:
        self._rollout_metrics["time/update_seconds"] = time.perf_counter() - self._rollout_ended
        for name, value in self._rollout_metrics.items():
            self.log(name, value, prog_bar=name in SHOWN_IN_THE_BAR, sync_dist=True)

    # --- what is resumed --------------------------------------------------------------------------------

    def on_fit_start(self) -> None:
        super().on_fit_start()
        self._rollout_ended = time.perf_counter()  # of a run that goes on inside an iteration
        if isinstance(self._reference, MovingReference) and self.trainer.ckpt_path is None:
            self._reference.start_anew()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """What the run knows beside its weights, as plain values."""
        reference = self._reference if isinstance(self._reference, MovingReference) else None
        checkpoint["rollout"] = {
            "reference": None if reference is None else reference.state_dict(),
            "metrics": dict(self._rollout_metrics),
            "table": [dict(row) for row in self._table],
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._updated = True
        state = checkpoint["rollout"]
        if isinstance(self._reference, MovingReference) and state["reference"] is not None:
            self._reference.load_state_dict(state["reference"])
        self._rollout_metrics = dict(state["metrics"])
        self._table = [dict(row) for row in state["table"]]

    def predict_step(self, batch: ResponseTrees, batch_idx: int) -> list[dict[str, Any]]:
        """One sample for each prompt of the batch."""
        return self.predict_samples(batch, batch_idx)

    def write_export(self, network: ActorCritic, adapter: LoraAdapter | None, directory: Path) -> None:
        """The policy as ``AutoModelForCausalLM`` loads it; a critic stays in the checkpoint."""
        export_policy(network.policy, self.tokenizer_to_export(), directory, adapter)

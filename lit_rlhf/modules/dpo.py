"""Direct preference optimisation: from comparisons to a policy in one step."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from lit_rlhf.losses.preference import dpo_loss, implicit_reward
from lit_rlhf.models.execution import Execution, set_execution
from lit_rlhf.models.export import export_policy
from lit_rlhf.models.loading import check_same_vocabulary, disable_dropout, load_causal_lm
from lit_rlhf.models.lora import LoraAdapter, add_lora
from lit_rlhf.models.lora_settings import Lora, lora_settings
from lit_rlhf.models.policy import PolicyNetwork, sequence_logprobs
from lit_rlhf.models.quantized import quantize_base
from lit_rlhf.models.reading import Attention
from lit_rlhf.models.reference import AdapterOff, Frozen, check_adapter_off
from lit_rlhf.modules.base import Movable, check_argument, checked_settings, default_optimizer
from lit_rlhf.modules.comparison_phase import ComparisonPhase, Judgement
from lit_rlhf.modules.policy_phase import PolicyPhase
from lit_rlhf.modules.precomputed_reference import PrecomputedReference
from lit_rlhf.records import ResponseTrees


class DPOModule(ComparisonPhase, PolicyPhase):
    """The sigmoid loss of Rafailov et al. 2023, eq. 7, on pairs and on all strict pairs of rankings.

    L = −log σ(β·[log π(y_w|x)/π_ref(y_w|x) − log π(y_l|x)/π_ref(y_l|x)]), log-probabilities summed over the
    response. Dropout is off, so that the loss starts at ln 2.

    Args:
        model: folder in Hugging Face layout, hub name, or (from Python) a causal language model already built.
        beta: β, reward per nat: small lets the policy go far from the reference. The paper uses 0.1 and 0.5.
        label_smoothing: share of labels assumed wrong (cDPO); 0 trusts them.
        ties: what a tie says. ``drop``: nothing. ``half``: either is as likely to be better, which holds the implicit
            rewards of the two together.
        reference: folder of the reference policy; null = the policy as it starts.
        reference_storage: ``frozen`` keeps a second model; ``precomputed`` looks at all rows once before
            training, keeps one number a response in a file beside the data, and holds no second model;
            ``adapter_off``, with `lora`, takes the adapters off for the reference's forward, and holds none either.
        lora: low-rank adapters in place of full weights: peft's fields, such as ``{r: 8, target_modules: all-linear}``
            (``--model.lora.help LoraConfig`` lists them; targets are peft's for the model's family, else
            all-linear), and ``base_weights: nf4`` for frozen weights in 4 bits; null = full weights. Without dropout,
            since it is off.
        execution: how layers are run in training: ``{activation_checkpointing, offload_activations, compile}``, each
            true or false; null = none of it.
        optimizer: makes the optimizer from parameters.
        scheduler: makes the learning-rate schedule from the optimizer; stepped once an update.
        tokenizer: the tokenizer of a model already built; a folder brings its own.
        chat_template: for conversations where the tokenizer has none: ``chatml``, a .jinja file, or the text.
        attention: ``trees`` computes each prompt once for all its responses; ``padded`` gives every response a
            row of its own; ``auto`` takes trees where the model lets its attention be replaced.
        max_new_tokens: length limit of predicted samples.
        temperature: of predicted samples.
        seed: of predicted samples; null = that of ``seed_everything``.
    """

    network: PolicyNetwork

    def __init__(
        self,
        model: str | nn.Module,
        beta: float = 0.1,
        label_smoothing: float = 0.0,
        ties: Literal["half", "drop"] = "drop",
        reference: str | None = None,
        reference_storage: Literal["frozen", "precomputed", "adapter_off"] = "frozen",
        lora: Lora | None = None,
        execution: Execution | None = None,
        optimizer: OptimizerCallable = default_optimizer,
        scheduler: LRSchedulerCallable | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        chat_template: str | None = None,
        attention: Attention = "auto",
        max_new_tokens: int = 128,
        temperature: float = 1.0,
        seed: int | None = None,
    ) -> None:
        super().__init__(model, optimizer, scheduler, tokenizer, chat_template)
        lora = lora_settings(lora, dropout=False)
        self.execution = checked_settings(Execution, "execution", execution)
        execution = self.execution and asdict(self.execution)  # type: ignore[assignment]  # plain, for checkpoints
        self.remember_arguments(model)
        self.set_up_validation()
        self.set_sampling(max_new_tokens, temperature, seed)
        check_argument("beta", beta, beta > 0, "more than 0")
        check_argument("label_smoothing", label_smoothing, 0 <= label_smoothing < 0.5, "0 to less than 0.5")
        self.beta = beta
        self.label_smoothing = label_smoothing
        self.ties = ties
        if reference_storage == "adapter_off":
            check_adapter_off(lora is not None, reference, "frozen or precomputed")
        self.network = disable_dropout(PolicyNetwork(load_causal_lm(model, attention)))
        quantize_base(
            self.network.causal_lm, lora
        )  # the policy as it starts, which the reference is a copy of
        copies = reference_storage == "frozen" and reference is None
        self._reference: Frozen | AdapterOff | None = Frozen.copy_of(self.network) if copies else None
        self.adapter = add_lora(self.network, self.network.causal_lm, lora)
        set_execution(self.network, self.execution)
        untrained = None if self.adapter is None else AdapterOff(self.network, self.adapter)
        self._precomputed: PrecomputedReference | None = None
        if reference_storage == "precomputed":
            start = model if isinstance(model, str) else None
            self._precomputed = PrecomputedReference(reference, start, attention, untrained)
        elif reference_storage == "adapter_off":
            self._reference = untrained
        elif reference is not None:
            self._reference = Frozen(PolicyNetwork(load_causal_lm(reference, attention)))
            check_same_vocabulary("reference", self._reference.network.causal_lm, self.network.causal_lm)

    def judge(self, batch: ResponseTrees) -> Judgement:
        """Implicit rewards of the responses and the loss of every comparison between them."""
        logprobs = sequence_logprobs(self.network(batch))
        reference = self.reference_logprobs(batch)
        losses = dpo_loss(
            logprobs[batch.better],
            logprobs[batch.worse],
            reference[batch.better],
            reference[batch.worse],
            self.beta,
            batch.target,
            self.label_smoothing,
        )
        rewards = implicit_reward(logprobs.detach(), reference, self.beta)
        return Judgement(
            losses,
            batch.comparison_weights(without_ties=self.ties == "drop"),
            rewards,
            probability=(rewards[batch.better] - rewards[batch.worse]).sigmoid(),
            disagreement=torch.zeros_like(rewards),
            logprobs=logprobs,
        )

    def reference_logprobs(self, batch: ResponseTrees) -> Tensor:
        """log π_ref(y|x) of each response, ``[N]``, without gradient."""
        if self._precomputed is not None:
            trainer = self.trainer
            return self._precomputed.look_up(
                "train" if trainer.training else "test" if trainer.testing else "val", batch
            )
        assert self._reference is not None
        return sequence_logprobs(self._reference(batch))

    def frozen(self) -> list[Movable]:
        return [] if self._reference is None else [self._reference]

    def on_fit_start(self) -> None:
        super().on_fit_start()
        if self._precomputed is not None:
            self._precomputed.prepare(self, "train", "val")
            self._precomputed.policy_has_moved = True  # from here on

    def on_validation_start(self) -> None:
        super().on_validation_start()
        if self._precomputed is not None and self.trainer.state.fn == "validate":
            self._precomputed.prepare(self, "val")

    def on_test_start(self) -> None:
        super().on_test_start()
        if self._precomputed is not None:
            self._precomputed.prepare(self, "test")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self._precomputed is not None:
            checkpoint["reference_logprobs"] = self._precomputed.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self._precomputed is not None:
            self._precomputed.policy_has_moved = True
            if "reference_logprobs" in checkpoint:
                self._precomputed.load_state_dict(checkpoint["reference_logprobs"])

    def predict_step(self, batch: ResponseTrees, batch_idx: int) -> list[dict[str, Any]]:
        """One sample for each prompt of the batch."""
        return self.predict_samples(batch, batch_idx)

    def write_export(self, network: PolicyNetwork, adapter: LoraAdapter | None, directory: Path) -> None:
        """As ``AutoModelForCausalLM`` loads it."""
        export_policy(network, self.tokenizer_to_export(), directory, adapter)

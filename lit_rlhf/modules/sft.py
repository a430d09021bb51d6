"""Supervised fine-tuning: learn to give the demonstrated responses. On text rows, pretraining."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torchmetrics import MeanMetric
from transformers import PreTrainedTokenizerBase

from lit_rlhf.losses.sft import sft_loss
from lit_rlhf.models.execution import Execution, set_execution
from lit_rlhf.models.export import export_policy
from lit_rlhf.models.loading import load_causal_lm
from lit_rlhf.models.lora import LoraAdapter, add_lora
from lit_rlhf.models.lora_settings import Lora, lora_settings
from lit_rlhf.models.policy import PolicyNetwork
from lit_rlhf.models.reading import Attention
from lit_rlhf.modules.base import checked_settings, default_optimizer
from lit_rlhf.modules.policy_phase import PolicyPhase
from lit_rlhf.ops.masking import masked_sum
from lit_rlhf.ops.noise import drawing_from
from lit_rlhf.records import LossOutput, ResponseTrees


class SFTModule(PolicyPhase):
    """Next-token loss on response tokens, the EOS among them.

    L = −Σ_t m_t log π(y_t | x, y_<t) / Σ_t m_t, over the whole optimizer batch.

    Args:
        model: folder in Hugging Face layout, hub name, or (from Python) a causal language model already built.
        lora: low-rank adapters in place of full weights: peft's fields, such as ``{r: 8, target_modules: all-linear}``
            (``--model.lora.help LoraConfig`` lists them; targets are peft's for the model's family, else
            all-linear), and ``base_weights: nf4`` for frozen weights in 4 bits; null = full weights.
        execution: how layers are run in training: ``{activation_checkpointing, offload_activations, compile}``, each
            true or false; null = none of it.
        optimizer: makes the optimizer from parameters.
        scheduler: makes the learning-rate schedule from the optimizer; stepped once an update.
        tokenizer: the tokenizer of a model already built; a folder brings its own.
        chat_template: for conversations where the tokenizer has none: ``chatml``, a .jinja file, or the text.
        attention: ``trees`` computes each prompt once for all its responses; ``padded`` gives every response a
            row of its own; ``auto`` takes trees where the model lets its attention be replaced.
        max_new_tokens: length limit of shown and predicted samples.
        temperature: of shown and predicted samples.
        seed: of dropout and samples; null = that of ``seed_everything``.
    """

    network: PolicyNetwork

    def __init__(
        self,
        model: str | nn.Module,
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
        lora = lora_settings(lora)
        self.execution = checked_settings(Execution, "execution", execution)
        execution = self.execution and asdict(self.execution)  # type: ignore[assignment]  # plain, for checkpoints
        self.remember_arguments(model)
        self.set_sampling(max_new_tokens, temperature, seed)
        self.network = PolicyNetwork(load_causal_lm(model, attention))
        self.adapter = add_lora(self.network, self.network.causal_lm, lora)
        set_execution(self.network, self.execution)
        self.val_loss = MeanMetric()

    def on_fit_start(self) -> None:
        super().on_fit_start()
        if self.trainer.max_epochs != 1:
            rank_zero_warn(
                f"trainer.max_epochs is {self.trainer.max_epochs}: supervised fine-tuning for more than one epoch "
                "tends to memorise the demonstrations. Watch val/loss; one epoch is the default."
            )

    def compute_loss(self, batch: ResponseTrees) -> LossOutput:
        """Summed negative log-likelihood and the number of counted tokens.

        Raises:
            ValueError: the batch holds prompts alone.
        """
        if batch.num_responses == 0:
            raise ValueError(f"SFTModule needs demonstrations; {batch.row_ids[0]} has no response.")
        mask = batch.response_grid_mask()
        losses = sft_loss(self.network(batch).logprobs, mask)
        return LossOutput(masked_sum(losses, mask), mask.sum())

    def training_step(self, batch: ResponseTrees, batch_idx: int) -> Tensor:
        with drawing_from(self.dropout_seed(batch_idx), self.device):
            output = self.compute_loss(batch)
        output.metrics["train/perplexity"] = (output.total.detach() / output.count.clamp(min=1)).exp()
        loss = self.mean_loss(output, batch.row_ids)
        self.log_training(output)
        return loss

    def validation_step(self, batch: ResponseTrees, batch_idx: int) -> None:
        output = self.compute_loss(batch)
        self.val_loss.update(output.total / output.count.clamp(min=1), weight=output.count)
        self.keep_prompts(batch, batch_idx)

    def on_validation_epoch_end(self) -> None:
        loss = self.val_loss.compute()
        self.val_loss.reset()
        self.log("val/loss", loss, prog_bar=True, sync_dist=True)
        self.log("val/perplexity", loss.exp(), sync_dist=True)

    test_step = validation_step
    on_test_epoch_end = on_validation_epoch_end

    def write_export(self, network: PolicyNetwork, adapter: LoraAdapter | None, directory: Path) -> None:
        """As ``AutoModelForCausalLM`` loads it."""
        export_policy(network, self.tokenizer_to_export(), directory, adapter)

    def predict_step(self, batch: ResponseTrees, batch_idx: int) -> list[dict[str, Any]]:
        """One sample for each prompt of the batch."""
        return self.predict_samples(batch, batch_idx)

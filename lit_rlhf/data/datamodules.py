"""One data module for each kind of data file."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from transformers import PreTrainedTokenizerBase

from lit_rlhf.data.files import BadRows, DataPath, read_rows
from lit_rlhf.data.tokenization import TextEncoder
from lit_rlhf.data.tree_datamodule import TreeDataModule
from lit_rlhf.data.trees import plant_tree
from lit_rlhf.records import Tree


class DemonstrationDataModule(TreeDataModule):
    """Demonstrations for SFT: `prompt` and `response`, or `messages`, or `text`."""

    kind = "demonstrations"


class PairDataModule(TreeDataModule):
    """Pairs for reward models and DPO: `prompt`, `chosen`, `rejected`."""

    kind = "pairs"
    compares = True


class RankingDataModule(TreeDataModule):
    """Rankings for reward models and DPO: `prompt`, `responses`, and `ranking`, `ranks` or `scores`."""

    kind = "rankings"
    compares = True


class PromptDataModule(TreeDataModule):
    """Prompts for PPO: `prompt`; every other field is handed to the reward function.

    Its training loader is the module's own: ``trainer.lightning_module.rollout_loader(rows)``.

    Args:
        path: Prompts to train on: a file, folder or hub name, or a list of them. Not needed for ``test`` and
            ``predict``.
        val_path: Prompts for validation, taken as they are; `val_fraction` is then not used.
        val_fraction: Share of the prompts of `path` that validate, where there is no `val_path`.
        test_path: Prompts for ``test``.
        predict_path: Prompts for ``predict``.
        batch_size: Prompts an iteration, over all ranks.
        max_prompt_tokens: Longer prompts are cut on their left, conversations by whole turns.
        seed: Decides the validation split; null = that of ``seed_everything``.
        bad_rows: Whether a row that cannot be read stops the run, or is skipped and counted.
        chat_template: For conversations: chatml, a .jinja file or a template; by default the module's or the
            tokenizer's own.
        tokenizer: A tokenizer, or where to load one from; by default the module's.
    """

    kind = "prompts"

    def __init__(
        self,
        path: DataPath | None = None,
        val_path: DataPath | None = None,
        val_fraction: float = 0.0,
        test_path: DataPath | None = None,
        predict_path: DataPath | None = None,
        batch_size: int = 64,
        max_prompt_tokens: int | None = 512,
        seed: int | None = None,
        bad_rows: BadRows = "error",
        chat_template: str | None = None,
        tokenizer: str | PreTrainedTokenizerBase | None = None,
    ) -> None:
        super().__init__(
            path,
            val_path=val_path,
            val_fraction=val_fraction,
            test_path=test_path,
            predict_path=predict_path,
            batch_size=batch_size,
            max_prompt_tokens=max_prompt_tokens,
            seed=seed,
            bad_rows=bad_rows,
            chat_template=chat_template,
            tokenizer=tokenizer,
        )

    def train_dataloader(self) -> Iterable[Any]:
        """What the trainer's module makes of the prompt rows.

        Raises:
            ValueError: the files of `path` are weighted, or the module has no `rollout_loader`.
        """
        planted = self.plant("train")
        if any(weight != 1 for weight in planted.weights):
            raise ValueError(
                "data.path: weights have no effect on prompts; repeat a file to draw it more often"
            )
        module = None if self.trainer is None else self.trainer.lightning_module
        if not hasattr(module, "rollout_loader"):
            raise ValueError(
                f"PromptDataModule trains modules with a `rollout_loader`, such as PPOModule; "
                f"{type(module).__name__} has none"
            )
        return module.rollout_loader(planted.rows)  # type: ignore[union-attr, operator]


def read_reference_trees(path: DataPath, encoder: TextEncoder) -> list[Tree]:
    """Demonstrations as trees of one response each, uncut."""
    return [tree for row in read_rows(path, "demonstrations").rows for tree in plant_tree(row, encoder)[0]]

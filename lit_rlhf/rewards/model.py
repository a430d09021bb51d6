"""A reward that is a trained reward model."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from lit_rlhf.data.tokenization import TextEncoder, load_tokenizer
from lit_rlhf.data.trees import pack_trees
from lit_rlhf.models.loading import resolve_model_name
from lit_rlhf.models.reference import Frozen
from lit_rlhf.models.scorer import ScorerNetwork, load_scorer
from lit_rlhf.records import Prompt, Tree
from lit_rlhf.rewards.protocol import Completions


class ModelReward:
    """Scores with a reward export, in batches of one size.

    Where the reward model's tokenizer is the policy's, the policy's own ids are scored; else the texts meet
    it, through its own tokenizer and chat template. Several components give the score that they were combined to
    in training, such as mean − k·std.

    Args:
        model: the folder or hub name of a reward model, or a scorer already built.
        policy_tokenizer: the tokenizer that the responses were sampled with.
        tokenizer: the reward model's; by default the one in its folder, or the policy's for a built scorer.
        batch_size: responses in one forward.
    """

    def __init__(
        self,
        model: str | ScorerNetwork,
        policy_tokenizer: PreTrainedTokenizerBase,
        tokenizer: PreTrainedTokenizerBase | None = None,
        batch_size: int = 64,
    ) -> None:
        if tokenizer is None:
            tokenizer = (
                load_tokenizer(resolve_model_name(model)) if isinstance(model, str) else policy_tokenizer
            )
        self.network = Frozen(model if isinstance(model, nn.Module) else load_scorer(model))
        self.encoder = TextEncoder(tokenizer)
        self.shares_ids = tokenizer.get_vocab() == policy_tokenizer.get_vocab()
        self.batch_size = batch_size
        self.device: torch.device | str = "cpu"

    def score(self, completions: Completions) -> Tensor:
        """Scores ``[N]``, read at the last token of each response."""
        trees = self._trees(completions)
        return score_trees(self.network, trees, self.batch_size, self.device)

    def disagreement(self, completions: Completions) -> Tensor:
        """Standard deviation of each response's score over the model's components ``[N]``; 0 with one head."""
        scorer = self.network.network
        assert isinstance(scorer, ScorerNetwork)
        return score_trees(
            lambda trees: scorer.forward_with_disagreement(trees)[1],
            self._trees(completions),
            self.batch_size,
            self.device,
        )

    def _trees(self, completions: Completions) -> list[Tree]:
        if self.shares_ids:
            pairs = list(zip(completions.prompt_ids, completions.response_ids, strict=True))
        else:
            pairs = [
                (self.encoder.prompt_ids(prompt), self._response_ids(prompt, text, finished))
                for prompt, text, finished in zip(
                    completions.prompts, completions.texts, completions.finished, strict=True
                )
            ]
        return [Tree(prompt, [response], [[True] * len(response)]) for prompt, response in pairs]

    def _response_ids(self, prompt: Prompt, text: str, finished: bool) -> list[int]:
        """The response in the reward model's own tokens; one that was cut off has no EOS here either."""
        ids = self.encoder.response_ids(prompt, text)[0]
        return ids if finished or len(ids) == 1 else ids[:-1]

    def to(self, device: torch.device | str) -> ModelReward:
        self.device = device
        self.network.to(device)
        return self


def score_trees(
    network: Callable[..., Tensor], trees: list[Tree], batch_size: int, device: torch.device | str
) -> Tensor:
    """Scores of every response of `trees` ``[N]``, in order, on the CPU; `batch_size` trees at a time."""
    with torch.no_grad():
        scores = [
            network(pack_trees(trees[start : start + batch_size]).to(device)).float().cpu()
            for start in range(0, len(trees), batch_size)
        ]
    return torch.cat(scores)

"""A reward that is a trained reward model."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from lit_rlhf.data.lengths import sequence_tokens
from lit_rlhf.data.tokenization import TextEncoder, TokenizationError, load_tokenizer
from lit_rlhf.data.trees import join_branches, pack_trees
from lit_rlhf.models.decoding import most_over_ranks, most_positions
from lit_rlhf.models.loading import resolve_model_name
from lit_rlhf.models.reference import Frozen
from lit_rlhf.models.scorer import ScorerNetwork, load_scorer
from lit_rlhf.models.sharding import is_sharded
from lit_rlhf.records import Prompt, Tree
from lit_rlhf.rewards.function import finite_or_failed
from lit_rlhf.rewards.protocol import Completions
from lit_rlhf.rewards.scoring import Failure, PartialReward, Scoring, raise_failure

STAND_IN = Tree([0], [[0]], [[True]])
"""What a rank reads while others have more to score."""


class ModelReward(PartialReward):
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
        self.name = model if isinstance(model, str) else type(model).__name__
        scorer = model if isinstance(model, ScorerNetwork) else load_scorer(model)
        self.network = Frozen(scorer)
        self.encoder = TextEncoder(tokenizer)
        self.shares_ids = tokenizer.get_vocab() == policy_tokenizer.get_vocab()
        self.positions = most_positions(scorer.trunk)
        """Tokens that it reads at the most; None = any number."""
        self.batch_size = batch_size
        self.device: torch.device | str = "cpu"

    def begin(self, completions: Completions, thorough: bool) -> Callable[[], Scoring]:
        """See :meth:`PartialReward.begin`; scores are read at the last token of each response.

        A response fails that its tokenizer cannot render, that is longer than the model's table of positions, or
        whose score is not finite.
        """
        return lambda: self._read(completions, self.network)

    def disagreement(self, completions: Completions) -> Tensor:
        """Standard deviation of each response's score over the model's components ``[N]``; 0 with one head.

        Raises:
            RewardError: a response cannot be scored.
        """
        scorer = self.network.network
        assert isinstance(scorer, ScorerNetwork)
        scoring = self._read(completions, lambda trees: scorer.forward_with_disagreement(trees)[1])
        if scoring.failures:
            raise_failure(scoring, completions)
        return scoring.scores

    def _read(self, completions: Completions, network: Callable[..., Tensor]) -> Scoring:
        """One number a response, from `network`."""
        trees, failures = self._trees(completions)
        scores = torch.full((len(completions),), torch.nan)
        sharded = is_sharded(self.network.network)
        if trees or sharded:
            places = list(trees)
            numbers = score_trees(network, list(trees.values()), self.batch_size, self.device, sharded)
            read = finite_or_failed(self.name, numbers)
            scores[places] = read.scores
            failures |= {places[place]: failure for place, failure in read.failures.items()}
        return Scoring(scores, failures)

    def _trees(self, completions: Completions) -> tuple[dict[int, Tree], dict[int, Failure]]:
        """By response: its tokens, or why there are none that the model could read."""
        trees: dict[int, Tree] = {}
        failures: dict[int, Failure] = {}
        for place in range(len(completions)):
            try:
                prompt, response = self._ids(completions, place)
            except TokenizationError as error:
                failures[place] = Failure(f"Reward {self.name} cannot read it: {error},", error)
                continue
            tree = Tree(prompt, [response], [[True] * len(response)])
            if self.positions is not None and sequence_tokens(tree) > self.positions:
                failures[place] = Failure(
                    f"Reward {self.name} has {self.positions} positions, too few for {sequence_tokens(tree)} tokens"
                )
            else:
                trees[place] = tree
        return trees, failures

    def _ids(self, completions: Completions, place: int) -> tuple[list[int], list[int]]:
        if self.shares_ids:
            return completions.prompt_ids[place], completions.response_ids[place]
        prompt, text = completions.prompts[place], completions.texts[place]
        return self.encoder.prompt_ids(prompt), self._response_ids(prompt, text, completions.finished[place])

    def _response_ids(self, prompt: Prompt, text: str, finished: bool) -> list[int]:
        """The response in the reward model's own tokens; one that was cut off has neither its EOS nor what closes a
        turn in its template."""
        if finished:
            return self.encoder.response_ids(prompt, text)[0]
        # cut off before any text there is nothing but an EOS to read a score at
        return self.encoder.token_ids(text) or [self.encoder.eos_token_id]

    def to(self, device: torch.device | str) -> ModelReward:
        self.device = device
        self.network.to(device)
        return self

    def networks(self) -> list[nn.Module]:
        return self.network.networks()


def score_trees(
    network: Callable[..., Tensor],
    trees: list[Tree],
    batch_size: int,
    device: torch.device | str,
    sharded: bool = False,
) -> Tensor:
    """Scores of every response of `trees` ``[N]``, in order, on the CPU.

    `batch_size` trees at a time, and of those a prompt that several neighbours share is computed once. A network that
    is `sharded` over ranks is run as often on each of them; what a rank has none of is a stand-in.
    """
    batches = [trees[start : start + batch_size] for start in range(0, len(trees), batch_size)]
    scores = [torch.empty(0)]
    with torch.no_grad():
        for number in range(most_over_ranks(len(batches), sharded, device)):
            mine = number < len(batches)
            batch = batches[number] if mine else [STAND_IN]
            read = network(pack_trees(join_branches(batch)).to(device)).float().cpu()
            scores += [read] if mine else []
    return torch.cat(scores)

"""How far a policy has gone, and for what: ``python -m lit_rlhf.cli.steps.measure``, on the responses that it drew.

KL(policy || reference) is the mean over its own responses of log π(y|x) − log π_ref(y|x), summed over a response's
tokens, the end among them where it came to one; in nats a response. So it is an estimate only for responses that were
drawn at temperature 1 and without truncation. Responses are read as text, which may be other tokens than were drawn.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

CHUNK = 64
"""Responses of one forward."""


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        "python -m lit_rlhf.cli.steps.measure", allow_abbrev=False, description=__doc__
    )
    add = parser.add_argument
    add("--responses", required=True, metavar="F", help="what `lit-rlhf sample` wrote")
    add("--policy", metavar="DIR", help="what drew them: each response's tokens are counted as it reads them")
    add("--reference", metavar="DIR", help="what the KL is to; without it there is none")
    add("--gold", metavar="PATH", help="dotted path of f(prompts, completions, **columns) -> list of numbers")
    add("--reward", metavar="PATH", help="dotted path of another such function")
    add("--out", required=True, metavar="F", help="the .json file to write")
    arguments = parser.parse_args(argv)
    if arguments.reference and not arguments.policy:
        parser.error("--reference goes with --policy, whose KL to it is measured")

    from lit_rlhf.cli.guard import run_guarded

    run_guarded("measure", lambda: measure(arguments))


def measure(arguments: argparse.Namespace) -> None:
    """Measure and write."""
    from lit_rlhf.callbacks import write_beside_and_rename
    from lit_rlhf.cli.main import import_from_here

    import_from_here()
    rows = [json.loads(line) for line in Path(arguments.responses).read_text(encoding="utf-8").splitlines()]
    found: dict[str, Any] = {
        "responses": len(rows),
        "finished": sum(row["finished"][0] for row in rows) / len(rows),
        "characters": sum(len(row["responses"][0]) for row in rows) / len(rows),
    }
    for name in ("gold", "reward"):
        if getattr(arguments, name):
            found[name] = values_of(rows, getattr(arguments, name), name)
    if arguments.policy:
        found["tokens"] = [len(ids) for ids in tokens_of(rows, arguments.policy)[1]]
    if arguments.reference:
        found["kl"] = log_ratios(rows, arguments.policy, arguments.reference)
    write_beside_and_rename(Path(arguments.out), json.dumps(found) + "\n")
    for name in ("gold", "reward", "kl"):
        if name in found:
            print(
                f"{name}: {sum(found[name]) / len(found[name]):.3f} (mean over {len(found[name]):,} responses)"
            )


def values_of(rows: Sequence[Mapping[str, Any]], path: str, name: str) -> list[float]:
    """What a function gives each row's first response.

    Args:
        rows: what `lit-rlhf sample` wrote; other fields are handed to the function as columns.
        path: of the function.
        name: what it is called in messages.

    Raises:
        RewardError: it does not give a finite number for each.
        ValueError: it cannot be imported.
    """
    from lit_rlhf.rewards.build import score_completions
    from lit_rlhf.rewards.named import reward_at_path
    from lit_rlhf.rewards.protocol import Completions

    of_samples = {"id", "prompt", "responses", "finished", "source", "sampling"}
    columns = sorted({column for row in rows for column in row} - of_samples)
    completions = Completions(
        prompts=[row["prompt"] for row in rows],
        texts=[row["responses"][0] for row in rows],
        prompt_ids=[[] for _ in rows],
        response_ids=[[] for _ in rows],
        finished=[row["finished"][0] for row in rows],
        prompt_names=[str(row["id"]) for row in rows],
        columns={column: [row.get(column) for row in rows] for column in columns},
    )
    return [float(value) for value in score_completions(reward_at_path(path, None, name), completions)]


def tokens_of(rows: Sequence[Mapping[str, Any]], policy: str) -> tuple[list[list[int]], list[list[int]]]:
    """Each row's prompt and first response as the policy reads them; the end is a token where one came to it."""
    from lit_rlhf.data.tokenization import TextEncoder, load_tokenizer

    encoder = TextEncoder(load_tokenizer(policy))
    prompts = [encoder.prompt_ids(row["prompt"]) for row in rows]
    responses = [
        encoder.token_ids(row["responses"][0]) + ([encoder.eos_token_id] if row["finished"][0] else [])
        for row in rows
    ]
    return prompts, responses


def log_ratios(rows: Sequence[Mapping[str, Any]], policy: str, reference: str) -> list[float]:
    """log π(y|x) − log π_ref(y|x) of each row's first response, in nats."""
    import torch

    from lit_rlhf.models.loading import load_causal_lm
    from lit_rlhf.models.policy import PolicyNetwork, sequence_logprobs
    from lit_rlhf.rollout.experience import sampled_trees

    prompts, responses = tokens_of(rows, policy)
    sums = []
    for folder in (policy, reference):
        network = PolicyNetwork(load_causal_lm(folder)).eval()
        with torch.no_grad():
            parts = [
                sequence_logprobs(
                    network(sampled_trees(prompts[at : at + CHUNK], responses[at : at + CHUNK]))
                )
                for at in range(0, len(rows), CHUNK)
            ]
        sums.append(torch.cat(parts).double())
    return [round(value, 6) for value in (sums[0] - sums[1]).tolist()]


if __name__ == "__main__":
    main()

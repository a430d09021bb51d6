"""Which prompts a round asks, and whose labels train nothing: fixed by the prompts and the seed alone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from lit_rlhf.cli.loop.settings import Loop
from lit_rlhf.cli.refusal import refuse
from lit_rlhf.cli.score_reading import read_files
from lit_rlhf.cli.steps.rows import Fields
from lit_rlhf.data.split import MIN_PROMPTS


class Plan:
    """The rounds' prompts.

    Args:
        loop: the settings.

    Raises:
        Refusal: there are fewer prompts than the rounds ask for.
        BadRowsError: a row cannot be read.
    """

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.files = [loop.prompts] if isinstance(loop.prompts, str) else list(loop.prompts)
        read = read_files(self.files, "prompts")
        wanted = loop.rounds * loop.prompts_per_round
        if len(read.rows) < wanted:
            last = len(read.rows) // loop.prompts_per_round
            refuse(
                f"prompts: {loop.rounds} rounds of {loop.prompts_per_round} need {wanted:,}, found {len(read.rows):,} "
                f"in {', '.join(self.files)}.",
                f"Add some to the end, or ask for {f'rounds: {last}' if last else 'fewer prompts_per_round'}.",
            )
        names = [str(fields.get("id", "")) for fields in read.fields]
        own = len(set(names)) == len(names)
        self.rows: list[Fields] = [
            {
                "id": name if own else f"prompt-{place + 1}",
                **{key: each for key, each in fields.items() if key != "id"},
            }
            for place, (name, fields) in enumerate(zip(names, read.fields, strict=True))
        ][:wanted]
        self.keys = [json.dumps(row.prompt, sort_keys=True) for row in read.rows[:wanted]]
        self.all_keys = {json.dumps(row.prompt, sort_keys=True) for row in read.rows}
        self.left = len(read.rows) - wanted

    def rows_of(self, number: int) -> list[Fields]:
        """The prompts of a round, from 1, each with an id of its own."""
        size = self.loop.prompts_per_round
        return self.rows[(number - 1) * size : number * size]

    def held_out(self, number: int) -> list[str]:
        """The ids whose labels measure the round's reward model; empty where the share is 0."""
        size, share = self.loop.prompts_per_round, self.loop.held_out
        keys = [self.keys[start : start + size] for start in range(0, number * size, size)]
        places = held_out_places(keys, share, self.loop.seed)[number - 1] if share else []
        rows = self.rows_of(number)
        return [rows[place]["id"] for place in places]

    def notes(self) -> list[str]:
        """What there is to say before anything is begun."""
        said = []
        distinct = len(set(self.keys))
        if distinct < len(self.keys):
            said.append(
                f"prompts: {len(self.keys):,} rows hold {distinct:,} different prompts, so some are asked again"
            )
        if self.left:
            said.append(f"prompts: {self.left:,} of the file's rows are left for further rounds")
        if self.loop.evaluation is not None:
            rows = read_files([self.loop.evaluation.prompts], "prompts").rows
            shared = sum(json.dumps(row.prompt, sort_keys=True) in self.all_keys for row in rows)
            if shared:
                said.append(
                    f"evaluation.prompts: {shared:,} of {len(rows):,} stand in `prompts` too, so they are not unseen"
                )
        return said


def held_out_places(rounds: Sequence[Sequence[str]], share: float, seed: int) -> list[list[int]]:
    """The places of each round's rows that are held out.

    A prompt is on one side in all rounds: a share of each round's new prompts is held out, in the order of a hash of
    (seed, prompt). In a round of fewer than `MIN_PROMPTS` different prompts rows take the place of prompts. At least
    one is held out and one is not.

    Args:
        rounds: the prompt of each row of each round.
        share: above 0 and below 1.
        seed: another seed, another choice.
    """
    side: dict[str, bool] = {}
    out = []
    for number, prompts in enumerate(rounds):
        if len(set(prompts)) < MIN_PROMPTS:
            units = {f"{number}:{place}" for place in range(len(prompts))}
            chosen = set(_first(units, share, seed))
            out.append([place for place in range(len(prompts)) if f"{number}:{place}" in chosen])
            continue
        distinct = set(prompts)
        wanted = min(len(distinct) - 1, max(1, round(share * len(distinct))))
        missing = wanted - sum(side.get(prompt, False) for prompt in distinct)
        new = sorted(distinct - side.keys(), key=lambda prompt: _hash(prompt, seed))
        side |= {prompt: place < missing for place, prompt in enumerate(new)}
        out.append([place for place, prompt in enumerate(prompts) if side[prompt]])
    return out


def _first(units: set[str], share: float, seed: int) -> list[str]:
    wanted = min(len(units) - 1, max(1, round(share * len(units))))
    return sorted(units, key=lambda unit: _hash(unit, seed))[:wanted]


def _hash(text: str, seed: int) -> bytes:
    return hashlib.blake2b(f"{seed}:{text}".encode()).digest()

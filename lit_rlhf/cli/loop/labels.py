"""What becomes of a round's labels: rows to train on, rows that are kept from it; and who won when judged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from lit_rlhf.cli.refusal import refuse
from lit_rlhf.cli.steps.rows import Fields, read_jsonl, write_rows


def split_labels(folder: Path, held_out: Sequence[str], say: Callable[[str], None]) -> bool:
    """Write ``train.jsonl`` and ``held_out.jsonl`` of a round, from its ``labels.jsonl``; the same again each time.

    Args:
        folder: of the round.
        held_out: ids of the prompts whose labels train nothing.
        say: prints a line.

    Returns:
        Whether any label is held out that tells responses apart; ties alone measure nothing.

    Raises:
        Refusal: nothing is left to train on, or rows have no `id`.
    """
    rows = read_jsonl(folder / "labels.jsonl")
    kept = set(held_out)
    if any("id" not in row for row in rows):
        refuse(f"{folder / 'labels.jsonl'}: expected an `id` in every row, by which labels are held out.")
    aside = [row for row in rows if str(row["id"]) in kept]
    train = [row for row in rows if str(row["id"]) not in kept]
    if not any(map(tells_apart, train)):
        refuse(
            f"{folder / 'labels.jsonl'}: {len(rows)} rows, and none to train on that tells two responses apart.",
            "Ties and skipped items may be all there is; see `lit-rlhf label status` on its labels.db.",
        )
    write_rows(folder / "train.jsonl", train)
    write_rows(folder / "held_out.jsonl", aside)
    measures = any(map(tells_apart, aside))
    note = "" if measures or not kept else ", of which none tells two responses apart"
    say(f"{folder.name}: {len(train):,} rows to train on, {len(aside):,} held out{note}")
    return measures


def tells_apart(row: Fields) -> bool:
    """Whether a row of labels says that one response is better than another."""
    if "labels" in row:
        return any(vote["choice"] != "tie" for vote in row["labels"])
    if "ranking" in row:
        return len(row["ranking"]) > 1
    return len(set(row["scores"])) > 1 if "scores" in row else not row.get("tie")


def write_duels(start: Path, mine: Path, out: Path, count: int) -> int:
    """Pairs of the loop's model's response and a round's, for annotators; identical ones are left out.

    Args:
        start: responses of the loop's model.
        mine: of the round's policy, to the same prompts.
        out: the file of candidates; the first response of each row is the loop's model's.
        count: prompts at the most, from the first.

    Returns:
        How many pairs are identical.
    """
    pairs: list[Fields] = []
    same = 0
    for one, other in list(zip(read_jsonl(start), read_jsonl(mine), strict=True))[:count]:
        texts = [one["responses"][0], other["responses"][0]]
        if texts[0] == texts[1]:
            same += 1
            continue
        row = {
            name: value
            for name, value in one.items()
            if name not in ("responses", "finished", "source", "sampling")
        }
        pairs.append({**row, "responses": texts, "finished": [one["finished"][0], other["finished"][0]]})
    write_rows(out, pairs)
    return same


def wins_of_duels(labels: Path) -> list[float]:
    """Of each judgement, 1 where the round's response won, 0 where the loop's model's did, 1/2 for a tie."""
    wins = []
    for row in read_jsonl(labels):
        (first, *_), *others = row["ranking"]
        wins.append(0.5 if not others else float(first == 1))
    return wins


def wins_by_scores(rows: Sequence[Fields], folders: int) -> list[list[float | None]]:
    """Whether each later folder's response scores above the first folder's to the same prompt.

    Args:
        rows: `reward_scores` of one response each, folder after folder, each with the same prompts.
        folders: how many there are.

    Returns:
        For each later folder and prompt 1, 0, or 1/2 for equal scores; None where one has no score.
    """
    each = len(rows) // folders
    scores = [[row["reward_scores"][0] for row in rows[at * each : (at + 1) * each]] for at in range(folders)]
    return [
        [
            None if one is None or other is None else 0.5 if one == other else float(other > one)
            for one, other in zip(scores[0], mine, strict=True)
        ]
        for mine in scores[1:]
    ]

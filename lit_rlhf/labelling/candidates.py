"""Rows of data files as items to be judged."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from lit_rlhf.labelling.columns import NULLS, FieldError, plain_fields
from lit_rlhf.labelling.items import Item, Prompt
from lit_rlhf.labelling.schema import StoreError
from lit_rlhf.labelling.verdicts import (
    MOST_RANKED,
    Mode,
    Ranking,
    Strength,
    Verdict,
    VerdictError,
    parse_verdict,
)

if TYPE_CHECKING:  # importing rows brings torch, which a server that is given no file does not need
    from lit_rlhf.records import Response, Row

OWN_FIELDS = {
    *("responses", "answers", "completions", "completion", "response", "chosen", "rejected", "messages"),
    *("response_a", "response_b", "response_1", "response_2", "labels", "ranking", "ranks", "scores", "tie"),
    *(
        "source",
        "models",
        "annotator",
        "domain",
        "id",
        "reward_scores",
        "reward_ranks",
        "reward_disagreement",
    ),
    *(
        "margin",
        "target",
        "weight",
        "strength",
        "both_bad",
        "explanation",
        "shown",
        "seconds",
        "comment",
        "flag",
    ),
}
"""Fields of a row that say something of its responses; the others are handed through."""
OF_EACH_RESPONSE = {"models", "finished", "reward_scores", "reward_ranks", "reward_disagreement"}
"""Fields with a value for each response, in their order."""
SKIP_ADVICE = ", or --data.bad_rows skip"
OTHERS_ADVICE = ", or leave them out with --data.bad_rows skip."
"""What the data room advises for training; no row is skipped here."""
SHOWN = 3
"""Places that a note names."""


@dataclass
class ItemsRead:
    """What files held."""

    items: list[Item] = field(default_factory=list)
    judged: list[tuple[int, Row]] = field(default_factory=list)
    """Rows that somebody judged, with the place of their item in `items`; the row's responses stand in the order of
    the item's."""
    notes: list[str] = field(default_factory=list)
    """What was left out or put together, a line each."""


def read_items(paths: Sequence[str], mode: Mode | None = None, gold: bool = False) -> ItemsRead:
    """The items in files of candidates, or of rows that are judged already.

    Args:
        paths: of files with a `prompt` and its responses.
        mode: how they are to be judged; None = rating for one response, pairwise for two, ranking for more.
        gold: whether their judgements are the known answers of tests.

    Raises:
        StoreError: a row cannot be read, none can be judged this way, a test has no answer, or a field cannot be kept.
    """
    from lit_rlhf.data.files import BadRowsError, read_rows

    try:
        read = read_rows(list(paths), "candidates")
    except BadRowsError as error:
        said = str(error).replace(SKIP_ADVICE, "").replace(OTHERS_ADVICE, "; nothing was added.")
        raise StoreError(said) from None
    out, left_out = ItemsRead(notes=list(read.notes)), dict[str, list[str]]()
    places: dict[str, int] = {}
    not_finite = 0
    same, partial = list[str](), list[str]()
    for row in read.rows:
        row = in_one_order(row)
        item, nulls = _storable(_item(row, mode), row.place)
        not_finite += nulls
        why = _unfit(row, item)
        if why is not None:
            left_out.setdefault(why, []).append(row.place)
            continue
        verdict = stated_verdict(row, item.mode)
        if gold:
            item = replace(item, gold=verdict, explanation=str(row.columns.get("explanation", "")))
            _check_gold(row, item)
        if verdict is not None or row.votes:
            out.judged.append((len(out.items), row))
        elif row.comparisons or row.ratings is not None:
            partial.append(row.place)
        known = places.setdefault(item.key, len(out.items)) < len(out.items)
        if known and verdict is None and not row.votes:  # judged rows are one of each annotator
            same.append(row.place)
        out.items.append(item)
    for why, of_reason in left_out.items():
        out.notes.append(f"left out {len(of_reason)} of {len(read.rows)} rows: {why} ({_named(of_reason)})")
    if same:
        out.notes.append(
            f"{len(same)} rows ask what an earlier row asks, whose id and fields are kept ({_named(same)})"
        )
    if partial:
        out.notes.append(
            f"what {len(partial)} rows say of only some of their responses, or outside the scale, is not taken over "
            f"({_named(partial)})"
        )
    if not_finite:
        out.notes.append(f"{not_finite} {NULLS}")
    collapsed = sum(len(item.distinct) < len(item.responses) for item in out.items)
    if collapsed:
        out.notes.append(f"{collapsed} rows have identical responses, which are shown once")
    if not out.items:
        raise StoreError("; ".join([f"no row of {', '.join(paths)} can be judged", *out.notes]) + ".")
    return out


def in_one_order(row: Row) -> Row:
    """A pair whose sides stand in an order that says nothing of who was preferred; any other row as it is.

    `chosen` stands first in its file: kept so, two annotators who disagree would have judged two different items.
    """
    if "chosen" not in row.columns or len(row.responses) != 2:
        return row
    first, second = (
        hashlib.sha256(_text(response).encode(errors="surrogatepass")).digest() for response in row.responses
    )
    if first <= second:
        return row
    turned = [replace(said, better=1 - said.better, worse=1 - said.worse) for said in row.comparisons]
    columns = dict(row.columns)
    for name in OF_EACH_RESPONSE & columns.keys():
        columns[name] = columns[name][::-1] if isinstance(columns[name], list) else columns[name]
    return replace(row, responses=row.responses[::-1], comparisons=turned, columns=columns)


def stated_verdict(row: Row, mode: Mode) -> Verdict | None:
    """What a row says of its own responses; None where it says nothing, or not of all of them.

    Args:
        row: with one judgement; several votes are not one verdict.
        mode: of its item.
    """
    strength: Strength = "slightly" if row.columns.get("strength") == "slightly" else "better"
    if row.votes:
        return None
    if mode == "rating":
        ratings = row.ratings or []
        whole = [int(rating) for rating in ratings if rating is not None and float(rating).is_integer()]
        return Verdict(ratings=tuple(whole)) if len(whole) == len(row.responses) else None
    if mode == "rewrite":
        return None
    ranking = _ranking(row)
    if ranking is None:
        return None
    if len(ranking) == 1:
        return Verdict(ranking, both_bad=row.columns.get("both_bad") is True)
    return Verdict(ranking, strength if mode == "pairwise" and len(ranking) == 2 else None)


def _ranking(row: Row) -> Ranking | None:
    if row.ranks is not None:
        given = [rank for rank in row.ranks if rank is not None]
        if len(given) < len(row.ranks):
            return None
        return tuple(
            tuple(index for index, rank in enumerate(row.ranks) if rank == place)
            for place in sorted(set(given))
        )
    if len(row.responses) == 2 and len(row.comparisons) == 1:
        said = row.comparisons[0]
        return ((0, 1),) if said.target == 0.5 else ((said.better,), (said.worse,))
    return None


def _check_gold(row: Row, item: Item) -> None:
    if item.gold is None:
        raise StoreError(
            f"{row.place}: expected a test with its answer, such as `chosen` or `ranks`, found none."
        )
    try:
        parse_verdict(item.gold.to_json(), item.mode, len(item.responses))
    except VerdictError as error:
        raise StoreError(f"{row.place}: nobody can give this answer; {error}.") from None


def _item(row: Row, mode: Mode | None) -> Item:
    responses = tuple(_text(response) for response in row.responses)
    distinct = len(set(responses))
    if mode is None:
        mode = "rating" if len(responses) == 1 else "pairwise" if distinct == 2 else "ranking"
    prompt: Prompt = row.prompt if isinstance(row.prompt, str) else [dict(turn) for turn in row.prompt]
    several_turns = any(not isinstance(response, str) and len(response) > 1 for response in row.responses)
    return Item(
        mode=mode,
        prompt=prompt,
        responses=responses,
        row_id=row.id,
        turns=tuple(row.responses) if several_turns else None,
        models=_models(row.columns, len(responses)),
        domain=row.domain,
        priority=_priority(row.columns),
        columns={name: value for name, value in row.columns.items() if name not in OWN_FIELDS},
    )


def _storable(item: Item, place: str) -> tuple[Item, int]:
    """The item with fields that a store can hold, and how many of their numbers became null.

    Raises:
        StoreError: a field or text that it cannot hold.
    """
    try:
        columns, nulls = plain_fields(item.columns, place)
        plain_fields({"prompt": item.prompt, "responses": item.responses}, place)
    except FieldError as error:
        raise StoreError(f"{error}.") from None
    return replace(item, columns=columns), nulls


def _unfit(row: Row, item: Item) -> str | None:
    """Why a row cannot be judged in its mode, in the words of the note."""
    distinct = len(item.distinct)
    if row.is_text or not item.responses:
        return "no prompt with responses; `lit-rlhf sample` draws some"
    if item.mode == "pairwise" and distinct != 2:
        return f"pairwise needs two different responses, found {distinct}"
    if item.mode == "ranking" and not 2 <= distinct <= MOST_RANKED:
        return (
            "all responses are the same, there is nothing to compare"
            if distinct < 2
            else f"a ranking takes up to {MOST_RANKED} different responses, found {distinct}"
        )
    return None


def _models(columns: Mapping[str, Any], responses: int) -> tuple[str, ...] | None:
    models, source = columns.get("models"), columns.get("source")
    if isinstance(models, list) and len(models) == responses:
        return tuple(str(model) for model in models)
    return None if source is None else (str(source),) * responses


def _priority(columns: Mapping[str, Any]) -> float | None:
    """How unsure a reward model is: its components' largest disagreement, else the smallest difference of its scores.

    The differences count negative, so that the closest pair comes first.
    """
    disagreement = _numbers(columns.get("reward_disagreement"))
    if disagreement:
        return max(disagreement)
    scores = sorted(_numbers(columns.get("reward_scores")))
    if len(scores) < 2:
        return None
    return -min(second - first for first, second in itertools.pairwise(scores))


def _numbers(values: Any) -> list[float]:
    given = values if isinstance(values, list) else []
    return [float(value) for value in given if isinstance(value, int | float)]


def _text(response: Response) -> str:
    """A response as text; of several turns each with its role."""
    if isinstance(response, str):
        return response
    if len(response) == 1:
        return str(response[0]["content"])
    return "\n\n".join(f"{turn['role']}: {turn['content']}" for turn in response)


def _named(places: Sequence[str]) -> str:
    more = f" and {len(places) - SHOWN} more" if len(places) > SHOWN else ""
    return ", ".join(places[:SHOWN]) + more

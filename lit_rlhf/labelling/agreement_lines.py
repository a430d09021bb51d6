"""What `describe` found, for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lit_rlhf.labelling.texts import counted, printable

TITLES = {"pairwise": "Pairs", "ranking": "Rankings", "rating": "Ratings", "rewrite": "Rewrites"}
MOST_PAIRS = 10
"""Of annotators, listed one by one."""
_LABEL = 58
_SHORT = {
    "with_others": "with the others",
    "difference": "less the others' mean",
    "distance": "from the others' mean",
    "first_shown_wins": "shown first wins",
    "longer_wins": "longer wins",
    "gold": "right on test items",
    "repeat_same": "the same again",
    "swap_same": "the same in reverse order",
    "swap_same_response": "same response in reverse order",
    "swap_same_position": "same position in reverse order",
}


def describe_lines(described: Mapping[str, Any]) -> list[str]:
    """The numbers of :func:`~lit_rlhf.labelling.agreement.describe`, as text.

    Signs that are not printable in what people wrote are spelled out.
    """
    people, programs = described["annotators"], len(described["machines"])
    lines = [
        f"{counted(described['judgements'], 'judgement')} of {counted(described['items'], 'item')} by "
        f"{counted(people, 'person', 'people')}"
        + (f" and {counted(programs, 'program')}" if programs else "")
    ]
    for mode in described["modes"]:
        lines += ["", *_mode(mode)]
    if described["skips"]:
        lines += ["", "Skipped"]
        lines += [f"  {one['count']:,}  {printable(one['reason'])}" for one in described["skips"]]
        lines += _left_out(described["skips_left_out"], "for other reasons")
    if described["flags"]:
        lines += ["", "Flagged"]
        lines += [
            f"  item {one['item']}, {printable(one['annotator'])}: {printable(one['text'])}"
            for one in described["flags"]
        ]
        lines += _left_out(described["flags_left_out"], "more flags")
    return lines


def number(measure: Mapping[str, Any]) -> str:
    """A measure's value with its interval.

    >>> number({"value": 0.5, "low": 0.4, "high": 0.6, "format": "share"})
    '50.0% [40.0, 60.0]'
    """
    if measure["value"] is None:
        return "-"
    if measure["format"] == "share":
        ends = [f"{100 * end:.1f}" for end in (measure["low"], measure["high"]) if end is not None]
        value = f"{measure['value']:.1%}"
    else:
        ends = [f"{end:.3f}" for end in (measure["low"], measure["high"]) if end is not None]
        value = f"{measure['value']:.3f}"
    return value + (f" [{', '.join(ends)}]" if ends else "")


def _mode(mode: Mapping[str, Any]) -> list[str]:
    who = counted(mode["annotators"], "person", "people")
    if mode["whose"] == "programs":
        who = f"{counted(mode['annotators'], 'program')} (no person judged: these are the programs' numbers)"
    several = f"; {mode['several']:,} with two or more" if mode["mode"] != "rewrite" else ""
    lines = [
        f"{TITLES[mode['mode']]}: {counted(mode['judgements'], 'judgement')} of "
        f"{counted(mode['items'], 'item')} by {who}{several}"
    ]
    if mode["whose"] == "people" and mode["judgements_of_programs"]:
        lines.append(f"  and {mode['judgements_of_programs']:,} by programs, which count for nothing here")
    lines += [f"  {note}" for note in mode["notes"]]
    if mode["skips"] or mode["both_bad"]:
        lines.append(f"  skipped: {mode['skips']:,}; both bad: {mode['both_bad']:,}")
    if mode["seconds"]:
        lines.append(f"  seconds each: {_seconds(mode['seconds'])}")
    lines += [_line(one) for one in [*mode["agreement"], *mode["bias"]]]
    for row in mode["mean_ranks"]:
        ranks = " ".join(f"{rank:.2f}" for rank in row["by_position"])
        of = f"of {row['responses']} ({counted(row['judgements'], 'ranking')})"
        lines.append(f"  Mean rank by position shown, {of}: {ranks}")
    lines += [_line(one) for one in mode["checks"] if one["count"]]
    if mode["confusion"] and mode["several"]:
        lines += _confusion(mode["confusion"])
    lines += _between(mode)
    lines += [line for row in mode["by_annotator"] for line in _annotator(row)]
    return lines


def _line(measure: Mapping[str, Any]) -> str:
    stands_on = f"{measure['count']:,} {measure['unit']}" if measure["value"] is not None else measure["why"]
    return f"  {measure['label']:<{_LABEL}} {number(measure):<24} {stands_on}"


def _confusion(confusion: Mapping[str, Any]) -> list[str]:
    width = max(map(len, confusion["answers"]))
    lines = ["  While one says (row), another says (column, in the same order):"]
    for answer, counts in zip(confusion["answers"], confusion["counts"], strict=True):
        lines.append(f"    {answer:<{width}}" + "".join(f"{count:>9,}" for count in counts))
    return lines


def _between(mode: Mapping[str, Any]) -> list[str]:
    if not mode["between"]:
        return []
    lines = ["  Two annotators:"]
    for row in mode["between"][:MOST_PAIRS]:
        names = " and ".join(printable(name) for name in row["annotators"])
        found = {one["name"]: number(one) for one in row["measures"]}
        kappa = f"Cohen's κ {found['cohen_kappa']}, weighted {found['cohen_kappa_weighted']}"
        tau = f", τ-b {found['kendall_tau_b']}" if "kendall_tau_b" in found else ""
        lines.append(f"    {names}, {counted(row['items'], 'item')}: same {found['same']}, {kappa}{tau}")
    rest = len(mode["between"][MOST_PAIRS:]) + mode["between_left_out"]
    return lines + ([f"    and {rest:,} pairs with no more items in common"] if rest else [])


def _annotator(row: Mapping[str, Any]) -> list[str]:
    program = f" (a program: {printable(row['machine'])})" if row["machine"] is not None else ""
    parts = [f"{_SHORT[one['name']]} {number(one)}" for one in row["measures"] if one["value"] is not None]
    counts = [counted(row["judgements"], "judgement")]
    counts += [f"{row[name]:,} {label}" for name, label in _COUNTS.items() if row[name]]
    counts += [f"{_seconds(row['seconds'])} s each"] if row["seconds"] else []
    lines = [f"  {printable(row['annotator'])}{program}: {', '.join(counts)}"]
    return lines + ([f"    {'; '.join(parts)}"] if parts else [])


_COUNTS = {"skips": "skipped", "flags": "flagged", "both_bad": "both bad"}


def _seconds(seconds: Mapping[str, Any]) -> str:
    return f"{seconds['median']:.1f} ({seconds['lower']:.1f} to {seconds['upper']:.1f})"


def _left_out(count: int, of: str) -> Sequence[str]:
    return [f"  and {count:,} {of}"] if count else []

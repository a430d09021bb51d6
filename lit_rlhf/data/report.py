"""What was read: rows, tokens, and everything that was cut, dropped or doubtful."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, TypeAlias

from lit_rlhf.data.tokenization import TextEncoder
from lit_rlhf.data.trees import Truncation
from lit_rlhf.records import Row, Tree

PartKind: TypeAlias = Literal["prompt", "counted", "uncounted", "eos"]


@dataclass
class SplitReport:
    """Counts of one split; see the strings for what each is."""

    split: str
    rows: int = 0
    """Rows that were read and are used."""
    trees: int = 0
    """What they became; more than rows where long text was cut into windows."""
    prompt_tokens: int = 0
    response_tokens: int = 0
    counted_tokens: int = 0
    bad: int = 0
    """Rows left out because they could not be read."""
    first_bad: str = ""
    duplicates: int = 0
    """Rows that repeat an earlier one's prompt and responses; kept."""
    first_duplicate: str = ""
    truncated_prompts: int = 0
    dropped_messages: int = 0
    """Whole turns that shortened prompts lost."""
    truncated_responses: int = 0
    """Responses cut on their right; they have no EOS."""
    responses: int = 0
    identical: int = 0
    """Comparisons dropped because their two sides were the same tokens."""
    first_identical: str = ""
    labelled: int = 0
    """Rows with labels of single responses."""
    desirable: int = 0
    """Labels that call a response desirable."""
    undesirable: int = 0
    contradicted: int = 0
    """Responses that some labels call desirable and others undesirable, or that were cut to the same tokens."""
    first_contradicted: str = ""
    no_comparison: int = 0
    """Rows left out because nothing in them is compared: fewer than two responses judged, or told apart."""
    ties: int = 0
    """Comparisons that are nothing but a tie; by the majority of votes, an even one too."""
    fully_tied: int = 0
    """Rows of which every comparison is a tie."""
    first_fully_tied: str = ""
    drops_ties: bool = False
    """Whether ties, and rows of nothing else, are left out."""
    unjudged: int = 0
    """Responses of rankings that nobody judged; they are in no comparison."""
    voted: int = 0
    """Rows with votes."""
    votes: int = 0
    tie_votes: int = 0
    anonymous_votes: int = 0
    annotators: set[str] = field(default_factory=set)
    """Who voted."""
    doubled_bos: int = 0
    """Prompts that came with more than one BOS; the surplus was taken off."""
    first_doubled_bos: str = ""
    unanswered: int = 0
    """Turns behind a conversation's last assistant turn, left out."""
    shared_prompts: int = 0
    """Distinct prompts of this split that the training rows hold too."""
    notes: list[str] = field(default_factory=list)

    def add(self, place: str, trees: Sequence[Tree], lost: Truncation) -> None:
        """Count one row."""
        self.rows += bool(trees)
        self.trees += len(trees)
        for tree in trees:
            self.prompt_tokens += len(tree.prompt_ids)
            self.response_tokens += sum(map(len, tree.response_ids))
            self.counted_tokens += sum(map(sum, tree.response_masks))
            self.responses += len(tree.response_ids)
        self.truncated_prompts += lost.prompts
        self.dropped_messages += lost.messages
        self.truncated_responses += lost.responses
        self.unanswered += lost.unanswered
        self.identical += lost.identical
        self.contradicted += lost.contradicted
        self.doubled_bos += lost.doubled_bos
        if lost.identical:
            self.first_identical = self.first_identical or place
        if lost.contradicted:
            self.first_contradicted = self.first_contradicted or place
        if lost.doubled_bos:
            self.first_doubled_bos = self.first_doubled_bos or place

    def merge(self, other: SplitReport) -> None:
        """Add the counts of the rows that follow; the first place of each kind stays."""
        for counted in fields(self):
            mine, theirs = getattr(self, counted.name), getattr(other, counted.name)
            if isinstance(mine, bool | str):
                setattr(self, counted.name, mine or theirs)
            elif isinstance(mine, set):
                mine |= theirs
            else:
                setattr(self, counted.name, mine + theirs)

    def to_plain(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {**asdict(self), "annotators": sorted(self.annotators)}

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> SplitReport:
        """What :meth:`to_plain` made plain."""
        return cls(**{**plain, "annotators": set(plain["annotators"])})

    def count_judgements(self, row: Row, all_ties: bool, drops_ties: bool) -> None:
        """Count what was said of one row's responses, whether the row is used or not."""
        self.drops_ties = drops_ties
        self.fully_tied += all_ties
        if all_ties:
            self.first_fully_tied = self.first_fully_tied or row.place
        self.unjudged += 0 if row.ranks is None else row.ranks.count(None)
        self.ties += sum(comparison.tie >= 1 for comparison in row.comparisons)
        self.labelled += bool(row.labels)
        self.desirable += sum(label.desirable for label in row.labels)
        self.undesirable += sum(not label.desirable for label in row.labels)
        self.voted += bool(row.votes)
        self.votes += len(row.votes)
        self.tie_votes += sum(vote.choice == 0.5 for vote in row.votes)
        self.anonymous_votes += sum(not vote.annotator for vote in row.votes)
        self.annotators |= {vote.annotator for vote in row.votes if vote.annotator}

    def lines(self) -> list[str]:
        """What there is to say, the counts that are zero left out."""
        windows = f" in {self.trees} windows" if self.trees > self.rows else ""
        head = f"{self.split}: {self.rows} rows{windows}, {self.prompt_tokens} prompt tokens"
        if self.responses:
            head += f", {self.counted_tokens} of {self.response_tokens} response tokens counted"
        taken = "left out" if self.drops_ties else "kept"
        ties = "ties or even votes" if self.votes else "ties"  # of votes, also a majority that there is not
        doubtful = [
            (
                self.votes,
                f"votes of {len(self.annotators)} annotators on {self.voted} rows, {self.tie_votes} of them ties",
            ),
            (self.labelled, self._of_labels()),
            (
                self.contradicted,
                "responses have labels of both kinds, or were cut to the same tokens; all labels kept (first: "
                f"{self.first_contradicted})",
            ),
            (self.anonymous_votes, "votes name no labeler and count like the average annotator's"),
            (self.ties, f"comparisons are {ties}, {taken}"),
            (self.fully_tied, f"rows are nothing but {ties}, {taken} (first: {self.first_fully_tied})"),
            (self.unjudged, "responses not judged, in no comparison"),
            (self.bad, f"bad rows left out (first: {self.first_bad})"),
            (self.duplicates, f"rows repeat an earlier one and are kept (first: {self.first_duplicate})"),
            (self.truncated_prompts, "prompts cut on the left to max_prompt_tokens"),
            (self.dropped_messages, "whole turns among what they lost"),
            (
                self.truncated_responses,
                f"of {self.responses} responses cut to max_response_tokens, no EOS",
            ),
            (
                self.identical,
                f"comparisons dropped, their two sides the same tokens (first: {self.first_identical})",
            ),
            (
                self.no_comparison,
                "rows left out, nothing in them is compared (under two judged, or cut the same)",
            ),
            (self.doubled_bos, f"prompts came with a double BOS, one kept (first: {self.first_doubled_bos})"),
            (self.unanswered, "turns behind the last assistant turn left out"),
            (self.shared_prompts, "distinct prompts shared with the training rows"),
        ]
        return [
            head,
            *(f"  {count} {what}" for count, what in doubtful if count),
            *(f"  {n}" for n in self.notes),
        ]

    def _of_labels(self) -> str:
        """What there is to say of the rows with labels; of other rows among them too."""
        others = self.rows - self.labelled
        beside = f"; the other {others} compare responses, and both are learnt from" if others > 0 else ""
        return f"rows have labels, {self.desirable} responses desirable and {self.undesirable} not{beside}"


def example_parts(tree: Tree, encoder: TextEncoder) -> list[tuple[str, PartKind]]:
    """A tree as text, its parts told apart: what is a prompt, what counts, what does not, and each EOS.

    Special tokens are shown, so that a missing or doubled one is seen.
    """
    parts: list[tuple[str, PartKind]] = [(_spell(tree.prompt_ids, encoder), "prompt")]
    for ids, mask in zip(tree.response_ids, tree.response_masks, strict=True):
        run: list[int] = []
        kinds: list[PartKind] = [
            "uncounted" if not counted else "eos" if token == encoder.eos_token_id else "counted"
            for token, counted in zip(ids, mask, strict=True)
        ]
        for place, token in enumerate(ids):
            run.append(token)
            if place + 1 == len(ids) or kinds[place + 1] != kinds[place]:
                parts.append((_spell(run, encoder), kinds[place]))
                run = []
    return parts


def _spell(ids: list[int], encoder: TextEncoder) -> str:
    return encoder.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)

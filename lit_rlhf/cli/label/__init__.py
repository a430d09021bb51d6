"""``lit-rlhf label VERB``: people's judgements, from the page to a file that the next phase trains on."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module

from lit_rlhf.cli.refusal import did_you_mean, refuse

VERBS: dict[str, tuple[str, str]] = {
    "serve": ("the page where people compare responses", "lit_rlhf.cli.label.serve"),
    "import": ("candidates or judgements from files, other tools' among them", "lit_rlhf.cli.label.import_"),
    "export": ("judgements as rankings, pairs, votes or demonstrations", "lit_rlhf.cli.label.export"),
    "agreement": ("how far the annotators agree, and what biases them", "lit_rlhf.cli.label.agreement"),
    "status": ("how far the work is", "lit_rlhf.cli.label.status"),
    "annotate": ("let a rule, a reward model or a language model judge", "lit_rlhf.cli.label.annotate"),
    "backup": ("a copy of the file, also while people work", "lit_rlhf.cli.label.backup"),
}
"""Each verb with its line of help and where it lives."""


def main(argv: Sequence[str]) -> None:
    """``lit-rlhf label VERB …``"""
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(help_text())
        return
    verb, *arguments = argv
    if verb not in VERBS:
        refuse(
            f"unknown verb '{verb}' of label. {did_you_mean(verb, list(VERBS), cutoff=0.5)}".rstrip(),
            "help: lit-rlhf label --help",
        )
    import_module(VERBS[verb][1]).main(arguments)


def help_text() -> str:
    """What ``lit-rlhf label --help`` prints."""
    lines = [
        "usage: lit-rlhf label VERB …",
        "",
        "People compare responses in the browser; everything is kept in one SQLite file.",
        "",
        *(f"  {verb:<11}{line}" for verb, (line, _) in VERBS.items()),
        "",
        "from a policy to a data file:",
        "  lit-rlhf sample MODEL --prompts prompts.jsonl -k 4 --out candidates.jsonl",
        "  lit-rlhf label serve candidates.jsonl --db labels.db",
        "  lit-rlhf label agreement --db labels.db",
        "  lit-rlhf label export --db labels.db --out rankings.jsonl",
        "",
        "`lit-rlhf label VERB --help` says more.",
    ]
    return "\n".join(lines)

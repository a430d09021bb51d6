"""``lit-rlhf check``: data looked over, an example shown, and what has to be true of the model at the start.

Nothing is trained. ``--model`` and what else ``fit`` takes is that of the config, so the truths of the model are looked
at for every config that is given; ``--data_only true`` leaves them out, and with them the loading of the model.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from lightning.pytorch.cli import LightningArgumentParser
from rich.console import Console
from rich.text import Text
from transformers import AutoConfig

from lit_rlhf.cli.fit import CommandLine
from lit_rlhf.cli.guard import run_guarded
from lit_rlhf.cli.refusal import refuse
from lit_rlhf.data.lengths import sequence_tokens
from lit_rlhf.data.report import example_parts
from lit_rlhf.data.sources import Split
from lit_rlhf.data.tokenization import TextEncoder, load_tokenizer
from lit_rlhf.data.tree_datamodule import TreeDataModule
from lit_rlhf.models.loading import resolve_model_name
from lit_rlhf.records import Tree, Vote
from lit_rlhf.rollout.truth import Truth

STYLES = {"prompt": "cyan", "counted": "bold green", "uncounted": "dim", "eos": "bold reverse magenta"}
MEANING = {
    "prompt": "read, not counted",
    "counted": "the loss counts these tokens",
    "uncounted": "response tokens that the loss leaves out",
    "eos": "the end of a response; counted",
}
LONGEST_SHOWN = 4000
"""Characters of a part that are shown; the rest is cut and said."""


class CheckCommandLine(CommandLine):
    """Takes what ``fit`` takes, builds the data module and looks at it, then the module."""

    def __init__(self, argv: Sequence[str], console: Console) -> None:
        self.console = console
        super().__init__("fit", argv)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """``--data_only``, beside what ``fit`` has."""
        super().add_arguments_to_parser(parser)
        parser.add_argument(
            "--data_only", type=bool, default=False, help="Look at the data alone; the model is not loaded."
        )

    def before_instantiate_classes(self) -> None:
        """Nothing: there is no run folder."""

    def instantiate_classes(self) -> None:
        """The data module, with the tokenizer that the module would give it."""
        config = self.config.clone()
        arguments = config.fit.model.init_args
        config.fit.model = None
        config.fit.trainer.callbacks = None
        self.data = self._get(self.parser.instantiate(config), "data")
        if not isinstance(self.data, TreeDataModule):
            refuse(
                f"check looks at the data modules of lit_rlhf; {type(self.data).__name__} is none of them.",
                "Subclass TreeDataModule, or look at it with --trainer.fast_dev_run true.",
            )
        self.model_name = resolve_model_name(arguments.get("model"))
        self.data.module_arguments = {name: arguments.get(name) for name in ("ties", "loss")}
        self.new_tokens = arguments.get("max_new_tokens") or 0
        if self.data.tokenizer is None:
            self.data.tokenizer = load_tokenizer(self.model_name)
        if self.data.chat_template is None:
            self.data.chat_template = arguments.get("chat_template")

    def _run_subcommand(self, subcommand: str) -> None:
        with quiet():  # the data module logs its report too; here it is printed once, where the rest is
            for split, path in self.data.paths.items():
                if path is not None or (split == "val" and self.data.val_fraction):
                    self.data.plant(split)
        show(self.data, self.model_name, self.console, self.new_tokens)
        if not self.config.fit.data_only:
            self.look_at_model()

    def look_at_model(self) -> None:
        """Build the module and print its truths; exit code 1 where one does not hold."""
        from lit_rlhf.cli.check_truths import truths_of  # every phase's module: not for the data alone

        config = self.config.clone()
        config.fit.data, config.fit.trainer.callbacks = None, None
        module = self._get(self.parser.instantiate(config), "model")
        with quiet():
            truths = truths_of(module, self.data)
        if not truths:
            say(
                self.console, f"nothing is known that has to be true of {type(module).__name__} at the start."
            )
            return
        show_truths(truths, self.console)
        if not all(truth.holds for truth in truths):
            raise SystemExit(1)


@contextmanager
def quiet() -> Iterator[None]:
    """Without what Lightning says of its trainer, and our rooms through it."""
    logger = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def show_truths(truths: Sequence[Truth], console: Console) -> None:
    """Each truth behind a tick or a cross, with what was found."""
    broken = sum(not truth.holds for truth in truths)
    say(console, f"\nbefore the first update, {len(truths) - broken} of {len(truths)} truths hold:")
    for truth in truths:
        mark, style = ("✓", "green") if truth.holds else ("✗", "bold red")
        line = Text(f"  {mark} {truth.name}", style=style)
        console.print(line.append(f": {truth.explanation}", style="default"), soft_wrap=True)


def show(data: TreeDataModule, model_name: str, console: Console, new_tokens: int) -> None:
    """Print the tokenizer's special tokens, what was read of each split, and the first example."""
    encoder = data.encoder
    tokens = {
        name: f"{encoder.tokenizer.convert_ids_to_tokens(number)!r} ({number})"
        if number is not None
        else "none"
        for name, number in (
            ("BOS", encoder.bos_token_id),
            ("EOS", encoder.eos_token_id),
            ("pad", encoder.pad_token_id),
        )
    }
    say(
        console,
        f"tokenizer: {len(encoder.tokenizer)} tokens, " + ", ".join(f"{n} {t}" for n, t in tokens.items()),
    )
    for report in data.report.values():
        for line in report.lines():
            say(console, line)
    check_length(data, model_name, console, new_tokens)
    split = next((name for name in ("train", "val", "test", "predict") if data.trees(name)), None)
    if split is None:
        refuse("there is no row that can be used.")
    say(console, f"\nthe first row of {split}:")
    tree, row = data.trees(split)[0], data.rows(split)[0]  # type: ignore[arg-type]
    console.print(example_text(labelled_parts(tree, encoder, row.votes)), soft_wrap=True)


def check_length(data: TreeDataModule, model_name: str, console: Console, new_tokens: int) -> None:
    """Say how long the longest sequence is, and as ``fit`` does whether the model has positions for it."""
    splits: list[Split] = list(data.report)  # type: ignore[arg-type]
    longest = max(
        (sequence_tokens(tree, new_tokens) for split in splits for tree in data.longest(split)), default=0
    )
    # Not from the file itself: architectures store it under names of their own, GPT-2 as `n_positions`.
    config = AutoConfig.from_pretrained(model_name).get_text_config()
    positions = getattr(config, "max_position_embeddings", None)
    say(console, f"longest sequence: {longest} tokens" + (f" of {positions} positions" if positions else ""))
    data.check_positions(config, splits, new_tokens)


def labelled_parts(tree: Tree, encoder: TextEncoder, votes: Sequence[Vote] = ()) -> list[tuple[str, str]]:
    """The tree as text in parts, before each response a line that says how it was judged."""
    parts: list[tuple[str, str]] = []
    for judged, ids, mask in zip(
        judgements(tree, votes), tree.response_ids, tree.response_masks, strict=True
    ):
        word, _, detail = judged.partition(", ")
        # The tree with this response alone: a part of the whole example does not say whose it is.
        prompt, *response = example_parts(replace(tree, response_ids=[ids], response_masks=[mask]), encoder)
        parts += [*([] if parts else [prompt]), *([(detail, word)] if word else []), *response]
    return parts or list(example_parts(tree, encoder))


def judgements(tree: Tree, votes: Sequence[Vote] = ()) -> list[str]:
    """What the data says of each response: a word and, behind a comma, details; empty where it says nothing."""
    ratings = tree.ratings or [None] * len(tree.response_ids)
    if tree.ranks is not None:
        ranked = ["unjudged" if rank is None else f"rank {rank:g}" for rank in tree.ranks]
        return [r if rating is None else f"{r}, rated {rating:g}" for r, rating in zip(ranked, ratings)]
    words = [[] if rating is None else [f"rated {rating:g}"] for rating in ratings]
    if len(tree.comparisons) == 1:
        pair = tree.comparisons[0]
        tied = pair.target == 0.5
        sure = "" if pair.target in (0.5, 1) else f", with probability {pair.target:.2f}"
        words[pair.better].insert(0, "tied" if tied else f"better{sure}")
        words[pair.worse].insert(0, "tied" if tied else "worse")
    for place, choice in enumerate((1.0, 0.0) if votes else ()):
        words[place] = words[place] or ["judged"]
        words[place].append(f"{sum(vote.choice == choice for vote in votes)} of {len(votes)} votes")
    for said, label in zip(words, tree.labels):
        said += ["label", "desirable" if label.desirable else "undesirable"]
    return [", ".join(said) for said in words]


def example_text(parts: Sequence[tuple[str, str]]) -> Text:
    """The example's parts, one under the other, each behind its kind: coloured, and readable without colour."""
    text = Text()
    for content, kind in parts:
        shown = content[:LONGEST_SHOWN]
        if len(content) > LONGEST_SHOWN:
            shown += f" … ({len(content) - LONGEST_SHOWN} more characters)"
        for number, line in enumerate(shown.split("\n")):
            text.append(f"  {kind if number == 0 else '':<10}│ ", style="dim")
            text.append(line + "\n", style=STYLES.get(kind))
    text.append("\n")
    for kind in dict.fromkeys(kind for _, kind in parts if kind in MEANING):
        text.append(f"  {kind:<10}", style=STYLES[kind])
        text.append(f"  {MEANING[kind]}\n", style="dim")
    return text


def say(console: Console, line: str) -> None:
    """A line as it is: data may hold what rich would take for markup."""
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def main(argv: Sequence[str]) -> None:
    """``lit-rlhf check``"""
    run_guarded("check", lambda: CheckCommandLine(argv, Console()))

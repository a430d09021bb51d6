"""The lines of a chat: read from a terminal or a pipe, answered on stdout; what is said about them goes to stderr."""

from __future__ import annotations

import argparse
import sys
from contextlib import suppress
from typing import Any

from lit_rlhf.cli.chat_session import Answer, Conversation, TurnError
from lit_rlhf.cli.refusal import did_you_mean
from lit_rlhf.cli.sample_best import Judge
from lit_rlhf.cli.sample_options import LARGEST_SEED
from lit_rlhf.cli.sample_policy import load_encoder, load_policy
from lit_rlhf.models.loading import resolve_model_name
from lit_rlhf.rollout.settings import SamplingSettings

COMMANDS = {
    "/reset": "begin a new conversation",
    "/regenerate": "draw another answer to the last turn",
    "/seed": "N: draw with this seed from now on",
    "/help": "this list",
    "/quit": "end, as Ctrl-D does",
}
CONTROLS = dict.fromkeys(range(0x7F, 0xA0), "\ufffd")
CONTROLS |= {code: chr(0x2400 + code) for code in range(32) if chr(code) not in "\n\t"}
"""Characters that would steer a terminal, and what is shown for them."""


def chat(arguments: argparse.Namespace, settings: SamplingSettings) -> None:
    """``lit-rlhf chat`` with its arguments parsed.

    Raises:
        ValueError: the model is none that samples, or an option does not go with it.
    """
    for stream in (sys.stdin, sys.stdout):
        with suppress(AttributeError):  # of a stand-in
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    model = resolve_model_name(arguments.model)
    encoder = load_encoder(model, arguments.chat_template)
    policy = load_policy(model, encoder, settings, arguments.device)
    judge = None if arguments.reward is None else Judge(arguments.reward, policy.device)
    conversation = Conversation(policy, arguments.seed, arguments.system, judge, arguments.best_of or 1)
    if conversation.is_plain:
        tell(
            "the model has no chat template: each line is continued as plain text, by itself "
            "(--chat-template chatml makes turns of them)"
        )
    if sys.stdin.isatty():
        with suppress(ImportError):
            import readline  # noqa: F401  (gives `input` a history and keys that edit)
        tell("Ctrl-C stops an answer, Ctrl-D ends, /help lists the commands")
    while (line := read_line()) is not None:
        if line and not act(conversation, line):
            return


def read_line() -> str | None:
    """The next line without the space around it; None at the end."""
    in_terminal = sys.stdin.isatty()
    try:
        return input("> " if in_terminal else "").strip()
    except EOFError:
        if in_terminal:
            tell("")
        return None
    except KeyboardInterrupt:
        if not in_terminal:
            raise
        tell("\n(Ctrl-D or /quit ends)")
        return ""


def act(conversation: Conversation, line: str) -> bool:
    """Do what a line asks for; whether the chat goes on."""
    command, _, value = line.partition(" ")
    try:
        if command == "/quit":
            return False
        if command == "/help":
            tell("\n".join(f"{name:<12} {text}" for name, text in COMMANDS.items()))
            tell("a turn that begins with a / is written with two")
        elif command == "/reset":
            conversation.reset()
            tell("(a new conversation)")
        elif command == "/seed":
            set_seed(conversation, value)
        elif command == "/regenerate":
            show(conversation, conversation.regenerate(write))
        elif command.startswith("/") and not command.startswith("//"):
            tell(
                f"no command is called {command}. {did_you_mean(command, list(COMMANDS)) or '/help lists them.'}"
            )
        else:
            show(conversation, conversation.ask(line[line.startswith("//") :], write))
    except TurnError as error:
        tell(f"error: {error}")
    return True


def set_seed(conversation: Conversation, value: str) -> None:
    """``/seed N``"""
    try:
        seed = int(value)
    except ValueError:
        seed = -1
    if not 0 <= seed <= LARGEST_SEED:
        tell(f"/seed: expected a number from 0 to {LARGEST_SEED}, found {value or 'none'}")
        return
    conversation.seed = seed
    tell(f"(seed {seed})")


def show(conversation: Conversation, answer: Answer) -> None:
    """End the answer's line, and say what there is to say of it."""
    write("\n")
    settings = conversation.policy.settings
    if answer.stopped and not answer.text:
        what = "the answer before it stays" if conversation.attempt else "the turn was taken back"
        tell(f"(stopped before a word: {what})")
    elif answer.stopped:
        tell("(stopped)")
    elif answer.at_positions:
        more = "" if conversation.is_plain else ": /reset begins a new conversation"
        tell(f"(cut off at the model's {conversation.policy.positions} positions{more})")
    elif not answer.ended:
        tell(f"(cut off at {settings.max_new_tokens} tokens: --max-new-tokens)")
    elif not answer.text:
        tell("(an empty answer: it ended at once)")
    trained = conversation.policy.trained_positions
    if trained is not None and answer.tokens > trained and not conversation.was_told_of_length:
        conversation.was_told_of_length = True
        more = "" if conversation.is_plain else "; /reset begins a new conversation"
        tell(
            f"(warning: with this answer there are {answer.tokens} tokens, and the model was trained on {trained} "
            f"positions: they are rotary, so it goes on past them{more})"
        )
    if answer.scores:
        best, *others = ["none, too long" if value is None else f"{value:.3f}" for value in answer.scores]
        tell(f"(best of {len(answer.scores)}: score {best}; the others from {others[0]} to {others[-1]})")


def write(text: str) -> None:
    """Part of an answer, at once."""
    out: Any = sys.stdout
    out.write(text.translate(CONTROLS) if out.isatty() else text)
    out.flush()


def tell(text: str) -> None:
    """A line that is no answer."""
    print(text, file=sys.stderr, flush=True)

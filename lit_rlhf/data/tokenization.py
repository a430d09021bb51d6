"""Text to token ids, once and the same way for training, rollouts and scoring.

What is decided here:

* **A prompt's ids never depend on a response**: the two are tokenized apart, so training sees the very
  ids that a rollout starts from. Special tokens are never added by the tokenizer, always here.
* **BOS**: at most once, at the front of a prompt. A rendered conversation keeps what its template put
  there. A plain prompt gets the BOS where the tokenizer adds it itself, or where it has one that is not
  the EOS (Llama, Gemma; not Qwen, which has none). Where BOS and EOS are one token (GPT-2, Pythia) only
  an empty prompt gets it, as the mark that parts documents.
* **EOS**: once at the end of a response, and counted. A turn that the template closes with the EOS ends
  there; what follows it (usually a line break) is left out.
* **Pad**: never the EOS, never a new row in the embeddings. Masks come from lengths, so no mask can
  hide an EOS.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, TypeAlias

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from lit_rlhf.data.conversations import show
from lit_rlhf.data.sources import not_there
from lit_rlhf.records import Message, Prompt, Response

AssistantTurns: TypeAlias = Literal["all", "last"]

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""The plain ChatML template, as ``--data.chat_template chatml``."""

_PAD_NAMES = ("<|pad|>", "<pad>", "[PAD]", "<|endoftext|>")
_WORD_MARKS = ("Ġ", "▁")


class TokenizationError(ValueError):
    """A prompt or response that cannot be turned into tokens as asked; the message says why."""


def load_tokenizer(model: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a local folder or hub model, with its pad token settled.

    Nothing else of it is changed. A name that means a folder here never touches the network: one that exists or
    is written like a path, and ``models/gpt`` wherever there is a folder ``models``.

    Args:
        model: A folder in Hugging Face layout, or a hub name.

    Raises:
        FileNotFoundError: `model` means a folder here and is not there; with near names.
    """
    folder = Path(model).expanduser()
    if not folder.exists() and _is_path(model):
        raise FileNotFoundError(f"no tokenizer at {not_there(model, folder)}")
    tokenizer = AutoTokenizer.from_pretrained(str(folder) if folder.exists() else model)
    pad = choose_pad_id(tokenizer)
    if tokenizer.pad_token_id != pad:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(pad)
    return tokenizer


def _is_path(name: str) -> bool:
    """Whether `name`, of which nothing exists, is a path and not a hub name; the same rule as for models."""
    written_so = name.startswith((".", "/", "~")) or name.endswith("/") or name.count("/") > 1
    return written_so or ("/" in name and Path(name).parent.is_dir())


def choose_pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """An id to pad with: one the vocabulary already has, and never the EOS.

    The tokenizer's own pad; else a special token that stands unused; else the UNK; else the last
    ordinary token that begins a word. Which one matters to nobody but other people's code, as our masks come
    from lengths. The tokenizer is not changed.
    """
    eos, bos = tokenizer.eos_token_id, tokenizer.bos_token_id
    if tokenizer.pad_token_id is not None and tokenizer.pad_token_id != eos:
        return tokenizer.pad_token_id
    vocabulary = tokenizer.get_vocab()
    for name in (*_PAD_NAMES, tokenizer.unk_token):
        if name in vocabulary and vocabulary[name] not in (eos, bos):
            return vocabulary[name]
    taken = {*tokenizer.all_special_ids, eos, bos}
    ordinary = {token: index for token, index in vocabulary.items() if index not in taken}
    words = [index for token, index in ordinary.items() if token.startswith(_WORD_MARKS) and len(token) > 1]
    return max(words or ordinary.values())


def read_chat_template(chat_template: str) -> str:
    """The template behind an argument: ``"chatml"``, a ``.jinja`` file, or the template itself.

    Raises:
        FileNotFoundError: it names a file that is not there.
        ValueError: it is neither a known name nor a file nor a template.
    """
    if chat_template == "chatml":
        return CHATML
    if chat_template.endswith((".jinja", ".jinja2", ".j2")) and "{" not in chat_template:
        path = Path(chat_template).expanduser()
        if not path.exists():
            raise FileNotFoundError(f"chat_template: no file {chat_template}")
        return path.read_text(encoding="utf-8")
    if "{" not in chat_template:
        raise ValueError(
            f"chat_template: expected 'chatml', a .jinja file or a template, found {chat_template!r}"
        )
    return chat_template


class TextEncoder:
    """Prompts and responses to token ids and back, by the rules at the top of this file.

    Args:
        tokenizer: Used as it is; never changed.
        chat_template: ``"chatml"``, the path of a ``.jinja`` file, or a template; by default the
            tokenizer's own. Needed for conversations only.

    Raises:
        ValueError: the tokenizer has no EOS token.

    Example:
        >>> encoder = TextEncoder(tokenizer)  # doctest: +SKIP
        >>> encoder.prompt_ids("2 + 2 ="), encoder.response_ids("2 + 2 =", " 4")  # doctest: +SKIP
        ([1, 29, 478, 29, 308], ([342, 2], [True, True]))
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, chat_template: str | None = None) -> None:
        if tokenizer.eos_token_id is None:
            raise ValueError(
                "the tokenizer has no EOS token, so nothing could tell a response's end: set its eos_token"
            )
        self.tokenizer = tokenizer
        self.chat_template = None if chat_template is None else read_chat_template(chat_template)
        self.eos_token_id: int = tokenizer.eos_token_id
        self.bos_token_id: int | None = tokenizer.bos_token_id
        self.pad_token_id: int = choose_pad_id(tokenizer)
        self.doubled_bos = 0
        """How many prompts came with more than one BOS in front; the surplus was taken off."""
        self._known: dict[str, list[int]] = {}
        self._prefixes_bos = self._decide_bos()
        self._hidden_ids = set(tokenizer.all_special_ids)
        if tokenizer.convert_ids_to_tokens(self.pad_token_id).startswith(_WORD_MARKS):
            self._hidden_ids.discard(self.pad_token_id)  # a word that serves as pad is a word in text

    def prompt_text(self, prompt: Prompt) -> str:
        """The prompt as text: a string as it is, a conversation rendered up to the assistant's turn."""
        return prompt if isinstance(prompt, str) else self._render(prompt, add_generation_prompt=True)

    def prompt_ids(self, prompt: Prompt) -> list[int]:
        """Token ids of a prompt, with at most one BOS; empty only for ``""`` where there is no BOS."""
        ids = self.token_ids(self.prompt_text(prompt))
        leading = 0
        while leading < len(ids) and ids[leading] == self.bos_token_id:
            leading += 1
        if leading > 1:
            self.doubled_bos += 1
        if self.bos_token_id is not None and (leading or not ids or self._wants_bos(prompt)):
            return [self.bos_token_id, *ids[leading:]]
        return ids

    def response_ids(
        self, prompt: Prompt, response: Response, assistant_turns: AssistantTurns = "all"
    ) -> tuple[list[int], list[bool]]:
        """Token ids of a response and, per token, whether it counts (the EOS does).

        Args:
            prompt: What the response answers; its own ids do not change with the response.
            response: Text, or the turns that follow the prompt.
            assistant_turns: Of several assistant turns, whether all count or the last only.

        Raises:
            TokenizationError: the template renders the prompt differently once a response follows, or no
                token would count.
        """
        if isinstance(prompt, str) and isinstance(response, str):
            ids = self._with_eos(self.token_ids(response))
            return ids, [True] * len(ids)
        if isinstance(prompt, str):
            raise TokenizationError("the prompt is plain text, the response a list of messages")
        turns = [{"role": "assistant", "content": response}] if isinstance(response, str) else response
        return self._conversation_ids(prompt, turns, assistant_turns)

    def token_ids(self, text: str) -> list[int]:
        """Token ids of `text` alone; no special token is added.

        Raises:
            TokenizationError: the tokenizer has no tokens for it.
        """
        if text in self._known:
            return [*self._known[text]]
        try:
            # verbose=False: lengths over the model's limit are cut, and counted, by us.
            return self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        except Exception as error:
            if (
                type(error) is not Exception
            ):  # fast tokenizers raise the bare class, for a word without a token say
                raise
            raise TokenizationError(f"the tokenizer has no tokens for {show(text)} ({error})") from error

    @contextmanager
    def tokenizing_together(self, texts: Iterable[str]) -> Iterator[None]:
        """Tokenize these texts in one call, for when each is asked for: of short ones it takes a third of the time."""
        distinct = list(dict.fromkeys(texts))
        if self.tokenizer.is_fast and distinct:
            try:
                ids = self.tokenizer(
                    distinct, add_special_tokens=False, verbose=False, return_attention_mask=False
                )["input_ids"]
                self._known = dict(zip(distinct, ids, strict=True))
            except Exception as error:
                if type(error) is not Exception:
                    raise
                self._known = {}  # each for itself then, which finds the text that has no tokens
        try:
            yield
        finally:
            self._known = {}

    def decode(self, ids: list[int]) -> str:
        """The text of `ids`, special tokens left out."""
        kept = [token for token in ids if token not in self._hidden_ids]
        return self.tokenizer.decode(kept, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def _decide_bos(self) -> bool:
        if self.bos_token_id is None:
            return False
        adds_itself = self.tokenizer("", verbose=False)["input_ids"][:1] == [self.bos_token_id]
        return adds_itself or self.bos_token_id != self.eos_token_id

    def _wants_bos(self, prompt: Prompt) -> bool:
        """Plain prompts, and ChatML, which was not written for this tokenizer and has no BOS of its own."""
        return self._prefixes_bos and (isinstance(prompt, str) or self.chat_template == CHATML)

    def _with_eos(self, ids: list[int]) -> list[int]:
        end = len(ids)
        while end and ids[end - 1] == self.eos_token_id:
            end -= 1
        return [*ids[:end], self.eos_token_id]

    def _render(self, messages: list[Message], add_generation_prompt: bool = False) -> str:
        if self.chat_template is None and not self.tokenizer.chat_template:
            raise TokenizationError(
                "the data holds conversations, and the tokenizer has no chat template: "
                "add --data.chat_template chatml, or give the path of a .jinja file"
            )
        return self.tokenizer.apply_chat_template(
            messages,
            chat_template=self.chat_template,
            add_generation_prompt=add_generation_prompt,
            tokenize=False,
        )

    def _conversation_ids(
        self, opening: list[Message], turns: list[Message], assistant_turns: AssistantTurns
    ) -> tuple[list[int], list[bool]]:
        """Render turn by turn; assistant turns count from behind their header up to their EOS."""
        answered = [place for place, turn in enumerate(turns) if turn["role"] == "assistant"]
        counted = answered if assistant_turns == "all" else answered[-1:]
        ids: list[int] = []
        mask: list[bool] = []
        rendered = self._render(opening, add_generation_prompt=True)
        for place in answered:
            before = self._render([*opening, *turns[:place]], add_generation_prompt=True)
            gap = self.token_ids(_behind(rendered, before))
            through = self._render([*opening, *turns[: place + 1]])
            last = place == answered[-1]
            answer, end = self._close_turn(_behind(before, through), last)
            ids += gap + answer
            mask += [False] * len(gap) + [place in counted] * len(answer)
            rendered = before + end
        if not any(mask):
            raise TokenizationError(
                "no token of the response would count: the conversation has no assistant turn, "
                "or the chat template renders it as nothing"
            )
        return ids, mask

    def _close_turn(self, text: str, last: bool) -> tuple[list[int], str]:
        """Ids of a rendered assistant turn up to its EOS, and the text they cover."""
        eos = self.tokenizer.eos_token
        body = text.rstrip()
        if body.endswith(eos):
            return self._with_eos(self.token_ids(body)), body
        ids = self.token_ids(text)
        return (self._with_eos(ids) if ids and last else ids), text


def _behind(before: str, whole: str) -> str:
    """What `whole` has behind `before`."""
    if not whole.startswith(before):
        shared = next(place for place, pair in enumerate(zip(before, f"{whole}\0")) if pair[0] != pair[1])
        raise TokenizationError(
            "the chat template renders the turns so far differently once a response follows: expected "
            f"{before[shared:][:60]!r} after {before[:shared][-40:]!r}, found {whole[shared:][:60]!r}. "
            "Use another --data.chat_template, or a row per assistant turn"
        )
    return whole[len(before) :]

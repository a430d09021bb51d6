"""``lit-rlhf init``: a byte-level BPE tokenizer from your text, and a small Llama with random weights.

The tokenizer knows ``<|bos|>``, ``<|eos|>``, ``<|pad|>`` and one token for each role, ``<|system|>``, ``<|user|>``
and ``<|assistant|>``. A conversation is the BOS, then each turn as its role's token and a newline before the text;
the EOS closes the assistant's turns and nothing else, so to the model it means "I have answered".
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lit_rlhf.cli.init_texts import read_texts, text_files
from lit_rlhf.cli.refusal import refuse

MARK = "lit_rlhf_init.json"
"""Stands in a folder that this command wrote, with the arguments; only such a folder is overwritten."""

SPECIAL_TOKENS = ("<|bos|>", "<|eos|>", "<|pad|>", "<|system|>", "<|user|>", "<|assistant|>")

CHAT_TEMPLATE = """\
{{ bos_token }}
{%- for message in messages %}
    {%- if message['role'] not in ['system', 'user', 'assistant'] %}
        {{- raise_exception('unknown role ' + message['role'] + ': expected system, user or assistant') }}
    {%- endif %}
    {{- '<|' + message['role'] + '|>\\n' + message['content'] }}
    {%- if message['role'] == 'assistant' %}
        {{- eos_token }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|assistant|>\\n' }}
{%- endif %}
"""


@dataclass(frozen=True)
class Size:
    """The shape of the model."""

    hidden: int
    layers: int
    heads: int
    vocab: int


SIZES = {
    "tiny": Size(hidden=128, layers=4, heads=4, vocab=2048),  # 1.1 million parameters
    "small": Size(hidden=256, layers=5, heads=8, vocab=4096),  # 5.1 million
}


def main(argv: Sequence[str]) -> None:
    """``lit-rlhf init DIR --size tiny|small --text FILE...``"""
    arguments = parse(argv)
    directory = Path(arguments.directory)
    check_directory(directory, arguments.force)
    files = text_files(arguments.text)
    preset = SIZES[arguments.size]
    size = Size(
        *(
            getattr(arguments, name) or getattr(preset, name)
            for name in ("hidden", "layers", "heads", "vocab")
        )
    )
    check_size(size)

    print(
        f"reading {len(files)} file{'s' * (len(files) > 1)}, learning a vocabulary of {size.vocab} …",
        flush=True,
    )
    tokenizer = train_tokenizer(files, size.vocab)
    if len(tokenizer) < size.vocab:
        print(f"the text gives {len(tokenizer)} different tokens, fewer than the {size.vocab} asked for")
    model = random_llama(tokenizer, size, arguments.max_positions, arguments.seed)
    with written_whole(directory) as beside:
        tokenizer.save_pretrained(beside)
        model.save_pretrained(beside)
        (beside / MARK).write_text(json.dumps(vars(arguments), indent=2) + "\n")
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(
        f"{directory}: Llama with {parameters:,} random parameters (hidden {size.hidden}, {size.layers} layers, "
        f"{size.heads} heads, {len(tokenizer)} tokens, {arguments.max_positions} positions)"
    )
    print(f"next: lit-rlhf cp pretrain pretrain.yaml, then fit with --model.model {directory}")


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The command's arguments."""
    parser = argparse.ArgumentParser(
        "lit-rlhf init",
        description="A byte-level BPE tokenizer trained on your text and a Llama with random weights, "
        "in Hugging Face layout, to pretrain and try everything offline.",
    )
    add = parser.add_argument
    add("directory", metavar="DIR", help="the folder to write; new or empty")
    add(
        "--size",
        choices=SIZES,
        default="tiny",
        help="tiny: about 1 million parameters, small: about 5 (%(default)s)",
    )
    add(
        "--text",
        nargs="+",
        required=True,
        metavar="FILE",
        help="plain text or JSONL (its text fields), also .gz, or a folder of them",
    )
    add("--hidden", type=int, help="width of the model, instead of the size's")
    add("--layers", type=int, help="layers, instead of the size's")
    add("--heads", type=int, help="attention heads, instead of the size's; --hidden must be a multiple of it")
    add("--vocab", type=int, help="tokens in the vocabulary, instead of the size's; 262 at the least")
    add("--max-positions", type=int, default=1024, help="longest sequence in tokens (%(default)s)")
    add("--seed", type=int, default=0, help="of the random weights (%(default)s)")
    add("--force", action="store_true", help="overwrite DIR if this command wrote it")
    return parser.parse_args(argv)


def check_directory(directory: Path, force: bool) -> None:
    """Refuse a folder with anything in it, unless it is our own and `force` is given."""
    if directory.is_file():
        refuse(f"{directory} is a file; expected a folder to write.")
    if not directory.is_dir() or not any(directory.iterdir()):
        return
    ours = (directory / MARK).is_file()
    if ours and force:
        return
    hint = (
        "--force overwrites it."
        if ours
        else "Give a new folder; what this command did not write it leaves alone."
    )
    refuse(f"{directory} is not empty.", hint)


@contextmanager
def written_whole(directory: Path) -> Iterator[Path]:
    """A folder beside `directory` to write into, which takes its place at the end, or leaves no trace.

    Files that stand in `directory` already and are not written anew stay.
    """
    target = directory.resolve()  # `.` has no name to put one beside
    beside = target.with_name(f"{target.name}.{os.getpid()}.partial")
    beside.mkdir(parents=True)
    try:
        yield beside
        if target.exists():
            # The mark first: should this end half-way, --force may mend it.
            for file in sorted(beside.iterdir(), key=lambda file: file.name != MARK):
                os.replace(file, target / file.name)
        else:
            os.replace(beside, target)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def check_size(size: Size) -> None:
    """Refuse a shape that cannot be built."""
    for name, value in vars(size).items():
        if value < 1:
            refuse(f"--{name} {value}: expected a positive number.")
    if size.hidden % (2 * size.heads):
        refuse(
            f"--hidden {size.hidden} --heads {size.heads}: expected --hidden to be a multiple of 2 x --heads."
        )
    smallest = 256 + len(SPECIAL_TOKENS)
    if size.vocab < smallest:
        refuse(
            f"--vocab {size.vocab}: expected {smallest} or more (256 bytes and {len(SPECIAL_TOKENS)} special tokens)."
        )


def train_tokenizer(files: Sequence[Path], vocab: int) -> Any:
    """A byte-level BPE tokenizer of at most `vocab` tokens, special ones included."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=sys.stdout.isatty(),
    )
    raw.train_from_iterator((text for file in files for text in read_texts(file)), trainer)
    # As Llama's tokenizers do: plain text gets its BOS, nothing else.
    raw.post_processor = processors.TemplateProcessing(
        single="<|bos|> $A", pair="<|bos|> $A $B", special_tokens=[("<|bos|>", raw.token_to_id("<|bos|>"))]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        bos_token="<|bos|>",
        eos_token="<|eos|>",
        pad_token="<|pad|>",
        extra_special_tokens=list(SPECIAL_TOKENS[3:]),
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def random_llama(tokenizer: Any, size: Size, max_positions: int, seed: int) -> Any:
    """A Llama with random weights and tied embeddings over the tokenizer's vocabulary."""
    import torch
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()  # saving takes no time
    ids = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=size.hidden,
        intermediate_size=32 * round(size.hidden * 8 / 3 / 32),  # 8/3 of the width, as Llama has it
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.heads,
        max_position_embeddings=max_positions,
        tie_word_embeddings=True,
        **ids,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(do_sample=True, **ids)
    return model

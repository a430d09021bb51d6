"""What a demo run starts from: a tokenizer, a small untrained model, and data files.

The tokenizer and the model make a Hugging Face folder, the files are in the formats that every
phase reads, so the demo world goes through the same doors as anybody's own model and data.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from random import Random

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from lit_rlhf.world.grammar import (
    BOS,
    EOS,
    PAD,
    VOCABULARY,
    prompt_text,
    sample_sentence,
    sample_topic,
)
from lit_rlhf.world.labellers import DataRow

MAX_POSITIONS = 32
"""Room for a prompt of 4 tokens, the longest sentence, its end, and what a strayed policy adds."""


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer with one token a word, ids in the order of the vocabulary.

    Decoding puts single spaces between the words. There is no unknown token: a word outside the
    vocabulary is an error and never something else in silence. BOS is not added here; who encodes a
    prompt puts it in front.
    """
    word_level = Tokenizer(models.WordLevel({word: place for place, word in enumerate(VOCABULARY)}))
    word_level.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=word_level,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        model_max_length=MAX_POSITIONS,
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )


def build_model(hidden: int = 64, layers: int = 2, heads: int = 4, seed: int = 0) -> LlamaForCausalLM:
    """An untrained Llama over the demo world's vocabulary, input and output embeddings tied.

    The defaults make 106,304 parameters; ``hidden=128, layers=4`` makes 815,232.

    Args:
        hidden: width; a multiple of twice `heads`.
        layers: transformer blocks.
        heads: attention heads, all with keys of their own.
        seed: of the weights. The global random state is left as it was.
    """
    config = LlamaConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=hidden,
        # A gated layer has three matrices: 8/3 of the width costs what a plain layer of 4 widths does.
        intermediate_size=-(-8 * hidden // 3 // 16) * 16,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=MAX_POSITIONS,
        tie_word_embeddings=True,
        pad_token_id=VOCABULARY.index(PAD),
        bos_token_id=VOCABULARY.index(BOS),
        eos_token_id=VOCABULARY.index(EOS),
    )
    with torch.random.fork_rng(devices=[]):
        # The CPU's generator alone: torch.manual_seed would seed those of other devices as well.
        torch.default_generator.manual_seed(seed)
        return LlamaForCausalLM(config)


def write_model(folder: Path, hidden: int = 64, layers: int = 2, heads: int = 4, seed: int = 0) -> None:
    """Write the untrained model and its tokenizer as a Hugging Face folder, whole or not at all.

    Arguments after `folder` as for :func:`build_model`.

    Raises:
        FileExistsError: `folder` is there already.
    """
    if folder.exists():
        raise FileExistsError(f"{folder} exists already; remove it or name another folder")
    beside = folder.with_name(f".{folder.name}.writing")
    shutil.rmtree(beside, ignore_errors=True)
    build_model(hidden, layers, heads, seed).save_pretrained(beside)
    build_tokenizer().save_pretrained(beside)
    beside.rename(folder)


def text_rows(generator: Random, count: int) -> Iterator[DataRow]:
    """Rows of plain text for pretraining: sentences, about half of them behind their prompt as a heading."""
    for _ in range(count):
        domain, noun = sample_topic(generator)
        words = sample_sentence(generator, domain, noun)
        heading = [prompt_text(domain, noun)] if generator.random() < 0.5 else []
        yield {"text": " ".join(heading + words)}


def demonstration_rows(generator: Random, count: int) -> Iterator[DataRow]:
    """Demonstrations: a prompt and a sentence about its noun."""
    for _ in range(count):
        domain, noun = sample_topic(generator)
        response = " ".join(sample_sentence(generator, domain, noun))
        yield {"prompt": prompt_text(domain, noun), "response": response, "domain": domain}


def prompt_rows(generator: Random, count: int) -> Iterator[DataRow]:
    """Prompts alone. There are 16 different ones, so most come more than once."""
    for _ in range(count):
        domain, noun = sample_topic(generator)
        yield {"prompt": prompt_text(domain, noun), "domain": domain}


def write_data(
    folder: Path,
    seed: int,
    texts: int = 24_000,
    demonstrations: int = 6_000,
    prompts: int = 2_000,
    validation: int = 500,
) -> dict[str, Path]:
    """Write the files that pretraining, fine-tuning and PPO read; return their paths by name.

    Each file is drawn from its own generator, so that its rows do not depend on the other counts.

    Args:
        folder: made where it does not exist; files of the same names are replaced.
        seed: of everything that is drawn.
        texts: rows of ``texts.jsonl``.
        demonstrations: rows of ``demonstrations.jsonl``.
        prompts: rows of ``prompts.jsonl``.
        validation: rows of each of ``validation_texts.jsonl``, ``validation_demonstrations.jsonl`` and
            ``validation_prompts.jsonl``.
    """
    makers = {
        "texts": (text_rows, texts),
        "demonstrations": (demonstration_rows, demonstrations),
        "prompts": (prompt_rows, prompts),
    }
    paths: dict[str, Path] = {}
    for kind, (make_rows, count) in makers.items():
        for name, rows in ((kind, count), (f"validation_{kind}", validation)):
            paths[name] = folder / f"{name}.jsonl"
            write_rows(paths[name], make_rows(Random(f"{name} {seed}"), rows))
    return paths


def write_rows(path: Path, rows: Iterable[DataRow]) -> int:
    """Write `rows` as JSON lines, beside `path` first and then renamed; return how many they were."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.writing")
    count = 0
    with beside.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            count += 1
    os.replace(beside, path)
    return count

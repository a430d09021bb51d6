"""What has to be true of the tokens that a run reads and counts."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lit_rlhf.data.tokenization import TextEncoder
from lit_rlhf.records import Experience, Prompt, Tree
from lit_rlhf.rollout.truth import Truth


def one_bos(prompt_ids: Sequence[Sequence[int]], encoder: TextEncoder) -> Truth:
    """Whether each prompt begins with one BOS where the tokenizer has one of its own, and never has two for one.

    A BOS further in is right where an EOS has closed what went before, as some chat templates have it.
    """
    name, bos, eos = "each prompt has one BOS", encoder.bos_token_id, encoder.eos_token_id
    if bos is None or bos == eos:
        return Truth(name, True, "the tokenizer has none of its own")
    doubled = [place for place, ids in enumerate(prompt_ids) if _has_second_bos(ids, bos, eos)]
    adds_itself = encoder.tokenizer("", verbose=False)["input_ids"][:1] == [bos]
    missing = [place for place, ids in enumerate(prompt_ids) if adds_itself and ids and ids[0] != bos]
    if doubled:
        start = encoder.tokenizer.decode(list(prompt_ids[doubled[0]])[:12])
        said = (
            f"{len(doubled)} of {len(prompt_ids)} prompts have a second one (such as {start!r}): the chat template and "
            "the data both write it, or the template does so twice. Take it out of one of them."
        )
    elif missing:
        said = (
            f"{len(missing)} of {len(prompt_ids)} prompts lack it, and this tokenizer puts one before every text: the "
            "model has not seen text without. Put {{ bos_token }} at the front of the chat template."
        )
    else:
        said = f"{encoder.tokenizer.convert_ids_to_tokens(bos)!r}"
    return Truth(name, not doubled and not missing, said)


def _has_second_bos(ids: Sequence[int], bos: int, eos: int) -> bool:
    is_open = False
    for token in ids:
        if token == bos and is_open:
            return True
        is_open = (is_open or token == bos) and token != eos
    return False


def text_has_one_bos(prompts: Sequence[Prompt], encoder: TextEncoder) -> Truth:
    """Whether the prompts as text begin with one BOS at most: of more our ids keep one, and other programs all."""
    bos = encoder.bos_token_id
    starts = [encoder.token_ids(encoder.prompt_text(prompt))[:2] for prompt in prompts]
    doubled = [place for place, ids in enumerate(starts) if bos is not None and ids == [bos, bos]]
    said = "at most one in each"
    if doubled:
        said = (
            f"{len(doubled)} of {len(starts)} have two ({encoder.prompt_text(prompts[doubled[0]])[:40]!r} …): the chat "
            "template and the data both write it, or the template does so twice. One is kept here, and both by other "
            "programs that take the exported template. Take it out of one of them."
        )
    return Truth("the chat template writes no second BOS", not doubled, said)


def masks_come_from_lengths(experience: Experience, encoder: TextEncoder) -> Truth:
    """Whether each response's tokens count, all of them and no others, its EOS as the last."""
    lengths = torch.tensor([len(ids) for ids in experience.response_ids])
    expected = torch.arange(experience.response_mask.shape[1])[None, :] < lengths[:, None]
    wrong = (experience.response_mask != expected).any(1).nonzero().flatten().tolist()
    eos = encoder.eos_token_id
    ends = [[place for place, token in enumerate(ids, 1) if token == eos] for ids in experience.response_ids]
    cut = experience.truncated.tolist()
    unended = [
        number
        for number, ids in enumerate(experience.response_ids)
        if ends[number] != ([] if cut[number] else [len(ids)])
    ]
    said = f"{int(lengths.sum())} tokens in {len(lengths)} responses, {len(lengths) - sum(cut)} of them ended"
    if wrong:
        counted = int(experience.response_mask[wrong[0]].sum())
        said = (
            f"{len(wrong)} of {len(lengths)} do not (response {wrong[0]} has {int(lengths[wrong[0]])} tokens, of which "
            f"{counted} count): a mask that is made by looking for the pad id loses the EOS where the two share an id. "
            "Make it from the lengths."
        )
    elif unended:
        said = (
            f"{len(unended)} of {len(lengths)} do not end with their first EOS, or are called cut off and have one "
            f"(response {unended[0]}): sampling stops at another token than the tokenizer's EOS "
            f"{encoder.tokenizer.convert_ids_to_tokens(eos)!r}. Give the tokenizer the EOS that the policy has learned."
        )
    return Truth("masks have the responses' lengths and count the EOS", not wrong and not unended, said)


def eos_counts(trees: Sequence[Tree], encoder: TextEncoder) -> Truth:
    """Whether the EOS that ends a response of the data is among the tokens that count."""
    ends = [
        mask[-1]
        for tree in trees
        for ids, mask in zip(tree.response_ids, tree.response_masks, strict=True)
        if ids and ids[-1] == encoder.eos_token_id
    ]
    said = f"{len(ends)} responses end with it"
    if not all(ends):
        said = (
            f"{ends.count(False)} of {len(ends)} responses end with an EOS that does not count, so nothing learns to "
            "stop: a mask that is made by looking for the pad id loses the EOS where the two share an id. Make it from "
            "the lengths."
        )
    return Truth("the EOS counts", all(ends), said)

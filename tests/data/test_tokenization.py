"""Each case of BOS, EOS, pad, template and mask that people have stumbled over, by name."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from lit_rlhf.data.tokenization import TextEncoder, TokenizationError, choose_pad_id, load_tokenizer

WORDS = ["<s>", "</s>", "<unk>", "a", "b", "c", "d", "user:", "assistant:", "Ġe", "system:", "<|pad|>"]
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}"
    "{% if m['role'] == 'assistant' %} {{ eos_token }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
QUESTION = [{"role": "user", "content": "a"}]
TWO_ANSWERS = [
    {"role": "assistant", "content": "b"},
    {"role": "user", "content": "c"},
    {"role": "assistant", "content": "d"},
]


def make(
    words: list[str] = WORDS, template: str | None = None, adds_bos: bool = False, **special: str
) -> PreTrainedTokenizerFast:
    """One id a word: ids can be written down by hand."""
    vocabulary = {word: index for index, word in enumerate(words)}
    backend = Tokenizer(
        models.WordLevel(vocabulary, unk_token="<unk>" if "<unk>" in vocabulary else words[-1])
    )
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if adds_bos:
        bos = special["bos_token"]
        backend.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, vocabulary[bos])]
        )
    return PreTrainedTokenizerFast(tokenizer_object=backend, chat_template=template, **special)


def spelled(tokenizer: PreTrainedTokenizerFast, ids: list[int]) -> list[str]:
    return tokenizer.convert_ids_to_tokens(ids)


def llama(template: str | None = None) -> PreTrainedTokenizerFast:
    return make(template=template, adds_bos=True, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


# --- BOS --------------------------------------------------------------------------------------------


def test_bos_is_put_before_a_plain_prompt_once_though_the_tokenizer_adds_it_too() -> None:
    assert TextEncoder(llama()).prompt_ids("a b") == [0, 3, 4]


def test_bos_that_the_tokenizer_does_not_add_itself_is_put_before_a_plain_prompt() -> None:
    assert TextEncoder(make(bos_token="<s>", eos_token="</s>")).prompt_ids("a b") == [0, 3, 4]


def test_double_bos_in_a_prompt_is_reduced_to_one_and_counted() -> None:
    encoder = TextEncoder(llama())
    assert encoder.prompt_ids("<s> a") == [0, 3]
    assert encoder.doubled_bos == 0
    assert encoder.prompt_ids("<s> <s> a") == [0, 3]
    assert encoder.doubled_bos == 1


def test_double_bos_of_template_and_tokenizer_is_one() -> None:
    encoder = TextEncoder(llama("{{ bos_token }} " + TEMPLATE))
    assert spelled(encoder.tokenizer, encoder.prompt_ids(QUESTION)) == ["<s>", "user:", "a", "assistant:"]


def test_template_without_bos_gets_none() -> None:
    encoder = TextEncoder(llama(TEMPLATE))
    assert spelled(encoder.tokenizer, encoder.prompt_ids(QUESTION)) == ["user:", "a", "assistant:"]


def test_no_bos_in_the_middle_when_a_response_is_tokenized_alone() -> None:
    assert TextEncoder(llama()).response_ids("a", "b c") == ([4, 5, 1], [True] * 3)


def test_tokenizer_without_bos_gets_none() -> None:
    assert TextEncoder(make(eos_token="</s>")).prompt_ids("a b") == [3, 4]


def test_bos_that_is_the_eos_stands_before_empty_prompts_only() -> None:
    encoder = TextEncoder(make(bos_token="</s>", eos_token="</s>"))
    assert encoder.prompt_ids("a b") == [3, 4]
    assert encoder.prompt_ids("") == [1]


def test_bos_that_is_the_eos_is_kept_where_the_tokenizer_adds_it() -> None:
    assert TextEncoder(make(adds_bos=True, bos_token="</s>", eos_token="</s>")).prompt_ids("a") == [1, 3]


def test_prompt_ids_do_not_depend_on_the_response(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    encoder = TextEncoder(tiny_tokenizer)
    apart = encoder.prompt_ids("th")[1:] + encoder.response_ids("th", "e soup")[0][:-1]
    assert apart != encoder.token_ids("the soup")
    assert encoder.decode(apart) == "the soup"


# --- EOS --------------------------------------------------------------------------------------------


def test_eos_is_appended_once_and_counted() -> None:
    encoder = TextEncoder(llama())
    assert encoder.response_ids("a", "b") == ([4, 1], [True, True])
    assert encoder.response_ids("a", "b </s>") == ([4, 1], [True, True])
    assert encoder.response_ids("a", "b </s> </s>") == ([4, 1], [True, True])
    assert encoder.response_ids("a", "") == ([1], [True])


def test_eos_counts_though_pad_is_eos() -> None:
    tokenizer = make(["</s>", "a", "b", "c"], eos_token="</s>", pad_token="</s>")
    encoder = TextEncoder(tokenizer)
    assert encoder.response_ids("a", "b") == ([2, 0], [True, True])
    assert encoder.pad_token_id != 0


def test_tokenizer_without_eos_is_refused() -> None:
    with pytest.raises(ValueError, match="no EOS token"):
        TextEncoder(make(bos_token="<s>"))


def test_template_that_closes_the_turn_with_eos_gets_no_second_one_nor_what_follows() -> None:
    encoder = TextEncoder(llama(TEMPLATE))
    ids, mask = encoder.response_ids(QUESTION, "b")
    assert spelled(encoder.tokenizer, ids) == ["b", "</s>"]
    assert mask == [True, True]


def test_template_that_does_not_close_the_turn_with_eos_gets_one() -> None:
    encoder = TextEncoder(llama(TEMPLATE.replace("{{ eos_token }}", "c")))
    assert spelled(encoder.tokenizer, encoder.response_ids(QUESTION, "b")[0]) == ["b", "c", "</s>"]


# --- pad --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("special", "words", "pad"),
    [
        ({"pad_token": "c"}, WORDS, "c"),
        ({"pad_token": "</s>"}, WORDS, "<|pad|>"),
        ({}, WORDS, "<|pad|>"),
        ({"unk_token": "<unk>"}, WORDS[:-1], "<unk>"),
        ({}, ["<s>", "</s>", "<|endoftext|>", "a"], "<|endoftext|>"),
        ({}, ["<s>", "</s>", "a", "Ġe", "b"], "Ġe"),
        ({}, ["<s>", "</s>", "a", "b"], "b"),
    ],
)
def test_pad_is_an_id_that_exists_and_is_not_eos(special: dict[str, str], words: list[str], pad: str) -> None:
    tokenizer = make(words, eos_token="</s>", bos_token="<s>", **special)
    assert spelled(tokenizer, [choose_pad_id(tokenizer)]) == [pad]


def test_pad_is_not_endoftext_where_that_is_the_eos() -> None:
    tokenizer = make(["a", "b", "<|endoftext|>"], eos_token="<|endoftext|>", bos_token="<|endoftext|>")
    assert choose_pad_id(tokenizer) == 1


def test_pad_needs_no_new_embedding_row(tmp_path: Path) -> None:
    make(["<s>", "</s>", "a", "Ġe", "b"], eos_token="</s>", bos_token="<s>").save_pretrained(tmp_path)
    tokenizer = load_tokenizer(str(tmp_path))
    assert (tokenizer.pad_token_id, len(tokenizer)) == (3, 5)


def test_pad_that_is_a_word_is_not_lost_from_text(tmp_path: Path) -> None:
    make(["<s>", "</s>", "a", "Ġe", "b"], eos_token="</s>", bos_token="<s>").save_pretrained(tmp_path)
    encoder = TextEncoder(load_tokenizer(str(tmp_path)))
    assert encoder.decode([0, 2, 3, 1]) == "a Ġe"


def test_the_users_tokenizer_is_not_changed() -> None:
    tokenizer = make(eos_token="</s>", bos_token="<s>", pad_token="</s>", padding_side="left")
    before = copy.deepcopy((tokenizer.init_kwargs, tokenizer.pad_token_id, tokenizer.get_vocab()))
    encoder = TextEncoder(tokenizer, TEMPLATE)
    encoder.prompt_ids(QUESTION)
    assert encoder.pad_token_id == 11
    assert (tokenizer.init_kwargs, tokenizer.pad_token_id, tokenizer.get_vocab()) == before
    assert tokenizer.chat_template is None


# --- templates --------------------------------------------------------------------------------------


def test_missing_chat_template_says_what_to_do() -> None:
    with pytest.raises(TokenizationError, match=r"--data\.chat_template chatml"):
        TextEncoder(llama()).prompt_ids(QUESTION)


def test_chatml_is_built_in_and_starts_with_the_bos(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    encoder = TextEncoder(tiny_tokenizer, "chatml")
    assert encoder.prompt_text(QUESTION) == "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n"
    assert encoder.prompt_ids(QUESTION)[0] == tiny_tokenizer.bos_token_id
    assert tiny_tokenizer.decode(encoder.response_ids(QUESTION, "b")[0]) == "b<|im_end|>\n<|eos|>"


def test_chat_template_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "mine.jinja").write_text("{{ messages[0]['content'] }} c")
    assert TextEncoder(llama(), str(tmp_path / "mine.jinja")).prompt_ids(QUESTION) == [3, 5]


def test_chat_template_file_that_is_not_there() -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.jinja"):
        TextEncoder(llama(), "nowhere.jinja")


def test_chat_template_that_is_none() -> None:
    with pytest.raises(ValueError, match=r"expected 'chatml', a \.jinja file or a template, found 'chatlm'"):
        TextEncoder(llama(), "chatlm")


def test_template_that_renders_the_prompt_anew_is_refused() -> None:
    template = "{{ messages | length }} {% for m in messages %}{{ m['content'] }}{% endfor %}"
    with pytest.raises(TokenizationError, match="renders the turns so far differently"):
        TextEncoder(llama(template)).response_ids(QUESTION, "b")


def test_every_assistant_turn_counts_with_its_eos() -> None:
    encoder = TextEncoder(llama(TEMPLATE))
    ids, mask = encoder.response_ids(QUESTION, TWO_ANSWERS, "all")
    expected = ["b", "</s>", "user:", "c", "assistant:", "d", "</s>"]
    assert spelled(encoder.tokenizer, ids) == expected
    assert mask == [True, True, False, False, False, True, True]


def test_the_last_assistant_turn_alone_counts_if_asked() -> None:
    mask = TextEncoder(llama(TEMPLATE)).response_ids(QUESTION, TWO_ANSWERS, "last")[1]
    assert mask == [False] * 5 + [True, True]


def test_template_without_eos_gets_it_behind_the_last_turn_only() -> None:
    encoder = TextEncoder(llama(TEMPLATE.replace("{{ eos_token }}", "")))
    ids, _ = encoder.response_ids(QUESTION, TWO_ANSWERS)
    assert spelled(encoder.tokenizer, ids) == ["b", "user:", "c", "assistant:", "d", "</s>"]


def test_all_zero_mask_is_refused_when_nobody_answers() -> None:
    with pytest.raises(TokenizationError, match="no token of the response would count"):
        TextEncoder(llama(TEMPLATE)).response_ids(QUESTION, [{"role": "user", "content": "b"}])


def test_all_zero_mask_is_refused_when_the_template_leaves_the_answer_out() -> None:
    template = "{% for m in messages %}{% if m['role'] == 'user' %}{{ m['content'] }}{% endif %}{% endfor %}"
    with pytest.raises(TokenizationError, match="no token of the response would count"):
        TextEncoder(llama(template)).response_ids(QUESTION, "b")


def test_decode_leaves_specials_out(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    encoder = TextEncoder(tiny_tokenizer)
    ids = encoder.prompt_ids("the soup , is") + encoder.response_ids("", " tasty !")[0]
    assert encoder.decode(ids) == "the soup , is tasty !"


def test_missing_tokenizer_folder_is_said_at_once() -> None:
    with pytest.raises(FileNotFoundError, match=r"no tokenizer at \./nowhere"):
        load_tokenizer("./nowhere")


@pytest.mark.parametrize("name", ["models/gtp", "models/gtp/", "gtp/"])
def test_a_name_below_a_folder_of_here_is_no_hub_name(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("models/gpt").mkdir(parents=True)
    Path("gpt").mkdir()
    with pytest.raises(FileNotFoundError, match=rf"^no tokenizer at {name}: no such .* there is gpt$"):
        load_tokenizer(name)


def test_hub_names_are_not_taken_for_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    asked: list[str] = []
    monkeypatch.setattr(
        "lit_rlhf.data.tokenization.AutoTokenizer.from_pretrained", lambda name: asked.append(name) or llama()
    )
    load_tokenizer("someone/gpt")
    load_tokenizer("gpt")
    assert asked == ["someone/gpt", "gpt"]


def test_a_word_without_a_token_is_named_with_its_text():
    backend = Tokenizer(models.WordLevel({"<s>": 0, "</s>": 1, "a": 2}, unk_token="<unk>"))  # not in it
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")
    encoder = TextEncoder(tokenizer)
    assert encoder.token_ids("a a") == [2, 2]
    with pytest.raises(TokenizationError, match="no tokens for 'a hello'"):
        encoder.token_ids("a hello")
    with encoder.tokenizing_together(["a", "a hello"]):
        assert encoder.token_ids("a") == [2]
        with pytest.raises(TokenizationError, match="no tokens for 'a hello'"):
            encoder.token_ids("a hello")

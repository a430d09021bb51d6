"""``lit-rlhf chat`` on a pipe: what is answered, what the next turn sees of it, and the commands."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from lit_rlhf.cli import chat_loop
from lit_rlhf.cli.main import main
from lit_rlhf.cli.sample_policy import Policy
from lit_rlhf.data.tokenization import TextEncoder
from lit_rlhf.data.trees import pack_trees, plant_tree
from lit_rlhf.models.scorer import load_scorer
from lit_rlhf.records import Row
from tests.cli.drawing import OneByOne, save_policy, save_policy_with_table
from tests.cli.test_sample_best import export_reward
from tests.conftest import make_llama, make_tokenizer

LENGTH = ["--max-new-tokens", "8"]


@pytest.fixture(scope="module")
def engine(tiny_model_dir: Path, tiny_tokenizer: PreTrainedTokenizerFast) -> OneByOne:
    return OneByOne(tiny_model_dir, tiny_tokenizer)


@pytest.fixture
def talk(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[str, str]]:
    """Runs a chat over some lines; what it writes to stdout and stderr."""

    def run(model: Path, lines: list[str], *options: str, code: int = 0) -> tuple[str, str]:
        monkeypatch.setattr("sys.stdin", io.StringIO("".join(line + "\n" for line in lines)))
        try:
            main(["chat", str(model), *options])
        except SystemExit as stop:
            assert stop.code == code
        else:
            assert code == 0
        said = capsys.readouterr()
        return said.out, said.err

    return run


Talk = Callable[..., tuple[str, str]]


def answer(engine: OneByOne, text: str, *counters: int, **settings: Any) -> str:
    """To a prompt that is written out as the tests' chat template renders it."""
    ids = engine.tokenizer(text, add_special_tokens=False)["input_ids"]
    return engine.text(ids, *counters, **{"max_new_tokens": 8, **settings})


def test_turns_go_on_through_the_template(talk: Talk, tiny_model_dir: Path, engine: OneByOne) -> None:
    first = answer(engine, "user: hello\nassistant: ", 3, 0, 0, 0)
    so_far = f"user: hello\nassistant: {first}<|eos|>\nuser: and you\nassistant: "
    second = answer(engine, so_far, 3, 1, 0, 0)
    out, _ = talk(tiny_model_dir, ["hello", "", "and you"], "--seed", "3", *LENGTH)
    assert out == f"{first}\n{second}\n"


def test_commands(talk: Talk, tiny_model_dir: Path, engine: OneByOne) -> None:
    prompt = "user: hello\nassistant: "
    first, again = (answer(engine, prompt, 0, 0, attempt, 0) for attempt in range(2))
    other = answer(engine, prompt, 9, 0, 0, 0)
    second = answer(engine, f"{prompt}{again}<|eos|>\nuser: /x\nassistant: ", 0, 1, 0, 0)
    assert len({first, again, other}) == 3
    lines = ["/regenerate", "hello", "/regenerate", "//x", "/reset", "hello", "/seed 9", "/reset", "hello"]
    lines += ["/seed x", "/regenrate", "/help", "/quit", "hello"]
    out, said = talk(tiny_model_dir, lines, *LENGTH)
    assert out == "".join(f"{text}\n" for text in (first, again, second, first, other))
    assert "error: there is no answer yet that could be drawn again" in said
    assert "(a new conversation)" in said and "(seed 9)" in said
    assert "/seed: expected a number from 0 to " in said and "found x" in said
    assert "no command is called /regenrate. Did you mean '/regenerate'?" in said
    assert "\n/reset       begin a new conversation\n" in said


def test_what_a_stop_string_cuts_is_neither_shown_nor_remembered(
    talk: Talk, tiny_model_dir: Path, engine: OneByOne
) -> None:
    prompt = "user: hello\nassistant: "
    whole = answer(engine, prompt, 0, 0, 0, 0, max_new_tokens=20)
    stop = next(letter for letter in whole[3:] if letter.isascii() and letter.isprintable() and letter != " ")
    shown = whole[: whole.index(stop)]
    second = answer(engine, f"{prompt}{shown}<|eos|>\nuser: b\nassistant: ", 0, 1, 0, 0, max_new_tokens=20)
    out, said = talk(tiny_model_dir, ["hello", "b"], "--stop", stop, "--max-new-tokens", "20")
    assert out == f"{shown}\n{second.partition(stop)[0]}\n"
    assert said.count("cut off") == (stop not in second)


def test_ctrl_c_stops_an_answer_and_keeps_what_was_said(
    talk: Talk, tiny_model_dir: Path, engine: OneByOne, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = "user: hello\nassistant: "
    part = answer(engine, prompt, 0, 0, 0, 0, max_new_tokens=5)
    second = answer(engine, f"{prompt}{part}<|eos|>\nuser: b\nassistant: ", 0, 1, 0, 0)
    draw, turns = Policy.draw, []

    def interrupted(self: Policy, *arguments: Any, on_tokens: Any) -> Any:
        turns.append(None)
        tokens = []

        def heard(numbers: list[int], new: list[int]) -> None:
            on_tokens(numbers, new)
            tokens.append(new)
            if len(turns) == 2 and len(tokens) == 5:
                raise KeyboardInterrupt

        if len(turns) == 1:
            raise KeyboardInterrupt
        return draw(self, *arguments, on_tokens=heard)

    monkeypatch.setattr(Policy, "draw", interrupted)
    out, said = talk(tiny_model_dir, ["lost", "hello", "b"], *LENGTH)
    assert out == f"\n{part}\n{second}\n"
    assert "(stopped before a word: the turn was taken back)\n(stopped)\n" in said


def test_ctrl_c_on_another_answer_keeps_the_one_before(
    talk: Talk, tiny_model_dir: Path, engine: OneByOne, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = "user: hello\nassistant: "
    first = answer(engine, prompt, 0, 0, 0, 0)
    second = answer(engine, f"{prompt}{first}<|eos|>\nuser: b\nassistant: ", 0, 1, 0, 0)
    draw, turns = Policy.draw, []

    def interrupted(self: Policy, *arguments: Any, on_tokens: Any) -> Any:
        turns.append(None)
        if len(turns) == 2:
            raise KeyboardInterrupt
        return draw(self, *arguments, on_tokens=on_tokens)

    monkeypatch.setattr(Policy, "draw", interrupted)
    out, said = talk(tiny_model_dir, ["hello", "/regenerate", "b"], *LENGTH)
    assert out == f"{first}\n\n{second}\n"
    assert "(stopped before a word: the answer before it stays)\n" in said and "taken back" not in said


def test_what_the_positions_end(
    talk: Talk, tiny_model_dir: Path, tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    never = ["--min-new-tokens", "60", "--max-new-tokens", "60"]
    table = save_policy_with_table(tmp_path / "m", tiny_tokenizer, 256)
    _, said = talk(table, ["q" * 200, "b", "q" * 300, "/reset", "b"], *never)
    assert "(cut off at the model's 256 positions: /reset begins a new conversation)" in said
    assert said.count("and the model has 256 positions. The turn was taken back; /reset begins a new") == 2
    assert "(a new conversation)\n(cut off at 60 tokens: --max-new-tokens)" in said
    assert "trained on" not in said and "may have fewer" not in said
    _, said = talk(tiny_model_dir, ["b"], *LENGTH, "--max-cached-tokens", "20")
    assert "tokens, and --max-cached-tokens is 20. The turn was taken back." in said


def test_rotary_positions_go_on_with_one_warning_a_conversation(
    talk: Talk, tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    folder = save_policy(tmp_path / "m", tiny_tokenizer, max_position_embeddings=64)
    engine = OneByOne(folder, tiny_tokenizer)
    prompt = f"user: {'q' * 60}\nassistant: "
    first = answer(engine, prompt, 0, 0, 0, 0, min_new_tokens=8)
    second = answer(engine, f"{prompt}{first}<|eos|>\nuser: b\nassistant: ", 0, 1, 0, 0, min_new_tokens=8)
    lines = ["q" * 60, "b", "/reset", "b", "/reset", "q" * 60]
    out, said = talk(folder, lines, *LENGTH, "--min-new-tokens", "8")
    assert out.startswith(f"{first}\n{second}\n")
    tokens = len(tiny_tokenizer(prompt, add_special_tokens=False)["input_ids"]) + 8
    warning = (
        f"(warning: with this answer there are {tokens} tokens, and the model was trained on 64 positions: they are "
        "rotary, so it goes on past them; /reset begins a new conversation)"
    )
    assert said.count("(warning: ") == said.count(warning) == 2
    assert said.index(warning) < said.index("(a new conversation)") < said.rindex(warning)


def test_a_model_without_a_template_continues_each_line(
    talk: Talk, tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    make_llama(tiny_tokenizer).save_pretrained(tmp_path / "plain")
    bare = PreTrainedTokenizerFast(
        tokenizer_object=tiny_tokenizer.backend_tokenizer, bos_token="<|bos|>", eos_token="<|eos|>",
        pad_token="<|pad|>",
    )  # fmt: skip
    bare.save_pretrained(tmp_path / "plain")
    engine = OneByOne(tmp_path / "plain", tiny_tokenizer)
    expected = [
        engine.text(engine.prompt(line), 0, number, 0, 0, max_new_tokens=8)
        for number, line in enumerate(("the soup", "my hotel"))
    ]
    out, said = talk(tmp_path / "plain", ["the soup", "my hotel"], *LENGTH)
    assert out == "".join(f"{text}\n" for text in expected)
    assert "the model has no chat template: each line is continued as plain text, by itself" in said
    _, said = talk(tmp_path / "plain", [], "--system", "be kind", code=1)
    assert "error: --system: the model has no chat template that could hold it." in said


def test_a_system_text_stands_before_the_first_turn(
    talk: Talk, tiny_model_dir: Path, engine: OneByOne
) -> None:
    expected = answer(engine, "system: be kind\nuser: a\nassistant: ", 0, 0, 0, 0)
    out, _ = talk(tiny_model_dir, ["a", "/reset", "a"], "--system", "be kind", *LENGTH)
    assert out == f"{expected}\n" * 2
    deaf = "{% for m in messages if m.role != 'system' %}{{ m.content }}{{ eos_token }}{% endfor %}"
    _, said = talk(tiny_model_dir, [], "--system", "be kind", "--chat-template", deaf, code=1)
    assert "error: --system: the chat template leaves a system's turn out" in said
    refusing = "{% if messages[0].role == 'system' %}{{ raise_exception('no system here') }}{% endif %}"
    _, said = talk(tiny_model_dir, [], "--system", "be kind", "--chat-template", refusing, code=1)
    assert "error: --system: the chat template refuses a system's turn: no system here" in said


def test_a_turn_that_the_template_refuses_is_taken_back(talk: Talk, tiny_model_dir: Path) -> None:
    picky = "{% for m in messages %}{% if 'bad' in m.content %}{{ raise_exception('no!') }}{% endif %}{{ m.content }}"
    out, said = talk(
        tiny_model_dir, ["bad", "good"], "--chat-template", picky + "{{ eos_token }}{% endfor %}", *LENGTH
    )
    assert "error: the chat template refuses these turns: no!" in said
    assert out.count("\n") >= 1


@pytest.mark.parametrize("end", ["several tokens", "an ordinary token", "a special token"])
def test_a_turn_that_the_template_closes_otherwise_ends_there(talk: Talk, tmp_path: Path, end: str) -> None:
    """ChatML's end must not be shown, nor stand twice in the next prompt, whatever it is for the tokenizer."""
    tokenizer = make_tokenizer()
    if end == "an ordinary token":
        tokenizer.add_tokens(["<|im_end|>"])
    elif end == "a special token":
        tokenizer.add_special_tokens({"extra_special_tokens": ["<|im_end|>"]})
    letters = [*tokenizer("<|im_end|>", add_special_tokens=False)["input_ids"]]
    assert (len(letters) > 1) == (end == "several tokens")
    folder = save_policy(tmp_path / "m", tokenizer)
    prompts: list[str] = []

    def says_the_end(
        self: Policy, given: list[list[int]], keys: Any, progress: Any = None, on_tokens: Any = None
    ) -> Any:
        prompts.append(tokenizer.decode(given[0]))
        by_string = end != "a special token"
        assert ("<|im_end|>" in self.settings.stop_strings) == by_string
        assert (letters[-1] in self.settings.stop_token_ids) != by_string
        for token in [*tokenizer("hi")["input_ids"], *letters]:
            on_tokens([0], [token])
        return type("Sampled", (), {"truncated": torch.tensor([False])})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Policy, "draw", says_the_end)
        out, _ = talk(folder, ["a", "b"], "--chat-template", "chatml")
    assert out == "hi\nhi\n"
    assert prompts[1].count("<|im_end|>") == 3  # a, hi, b
    assert "assistant\nhi<|im_end|>\n" in prompts[1]


def test_the_best_of_several_is_shown_with_its_score(
    talk: Talk,
    tiny_model_dir: Path,
    tmp_path: Path,
    tiny_tokenizer: PreTrainedTokenizerFast,
    engine: OneByOne,
) -> None:
    reward = export_reward(tmp_path / "r", make_llama(tiny_tokenizer, seed=1), tiny_tokenizer)
    prompt = "user: hello\nassistant: "
    texts = [answer(engine, prompt, 0, 0, 0, sample) for sample in range(3)]
    scorer, encoder = load_scorer(str(reward)).eval(), TextEncoder(tiny_tokenizer)
    (tree,), _ = plant_tree(Row([{"role": "user", "content": "hello"}], texts), encoder)
    with torch.no_grad():
        scores = scorer(pack_trees([tree])).tolist()
    best = max(range(3), key=lambda place: scores[place])
    out, said = talk(tiny_model_dir, ["hello"], "--best-of", "3", "--reward", str(reward), *LENGTH)
    assert out == f"{texts[best]}\n"
    high, middle, low = sorted(scores, reverse=True)
    assert f"(best of 3: score {high:.3f}; the others from {middle:.3f} to {low:.3f})" in said


def test_a_terminal_is_not_steered_by_what_a_model_says(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for out, shown in ((Terminal(), "a\n\t␛[2J\ufffd"), (io.StringIO(), "a\n\t\x1b[2J\x9b")):
        monkeypatch.setattr("sys.stdout", out)
        chat_loop.write("a\n\t\x1b[2J\x9b")
        assert out.getvalue() == shown


def test_a_model_that_ends_at_once_says_nothing(
    talk: Talk, tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    folder = save_policy(tmp_path / "m", tiny_tokenizer)
    out, said = talk(folder, ["a", "b"], "--logit-bias", f"{tiny_tokenizer.eos_token_id}=99")
    assert out == "\n\n" and "cut off" not in said and "error" not in said
    assert said.count("(an empty answer: it ended at once)\n") == 2

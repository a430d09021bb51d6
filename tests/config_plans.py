"""The plans in the comments of the shipped configs; ``python -m tests.config_plans`` writes them anew."""

from __future__ import annotations

import contextlib
import io
import json
import os
import tempfile
from pathlib import Path

from lit_rlhf.cli.configs import shipped
from lit_rlhf.cli.main import main

COMMAND = "# lit-rlhf plan "
MODELS = {  # folders that hold a config alone, with the sizes that Meta published
    "Llama-3.2-1B": {
        "hidden_size": 2048,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "intermediate_size": 8192,
        "tie_word_embeddings": True,
    },
    "Llama-3.1-8B": {
        "hidden_size": 4096,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "intermediate_size": 14336,
        "tie_word_embeddings": False,
    },
    "Llama-3.1-70B": {
        "hidden_size": 8192,
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
        "intermediate_size": 28672,
        "tie_word_embeddings": False,
    },
}
COMMON = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
}


def model_folder(place: Path, name: str) -> Path:
    """A folder under `place` with the config of one of :data:`MODELS` and nothing else."""
    folder = place / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**COMMON, **MODELS[name]}))
    return folder


def planned() -> list[str]:
    """The configs whose comments have a plan, by name."""
    return [name for name, file in shipped().items() if COMMAND in file.read_text()]


def written_plan(name: str) -> tuple[list[str], list[str]]:
    """The words of a config's plan command, and the lines under it."""
    command, *lines = shipped()[name].read_text().partition(COMMAND)[2].splitlines()
    return command.split(), [line.removeprefix("#").removeprefix(" ") for line in lines]


def new_plan(words: list[str]) -> tuple[list[str], int]:
    """What the command prints, run in a folder that has :data:`MODELS`, and its exit code."""
    said, code = io.StringIO(), 0
    name = words[words.index("--config") + 1].removeprefix("configs/").removesuffix(".yaml")
    words = [str(shipped()[name]) if word.startswith("configs/") else word for word in words]
    with contextlib.redirect_stdout(said):
        try:
            main(["plan", *words])
        except SystemExit as stop:
            code = int(stop.code or 0)
    return said.getvalue().splitlines(), code


def renew() -> None:
    """Write every plan anew, in place."""
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for name in MODELS:
            model_folder(Path(folder), name)
        for name in planned():
            words, _ = written_plan(name)
            lines, code = new_plan(words)
            above, _, _ = shipped()[name].read_text().partition(COMMAND)
            comments = [f"# {line}".rstrip() for line in lines]
            shipped()[name].write_text("\n".join([f"{above}{COMMAND}{' '.join(words)}", *comments]) + "\n")
            print(f"{name}: {'does not fit' if code else 'fits'}")


if __name__ == "__main__":
    renew()

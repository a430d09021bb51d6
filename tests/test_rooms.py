"""Who may import whom: the direction of the house, read off the imports themselves."""

import ast
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "lit_rlhf"

MAY_IMPORT = {
    "records": set(),
    "ops": {"records"},
    "losses": {"records", "ops"},
    "metrics": {"records", "ops"},
    "data": {"records"},
    "models": {"records", "ops"},
    "rewards": {"records", "data", "models"},
    "rollout": {"records", "ops", "data", "models", "rewards"},
    "strategies": {"records", "models"},
    "modules": {
        *(
            "records",
            "ops",
            "losses",
            "metrics",
            "data",
            "models",
            "rewards",
            "rollout",
            "strategies",
            "labelling",
        ),
    },
    "callbacks": {"records"},
    "labelling": {"records", "data", "metrics", "models", "rewards"},
    "world": {"records", "rewards"},
    "reports": {"records", "metrics"},
}
TORCH_ONLY = {"records", "ops", "losses"}


def imports(path: Path) -> set[str]:
    """Every module that a file imports, at any depth of its code."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
    return found


def rooms() -> dict[str, list[Path]]:
    by_room: dict[str, list[Path]] = {}
    for path in PACKAGE.rglob("*.py"):
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        by_room.setdefault(room, []).append(path)
    return by_room


def test_every_room_is_known():
    assert set(rooms()) == {*MAY_IMPORT, "cli", "__init__", "__main__"}


def test_no_room_looks_sideways_or_back():
    wrong = []
    for room, allowed in MAY_IMPORT.items():
        for path in rooms()[room]:
            for name in imports(path):
                if name.startswith("lit_rlhf."):
                    target = name.split(".")[1]
                    if target != room and target not in allowed:
                        wrong.append(f"{path.relative_to(PACKAGE)} imports {name}")
    assert not wrong


def test_modules_do_not_import_one_another():
    phases = {"sft", "reward", "ppo", "dpo"}
    for phase in phases:
        others = {f"lit_rlhf.modules.{other}" for other in phases - {phase}}
        assert not imports(PACKAGE / "modules" / f"{phase}.py") & others


def test_mathematics_imports_torch_alone():
    allowed = {"torch", "lit_rlhf", "__future__", *sys.stdlib_module_names}
    for room in TORCH_ONLY:
        for path in rooms()[room]:
            assert {name.split(".")[0] for name in imports(path)} <= allowed, path


def test_only_reports_import_matplotlib():
    users = {
        room
        for room, paths in rooms().items()
        for path in paths
        if any(n.startswith("matplotlib") for n in imports(path))
    }
    assert users <= {"reports"}


def test_importing_the_package_is_cheap():
    code = (
        "import sys, lit_rlhf; print([m for m in ('torch', 'lightning', 'transformers') if m in sys.modules])"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        == "[]\n"
    )


def test_public_names_load_on_use():
    import lit_rlhf

    for name in lit_rlhf.__all__:
        assert getattr(lit_rlhf, name).__name__ == name

"""``lit-rlhf label serve``: what it reads, keeps and prints, and what it refuses before anything heavy is loaded."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from lit_rlhf.cli.label import live, serve
from lit_rlhf.labelling.items import Settings
from lit_rlhf.labelling.server.running import AddressError, base_address, hosts_of, is_loopback, listen
from lit_rlhf.labelling.store import LabelStore
from tests.cli.drawing import save_policy_with_table
from tests.conftest import make_tokenizer

ROWS = [
    {"prompt": "p1", "responses": ["a", "b", "c"], "id": "one", "source": "m"},
    {"prompt": "p2", "responses": ["a", "b"]},
    {"prompt": "p3", "responses": ["same", "same"]},
]
TEST = {"prompt": "t", "chosen": "right", "rejected": "wrong", "explanation": "because"}


@pytest.fixture
def files(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("rows.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    Path("gold.jsonl").write_text(json.dumps(TEST))
    Path("rules.md").write_text("# Rules\nBe *fair*.")
    return tmp_path


@pytest.fixture
def served(monkeypatch) -> list[object]:
    """The applications that would have been served."""
    apps: list[object] = []
    monkeypatch.setattr(serve, "serve_until_told", lambda app, listening: apps.append(app))
    return apps


def run(*arguments: str) -> None:
    serve.main([*arguments, "--db", "labels.db", "--port", "0"])


def test_nothing_is_made_of_files_that_cannot_be_read(files, served, capsys):
    Path("wrong.jsonl").write_text('{"prompt": "p", "responses": "a"}\n')
    for arguments in (["wrong.jsonl"], ["rows.jsonl", "--gold", "wrong.jsonl"]):
        with pytest.raises(SystemExit):
            run(*arguments)
        assert "wrong.jsonl:1: expected" in capsys.readouterr().err
    assert not Path("labels.db").exists()


def test_an_active_order_without_scores_is_said(files, served, capsys):
    run("rows.jsonl", "--order", "active")
    assert "no item has scores, so the order is random" in capsys.readouterr().err
    Path("scored.jsonl").write_text(json.dumps({**ROWS[1], "reward_scores": [0.5, 1.0]}))
    run("scored.jsonl")
    assert capsys.readouterr().err == ""


def test_files_become_items_and_the_next_start_needs_none(files, served, capsys):
    run("rows.jsonl", "--gold", "gold.jsonl", "--guidelines", "rules.md", "--overlap", "2", "--quota", "9",
        "--practice", "1", "--annotators", "ann", "bob")  # fmt: skip
    out, err = capsys.readouterr()
    assert "read rows.jsonl: 2 items (1 ranking, 1 pairwise), 2 of them new" in out
    assert "left out 1 of 3 rows" in out and "rows.jsonl:3" in out
    assert "read gold.jsonl: 1 test item (1 pairwise), 1 of them new" in out
    assert "labels.db: 2 items to judge, 2 annotators for each; 0 of 4 judgements are there" in out
    assert "judgements go to labels.db" in out and err == "" and "nothing to judge" not in out
    for command in ("label agreement --db labels.db ", "label export --db labels.db --out judged.jsonl "):
        assert f"  lit-rlhf {command}" in out  # what is next
    addresses = re.findall(r"(?:(\w+): |open  )(http://127\.0\.0\.1:\d+)/\?token=([\w-]{40,})\n", out)
    assert [name for name, _, _ in addresses] == ["", "ann", "bob"]
    assert "the first is yours" in out
    with LabelStore("labels.db") as store:
        assert len(store.items()) == 3
        kept = store.settings
        assert kept == Settings(overlap=2, quota=9, practice=1, guidelines="# Rules\nBe *fair*.")
    run()
    out, err = capsys.readouterr()
    assert "read" not in out and "2 items to judge" in out
    assert [token for _, _, token in addresses] == re.findall(r"token=(\S+)", out)
    with LabelStore("labels.db") as store:
        assert store.settings == kept
    run("rows.jsonl", "--quota", "0", "--lease-minutes", "2", "--repeats", "0", "--gold-share", "0.5",
        "--order", "active", "--seed", "7")  # fmt: skip
    assert "2 items (1 ranking, 1 pairwise), 0 of them new" in capsys.readouterr().out
    with LabelStore("labels.db") as store:
        assert store.settings == Settings(
            seed=7, overlap=2, lease_seconds=120.0, quota=None, repeats=0.0, gold_share=0.5, practice=1, order="active",
            guidelines="# Rules\nBe *fair*.",
        )  # fmt: skip
    assert len(served) == 3


def test_judged_rows_and_practice_without_tests_are_said(files, served, capsys):
    run("gold.jsonl", "--practice", "3", "--mode", "pairwise")
    out, err = capsys.readouterr()
    assert "judged already: 1 row" in out and "label import" in out
    assert err == "warning: --practice 3: there are 0 test items to practise on; --gold FILE adds more.\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--port", "70000"], "--port: expected 0 to 65535"),
        (["--overlap", "0"], "--overlap: expected 1 or more"),
        (["--quota", "-1"], "--quota: expected 0 or more"),
        (["--practice", "-1"], "--practice: expected 0 or more"),
        (["--repeats", "1.5"], "--repeats: expected 0 to 1"),
        (["--gold-share", "nan"], "--gold-share: expected 0 to 1"),
        (["--lease-minutes", "0"], "--lease-minutes: expected more than 0"),
        (["--lease-minutes", "nan"], "--lease-minutes: expected more than 0"),
        (["--mode", "rating"], "--mode: says how FILEs are judged"),
        (["-k", "3"], "-k: is for prompts"),
        (["--live", "m", "-k", "10"], "-k: expected 2 to 9"),
        (["--live", "m.ckpt"], "--live m.ckpt: expected a Hugging Face folder"),
        (["--annotators", "a" * 41], "--annotators: a name: expected 1 to 40 printable characters"),
        (["row.jsonl"], "FILE row.jsonl: no such file"),
        (["--gold", "row.jsonl"], "--gold row.jsonl: no such file"),
        (["--guidelines", "rule.md"], "--guidelines rule.md: no such file"),
    ],
)
def test_mistakes_are_said_before_anything_is_made(files, served, capsys, arguments, said):
    with pytest.raises(SystemExit) as end:
        serve.main(["--db", "labels.db", "--port", "0", *arguments])
    assert end.value.code == 2 and said in capsys.readouterr().err
    assert not served and not Path("labels.db").exists()


def test_a_store_that_is_not_there_and_names_that_are_none(files, served, capsys):
    with pytest.raises(SystemExit):
        run()
    assert "labels.db: expected a labelling file, found none" in capsys.readouterr().err
    with LabelStore("labels.db") as store:
        store.add_annotator("judge", "a rule")
    with pytest.raises(SystemExit):
        run("--annotators", "judge")
    assert "judge" in capsys.readouterr().err
    for names in (["Judge"], ["ann", "Ann"]):
        with pytest.raises(SystemExit):
            run("--annotators", *names)
        assert "readers would take them for one" in capsys.readouterr().err
    assert not served
    run("--annotators", "ann", "bob")
    assert "there is nothing to judge yet: give a FILE" in capsys.readouterr().out


def test_a_port_that_is_taken_is_said_with_what_to_do(files, served, capsys):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(SystemExit) as end:
            serve.main(["rows.jsonl", "--db", "labels.db", "--port", str(port)])
    err = capsys.readouterr().err
    assert end.value.code == 2 and f"--port {port}: is taken at 127.0.0.1" in err and "--port 0" in err
    assert not Path("labels.db").exists()


def test_a_host_that_is_not_ours(files, served, capsys):
    with pytest.raises(AddressError, match="--host no such host"):
        listen("no such host", 0)
    with pytest.raises(AddressError, match=r"--host 192\.0\.2\.1 --port 0"):
        listen("192.0.2.1", 0)


def test_other_networks_are_warned_of(files, served, capsys):
    with LabelStore("labels.db"):
        pass
    run("--host", "0.0.0.0")
    out, err = capsys.readouterr()
    assert f"http://{socket.gethostname()}:" in out
    assert err.startswith("warning: 0.0.0.0 can be reached from other machines") and "ssh -L" in err
    with listen("0.0.0.0", 0) as everywhere, listen("127.0.0.1", 0) as here:
        assert not is_loopback(everywhere) and is_loopback(here)
        assert hosts_of("0.0.0.0", everywhere).knows(socket.gethostname())
        assert not hosts_of("127.0.0.1", here).knows("192.0.2.1")
        assert base_address(here) == f"http://127.0.0.1:{here.getsockname()[1]}"


def test_without_files_nothing_heavy_is_loaded(files):
    with LabelStore("labels.db"):
        pass
    code = (
        "import sys\nfrom lit_rlhf.cli.label import serve\n"
        "serve.serve_until_told = lambda app, listening: None\n"
        "serve.main(['--db', 'labels.db', '--port', '0'])\n"
        "heavy = {'torch', 'lightning', 'transformers', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def test_a_loaded_model_answers_prompts_typed_in(files, tiny_model_dir, monkeypatch):
    monkeypatch.setattr(live, "MAX_NEW_TOKENS", 6)
    answers = []

    def look(app, listening):
        token = json.loads(Path("labels.db.access.json").read_text())["owner"]
        client = TestClient(app, "http://127.0.0.1:8765")
        assert client.get(f"/?token={token}").status_code == 200
        session = client.get("/api/session").json()
        client.headers["X-CSRF"] = session["csrf"]
        client.post("/api/session", json={"annotator": "ann"})
        answers.extend(client.post("/api/live", json={"prompt": "hello"}).json()["task"] for _ in range(2))
        assert session["live"] == 3 and client.get("/live").status_code == 200

    monkeypatch.setattr(serve, "serve_until_told", look)
    run("rows.jsonl", "--live", str(tiny_model_dir), "-k", "3")
    for task in answers:
        texts = [response["text"] for response in task["responses"]]
        assert task["mode"] == "ranking" and len(set(texts)) == 3
        assert [(part["role"], part["text"]) for part in task["prompt"]] == [("user", "hello")]
    assert answers[0]["number"] != answers[1]["number"]
    with LabelStore("labels.db") as store:
        assert store.task(answers[0]["number"]).item.models == (str(tiny_model_dir),) * 3


def test_live_prompts_go_through_the_template_and_end_within_the_positions(
    tiny_model_dir, tiny_tokenizer, tmp_path, monkeypatch
):
    monkeypatch.setattr(live, "MAX_NEW_TOKENS", 6)
    model = live.load_live(str(tiny_model_dir), 2)
    assert model.is_chat and (model.k, model.name) == (2, str(tiny_model_dir))
    policy, asked = model.draw.policy, []
    draw = policy.draw
    monkeypatch.setattr(
        policy, "draw", lambda prompts, *more: (asked.append(prompts[0]), draw(prompts, *more))[1]
    )
    assert len(set(model.draw("hello", 2))) == 2
    assert tiny_tokenizer.decode(asked[0]) == "user: hello\nassistant: "
    plain = make_tokenizer()
    plain.chat_template = None
    save_policy_with_table(tmp_path / "plain", plain, 16)
    model = live.load_live(str(tmp_path / "plain"), 2)
    assert not model.is_chat and len(set(model.draw("ab", 3))) == 3
    with pytest.raises(ValueError, match="expected 1 to 16 tokens, found"):
        model.draw("a" * 40, 2)

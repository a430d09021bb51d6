"""Text that was written to deceive: nothing of it acts, nothing of it hides, and none of it is lost."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest
from starlette.applications import Starlette

from lit_rlhf.labelling.items import Item
from lit_rlhf.labelling.server.app import create_app
from lit_rlhf.labelling.server.text import TAGS, guidelines_html, markdown_html, marked, unmarked
from lit_rlhf.labelling.store import LabelStore
from tests.labelling.browsing import ACCESS, Browser

HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<svg/onload=alert(1)>",
    "<iframe srcdoc='<script>alert(1)</script>'>",
    "[click](javascript:alert(1))",
    "[click](https://evil.example)",
    "![pixel](https://evil.example/p.png)",
    "<https://evil.example>",
    "<javascript:alert(1)>",
    "[a]: javascript:alert(1)\n[a]",
    "<a href=//evil.example style=position:fixed>x</a>",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "```html\n</code></pre><script>alert(1)</script>\n```",
    "`</code><script>alert(1)</script>`",
    "| <b onclick=x> |\n|--|\n| <style>*{display:none}</style> |",
    "<!-- --><base href=//evil.example>",
    "<math><mtext></mtext><mglyph><style></math><img src onerror=alert(1)>",
    "<x" * 3000,
]


class Elements(HTMLParser):
    """What a browser would make of it."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, list[tuple[str, str | None]]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, attrs))


def elements(html: str) -> list[tuple[str, list[tuple[str, str | None]]]]:
    parser = Elements()
    parser.feed(html)
    return parser.found


@pytest.mark.parametrize("text", HOSTILE)
def test_markdown_of_a_model_has_nothing_that_acts(text):
    html = markdown_html(text)
    for tag, attributes in elements(html):
        assert tag in TAGS and all(name == "start" for name, _ in attributes), (tag, attributes)
    assert not {"a", "img", "script", "style", "iframe", "svg"} & TAGS


@pytest.mark.parametrize("text", HOSTILE)
def test_the_sanitizer_alone_would_do(text):
    from lit_rlhf.labelling.server.text import LINKED, PLAIN

    for _, cleaner in (PLAIN, LINKED):
        for tag, attributes in elements(cleaner.clean(text)):
            assert tag in TAGS | {"a"} and {name for name, _ in attributes} <= {
                "href",
                "rel",
                "target",
                "start",
            }
            href = dict(attributes).get("href") or "https:"
            assert href.startswith(("http:", "https:", "mailto:"))


def test_markdown_that_is_shown():
    html = markdown_html("# Head\n**bold** and `code`\nnext line\n\n3. three\n\n| a |\n|-|\n| 1 |\n\n~~no~~")
    for part in (
        "<h1>Head</h1>",
        "<strong>bold</strong>",
        "<code>code</code><br>",
        '<ol start="3">',
        "<td>1</td>",
    ):
        assert part in html
    assert "<s>no</s>" in html
    assert "[a](http://b)" in markdown_html("[a](http://b)")


def test_links_of_the_guidelines_work_and_lead_away():
    html = guidelines_html(
        "[rules](https://example.org) [x](javascript:alert(1)) <script>x</script> [r](/api/undo)"
    )
    (away, inside) = [dict(attributes) for tag, attributes in elements(html) if tag == "a"]
    blank = {"target": "_blank", "rel": "noopener noreferrer nofollow"}
    assert away == {"href": "https://example.org", **blank} and inside == blank
    assert "<script" not in html and len(guidelines_html("word " * 30_000)) > 100_000


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\u202eb", "a⟦U+202E⟧b"),
        ("\u2066a\u2069", "⟦U+2066⟧a⟦U+2069⟧"),
        ("a\u200bb\u200dc\ufeff", "a⟦U+200B⟧b⟦U+200D⟧c⟦U+FEFF⟧"),
        ("\x00\x1b[31m\x7f\x85", "⟦U+0000⟧⟦U+001B⟧[31m⟦U+007F⟧⟦U+0085⟧"),
        ("a\tb\nc\r\nd", "a\tb\nc\nd"),
        ("over\rwritten", "over⟦U+000D⟧written"),
        ("\U000e0041", "⟦U+E0041⟧"),
        ("\ud800", "⟦U+D800⟧"),
        ("می\u200cخواهم", "می\u200cخواهم"),
        ("👨\u200d👩\u200d👧", "👨\u200d👩\u200d👧"),
        ("👨\u200d\u200d👧", "👨⟦U+200D⟧⟦U+200D⟧👧"),
        ("\u200c", "⟦U+200C⟧"),
        ("ordinary, ÄÖ, 漢字, עברית", "ordinary, ÄÖ, 漢字, עברית"),
    ],
)
def test_what_nobody_sees_is_made_visible(text, shown):
    assert marked(text) == shown


def test_entities_cannot_bring_it_back():
    html = markdown_html("a&#x202E;b &#8203; &zwj; &#0;")
    assert "⟦U+202E⟧" in html and "⟦U+200B⟧" in html and "⟦U+200D⟧" in html
    assert "\u202e" not in html and "\u200b" not in html


def test_marks_become_characters_again_where_the_original_had_them():
    original = "a\u200bb\x00"
    assert unmarked(marked(original) + "!", original) == original + "!"
    assert unmarked("⟦U+202E⟧ ⟦U+200B⟧", original) == "⟦U+202E⟧ \u200b"
    assert unmarked("⟦U+FFFFFF⟧", original) == "⟦U+FFFFFF⟧"
    literal = "the mark ⟦U+200B⟧ and \u200b"
    assert unmarked("⟦U+200B⟧", literal) == "⟦U+200B⟧"


def test_text_too_long_has_no_html():
    assert markdown_html("a" * 20_000) is not None
    assert markdown_html("a" * 20_001) is None
    table = "|a" * 100 + "\n" + "|-" * 100 + "\n" + "|\n" * 9000
    assert markdown_html(table) is None  # 20 kB that spell a million


def app_with(store: LabelStore, item: Item) -> Starlette:
    store.add_items([item])
    return create_app(store, ACCESS)


def test_megabytes_are_cut_and_there_when_asked_for(store):
    long, prompt = "x" * 3_000_000 + "\u202e", "p" * 50_000
    ann = Browser(app_with(store, Item("pairwise", prompt, (long, "short <b>"))))
    task = ann.task()
    by_length = {response["length"]: response for response in task["responses"]}
    first, second = by_length[3_000_001], by_length[9]
    assert first == {"text": "x" * 20_000, "html": None, "length": 3_000_001, "cut": True}
    assert second == {"text": "short <b>", "html": "<p>short &lt;b&gt;</p>\n", "length": 9, "cut": False}
    position = task["responses"].index(first)
    assert ann.get(f"/api/text/{task['number']}/{position}") == {"text": "x" * 3_000_000 + "⟦U+202E⟧"}
    assert task["prompt"] == [
        {"role": None, "text": "p" * 20_000, "html": None, "length": 50_000, "cut": True}
    ]
    assert ann.get(f"/api/text/{task['number']}/prompt/0") == {"text": prompt}
    for path in ("2", "-1", "x", "9" * 30, "prompt/1"):
        assert ann.http.get(f"/api/text/{task['number']}/{path}").status_code == 404


def test_a_conversation_shows_every_turn(store):
    messages = [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": [{"type": "text", "text": "part"}, {"type": "image", "url": "u"}]},
        {"role": "assistant", "content": None, "tool_calls": [{"name": "f"}]},
        {"role": "tool\u202e", "content": ""},
    ]
    ann = Browser(app_with(store, Item("pairwise", messages, ("a", "b"))))
    shown = ann.task()["prompt"]
    assert [part["role"] for part in shown] == ["system", "user", "assistant", "tool⟦U+202E⟧"]
    assert shown[0]["text"] == "be kind" and shown[3]["text"] == ""
    assert shown[1]["text"].startswith("part\n") and '"url": "u"' in shown[1]["text"]
    assert '"name": "f"' in shown[2]["text"]


def test_a_correction_keeps_the_characters_of_its_response(store):
    ann = Browser(app_with(store, Item("rewrite", "p", ("a\u200bb",))))
    task = ann.task()
    shown = task["responses"][0]["text"]
    assert shown == "a⟦U+200B⟧b"
    ann.post(
        "/api/judgements",
        {
            "task": task["number"],
            "submission": "12345678",
            "verdict": {"rewrite": shown + "c", "rewrite_of": 0},
        },
    )
    (said,) = store.judgements()
    assert said.verdict.rewrite == "a\u200bbc"

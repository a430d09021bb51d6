"""Text of models and strangers, made fit to be shown: it may be written to deceive whoever reads it."""

from __future__ import annotations

import re
from functools import lru_cache

import nh3
from markdown_it import MarkdownIt

SHOWN_CHARACTERS = 20_000
"""Of a text that are sent at once; the rest when it is asked for."""
MOST_GROWTH = 10
"""Characters of HTML to each of those; a short text can spell a table of a million cells."""

HIDDEN = re.compile(
    "["
    "\x00-\x08\x0b-\x1f\x7f-\x9f"  # controls, but for tab and newline
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # turn the direction of reading
    "\u200b-\u200d\u2060-\u2065\ufeff\u180e\u00ad\u034f"  # take no room
    "\u115f\u1160\u3164\uffa0\u17b4\u17b5"  # letters without a shape
    "\u2028\u2029\u206a-\u206f\ufff9-\ufffb"
    "\ud800-\udfff"  # halves of a pair, which no UTF-8 can carry
    "\U000e0000-\U000e0fff"  # tags, and selectors that can carry a message
    "]"
)
MARK = re.compile("\u27e6U\\+([0-9A-F]{4,6})\u27e7")
JOINERS = "\u200c\u200d"
FIRST_JOINED = 0x590
"""From here on are the scripts and symbols whose spelling has joiners: Persian, Hindi, families of emoji."""

TAGS = {
    "p", "br", "hr", "em", "strong", "s", "code", "pre", "blockquote", "ul", "ol", "li",
    "h1", "h2", "h3", "h4", "h5", "h6", "table", "thead", "tbody", "tr", "th", "td",
}  # fmt: skip
PLAIN = (
    MarkdownIt("commonmark", {"html": False, "breaks": True})
    .enable(["table", "strikethrough"])
    .disable(["image", "link", "autolink", "reference"]),
    nh3.Cleaner(tags=TAGS, attributes={"ol": {"start"}}, url_schemes=set(), link_rel=None),
)
LINKED = (
    MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"]).disable(["image"]),
    nh3.Cleaner(
        tags=TAGS | {"a"},
        attributes={"ol": {"start"}, "a": {"href"}},
        url_schemes={"http", "https", "mailto"},
        url_relative="deny",
        link_rel="noopener noreferrer nofollow",
        set_tag_attribute_values={"a": {"target": "_blank"}},
    ),
)


def marked(text: str) -> str:
    """The text with what nobody can see made visible: controls, marks of direction, marks without width.

    A joiner stays where two characters of a script that has joiners stand around it. Line ends become newlines.

    >>> marked("a\\u202eb")
    'a⟦U+202E⟧b'
    """
    return HIDDEN.sub(_mark, text.replace("\r\n", "\n"))


def unmarked(text: str, original: str) -> str:
    """What was written over a marked text, with the original's own characters where their marks were left."""
    hidden = set(HIDDEN.findall(original))

    def back(match: re.Match[str]) -> str:
        number = int(match[1], 16)
        character = chr(number) if number <= 0x10FFFF else ""
        ours = character in hidden and match[0] not in original and not "\ud800" <= character <= "\udfff"
        return character if ours else match[0]

    return MARK.sub(back, text)


def markdown_html(text: str) -> str | None:
    """A text's Markdown as HTML without anything that acts; None for one too long to be shown at once.

    Raw HTML, links and images are shown as they are written.
    """
    return None if len(text) > SHOWN_CHARACTERS else _plain_html(text)


@lru_cache(maxsize=4)
def guidelines_html(text: str) -> str:
    """The owner's own Markdown, of any length; its links work."""
    return _html(text, *LINKED)


@lru_cache(maxsize=512)
def _plain_html(text: str) -> str | None:
    html = _html(text, *PLAIN)
    return html if len(html) <= MOST_GROWTH * SHOWN_CHARACTERS else None


def _html(text: str, markdown: MarkdownIt, cleaner: nh3.Cleaner) -> str:
    # marked twice, because entities can spell what was marked before
    return marked(cleaner.clean(markdown.render(marked(text))))


def _mark(match: re.Match[str]) -> str:
    character, place, text = match[0], match.start(), match.string
    if character in JOINERS and 0 < place < len(text) - 1:
        around = text[place - 1], text[place + 1]
        if all(ord(one) >= FIRST_JOINED and not HIDDEN.match(one) for one in around):
            return character
    return f"\u27e6U+{ord(character):04X}\u27e7"

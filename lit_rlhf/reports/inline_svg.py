"""A figure as SVG inside a page: text stays text, colours follow the page, nothing reaches out of its figure."""

from __future__ import annotations

import io
import re
import warnings
from xml.etree import ElementTree

import matplotlib
from matplotlib.figure import Figure
from matplotlib.text import Text

PALETTE = {
    "ink": "#333333",
    "faint": "#bbbbbb",
    # Okabe and Ito's, which the colour-blind tell apart.
    "blue": "#0072b2",
    "vermillion": "#d55e00",
    "green": "#009e73",
    "purple": "#cc79a7",
    "orange": "#e69f00",
}
"""Colours by the name of the page's variable that takes their place, so that a dark page can lighten them."""

_VARIABLES = {colour: f"var(--{name}, {colour})" for name, colour in PALETTE.items()}
_REFERENCE = re.compile(r"#([\w-]+)")


def inline_svg(figure: Figure, name: str, description: str) -> str:
    """The figure as an ``<svg>`` element for an HTML page.

    It has no size of its own (the page gives the width), no ``style`` attribute or element, which a content
    security policy would refuse, and no identifier that does not start with `name`. Text is never read as
    mathematics, whatever it holds.

    Args:
        figure: drawn in the colours of :data:`PALETTE`.
        name: of letters and dashes, unique in the page.
        description: what is to be seen, for those who cannot see it.
    """
    for text in figure.findobj(Text):
        text.set_parse_math(False)
    drawn = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}), warnings.catch_warnings():
        # The reader's fonts show the text; that the font it is measured with lacks a letter is no matter.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(drawn, format="svg", transparent=True)
    root = ElementTree.fromstring(drawn.getvalue())
    for element in list(root.iter()):
        for child in list(element):
            if _local(child.tag) in ("style", "metadata"):
                element.remove(child)
    used = {found for element in root.iter() for found in _references(element)}
    for element in root.iter():
        _settle(element, name, used)
    for size in ("width", "height", "version"):
        root.attrib.pop(size, None)
    root.attrib |= {"role": "img", "aria-label": description}
    return ElementTree.tostring(root, encoding="unicode")


def _references(element: ElementTree.Element) -> list[str]:
    return [
        found for value in element.attrib.values() for found in re.findall(r"^(?:url\()?#([\w-]+)", value)
    ]


def _settle(element: ElementTree.Element, name: str, used: set[str]) -> None:
    """Plain tag and attribute names, styles as attributes, identifiers of this figure alone."""
    element.tag, element.tail = _local(element.tag), None
    if element.tag != "text":
        element.text = None  # indentation
    attributes: dict[str, str] = {}
    for key, value in element.attrib.items():
        key = _local(key)
        if key == "style":
            attributes |= _declarations(value)
        elif key == "id":
            if value in used:
                attributes["id"] = f"{name}-{value}"
        elif key == "href" or value.startswith("url(#"):
            attributes[key] = _REFERENCE.sub(rf"#{name}-\1", value)
        else:
            attributes[key] = " ".join(value.split())
    element.attrib.clear()
    element.attrib.update(attributes)


def _declarations(style: str) -> dict[str, str]:
    """``fill: #333333; stroke: none`` as presentation attributes; the page chooses the font's family."""
    pairs = (declaration.split(":", 1) for declaration in style.split(";") if ":" in declaration)
    found = {key.strip(): value.strip() for key, value in pairs}
    return {key: _VARIABLES.get(value, value) for key, value in found.items() if key != "font-family"}


def _local(name: str) -> str:
    return name.rsplit("}", 1)[-1]

"""A page that needs nothing but itself: one style sheet, figures as SVG, no script, nothing asked of the network.

Templates and style sheets lie in this room; every page extends ``page.html`` and starts from ``page.css``. A
content security policy allows the page's one style sheet, by hash.
"""

from __future__ import annotations

import base64
import hashlib
import os
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup


@dataclass(frozen=True)
class Picture:
    """A figure of a page."""

    title: str
    look_for: str
    svg: Markup
    header: list[str] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)
    """The numbers of the figure, the first cell of a row its name."""


def write_page(path: Path, name: str, page: Any) -> None:
    """Render ``<name>.html`` with ``<name>.css`` and write it, beside `path` and then renamed.

    Args:
        path: of the page; its folder is made if it is missing.
        name: of the template and its style sheet.
        page: what the template calls ``page``; it has a `footer`.
    """
    text = _render(name, page)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.{os.getpid()}.partial")
    beside.write_text(text, encoding="utf-8")
    os.replace(beside, path)


def _render(name: str, page: Any) -> str:
    style = _read("page.css") + _read(f"{name}.css")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, loader=jinja2.FunctionLoader(_read)
    )
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    template = environment.get_template(f"{name}.html")
    return template.render(page=page, style=Markup(style), style_hash=digest) + "\n"


def _read(name: str) -> str:
    return files("lit_rlhf.reports").joinpath(name).read_text(encoding="utf-8")

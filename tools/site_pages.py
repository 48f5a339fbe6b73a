"""Hooks of mkdocs: pages whose source lies outside of docs/, links that lead there, and the colours of code.

In a repository's browser `../SECURITY.md` is a file beside docs/; on the site it is a page of its own.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

ROOT = Path(__file__).parent.parent
OUTSIDE = {"CHANGELOG.md": "changelog.md", "SECURITY.md": "security-policy.md", "README.md": "index.md"}

THEMES = {"light": "default", "dark": "github-dark"}

# What begins a line of a terminal, and its colour there: such as read on black and on white.
PAINTED = {
    "parameter": "#0e8088",
    "buffer": "#a86500",
    "non-persistent": "#b04fc4",
    "not stored, by design": "#b04fc4",
    "changed": "#a86500",
    "removed": "#e03e3e",
    "added": "#2d8a3e",
    "!": "#a86500",
    "→": "#2d8a3e",
    "error:": "#e03e3e",
    "hint:": "#3f7fd9",
}
_LINE = re.compile(rf'(<span class="go">\s*)({"|".join(map(re.escape, PAINTED))})(?=[\s:])')


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for each file that has none in docs/, and colours for a light and for a dark page."""
    from mkdocs.structure.files import File
    from pygments.formatters import HtmlFormatter

    for source, page in OUTSIDE.items():
        if files.get_file_from_path(page) is None:
            files.append(File.generated(config, page, content=(ROOT / source).read_text("utf-8")))
    styles = [
        HtmlFormatter(style=style).get_style_defs(f"[data-bs-theme={theme}] .codehilite")
        for theme, style in THEMES.items()
    ]
    files.append(File.generated(config, "css/code.css", content="\n".join(styles)))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """Turn links out of docs/ and links into it, as the outer files have them, to pages of the site."""
    for source, page in OUTSIDE.items():
        markdown = markdown.replace(f"](../{source}", f"]({page}").replace(f"]({source}", f"]({page}")
    return markdown.replace("](docs/", "](")


def on_page_content(html: str, **_: object) -> str:
    """Paint what a terminal paints: Pygments knows of output only that it is output."""
    return _LINE.sub(
        lambda found: f'{found[1]}<span style="color: {PAINTED[found[2]]}">{found[2]}</span>', html
    )

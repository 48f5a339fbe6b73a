"""Hooks of mkdocs: pages whose source lies outside of docs/, links that lead there, and the colours of code.

In a repository's browser `../SECURITY.md` is a file beside docs/; on the site it is a page of its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

ROOT = Path(__file__).parent.parent
OUTSIDE = {"CHANGELOG.md": "changelog.md", "SECURITY.md": "security-policy.md", "README.md": "index.md"}

THEMES = {"light": "default", "dark": "github-dark"}


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

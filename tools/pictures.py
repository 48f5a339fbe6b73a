"""Pictures of the terminal for README and docs, from real runs.

`python -m tools.pictures` (or `make pictures`) writes the demo checkpoints into a temporary folder, runs each
command of PICTURES there on a pseudo-terminal, and draws what it printed. Nothing is fetched to look at one,
no font either, and it brings its own background: it reads on a light page and on a dark one.
"""

from __future__ import annotations

import io
import os
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

from sample_models import write_demo
from tools.terminal import run_on_terminal

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "docs" / "images"
WIDTH = 100
PICTURES = {
    "inspect.svg": ("inspect", "decoder_training.pt"),
    "verify.svg": ("verify", "swin.pt", "--model", "swin.py:build", "--device", "cpu"),
}

# Black, red, green, yellow, blue, magenta, cyan, white; then the bright ones. All reach a contrast of 4.4 : 1
# against the background, dimmed text included: what reads on black and on white reaches no more than 4.6.
_NORMAL = [
    (33, 38, 45),
    (255, 123, 114),
    (86, 211, 100),
    (227, 179, 65),
    (121, 192, 255),
    (210, 168, 255),
    (86, 212, 221),
    (230, 237, 243),
]
_THEME = TerminalTheme((0, 0, 0), (230, 237, 243), _NORMAL, _NORMAL)

# Rich's own template loads a font from a server.
_TEMPLATE = """\
<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg" role="img">
<style>
.{unique_id}-matrix {{
    font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace;
    font-size: {char_height}px;
    line-height: {line_height}px;
    font-variant-east-asian: full-width;
}}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}" />
</clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


def print_of(arguments: tuple[str, ...], folder: Path) -> str:
    """Return what ``ckpttool`` prints on a terminal in ``folder``, colours included and progress left out."""
    environment = {
        **{name: value for name, value in os.environ.items() if name != "NO_COLOR"},
        "COLUMNS": str(WIDTH),
        "TERM": "xterm-256color",
        "PYTHONPATH": str(ROOT),
    }
    status, text = run_on_terminal(
        [sys.executable, "-m", "ckpttool", *arguments],
        width=WIDTH,
        environment=environment,
        folder=folder,
        with_errors=False,
    )
    if status != 0:
        raise RuntimeError(f"ckpttool {' '.join(arguments)} ends with {status}")
    return text


def draw(arguments: tuple[str, ...], folder: Path) -> str:
    """Return the picture of one command as SVG."""
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, highlight=False)
    console.print(Text.assemble(("$ ", "green"), " ".join(("ckpttool", *arguments))), soft_wrap=True)
    console.print(Text.from_ansi(print_of(arguments, folder)), soft_wrap=True)
    return console.export_svg(
        title="ckpttool", theme=_THEME, code_format=_TEMPLATE, unique_id=f"ckpttool-{arguments[0]}"
    )


def text_of(svg: str) -> list[str]:
    """Return the lines of text that a picture shows."""
    space = "{http://www.w3.org/2000/svg}"
    lines: dict[float, list[tuple[float, str]]] = {}
    for element in ElementTree.fromstring(svg).iterfind(f"{space}g/{space}g/{space}text"):  # noqa: S314
        place = (float(element.get("x", "0")), element.text or "")
        lines.setdefault(float(element.get("y", "0")), []).append(place)
    rows = ["".join(text for _, text in sorted(parts)) for _, parts in sorted(lines.items())]
    return [row.replace("\xa0", " ").rstrip() for row in rows]


def main() -> None:
    """Draw every picture anew."""
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        write_demo.write_demo(Path(name))
        for file, arguments in PICTURES.items():
            (FOLDER / file).write_text(draw(arguments, Path(name)), encoding="utf-8")
            print(FOLDER.relative_to(ROOT) / file)


if __name__ == "__main__":
    main()

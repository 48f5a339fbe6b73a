"""docs/ builds as a site without a warning, and the site needs nothing from elsewhere."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if importlib.util.find_spec("mkdocs") is None:
        pytest.skip("mkdocs is not installed: pip install '.[docs]'")
    folder = tmp_path_factory.mktemp("site")
    build = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)],
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
        timeout=120,
    )
    assert (build.returncode, build.stdout, build.stderr) == (0, "", "")
    return folder


def test_every_page_is_there(site: Path) -> None:
    pages = {path.stem for path in ROOT.joinpath("docs").glob("*.md")} | {"changelog", "security-policy"}
    assert pages <= {path.stem for path in site.glob("*.html")}
    menu = site.joinpath("index.html").read_text("utf-8")
    assert [page for page in sorted(pages) if f'href="{page}.html"' not in menu] == []


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    loads = re.compile(
        r"""(?:<link[^>]*\shref|\ssrc)=["']((?:https?:)?//[^"']*)|url\(["']?((?:https?:)?//[^)]*)"""
    )
    files = [*site.glob("*.html"), *site.rglob("*.css")]
    assert len(files) > 20
    assert [
        (file.name, found[0]) for file in files for found in loads.finditer(file.read_text("utf-8"))
    ] == []


def test_output_of_terminals_is_painted(site: Path) -> None:
    page = site.joinpath("diff.html").read_text("utf-8")
    assert re.search(r'<span class="go">\s*<span style="color: #a86500">changed</span>  layers', page)
    tutorial = site.joinpath("tutorial.html").read_text("utf-8")
    assert '<span style="color: #2d8a3e">→</span> ckpttool convert' in tutorial


def test_links_say_what_they_lead_to(site: Path) -> None:
    named = re.compile(r'<a href="[^"]*">[\w-]+\.md</a>')
    assert [
        (page.name, found) for page in site.glob("*.html") for found in named.findall(page.read_text("utf-8"))
    ] == []

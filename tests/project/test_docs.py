"""Every command and every snippet of README and docs does what the page says. The rules: documents.py."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from ckpttool.formats.base import DEFAULT_LIMITS
from tests.support.documents import (
    LANGUAGES,
    ROOT,
    Block,
    Terminal,
    abridge,
    blocks,
    pages,
    pattern,
    read_page,
    run_doctest,
    steps,
    tidy,
)

PAGES = pages()
# What a page tells its reader to put before its snippets.
PRELUDE = {"docs/lint.md": "import torch\nfrom torch import nn\n"}
NOT_RUN = [(page, block) for page in PAGES for block in blocks(read_page(page)) if block.not_run]


@pytest.fixture
def terminal(demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """In the demo folder, which lies in build/demo of what looks like the checkout."""
    folder = tmp_path / "build" / "demo"
    shutil.copytree(demo, folder)
    monkeypatch.chdir(tmp_path)
    return Terminal(folder, tmp_path)


@pytest.mark.parametrize("page", PAGES)
def test_page_runs(
    page: str, terminal: Terminal, update_golden: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if page == "README.md":
        terminal.folder = terminal.folder.parent.parent  # it speaks of build/demo
    namespace: dict[str, Any] = {"__name__": "documented"}
    exec(PRELUDE.get(page, ""), namespace)
    text = read_page(page)
    wrong: list[str] = []
    changes: list[tuple[Block, str]] = []
    for block in blocks(text):
        where = f"{page}:{block.line}"
        if block.not_run:
            continue
        if block.language == "console":
            changes.append((block, run_console(where, block, terminal, wrong)))
        elif block.language == "python":
            monkeypatch.chdir(terminal.folder)
            exec(compile(block.body, where, "exec"), namespace)
        elif block.language == "pycon":
            monkeypatch.chdir(terminal.folder)
            wrong += filter(None, [run_doctest(block.body, where, namespace)])
    if update_golden:
        for block, body in reversed(changes):
            text = text[: block.start] + body + text[block.start + len(block.body) :]
        (ROOT / page).write_text(text, "utf-8")
    assert not wrong, "\n\n".join(wrong)


def run_console(where: str, block: Block, terminal: Terminal, wrong: list[str]) -> str:
    """Type the commands of a block, note what is ``wrong``, and return the block as it would be right."""
    lines: list[str] = []
    for step in steps(block):
        status, printed = terminal.type(step.command)
        shown, said = tidy("\n".join(step.output)), tidy(printed)
        kept = step.output
        if status != (step.status or 0):
            wrong.append(
                f"{where}: $ {step.command}\nends with {status}, and not {step.status or 0}:\n{said}"
            )
        elif shown and not pattern(shown.split("\n")).fullmatch(said + "\n"):
            wrong.append(f"{where}: $ {step.command}\nprints:\n{said}\n--- and the page shows:\n{shown}")
            blank = [""] if step.output[-1] == "" else []
            kept = abridge(shown.split("\n"), said.split("\n")) + blank
        lines += [f"$ {step.command}", *kept]
        if step.status is not None:
            lines += ["$ echo $?", str(status)]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(("page", "block"), NOT_RUN, ids=lambda value: getattr(value, "line", value))
def test_block_that_is_not_run(page: str, block: Block) -> None:
    pytest.skip(f"{page}:{block.line} is not run: {block.not_run}")


@pytest.mark.parametrize("page", PAGES)
def test_every_block_says_what_it_is(page: str) -> None:
    text = read_page(page)
    found = list(blocks(text))
    assert {block.language for block in found} <= LANGUAGES
    assert len(re.findall(r"^\s*```", text, re.MULTILINE)) == 2 * len(found)
    # A command that is disguised as something else would not be run.
    shown = [block for block in found if block.language not in ("console", "python", "pycon")]
    assert [block.line for block in shown if re.search(r"^(\$|>>>) ", block.body, re.MULTILINE)] == []


@pytest.mark.parametrize("page", [*PAGES, "CHANGELOG.md"])
def test_every_link_leads_somewhere(page: str) -> None:
    folder = (ROOT / page).parent
    text = re.sub(r"```.*?```|`[^`\n]*`", "", read_page(page), flags=re.DOTALL)
    targets = [target for target in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in target]
    for target in targets:
        path, _, anchor = target.partition("#")
        file = folder / path if path else ROOT / page
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text("utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in slugs, target


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_is_named_is_there(page: str) -> None:
    named = re.findall(
        r"\b(?:ckpttool|benchmarks|docs|sample_models|tests|tools)/[\w./-]+\.\w+", read_page(page)
    )
    assert [path for path in named if not (ROOT / path).exists()] == []
    modules = re.findall(r"python -m ((?:benchmarks|sample_models|tools)[\w.]*)", read_page(page))
    for module in modules:
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module


def test_every_make_target_that_is_named_is_there() -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    named = {name for page in PAGES for name in re.findall(r"`make (\w+)", read_page(page))}
    assert len(named) >= 5
    assert named <= targets


def test_every_page_is_in_the_menu() -> None:
    menu = set(re.findall(r": ([\w-]+\.md)$", (ROOT / "mkdocs.yml").read_text("utf-8"), re.MULTILINE))
    pages_there = {path.name for path in (ROOT / "docs").glob("*.md")}
    assert menu - {"changelog.md", "security-policy.md"} == pages_there, (
        "mkdocs.yml lists the pages under nav"
    )


def test_limits_are_those_of_the_code() -> None:
    page = read_page("docs/formats.md").partition("## Limits\n")[2]
    texts = {}
    for name, limit in DEFAULT_LIMITS._asdict().items():
        texts[name] = f"{limit >> 20} MiB" if limit % (1 << 20) == 0 else f"{limit:,}"
    assert len(texts) >= 9
    assert [name for name, text in texts.items() if text not in page] == []

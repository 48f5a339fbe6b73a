"""Every command and every snippet of README and docs does what the page says. The rules: documents.py."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from sample_models import write_demo
from tests.documents import (
    LANGUAGES,
    ROOT,
    Block,
    Terminal,
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


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    write_demo.write_demo(folder)
    return folder


@pytest.fixture
def terminal(demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """In the demo folder, which lies in build/demo of what looks like the checkout."""
    folder = tmp_path / "build" / "demo"
    shutil.copytree(demo, folder)
    monkeypatch.chdir(tmp_path)
    return Terminal(folder, tmp_path)


@pytest.mark.parametrize("page", PAGES)
def test_page_runs(page: str, terminal: Terminal, update_golden: bool) -> None:
    if page == "README.md":
        terminal.folder = terminal.folder.parent.parent  # it speaks of build/demo
    namespace: dict[str, Any] = {"__name__": "documented"}
    exec(PRELUDE.get(page, ""), namespace)
    wrong: list[str] = []
    for block in blocks(read_page(page)):
        where = f"{page}:{block.line}"
        if block.not_run or block.language not in ("console", "python", "pycon"):
            continue
        if block.language == "console":
            wrong += run_console(page, block, terminal, update=update_golden)
            continue
        os.chdir(terminal.folder)
        if block.language == "python":
            exec(compile(block.body, where, "exec"), namespace)
        else:
            wrong += filter(None, [run_doctest(block.body, where, namespace)])
    assert not wrong, "\n\n".join(wrong)


def run_console(page: str, block: Block, terminal: Terminal, *, update: bool) -> list[str]:
    """Type the commands of a block; with ``update``, write into the page what they print now."""
    wrong = []
    for step in steps(block):
        where = f"{page}:{block.line + step.line + 1}: $ {step.command}"
        status, printed = terminal.type(step.command)
        shown, said = tidy("\n".join(step.output)), tidy(printed)
        if status != step.status:
            wrong.append(f"{where}\nends with {status}, and not {step.status}:\n{said}")
        elif shown and not pattern(shown.split("\n")).fullmatch(said + "\n"):
            wrong.append(f"{where}\nprints:\n{said}\n--- and the page shows:\n{shown}")
            path = ROOT / page
            if update and not re.search(r"^\s*…$", shown, re.MULTILINE):
                path.write_text(path.read_text("utf-8").replace(shown, said), "utf-8")
    return wrong


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

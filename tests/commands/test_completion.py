"""Completion as the shells do it: each sources the script, and is asked for what Tab would show."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from ckpttool import cli
from ckpttool.commands.options import complete_choice, complete_list
from ckpttool.commands.parser import COMPLETE_VARIABLE
from tests.support.programs import write_program

ROOT = Path(__file__).parents[2]

# The line up to the cursor, and all that is offered there.
CASES = {
    "ckpttool ins": {"inspect"},
    "ckpttool ": {name for name, _ in cli.COMMANDS},
    "ckpttool inspect --fail": {"--fail-on"},
    "ckpttool convert --strip-": {"--strip-prefix"},
    "ckpttool inspect x.pt --sort ": {"file", "name", "size"},
    "ckpttool inspect x.pt --fail-on nan,z": {"nan,zero"},
    "ckpttool diff --only b": {"buffers"},
    "ckpttool verify x.pt --load copy,": {"copy,assign", "copy,to-empty", "copy,round-trip"},
    "ckpttool convert --dtype bf": {"bf16"},
    "ckpttool inspect mod": {"model.pt", "model.safetensors"},
    "ckpttool convert model.pt --manifest mod": {"model.pt", "model.safetensors"},
    "ckpttool lint ne": {"net.py"},
}

BASH = """
source ./script
read -ra COMP_WORDS <<< "$1"
[[ $1 == *' ' ]] && COMP_WORDS+=('')
COMP_CWORD=$(( ${#COMP_WORDS[@]} - 1 ))
_ckpttool_completion ckpttool
# `complete -o default`: files, where the function has nothing to say.
if [ ${#COMPREPLY[@]} -eq 0 ]; then compgen -f -- "${COMP_WORDS[COMP_CWORD]}"; fi
printf '%s\\n' "${COMPREPLY[@]}"
complete -p ckpttool >&2
"""

# Completion of zsh lives in its line editor: a second zsh on a pseudo-terminal, which lists what it offers.
# The marks tell that from what the terminal echoes.
ZSH_SETUP = r"""
PS1=
autoload -Uz compinit
compinit -u -D
source ./script
compadd () {
    if [[ ${@[(I)-(O|A|D)]} -gt 0 ]]; then builtin compadd "$@"; return; fi
    typeset -a hits
    builtin compadd -A hits "$@"
    print -rl -- "<"${^hits}">"
    builtin compadd "$@"
}
show () { print -r -- BEGIN; _main_complete; print -r -- END; exit }
zle -C show complete-word show
bindkey "^I" show
print -r -- READY
"""

ZSH = r"""
zmodload zsh/zpty
zpty child zsh -f -i
zpty -w child 'source ./setup'
zpty -r -m child line '*READY*' || exit 3
zpty -w -n child "$1"$'\t'
zpty -r -m child line '*END*' || exit 4
print -r -- "${line##*BEGIN}"
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shell")
    for name in ("model.pt", "model.safetensors", "net.py", "other.txt"):
        folder.joinpath(name).touch()
    write_program(folder)
    return folder


def environment(folder: Path, **more: str) -> dict[str, str]:
    path = f"{folder / 'bin'}:{os.environ['PATH']}"
    home = {"HOME": str(folder), "XDG_CONFIG_HOME": str(folder), "XDG_DATA_HOME": str(folder)}
    return {**os.environ, **home, "PATH": path, "PYTHONPATH": str(ROOT), "TERM": "dumb", **more}


def run(folder: Path, *command: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=folder,
        env=environment(folder, **more),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=120,
    )


def script(folder: Path, shell: str) -> str:
    """Write the script of a shell, or skip where that shell is missing."""
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    done = run(folder, "ckpttool", **{COMPLETE_VARIABLE: f"source_{shell}"})
    assert (done.returncode, done.stderr) == (0, "")
    folder.joinpath("script").write_text(done.stdout)
    checked = run(folder, shell, "-n", "script")
    assert (checked.returncode, checked.stderr) == (0, "")
    return done.stdout


@pytest.mark.slow
def test_bash(folder: Path) -> None:
    script(folder, "bash")
    offered = {}
    for line in CASES:
        done = run(folder, "bash", "--norc", "-c", BASH, "bash", line)
        assert done.stderr == "complete -o default -F _ckpttool_completion ckpttool\n"
        offered[line] = set(done.stdout.split())
    assert offered == CASES


@pytest.mark.slow
def test_zsh(folder: Path) -> None:
    script(folder, "zsh")
    folder.joinpath("setup").write_text(ZSH_SETUP)
    offered = {}
    for line in CASES:
        done = run(folder, "zsh", "-f", "-c", ZSH, "zsh", line)
        assert done.returncode == 0, done.stderr
        shown = done.stdout.replace("\r", "").split("\n")
        offered[line] = {text[1:-1] for text in shown if text.startswith("<") and text.endswith(">")}
    assert offered == CASES


@pytest.mark.slow
def test_fish(folder: Path) -> None:
    script(folder, "fish")
    offered = {}
    for line in CASES:
        done = run(folder, "fish", "--no-config", "-c", f"source script; complete -C '{line}'")
        assert (done.returncode, done.stderr) == (0, "")
        offered[line] = {text.split("\t")[0] for text in done.stdout.splitlines()}
    assert offered == CASES


def test_a_shell_that_is_not_known(folder: Path) -> None:
    done = run(folder, "ckpttool", **{COMPLETE_VARIABLE: "complete_tcsh"})
    assert (done.returncode, done.stdout) == (1, "")
    assert "tcsh" in done.stderr


@pytest.mark.parametrize(
    "line", ["ckpttool inspect 'unfinished", "ckpttool inspect a\x1b", "ckpttool bogus --x"]
)
def test_what_cannot_be_completed_is_no_error(folder: Path, line: str) -> None:
    words = {"COMP_WORDS": line, "COMP_CWORD": "2", COMPLETE_VARIABLE: "complete_bash"}
    done = run(folder, "ckpttool", **words)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "", "")


def test_install_completion_says_what_it_wrote(folder: Path) -> None:
    done = run(folder, "bash", "--norc", "-c", "ckpttool --install-completion; echo status $?")
    assert done.stdout.endswith("status 0\n") and done.stderr == ""
    assert "source" in folder.joinpath(".bashrc").read_text("utf-8")
    assert "_ckpttool_completion" in folder.joinpath(".bash_completions", "ckpttool.sh").read_text("utf-8")


def test_values() -> None:
    assert complete_choice("file", "name")("") == ["file", "name"]
    assert complete_choice("file", "name")("n") == ["name"]
    assert complete_list("nan", "inf", "zero")("") == ["nan", "inf", "zero"]
    assert complete_list("nan", "inf", "zero")("nan,") == ["nan,inf", "nan,zero"]
    assert complete_list("nan", "inf", "zero")("nan,zero,i") == ["nan,zero,inf"]
    assert complete_list("nan")("nan,x") == []

"""The hooks for pre-commit and the GitHub action: what they say is what runs."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ckpttool import cli
from tests.support.programs import write_program

ROOT = Path(__file__).parents[2]
yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")


def read(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text("utf-8"))


@pytest.mark.parametrize(("at", "bad"), [(0, "batch_norms_legacy.pth"), (1, "not_a_number.safetensors")])
def test_each_hook_runs_and_fails_as_it_says(
    at: int, bad: str, demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch = pytest.importorskip("torch")
    torch.save({"w": torch.tensor([float("nan")])}, tmp_path / "not_a_number.safetensors")
    hook = read(".pre-commit-hooks.yaml")[at]
    wrong = demo / bad if (demo / bad).exists() else tmp_path / bad
    paths = [str(demo / "base.pt"), str(wrong)]
    assert all(re.search(hook["files"], path) for path in paths)
    assert not any(re.search(hook["files"], path) for path in ("a.py", "ckpt/readme.md", "apt"))
    program, *words = shlex.split(hook["entry"])
    assert program == "ckpttool" and hook["id"] in (ROOT / "docs/ci.md").read_text("utf-8")
    assert cli.main([*words, paths[0]]) == 0
    assert cli.main([*words, *paths]) == 1
    assert cli.main([*words, *paths, str(tmp_path / "none.pt")]) == 2


class Job:
    """A job that uses the action: its script, in a folder with files."""

    def __init__(self, folder: Path, scratch: Path) -> None:
        self.step = next(step for step in read("action.yml")["runs"]["steps"] if step["name"] == "Inspect")
        self.folder, self.summary = folder, scratch / "summary.md"
        self.path = f"{write_program(scratch)}:{os.environ['PATH']}"

    def run(self, **inputs: str) -> subprocess.CompletedProcess[str]:
        given = {name: about.get("default", "") for name, about in read("action.yml")["inputs"].items()}
        given |= {name.replace("_", "-"): value for name, value in inputs.items()}
        env = {
            **os.environ,
            "PATH": self.path,
            "PYTHONPATH": str(ROOT),
            "GITHUB_STEP_SUMMARY": str(self.summary),
        }
        for name, expression in self.step["env"].items():
            found = re.fullmatch(r"\$\{\{ inputs\.([\w-]+) \}\}", expression)
            assert found is not None
            env[name] = given[found[1]]
        command = [
            "bash",
            "--noprofile",
            "--norc",
            "-eo",
            "pipefail",
            "-c",
            self.step["run"],
        ]  # as GitHub does
        return subprocess.run(
            command, cwd=self.folder, env=env, capture_output=True, encoding="utf-8", timeout=60, check=False
        )


def test_the_action(demo: Path, tmp_path: Path) -> None:
    folder = tmp_path / "files"
    (folder / "deep" / "er").mkdir(parents=True)
    for name in ("base.pt", "batch_norms_legacy.pth"):
        (folder / "deep" / "er" / f"a b {name}").write_bytes((demo / name).read_bytes())
    job = Job(folder, tmp_path)
    assert (job.run(paths="**/*.pt").returncode, job.run(paths="**/*.pt\n**/*.pth").returncode) == (0, 1)
    text = job.summary.read_text("utf-8")
    assert text.startswith("**state") and text.count("ok ") == text.count("failed ") == 1
    assert job.run(paths="**/*.p*", fail_on="nan", summary="false").stdout.count("findings ") == 1
    assert job.summary.read_text("utf-8") == text
    none = job.run(paths="**/*.ptt")
    assert (none.returncode, none.stderr) == (2, "error: no file matches **/*.ptt\n")
    typo = job.run(paths="**/*.pt", include="lm_hed*")
    assert typo.returncode == 2 and "did you mean 'lm_head.*'" in typo.stderr


def test_an_input_of_the_action_is_never_run(demo: Path, tmp_path: Path) -> None:
    job = Job(demo, tmp_path)
    for text in ("$(touch pwned)", "`touch pwned`", "x; touch pwned", '"; touch pwned; "'):
        for inputs in (
            {"paths": text},
            {"paths": "base.pt", "include": text},
            {"paths": "base.pt", "fail_on": text},
        ):
            assert job.run(**inputs).returncode == 2
    assert not (demo / "pwned").exists()
    assert "${{" not in job.step["run"]

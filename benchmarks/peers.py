"""Published tools that do one of the jobs, each installed into a virtual environment of its own.

Each does only what it can; where its answer is wrong, the table says so beside its time.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.contenders import CHANGED, COUNTS_BUFFERS, OUT_SAFETENSORS, PT, A, B, Contender
from benchmarks.measure import last_line

CONSTRAINTS = Path(__file__).parent.parent / "constraints.txt"
# What a tool needs to read a .pt and does not install by itself; at the versions of constraints.txt.
TORCH = ("torch", "numpy", "safetensors")
NO_LIMIT = 1 << 40  # bytes

PT_LOADER = f"""
from pt_loader import PtCheckpoint
checkpoint = PtCheckpoint.load("plain.pt", max_archive_bytes={NO_LIMIT}, max_tensor_bytes={NO_LIMIT})
checkpoint.export("{OUT_SAFETENSORS}", overwrite=True)
"""
SAVE_TORCH_STATE_DICT = f"""
import torch
from huggingface_hub import save_torch_state_dict
state = torch.load("{PT}", weights_only=True)
save_torch_state_dict(state, ".", filename_pattern="out{{suffix}}.safetensors", max_shard_size="1TB")
"""
DIFFAI = """
import sys, diffai
print(len(diffai.diff_paths(*sys.argv[1:])), "differences")
"""


def entry(command: str, *code: str, **facts: Any) -> Contender:
    """A contender that still lacks its name and the folder of its program."""
    return Contender("", (*shlex.split(command), *code), "peer", **facts)


def conversion(command: str, *code: str, **facts: Any) -> Contender:
    """One that writes the safetensors file."""
    return entry(command, *code, **{"writes": (OUT_SAFETENSORS,), "holds": PT, **facts})


class Peer(NamedTuple):
    """A tool, pinned: what pip installs, what it needs before, and what it can do."""

    name: str
    version: str
    entries: dict[str, Contender]
    before: tuple[str, ...] = ()
    extra: str = ""

    @property
    def label(self) -> str:
        """Its name and version."""
        return f"{self.name} {self.version}"

    def contender(self, job: str, root: Path) -> Contender | None:
        """Its part in ``job``, run from its environment under ``root``."""
        found = self.entries.get(job)
        if found is None:
            return None
        program = str(root / self.name / "bin" / found.command[0])
        return replace(found, name=self.label, command=(program, *found.command[1:]))


PEERS = (
    Peer(
        "sft-cli",
        "0.2.2",
        {
            "inspect-safetensors": entry(f"sft info {A}", right="{parameters}", fault=COUNTS_BUFFERS),
            "convert-to-safetensors": conversion(f"sft convert {PT} -o {OUT_SAFETENSORS}"),
            "diff-equal": entry(f"sft diff --delta {A} {B}", right=r"differ +0\b", fault="sees differences"),
            "diff-changed": entry(
                f"sft diff --delta {A} {CHANGED}", right=r"equal +0\b", fault="misses differences"
            ),
        },
        TORCH,
    ),
    Peer(
        "ckptkit",
        "0.3.0",
        {
            "inspect-pt": entry(f"ckptkit info {PT}"),
            "inspect-safetensors": entry(f"ckptkit info {A}"),
            "diff-changed": entry(
                f"ckptkit diff {A} {CHANGED}", right="Changes: [1-9]", fault="calls the files identical"
            ),
        },
        TORCH,
        "[cli]",
    ),
    Peer(
        "checkpoint-lens",
        "0.1.2",
        {"inspect-pt": entry(f"checkpoint-lens inspect {PT}", right="{parameters}", fault=COUNTS_BUFFERS)},
        TORCH,
    ),
    Peer(
        "modelinfo-cli",
        "1.4.4",
        {"inspect-safetensors": entry(f"modelinfo {A}", right="{parameters}", fault=COUNTS_BUFFERS)},
    ),
    Peer(
        "safetensors-print",
        "0.1.0",
        {"inspect-safetensors": entry(f"safetensors-print {A} --summary --tensors")},
    ),
    Peer(
        "checkpoint-tools",
        "0.2.0",
        {"convert-to-safetensors": conversion(f"checkpoint-tools convert {PT} --name out")},
        TORCH,
    ),
    Peer(
        "huggingface_hub",
        "2.4.0",
        {"convert-to-safetensors": conversion("python -c", SAVE_TORCH_STATE_DICT)},
        TORCH,
    ),
    Peer(
        "pt-safe-loader",
        "0.1.4",
        {
            "convert-to-safetensors": conversion(
                "python -c", PT_LOADER, writes=(OUT_SAFETENSORS, "out.yaml"), files=("plain.pt",)
            )
        },
    ),
    Peer(
        "diffai-python",
        "0.5.2",
        {
            "diff-equal": entry("python -c", DIFFAI, A, B, right="^0 differences", fault="sees differences"),
            "diff-changed": entry(
                "python -c", DIFFAI, A, CHANGED, right=r"^[1-9]\d* differences", fault="misses differences"
            ),
        },
    ),
)
"""pt-safe-loader does not read the ``_metadata`` of a state_dict and is given a plain dict instead."""


def install(peer: Peer, root: Path) -> str:
    """Install ``peer`` under ``root``, unless it is there; return why that cannot be done, or nothing."""
    folder = root / peer.name
    done = folder / f".installed-{peer.version}"
    if done.exists():
        return ""
    pip = [str(folder / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check"]
    steps = [[sys.executable, "-m", "venv", "--clear", str(folder)]]
    if peer.before:
        steps.append([*pip, "-c", str(CONSTRAINTS), *peer.before])
    steps.append([*pip, f"{peer.name}{peer.extra}=={peer.version}"])
    for step in steps:
        ended = subprocess.run(step, capture_output=True, text=True, check=False)
        if ended.returncode:
            return last_line(ended.stderr)
    done.touch()
    return ""

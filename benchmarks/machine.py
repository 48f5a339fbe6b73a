"""What the figures were taken on."""

from __future__ import annotations

import os
import platform
import subprocess
import tempfile
from datetime import date
from importlib import metadata
from pathlib import Path

from benchmarks.tables import nbytes_text

PACKAGES = ("torch", "safetensors", "numpy", "typer", "rich", "isal")


def describe_machine(folder: Path | None) -> dict[str, str]:
    """The date, the hardware, the system and the versions."""
    return {
        "date": date.today().isoformat(),
        "cpu": _cpu(),
        "cores": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
        "memory": nbytes_text(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")),
        "system": f"{platform.system()} {platform.release().partition('-')[0]}",
        "file system": _file_system(folder or Path(tempfile.gettempdir())),
        "load": f"{os.getloadavg()[0]:.1f}",
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _file_system(folder: Path) -> str:
    """As `stat` of GNU names it."""
    command = ["stat", "--file-system", "--format=%T", str(folder)]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    return said.stdout.strip() or "unknown"


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"

"""Whatever happens to a conversion: the old target or none, nothing half-written, the source untouched."""

from __future__ import annotations

import fcntl
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ckpttool.cli import main
from ckpttool.files import staging, streams
from ckpttool.files.staging import partial_path
from tests.support.failing import Faulty, fault
from tests.support.peaks import peak_mib
from tests.support.warm import Warm

STATE = {"a": torch.arange(1000.0), "b": torch.arange(24).reshape(4, 6).t(), "c": torch.ones(3)}


def run(*arguments: object) -> int:
    return main(["convert", *map(str, arguments), "--quiet"])


@pytest.fixture
def source(tmp_path: Path) -> Path:
    torch.save(STATE, tmp_path / "a.pt")
    return tmp_path / "a.pt"


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


# -- what may be overwritten --------------------------------------------------------------------------


def test_an_existing_target_needs_force(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "b.safetensors"
    target.write_bytes(b"old")
    assert run(source, target) == 2
    assert target.read_bytes() == b"old"
    assert run(source, target, "--force") == 0
    assert set(load_file(target)) == set(STATE)


@pytest.mark.parametrize("kind", ["path", "hard link", "symbolic link"])
def test_the_source_is_never_its_own_target(
    source: Path, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    target = {"path": source, "hard link": tmp_path / "h.pt", "symbolic link": tmp_path / "s.pt"}[kind]
    if kind == "hard link":
        target.hardlink_to(source)
    elif kind == "symbolic link":
        target.symlink_to(source)
    before = source.read_bytes()
    assert run(source, target, "--force") == 2
    assert "source itself" in capsys.readouterr().err
    assert source.read_bytes() == before


def test_a_shard_is_never_its_own_target(source: Path, tmp_path: Path) -> None:
    assert run(source, tmp_path / "out", "--max-shard-size", "1KB") == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert run(tmp_path / "out", tmp_path / "out", "--max-shard-size", "1KB", "--force") == 2
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_a_link_is_replaced_and_what_it_leads_to_stays(source: Path, tmp_path: Path) -> None:
    blob = tmp_path / "blob"
    blob.write_bytes(b"shared by others")
    (tmp_path / "b.safetensors").symlink_to(blob)
    assert run(source, tmp_path / "b.safetensors", "--force") == 0
    assert blob.read_bytes() == b"shared by others"
    assert not (tmp_path / "b.safetensors").is_symlink()


def test_fifo_and_device_are_refused(source: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "f.pt")
    assert run(source, tmp_path / "f.pt", "--force") == 2
    assert run(source, "/dev/null", "--to", "pt", "--force") == 2


# -- modes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_a_new_file_has_the_mode_of_the_umask(source: Path, tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        assert run(source, tmp_path / "b.safetensors") == 0
        assert run(source, tmp_path / "out", "--max-shard-size", "1KB") == 0
    finally:
        os.umask(before)
    for path in (tmp_path / "b.safetensors", *(tmp_path / "out").iterdir()):
        assert path.stat().st_mode & 0o777 == 0o666 & ~umask


def test_a_replaced_file_keeps_its_mode(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "b.safetensors"
    target.touch()
    target.chmod(0o640)
    assert run(source, target, "--force") == 0
    assert target.stat().st_mode & 0o777 == 0o640


# -- two at once, and what a killed run left ----------------------------------------------------------


def test_a_second_run_for_the_same_target_says_so(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "b.safetensors"
    with open(partial_path(str(target)), "wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert run(source, target) == 2
        assert "another ckpttool is writing it" in capsys.readouterr().err
        assert Path(other.name).exists() and not target.exists()
    assert run(source, target) == 0  # its owner is gone: taken over
    assert names(tmp_path) == {"a.pt", "b.safetensors"}


def test_a_second_run_for_the_same_folder_says_so(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "out"
    partial = Path(partial_path(str(target)))
    partial.mkdir()
    (partial / "model-00001-of-00002.safetensors").write_bytes(b"of the other run")
    other = os.open(partial, os.O_RDONLY)
    try:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert run(source, f"{target}/", "--max-shard-size", "1KB") == 2
        said = capsys.readouterr().err
        assert said.startswith(f"error: {target}: another ckpttool is writing it\n") and "hint:  wait" in said
        assert names(partial) == {"model-00001-of-00002.safetensors"} and not target.exists()
    finally:
        os.close(other)
    assert run(source, f"{target}/", "--max-shard-size", "1KB") == 0
    assert not partial.exists()


def test_a_source_that_another_run_replaces_is_noticed(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two runs in a row at once: what one reads is what the other writes."""
    torch.save({"other": torch.ones(7)}, tmp_path / "z.pt")

    def convert_over() -> None:
        command = [
            sys.executable,
            "-m",
            "ckpttool",
            "convert",
            str(tmp_path / "z.pt"),
            str(source),
            "--force",
        ]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    with fault("pwrite", 1, convert_over):
        assert run(source, tmp_path / "b.safetensors") == 2
    assert f"{source}: the file was replaced by another while it was read" in capsys.readouterr().err
    assert names(tmp_path) == {"a.pt", "z.pt"}
    assert run(source, tmp_path / "b.safetensors") == 0
    assert set(load_file(tmp_path / "b.safetensors")) == {"other"}


def test_a_link_to_the_folder_of_the_source_is_the_source(source: Path, tmp_path: Path) -> None:
    assert run(source, tmp_path / "out", "--max-shard-size", "1KB") == 0
    (tmp_path / "link").symlink_to(tmp_path / "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert run(tmp_path / "out", tmp_path / "link", "--max-shard-size", "1KB", "--force") == 2
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_leftovers_of_a_folder_are_cleaned_up(source: Path, tmp_path: Path) -> None:
    partial = Path(partial_path(str(tmp_path / "out")))
    partial.mkdir()
    (partial / "model-00001-of-00009.safetensors").write_bytes(b"half")
    assert run(source, tmp_path / "out", "--max-shard-size", "1KB") == 0
    assert not partial.exists()
    assert "model-00001-of-00009.safetensors" not in names(tmp_path / "out")


def test_two_processes_never_mix(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "b.safetensors"
    command = [sys.executable, "-m", "ckpttool", "convert", str(source), str(target), "--force", "--quiet"]
    children = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(4)]
    statuses = []
    for child in children:
        _, err = child.communicate()
        statuses.append(child.returncode)
        assert child.returncode == 0 or b"another ckpttool" in err
    assert 0 in statuses
    assert all(torch.equal(tensor, STATE[name]) for name, tensor in load_file(target).items())
    assert names(tmp_path) == {"a.pt", "b.safetensors"}


# -- faults -------------------------------------------------------------------------------------------

CALLS = ("pwrite", "fsync", "rename", "ftruncate", "preadv")


def fail() -> None:
    raise OSError(5, "Input/output error")


def interrupt() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("options", [(), ("--max-shard-size", "1KB")], ids=["file", "shards"])
@pytest.mark.parametrize("act", [fail, interrupt])
@pytest.mark.parametrize("call", CALLS)
def test_every_failing_call_leaves_the_old_target_and_nothing_else(
    source: Path, tmp_path: Path, call: str, act: Callable[[], None], options: tuple[str, ...]
) -> None:
    target = tmp_path / ("out" if options else "b.safetensors")
    if not options:
        target.write_bytes(b"old")
    for number in range(1, 40):
        with fault(call, number, act) as faulty:
            status = run(source, target, *options, "--force")
        if faulty.left > 0:
            assert status == 0 and number > 1
            return
        assert status == (130 if act is interrupt else 2)
        left = names(tmp_path)
        if options:
            assert left == {"a.pt"} or (call == "fsync" and target.exists())  # the folder's, after the rename
        else:
            assert left == {"a.pt", "b.safetensors"}
            assert target.read_bytes() == b"old" or set(load_file(target)) == set(STATE)
        if options and target.exists():
            return
    pytest.fail("the call is made more often than was expected")


KILLER = """
import os, sys
from ckpttool.cli import main
from tests.support.failing import fault
call, number, *arguments = sys.argv[1:]
with fault(call, int(number), lambda: os.kill(os.getpid(), 9)):
    sys.exit(main(["convert", *arguments, "--quiet"]))
"""


@pytest.mark.parametrize("container", ["safetensors", "pt"])
def test_sigkill_at_any_call_leaves_the_old_target_and_the_next_run_cleans_up(
    source: Path, tmp_path: Path, container: str, warm: Warm
) -> None:
    target = tmp_path / f"b.{container}"
    killed = 0
    for call in CALLS:
        for number in range(1, 30):
            target.write_bytes(b"old")
            status = warm.run("-c", KILLER, call, number, source, target, "--force").returncode
            if status == 0:
                break
            assert status == -signal.SIGKILL
            killed += 1
            complete = target.read_bytes() != b"old"
            if complete:
                assert main(["inspect", str(target), "--quiet"]) == 0
            assert names(tmp_path) <= {"a.pt", target.name, os.path.basename(partial_path(target.name))}
            assert run(source, target, "--force") == 0
            assert names(tmp_path) == {"a.pt", target.name}
    assert killed >= 8


def test_a_file_size_limit_is_one_sentence(source: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ckpttool", "convert", str(source), str(tmp_path / "b.safetensors")]

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

    done = subprocess.run(command, check=False, capture_output=True, text=True, preexec_fn=limit)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and "file too large" in done.stderr
    assert names(tmp_path) == {"a.pt"}


def test_no_space_is_said_before_the_first_byte(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Full:
        f_bavail, f_frsize = 3, 512

    class Disk(Faulty):
        def statvfs(self, _where: object) -> Full:
            return Full()

    with fault("pwrite", 1, lambda: pytest.fail("a byte was written")):
        monkeypatch.setattr(staging, "os", Disk("", 0, fail))
        assert run(source, tmp_path / "b.safetensors") == 2
    assert "not enough space: needs" in capsys.readouterr().err
    assert names(tmp_path) == {"a.pt"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
@pytest.mark.slow
def test_signals_end_in_one_line_and_leave_nothing(tmp_path: Path, number: signal.Signals) -> None:
    torch.save({"a": torch.zeros(100_000_000)}, tmp_path / "a.pt")
    command = [sys.executable, "-m", "ckpttool", "convert", str(tmp_path / "a.pt"), str(tmp_path / "b.pt")]
    child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    partial = Path(partial_path(str(tmp_path / "b.pt")))
    while not partial.exists() and child.poll() is None:
        time.sleep(0.002)
    child.send_signal(number)
    _, err = child.communicate()
    assert (child.returncode, err) == (130, "interrupted\n")
    assert names(tmp_path) == {"a.pt"}


def test_a_disk_that_returns_other_bytes_is_noticed(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    real = streams.write_at

    def flip(fd: int, data: bytes | memoryview, offset: int) -> None:
        damaged = bytearray(data)
        damaged[len(damaged) // 2] ^= 1
        real(fd, bytes(damaged), offset)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams, "write_at", flip)
        assert run(source, tmp_path / "b.safetensors") == 2
        assert "reads back otherwise" in capsys.readouterr().err
        assert names(tmp_path) == {"a.pt"}
        assert run(source, tmp_path / "b.safetensors", "--no-check") == 0


def test_a_source_that_changes_meanwhile_is_refused(source: Path, tmp_path: Path) -> None:
    def touch() -> None:
        os.utime(source, ns=(1, 1))

    with fault("pwrite", 1, touch):
        assert run(source, tmp_path / "b.safetensors") == 2
    assert names(tmp_path) == {"a.pt"}


# -- memory -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_memory_is_flat_whatever_the_size(tmp_path: Path) -> None:
    folder = str(tmp_path)
    torch.save(
        {"a": torch.zeros(256 << 20, dtype=torch.uint8), "t": torch.zeros(4000, 5000).t()}, tmp_path / "a.pt"
    )
    plain = peak_mib("convert", f"{folder}/a.pt", f"{folder}/b.pt", "--quiet")
    gathered = peak_mib("convert", f"{folder}/a.pt", f"{folder}/b.safetensors", "--quiet")
    assert plain < 64 and gathered < 64


def test_the_sparse_layout_of_five_gigabytes_is_zip64(tmp_path: Path) -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(), torch.serialization.skip_data(materialize_fake_tensors=True):
        torch.save(
            {"big": torch.empty(5 << 30, dtype=torch.uint8), "small": torch.empty(3)}, tmp_path / "a.pt"
        )
    from ckpttool.conversion.shards import lay_out_file
    from ckpttool.formats import read_checkpoint
    from tests.support.converting import plan_of

    plan = plan_of(tmp_path / "a.pt", "pt")
    (layout,) = lay_out_file(plan, "b.pt")
    with open(tmp_path / "b.pt", "wb") as file:  # headers only: the pieces stay holes
        file.truncate(layout.nbytes)
        for segment in layout.segments({}):
            if segment.piece < 0:
                os.pwrite(file.fileno(), segment.literal, segment.offset)
    back = torch.load(tmp_path / "b.pt", weights_only=True, mmap=True)
    assert back["big"].shape == (5 << 30,) and back["big"][-1] == 0
    meta = torch.load(tmp_path / "b.pt", weights_only=True, map_location="meta")
    again = read_checkpoint(str(tmp_path / "b.pt"))
    for entry in again.entries:
        storage = entry.tensor.storage
        assert storage.byte_offset % 64 == 0
        assert meta[entry.name].untyped_storage()._checkpoint_offset == storage.byte_offset

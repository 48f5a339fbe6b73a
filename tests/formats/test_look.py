"""What the formats ask of one file before one of them reads it: each question is answered once."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from ckpttool.formats import read_checkpoint, zip_records
from ckpttool.formats.base import Limits
from ckpttool.formats.pickled import stream
from ckpttool.values.errors import CkptToolError, LimitExceeded, MalformedCheckpoint


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """One item for each zip directory and each pickle that is parsed."""
    made: list[str] = []
    for module, name in ((zip_records, "_locate_directory"), (stream, "parse_within")):

        def counted(*args: Any, _do: Any = getattr(module, name), _name: str = name, **more: Any) -> Any:
            made.append(_name)
            return _do(*args, **more)

        monkeypatch.setattr(module, name, counted)
    return made


def test_a_zip_directory_is_parsed_once(tmp_path: Path, calls: list[str]) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "a.pt")
    read_checkpoint(str(tmp_path / "a.pt"))
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "b.pt")
    read_checkpoint(str(tmp_path / "b.pt"))
    assert calls.count("_locate_directory") == 2


def test_a_zip_that_nothing_reads_is_parsed_once(tmp_path: Path, calls: list[str]) -> None:
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        archive.writestr("readme.txt", "text")
    with pytest.raises(CkptToolError, match="zip"):
        read_checkpoint(str(tmp_path / "a.pt"))
    assert calls == ["_locate_directory"]


def test_a_damaged_zip_is_refused_by_what_was_found_at_first(tmp_path: Path, calls: list[str]) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "a.pt")
    content = (tmp_path / "a.pt").read_bytes()
    (tmp_path / "a.pt").write_bytes(content.replace(b"PK\x01\x02", b"PK\x01\x03"))
    with pytest.raises(MalformedCheckpoint, match=r"a\.pt: the zip's central directory is damaged"):
        read_checkpoint(str(tmp_path / "a.pt"))
    assert calls == ["_locate_directory"]


def test_limits_hold_for_the_members_of_a_zip(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "a.pt")
    with pytest.raises(LimitExceeded, match="number of members in the zip exceeds the limit of 2"):
        read_checkpoint(str(tmp_path / "a.pt"), Limits(records=2))


def test_a_text_pickle_is_parsed_once(tmp_path: Path, calls: list[str]) -> None:
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"a": [1, 2]}, protocol=0))
    assert len(read_checkpoint(str(tmp_path / "a.pkl")).values) == 1
    assert calls == ["parse_within"]

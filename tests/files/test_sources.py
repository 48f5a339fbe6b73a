"""More files than may be open at once."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from ckpttool.files import local
from ckpttool.files.local import Sources
from ckpttool.files.tensor_bytes import TensorReader
from ckpttool.values.checkpoint import FileInfo, StorageRef
from ckpttool.values.errors import MalformedCheckpoint

MOST = 3


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    monkeypatch.setattr(local, "_MOST_OPEN", MOST)
    made = [tmp_path / str(number) for number in range(MOST + 2)]
    for path in made:
        path.write_bytes(path.name.encode() * 8)
    return made


def read(reader: TensorReader, path: Path) -> bytes:
    buffer = bytearray(8)
    reader.read_into(StorageRef(str(path), "k", 0, 8), 0, memoryview(buffer))
    return bytes(buffer)


def known(paths: list[Path]) -> list[FileInfo]:
    return [FileInfo.of(str(path), path.stat()) for path in paths]


def test_each_is_read_though_not_all_stay_open(paths: list[Path]) -> None:
    with closing(Sources(known(paths))) as sources, TensorReader(sources) as reader:
        for path in (*paths, *paths):
            assert read(reader, path) == path.name.encode() * 8
            assert len(sources._open) <= MOST


@pytest.mark.parametrize("again", [False, True], ids=["when it is closed", "when it is opened again"])
def test_one_that_changed_is_noticed_when_it_is_closed_and_when_it_is_opened_again(
    paths: list[Path], again: bool
) -> None:
    first, *rest = paths
    with closing(Sources(known(paths))) as sources:
        reader = TensorReader(sources)
        for path in (first, *rest[: MOST + again - 1]):
            read(reader, path)
        assert (str(first) in sources._open) is not again
        first.write_bytes(b"longer than it was")
        with pytest.raises(MalformedCheckpoint, match="the file changed while it was read") as caught:
            read(reader, first if again else rest[MOST])
        assert caught.value.path == str(first)

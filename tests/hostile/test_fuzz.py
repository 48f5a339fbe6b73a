"""Mutated files of every kind: nothing but our errors, bounded time and memory, inert output.

What must hold is in ``tests.hostile.exercise``, what is mutated in ``tests.hostile.mutations``. The search is
the same in every run; ``make fuzz`` searches at random, and ``fuzz/`` by coverage.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from safetensors import safe_open

from ckpttool.cli import main
from ckpttool.formats import read_checkpoint
from ckpttool.values.checkpoint import Entry, OddKey, TensorInfo
from ckpttool.values.errors import CkptToolError
from fuzz import fuzz_read
from fuzz.replay import describe, replay
from tests.hostile.exercise import TooMuchMemory, TooSlow, try_out, watched
from tests.hostile.mutate_json import parse, write
from tests.hostile.mutate_pickle import split_opcodes
from tests.hostile.mutate_zip import split_zip
from tests.hostile.mutations import FOLDER, mutate, pickle_in, write_input
from tests.hostile.seeds import seeds
from tests.hostile.torch_oracle import ask

ROOT = Path(__file__).parents[2]
KINDS = list(seeds())
EVERY_SEED = [(kind, number) for kind, files in seeds().items() for number in range(len(files))]
ALL = [content for files in seeds().values() for content in files]


def mutated(kind: str, rnd: Random) -> bytes:
    """A mutated file of one kind."""
    return mutate(rnd.choice(seeds()[kind]), rnd, rnd.choice(ALL))


# ------------------------------------------------------------------------------------------------ the search


def search(kind: str, max_examples: int) -> None:
    """Try so many mutated files."""

    @settings(max_examples=max_examples, suppress_health_check=list(HealthCheck))
    @given(rnd=st.randoms(use_true_random=False))
    def one(rnd: Random) -> None:
        data = mutated(kind, rnd)
        note(f"a file of {data!r}")
        try_out(data)

    one()


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_mutated_file_gives_only_our_errors(kind: str) -> None:
    search(kind, 400)


@pytest.mark.fuzz
@pytest.mark.parametrize("kind", KINDS)
def test_random_search(kind: str) -> None:
    search(kind, 10 * settings.default.max_examples)


# ----------------------------------------------------------------------------------------- beside torch.load


def keys_of(entry: Entry) -> tuple[object, ...]:
    """The keys of an entry as ``torch_oracle`` writes them."""
    return tuple(key.text if isinstance(key, OddKey) else key for key in (*entry.root, entry.name))


def is_told_apart(keys: Sequence[object]) -> bool:
    """A key that is an object has a description here and a repr there."""
    return not any(isinstance(key, str) and key.startswith("<") for key in keys)


@pytest.mark.slow
def test_what_torch_and_we_both_read_is_the_same(tmp_path: Path) -> None:
    """Names, dtypes, shapes and strides; what only one of the two reads is no contradiction."""
    paths = []
    for kind in ("zip", "legacy"):
        rnd = Random(kind)
        for number in range(250):
            paths.append(tmp_path / f"{kind}-{number}")
            paths[-1].write_bytes(mutated(kind, rnd))
    answers = ask([str(path) for path in paths])
    compared = 0
    for path in paths:
        answer = answers[str(path)]
        try:
            entries = read_checkpoint(str(path)).entries
        except CkptToolError:
            continue
        if "tensors" not in answer:
            continue
        compared += 1
        ours = {keys_of(entry): entry.value for entry in entries}
        theirs = {tuple(keys or [""]): rest for keys, *rest in answer["tensors"]}  # a bare tensor: ""
        assert {*filter(is_told_apart, ours)} == {*filter(is_told_apart, theirs)}, path
        for keys in ours.keys() & theirs.keys():
            value, (dtype, shape, stride) = ours[keys], theirs[keys]
            assert value is not None
            if value.dtype is not None and value.shape is not None:
                assert (value.dtype.name, [*value.shape]) == (dtype, shape), (path, keys)
            if isinstance(value, TensorInfo):
                assert [*value.stride] == stride, (path, keys)
    assert compared > 25  # of 500: torch refuses most objects, and most mutations


@pytest.mark.slow
def test_torch_loads_what_convert_makes_of_mutated_files(tmp_path: Path) -> None:
    written = []
    for kind in KINDS:
        rnd = Random(kind)
        for number in range(60):
            home, target = tmp_path / f"{kind}-{number}", tmp_path / f"{kind}-{number}.pt"
            home.mkdir()
            source = write_input(mutated(kind, rnd), str(home))
            with contextlib.suppress(CkptToolError):
                entries = read_checkpoint(source).entries
                nbytes = sum(entry.value.nbytes for entry in entries if entry.value is not None)
                if nbytes < 1 << 20 and main(["convert", source, str(target), "--quiet"]) == 0:
                    written.append(str(target))
    assert len(written) > 50
    refused = {path: answer for path, answer in ask(written).items() if "tensors" not in answer}
    assert refused == {}


@pytest.mark.slow
def test_what_safetensors_reads_is_the_same_and_we_read_no_more(tmp_path: Path) -> None:
    compared = 0
    path = tmp_path / "a.safetensors"
    rnd = Random(1)
    for _ in range(2000):
        path.write_bytes(mutated("safetensors", rnd))
        try:
            ours = {entry.name: entry.value for entry in read_checkpoint(str(path)).entries}
        except CkptToolError:
            continue
        with safe_open(path, "np") as file:  # raises what it refuses
            assert set(file.keys()) == set(ours)
            for name, value in ours.items():
                part = file.get_slice(name)
                assert isinstance(value, TensorInfo)
                assert (part.get_dtype(), part.get_shape()) == (value.dtype.safetensors, [*value.shape])
        compared += 1
    assert compared > 100


# ------------------------------------------------------------------------------------- what is searched with


@pytest.mark.parametrize(("kind", "number"), EVERY_SEED)
def test_a_seed_reads(kind: str, number: int) -> None:
    outcome = try_out(seeds()[kind][number])
    assert outcome.checkpoint is not None, outcome.error
    assert not any(finding.severity == "error" for finding in outcome.checkpoint.findings)


@pytest.mark.parametrize("kind", KINDS)
def test_mutations_reach_beyond_the_first_check(kind: str) -> None:
    """A search in which every file is refused for one reason, or none is, would find nothing."""
    rnd = Random(kind)
    outcomes = [try_out(mutated(kind, rnd)) for _ in range(200)]
    reasons = Counter(outcome.error.split("checkpoint: ")[-1].split(":")[0] for outcome in outcomes)
    assert 0.05 < reasons[""] / len(outcomes) < 0.8
    assert len(reasons) > 10, reasons


def test_a_mutation_is_made_by_its_seed_alone() -> None:
    assert [mutated("zip", Random(n)) for n in range(50)] == [mutated("zip", Random(n)) for n in range(50)]


@pytest.mark.parametrize("data", ALL)
def test_a_file_is_put_together_again_as_it_was(data: bytes) -> None:
    pickled = pickle_in(data)
    assert b"".join(split_opcodes(pickled)) == pickled
    archive = split_zip(data.removeprefix(FOLDER))
    if archive is not None:
        again = split_zip(archive.build())
        assert again == archive
        for member in archive.members:
            if member.data.startswith(b"{"):
                assert json.loads(write(parse(member.data))) == json.loads(member.data)


def test_the_watch_sees_what_it_must_see() -> None:
    with pytest.raises(TooSlow), watched(0.05, 1 << 30):
        while True:
            pass
    if not os.path.exists("/proc/self/clear_refs"):
        pytest.skip("no /proc/self/clear_refs: memory is not measured here")
    # Room that earlier tests left in the heap must not hide what a block takes.
    taken = [bytes(2000) for _ in range(200_000)]
    taken[:-1] = []
    with pytest.raises(TooMuchMemory), watched(60, 64 << 20):
        assert len(bytes(1) * (256 << 20)) == 256 << 20
    with watched(60, 64 << 20):
        assert len(bytes(1) * (16 << 20)) == 16 << 20


@pytest.mark.parametrize(("kind", "number"), EVERY_SEED)
def test_the_target_of_atheris_runs_without_it(kind: str, number: int) -> None:
    fuzz_read.test_one_input(seeds()[kind][number])


def test_tools_of_fuzz_run(tmp_path: Path) -> None:
    # One mutation in eight is libFuzzer's own, which needs atheris.
    changed = [
        fuzz_read.cross_over(ALL[0], ALL[1], 1 << 16, seed) for seed in range(8) if Random(seed).randrange(8)
    ]
    assert len(set(changed)) > 1
    collect = fuzz_read.Collector(tmp_path / "finds")
    collect(ALL[0])
    assert list((tmp_path / "finds").iterdir()) == []
    assert "reads" in replay(ALL[0])
    assert "BINPERSID" in describe(ALL[0])
    target, words = tmp_path / "corpus", tmp_path / "words"
    command = [sys.executable, "-m", "fuzz.write_corpus", str(target), str(words)]
    subprocess.run(command, check=True, cwd=ROOT)
    assert rb'"\x50\x4b\x03\x04"' in words.read_bytes().splitlines()
    assert {path.name for path in target.iterdir()} > {f"seed-{kind}-0" for kind in KINDS}

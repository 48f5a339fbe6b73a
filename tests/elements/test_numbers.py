"""What bits mean, for every pattern there is, told by torch, by plain integers and by the docs."""

from __future__ import annotations

import hashlib
import json
import math
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ckpttool.elements import digests
from ckpttool.elements.arrays import bit_patterns, has_array, to_array, to_numbers, value_table
from ckpttool.elements.bits import decode_numbers, first_values, number_bits, number_table
from ckpttool.elements.casts import judge_cast
from ckpttool.elements.digests import NamedDigest, TensorDigest, claim_limit, digest_set, digest_tensor
from ckpttool.elements.stats import SAMPLE_NUMEL, _sample_step
from ckpttool.elements.sums import Tolerance
from ckpttool.files.tensor_bytes import TensorReader
from ckpttool.values.checkpoint import CompositeTensor, Kind, OddKey, Part, StorageRef, TensorInfo
from ckpttool.values.dtypes import BY_NAME, DType
from ckpttool.values.errors import LimitExceeded, UnsupportedFeature
from tests.support.compared import Files
from tests.support.numbers import FP4, microscaling

pytestmark = pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental:UserWarning")
SMALL = ["float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz",
         "float8_e8m0fnu", "int8", "uint8", "int16", "uint16", "bool"]  # fmt: skip
PACKED = [dtype for dtype in BY_NAME.values() if number_bits(dtype) < 8]


def patterns(bits: int) -> bytes:
    return bytes(range(256)) if bits <= 8 else struct.pack("<65536H", *range(1 << 16))


@pytest.mark.parametrize("name", SMALL)
def test_every_pattern_is_the_number_that_torch_says(name: str) -> None:
    dtype = BY_NAME[name]
    raw = bytearray(patterns(dtype.bits))
    if name == "bool":  # torch's own bools are 0 and 1; any other byte is true as well
        expected: list[Any] = [byte != 0 for byte in raw]
    else:
        tensor = torch.frombuffer(raw, dtype=torch.uint8).view(getattr(torch, name))
        expected = (tensor.double() if dtype.kind == "float" else tensor.to(torch.int64)).tolist()
    pairs = list(zip(number_table(dtype), expected, strict=True))
    assert all(x == y or (math.isnan(x) and math.isnan(y)) for x, y in pairs)
    assert all(math.copysign(1, x) == math.copysign(1, y) for x, y in pairs if not math.isnan(x))
    assert np.array_equal(value_table(dtype), np.array(expected, dtype=np.float64), equal_nan=True)


def test_small_floats_are_those_of_the_microscaling_formats() -> None:
    tables = {
        "float4_e2m1fn_x2": FP4,
        "float6_e2m3fn": microscaling(2, 3),
        "float6_e3m2fn": microscaling(3, 2),
    }
    assert microscaling(2, 1) == FP4
    assert (max(tables["float6_e2m3fn"]), max(tables["float6_e3m2fn"])) == (7.5, 28.0)
    for name, positive in tables.items():
        assert list(number_table(BY_NAME[name])) == positive + [-number for number in positive]


@pytest.mark.parametrize("dtype", PACKED, ids=lambda dtype: dtype.name)
@given(data=st.binary(max_size=12))
def test_packed_numbers_are_the_digits_of_one_long_integer(dtype: DType, data: bytes) -> None:
    width = number_bits(dtype)
    data = data[: len(data) // 3 * 3]  # whole groups, also of 6 bits
    whole = int.from_bytes(data, "little")
    fields = [whole >> at & ((1 << width) - 1) for at in range(0, len(data) * 8, width)]
    table = number_table(dtype)
    expected = [table[field] for field in fields]
    assert decode_numbers(dtype, data) == expected
    if data:
        count = len(fields) - 1
        assert bit_patterns(np, dtype, memoryview(data), count).tolist() == fields[:count]
        assert to_numbers(np, dtype, memoryview(data), count).tolist() == expected[:count]


@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 24, 25, 1000])
def test_the_first_numbers_and_no_others(tmp_path: Path, count: int) -> None:
    files = Files(tmp_path)
    raw = (torch.arange(24) * 37).to(torch.uint8)
    for name, packed in (("float6_e2m3fn", 6), ("float4_e2m1fn_x2", 4), ("uint8", 8), ("bfloat16", 16)):
        dtype = BY_NAME[name]
        info = files.info(raw)
        numel = 24 * 8 // dtype.bits
        info = info._replace(dtype=dtype, shape=(numel,), stride=(1,))
        with TensorReader(files.files) as reader:
            found = first_values(reader, info, count)
        every = decode_numbers(dtype, bytes(raw.tolist()))
        assert found == every[:count] and number_bits(dtype) == packed
    with TensorReader(files.files) as reader:
        assert first_values(reader, info, -1) == []
        assert first_values(reader, info._replace(shape=(0, 5), stride=(5, 1)), count) == []


@pytest.mark.parametrize("dtype", BY_NAME.values(), ids=lambda dtype: dtype.name)
def test_arrays_have_one_element_for_each_of_torchs(dtype: DType) -> None:
    if not has_array(dtype):
        assert dtype.bits % 8 or dtype.packed > 1 or dtype.kind in ("quantized", "bits", "complex")
        return
    made = (torch.arange(24 * dtype.nbytes) * 5 % 126).to(torch.uint8).view(getattr(torch, dtype.name))
    if dtype.kind == "bool":
        made = torch.arange(24) % 3 == 0
    data = bytearray(made.view(torch.uint8).tolist())
    found = to_array(np, dtype, data)
    is_shell = re.fullmatch("u?int[1-7]", dtype.name) is not None  # torch has no operation for them
    if is_shell:
        made = made.view(torch.int8 if dtype.kind == "int" else torch.uint8)
    try:
        expected = made.numpy()
        assert found.dtype == expected.dtype
    except TypeError:  # numpy has no such dtype
        expected = made.double().numpy()
        # The narrowest that has all its numbers, as the API says.
        assert found.dtype == (np.float32 if dtype.name in ("bfloat16", "float8_e8m0fnu") else np.float16)
    assert np.array_equal(found.astype(expected.dtype), expected, equal_nan=True)
    assert len(found) == 24
    assert to_array(np, dtype, bytearray()).dtype == found.dtype


@pytest.mark.parametrize("name", [name for name in SMALL if name.startswith("float8")])
def test_of_eight_bits_every_number_is_in_the_narrower_array(name: str) -> None:
    found = to_array(np, BY_NAME[name], bytearray(range(256)))
    expected = torch.arange(256, dtype=torch.uint8).view(getattr(torch, name)).double().numpy()
    assert np.array_equal(found.astype(np.float64), expected, equal_nan=True)
    assert (np.signbit(found) == np.signbit(expected))[~np.isnan(expected)].all()


# -- casts ------------------------------------------------------------------------------------------------

wide = st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=1, max_size=8)


@given(wide, wide, st.sampled_from(["numpy", "torch"]))
def test_a_loss_is_the_worst_of_the_relative_errors(
    exact: list[float], noise: list[float], library: str
) -> None:
    found = [x if i % 3 else y for i, (x, y) in enumerate(zip(exact, noise * 8, strict=False))]
    if library == "numpy":
        with np.errstate(all="ignore"):
            loss = judge_cast(np, np.array(exact), np.array(found))
    else:
        doubles = (torch.tensor(values, dtype=torch.float64) for values in (exact, found))
        loss = judge_cast(torch, *doubles)
    pairs = list(zip(exact, found, strict=True))
    over = sum(math.isfinite(x) and not math.isfinite(y) for x, y in pairs)
    under = sum(x != 0 and y == 0 for x, y in pairs)
    errors = [0.0]
    for x, y in pairs:
        if math.isfinite(x) and math.isfinite(y) and x and y:
            error = abs((y - x) / x) if math.isfinite(y - x) else math.inf
            errors += [error] if math.isfinite(error) else []
    assert (loss.numel, loss.overflow, loss.underflow) == (len(exact), over, under)
    assert loss[3] == max(errors)


# -- digests ----------------------------------------------------------------------------------------------


def test_a_set_has_the_digest_of_its_sorted_lines() -> None:
    keys: list[Any] = ["b", "a", 3, OddKey("(1, 2)", True), 'q"\u00e9']
    kinds = [Kind.PARAMETER, Kind.PERSISTENT_BUFFER, Kind.NON_PERSISTENT_BUFFER, Kind.UNKNOWN, Kind.PARAMETER]
    int8 = BY_NAME["int8"]
    named = [NamedDigest(root, key, kind, int8 if root else None, (2, at) if root else None, f"{at:064x}")
             for root in ((), ("m", 0), (OddKey("None", True),))
             for at, (key, kind) in enumerate(zip(keys, kinds, strict=True))]  # fmt: skip

    def plain(key: Any) -> Any:
        return {"key": key.text} if isinstance(key, OddKey) else key

    def digest(*chosen: Kind) -> str:
        lines = [
            f"{json.dumps([plain(key) for key in (*item.root, item.name)])} {item.sha256}\n"
            for item in named
            if item.kind in chosen
        ]
        return hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()

    found = digest_set(reversed(named))
    assert found[:3] == (digest(*Kind), digest(Kind.PARAMETER), digest(*kinds[1:3]))
    assert found[3:] == (15, 6, 6)
    document = digests.manifest_document(named)
    assert document["entries"] == [
        {"root": [plain(key) for key in item.root], "name": plain(item.name), "kind": item.kind.value,
         "dtype": "int8" if item.root else None, "shape": list(item.shape) if item.shape else None,
         "sha256": item.sha256}
        for item in named
    ]  # fmt: skip


@given(st.lists(st.integers(0, 40), max_size=6))
def test_bytes_are_digested_in_chunks_of_one_size_however_they_come(sizes: list[int]) -> None:
    data = bytes(range(256))[: sum(sizes)]
    assert digests.DIGEST_CHUNK_NBYTES == 64 << 20  # which a manifest of another version was made with
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(digests, "DIGEST_CHUNK_NBYTES", 16)
        digest, at = TensorDigest(BY_NAME["uint8"], (len(data),)), 0
        for size in sizes:
            digest.update(memoryview(data)[at : at + size])
            at += size
        found = digest.hexdigest()
    whole = hashlib.sha256(f"uint8 [{len(data)}]\n".encode())
    for start in range(0, len(data), 16):
        whole.update(hashlib.sha256(data[start : start + 16]).digest())
    assert found == whole.hexdigest()


def test_a_tensor_of_parts_has_the_digest_of_their_names_and_digests(tmp_path: Path) -> None:
    files = Files(tmp_path)
    one, two = torch.arange(3, dtype=torch.uint8), torch.tensor([[1, 2]], dtype=torch.int16)
    inner = CompositeTensor("sparse", "x.Y", None, (2, 2), (Part('q"', files.info(two.t())),), (("a", 1),))
    outer = CompositeTensor("subclass", "\ud800", None, None, (Part("p", files.info(one)), Part("in", inner)))

    def plain(name: str, shape: list[int], data: bytes) -> str:
        whole = hashlib.sha256(f"{name} {shape}\n".encode())
        whole.update(hashlib.sha256(data).digest())
        return whole.hexdigest()

    def composed(value: CompositeTensor, *parts: tuple[str, str]) -> str:
        text = f"{value.layout} {value.shape} {value.details!r}\n"
        text += "".join(f"{json.dumps(name)} {digest}\n" for name, digest in parts)
        return hashlib.sha256(text.encode(errors="replace")).hexdigest()

    first = plain("uint8", [3], bytes([0, 1, 2]))
    second = plain("int16", [2, 1], struct.pack("<2h", 1, 2))
    empty = files.info(torch.empty(2, 0))
    with TensorReader(files.files) as reader:
        assert digest_tensor(reader, outer.parts[0].value) == first
        assert digest_tensor(reader, outer) == composed(outer, ("p", first), ('in.q"', second))
        assert digest_tensor(reader, empty) == hashlib.sha256(b"float32 [2, 0]\n").hexdigest()
        assert digest_tensor(reader, inner) == composed(inner, ('q"', second))


def test_a_claim_is_a_gigabyte_or_a_thousand_times_what_is_stored(tmp_path: Path) -> None:
    files = Files(tmp_path)
    row = files.info(torch.ones(1).expand(3000, 1))
    assert claim_limit(row, 5) == claim_limit(row, 1 << 20) == 1 << 30
    assert claim_limit(row, 1 << 29) == 1 << 31
    plain = files.info(torch.ones(3000))
    with TensorReader(files.files) as reader:
        assert digest_tensor(reader, row._replace(shape=(3000,), stride=(0,))) == digest_tensor(reader, plain)
        for numel, refused in ((1 << 28, False), ((1 << 28) + 1, True)):
            view = row._replace(shape=(numel,), stride=(0,))
            if not refused:
                digests.check_claim(view)
                continue
            with pytest.raises(LimitExceeded) as caught:
                digest_tensor(reader, view)
            assert (caught.value.limit, caught.value.actual) == (1 << 30, 4 * numel)


def test_what_is_expanded_a_thousand_times_may_be_hashed() -> None:
    mib = 2 << 20
    row = TensorInfo(BY_NAME["uint8"], (mib,), (1,), 0, StorageRef("f", "0", 0, mib))
    digests.check_claim(row._replace(shape=(1024, mib), stride=(0, 1)))
    with pytest.raises(LimitExceeded) as caught:
        digests.check_claim(row._replace(shape=(1025, mib), stride=(0, 1)))
    assert (caught.value.limit, caught.value.actual) == (1024 * mib, 1025 * mib)
    assert "the size that a tensor of 2,097,152 stored bytes claims" in str(caught.value)


# -- samples and steps --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "numel", [0, 1, SAMPLE_NUMEL, SAMPLE_NUMEL + 1, 7 * SAMPLE_NUMEL, 10_000_000, 49 << 16]
)
def test_samples_stay_in_no_column(numel: int) -> None:
    step = _sample_step(numel)
    least = max(1, math.ceil(numel / SAMPLE_NUMEL))
    assert step == next(s for s in range(least, least + 300) if all(s % prime for prime in (2, 3, 5, 7)))


@pytest.mark.parametrize("name", ["float8_e8m0fnu", "float8_e4m3fn", "float8_e5m2", "float16"])
def test_steps_between_numbers_of_few_bits_are_counted_one_by_one(tmp_path: Path, name: str) -> None:
    dtype = getattr(torch, name)
    raw = bytearray(patterns(dtype.itemsize * 8))
    tensor = torch.frombuffer(raw, dtype=torch.uint8).view(dtype)
    numbers = sorted({number for number in tensor.double().tolist() if math.isfinite(number)})
    places = {number: at for at, number in enumerate(numbers)}
    files = Files(tmp_path)
    finite = tensor[torch.isfinite(tensor.double())]
    for shift in (1, 2, 17):
        other = finite.roll(shift)
        (outcome,) = files.compare((files.info(finite), files.info(other)), tolerance=Tolerance(ulp=shift))
        steps = [abs(places[x] - places[y])
                 for x, y in zip(finite.double().tolist(), other.double().tolist(), strict=True)]  # fmt: skip
        assert outcome.numbers is not None
        assert (outcome.numbers.max_ulp, outcome.numbers.outside) == (
            max(steps),
            sum(s > shift for s in steps),
        )


def test_what_nobody_told_the_meaning_of_is_refused() -> None:
    unknown = DType("float24", 24, "float")
    data = memoryview(bytes(6))
    for read in (
        lambda: decode_numbers(unknown, data),
        lambda: to_numbers(np, unknown, data, 2),
        lambda: number_table(DType("float8_strange", 8, "float")),
    ):
        with pytest.raises(UnsupportedFeature, match="as numbers"):
            read()

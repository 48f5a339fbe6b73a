"""The numbers in the JSON of an exported program are those of torch's own schema."""

import contextlib

import pytest

from ckpttool.formats.export.schema import TensorMeta, parse_payloads
from ckpttool.values.errors import MalformedCheckpoint

# torch.export itself takes seconds to import.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")]


def metas(field: str) -> dict[int, TensorMeta]:
    """What each number in this field of a ``TensorMeta`` stands for; those that are refused are left out."""
    plain = {"dtype": 7, "layout": 7, "sizes": [], "strides": [], "device": {"type": "cpu"}}
    plain |= {"storage_offset": {"as_int": 0}, "requires_grad": False}
    found = {}
    for number in range(64):
        payload = {"path_name": "w", "is_param": True, "use_pickle": False}
        payload["tensor_meta"] = {**plain, field: number}
        with contextlib.suppress(MalformedCheckpoint):
            (parsed,) = parse_payloads({"config": {"w": payload}})
            assert parsed.meta is not None
            found[number] = parsed.meta
    return found


def test_scalar_type_numbers_are_those_of_torch() -> None:
    from torch._export.serde import schema
    from torch._export.serde.serialize import _SERIALIZE_TO_TORCH_DTYPE

    expected = {int(number): str(dtype) for number, dtype in _SERIALIZE_TO_TORCH_DTYPE.items() if number}
    assert {number: f"torch.{meta.dtype.name}" for number, meta in metas("dtype").items()} == expected
    numbers = {int(layout) for layout in schema.Layout}
    assert numbers == {0, *metas("layout")}  # 0 says that it is not known
    strided = int(schema.Layout.Strided)
    assert [number for number, meta in metas("layout").items() if meta.layout == "strided"] == [strided]

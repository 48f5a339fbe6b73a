"""The one dtype table: bits per element, what they mean, and what each container calls the dtype.

Sources: ``torch/storage.py`` (``_dtype_to_storage_type_map``), ``torch/csrc/utils`` dtype names
(torch 2.13), ``ScalarType`` of ``torch/_export/serde/schema.py`` and the ``Dtype`` enum of safetensors 0.8.
No other module spells a dtype's width or lists dtypes of a container: a new one is one row here.
"""

from typing import NamedTuple


class DType(NamedTuple):
    """An element type; instances are shared, so ``is`` compares them.

    ``bits`` are per element *as torch counts elements*: ``float4_e2m1fn_x2`` packs two numbers
    into one 8-bit element, and safetensors' ``F4`` counts the two apart (see ``packed``).
    """

    name: str  # as torch names it, without "torch."
    bits: int
    kind: str  # "float", "complex", "int", "uint", "bool", "quantized" or "bits"
    code: str | None = None  # of struct, for a number or the half of a complex one; None: elements.bits knows
    safetensors: str | None = None  # tag in a safetensors header; None: no such type there
    rank: int = 0  # of the tag in safetensors' enum: the header is sorted by it, the highest first
    storage: str | None = None  # storage class of a torch pickle, e.g. "FloatStorage"
    export: int | None = None  # number of a torch.export document; None: no such type there
    packed: int = 1  # numbers per torch element in the safetensors header's last dimension
    in_torch: bool = True  # else a pickle cannot name it, and can hold its bytes only
    per_offset: int = 1  # elements for each unit of a storage_offset of torch's: a byte, if it holds several

    @property
    def nbytes(self) -> int:
        """Bytes of one element, rounded up (sub-byte types have no element address)."""
        return (self.bits + 7) // 8

    @property
    def is_floating_point(self) -> bool:
        """True for real floating types of any width."""
        return self.kind == "float"

    @property
    def is_whole(self) -> bool:
        """True for types whose numbers are integers, as they are stored, and take no gradient."""
        return self.kind not in ("float", "complex")


_TABLE = (
    DType("float32", 32, "float", "f", "F32", 17, "FloatStorage", 7),
    DType("float64", 64, "float", "d", "F64", 19, "DoubleStorage", 8),
    DType("float16", 16, "float", "e", "F16", 13, "HalfStorage", 6),
    DType("bfloat16", 16, "float", None, "BF16", 14, "BFloat16Storage", 13),
    DType("int64", 64, "int", "q", "I64", 20, "LongStorage", 5),
    DType("int32", 32, "int", "i", "I32", 15, "IntStorage", 4),
    DType("int16", 16, "int", "h", "I16", 11, "ShortStorage", 3),
    DType("int8", 8, "int", "b", "I8", 5, "CharStorage", 2),
    DType("uint8", 8, "uint", "B", "U8", 4, "ByteStorage", 1),
    DType("uint16", 16, "uint", "H", "U16", 12, None, 28),
    DType("uint32", 32, "uint", "I", "U32", 16, None, 34),
    DType("uint64", 64, "uint", "Q", "U64", 21, None, 35),
    DType("bool", 8, "bool", "?", "BOOL", 0, "BoolStorage", 12),
    DType("complex64", 64, "complex", "f", "C64", 18, "ComplexFloatStorage", 10),
    DType("complex128", 128, "complex", "d", None, 0, "ComplexDoubleStorage", 11),
    DType("complex32", 32, "complex", "e", export=9),
    DType("float8_e4m3fn", 8, "float", None, "F8_E4M3", 7, export=29),
    DType("float8_e5m2", 8, "float", None, "F8_E5M2", 6, export=30),
    DType("float8_e8m0fnu", 8, "float", None, "F8_E8M0", 8, export=33),
    DType("float8_e4m3fnuz", 8, "float", None, "F8_E4M3FNUZ", 9, export=31),
    DType("float8_e5m2fnuz", 8, "float", None, "F8_E5M2FNUZ", 10, export=32),
    DType("float4_e2m1fn_x2", 8, "float", None, "F4", 1, packed=2),
    # safetensors alone has these two.
    DType("float6_e2m3fn", 6, "float", None, "F6_E2M3", 2, in_torch=False),
    DType("float6_e3m2fn", 6, "float", None, "F6_E3M2", 3, in_torch=False),
    DType("qint8", 8, "quantized", "b", storage="QInt8Storage"),
    DType("quint8", 8, "quantized", "B", storage="QUInt8Storage"),
    DType("qint32", 32, "quantized", "i", storage="QInt32Storage"),
    # quint4x2 and quint2x4 are the sub-byte types whose *elements* torch counts.
    DType("quint4x2", 4, "quantized", storage="QUInt4x2Storage", per_offset=2),
    DType("quint2x4", 2, "quantized", storage="QUInt2x4Storage", per_offset=4),
    *(DType(f"bits{b}", 8, "bits", "B") for b in ("1x8", "2x4", "4x2", "8")),
    DType("bits16", 16, "bits", "H"),
    # int1..int7 and uint1..uint7 are shells: torch gives each element a whole byte (itemsize 1).
    *(DType(f"int{b}", 8, "int", "b") for b in range(1, 8)),
    *(DType(f"uint{b}", 8, "uint", "B") for b in range(1, 8)),
)

BY_NAME = {dtype.name: dtype for dtype in _TABLE}
BY_SAFETENSORS_TAG = {dtype.safetensors: dtype for dtype in _TABLE if dtype.safetensors}
BY_STORAGE_CLASS = {dtype.storage: dtype for dtype in _TABLE if dtype.storage}
# Aliases of torch dtypes, as ``str(dtype)`` or an attribute name may spell them in a pickle.
ALIASES = {
    "float": "float32",
    "double": "float64",
    "half": "float16",
    "long": "int64",
    "int": "int32",
    "short": "int16",
    "cfloat": "complex64",
    "cdouble": "complex128",
    "chalf": "complex32",
}


def parse_torch_name(name: str) -> DType | None:
    """The dtype that torch calls ``name`` (with or without ``torch.``), or None."""
    name = name.removeprefix("torch.")
    return BY_NAME.get(ALIASES.get(name, name))

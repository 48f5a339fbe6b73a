"""The one dtype table: torch name, safetensors tag, storage class and bits per element.

Sources: ``torch/storage.py`` (``_dtype_to_storage_type_map``), ``torch/csrc/utils`` dtype names
(torch 2.13) and the ``Dtype`` enum of safetensors 0.8. No other module spells a dtype's width.
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
    safetensors: str | None = None  # tag in a safetensors header; None: no such type there
    storage: str | None = None  # storage class of a torch pickle, e.g. "FloatStorage"
    packed: int = 1  # numbers per torch element in the safetensors header's last dimension

    @property
    def nbytes(self) -> int:
        """Bytes of one element, rounded up (sub-byte types have no element address)."""
        return (self.bits + 7) // 8

    @property
    def is_floating_point(self) -> bool:
        """True for real floating types of any width."""
        return self.kind == "float"

    @property
    def is_integral(self) -> bool:
        """True for integers and bool: types that take no gradient."""
        return self.kind in ("int", "uint", "bool")


_TABLE = (
    DType("float32", 32, "float", "F32", "FloatStorage"),
    DType("float64", 64, "float", "F64", "DoubleStorage"),
    DType("float16", 16, "float", "F16", "HalfStorage"),
    DType("bfloat16", 16, "float", "BF16", "BFloat16Storage"),
    DType("int64", 64, "int", "I64", "LongStorage"),
    DType("int32", 32, "int", "I32", "IntStorage"),
    DType("int16", 16, "int", "I16", "ShortStorage"),
    DType("int8", 8, "int", "I8", "CharStorage"),
    DType("uint8", 8, "uint", "U8", "ByteStorage"),
    DType("uint16", 16, "uint", "U16"),
    DType("uint32", 32, "uint", "U32"),
    DType("uint64", 64, "uint", "U64"),
    DType("bool", 8, "bool", "BOOL", "BoolStorage"),
    DType("complex64", 64, "complex", "C64", "ComplexFloatStorage"),
    DType("complex128", 128, "complex", None, "ComplexDoubleStorage"),
    DType("complex32", 32, "complex"),
    DType("float8_e4m3fn", 8, "float", "F8_E4M3"),
    DType("float8_e5m2", 8, "float", "F8_E5M2"),
    DType("float8_e8m0fnu", 8, "float", "F8_E8M0"),
    DType("float8_e4m3fnuz", 8, "float", "F8_E4M3FNUZ"),
    DType("float8_e5m2fnuz", 8, "float", "F8_E5M2FNUZ"),
    DType("float4_e2m1fn_x2", 8, "float", "F4", packed=2),
    # safetensors alone has these two; torch 2.13 names no dtype for them.
    DType("float6_e2m3fn", 6, "float", "F6_E2M3"),
    DType("float6_e3m2fn", 6, "float", "F6_E3M2"),
    DType("qint8", 8, "quantized", None, "QInt8Storage"),
    DType("quint8", 8, "quantized", None, "QUInt8Storage"),
    DType("qint32", 32, "quantized", None, "QInt32Storage"),
    # quint4x2 and quint2x4 are the sub-byte types whose *elements* torch counts.
    DType("quint4x2", 4, "quantized", None, "QUInt4x2Storage"),
    DType("quint2x4", 2, "quantized", None, "QUInt2x4Storage"),
    *(DType(f"bits{b}", 8 if "x" in b else int(b), "bits") for b in ("1x8", "2x4", "4x2", "8", "16")),
    # int1..int7 and uint1..uint7 are shells: torch gives each element a whole byte (itemsize 1).
    *(DType(f"{sign}{b}", 8, sign) for sign in ("int", "uint") for b in range(1, 8)),
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

"""What a file is when it is no checkpoint that is read here, in one line, and what to do about it.

Only the content decides. Each recogniser takes the first bytes and the source, and answers with what
was found and a hint, or with an error of its own, or None; the first answer counts. ``{name}`` in a hint
stands for the file, quoted for a shell. Fixed bytes are in ``magics``; where a format has none (ONNX, zlib,
msgpack, text), the rule is written at its recogniser.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias

from ckpttool.files.source import ByteSource
from ckpttool.formats.base import Look
from ckpttool.formats.foreign.magics import KERAS_HINT, MAGICS, NUMPY_HINT, UNPACK
from ckpttool.formats.zip_records import FETCH_AGAIN, LOCAL_MAGIC, has_end_record, read_archive
from ckpttool.values.errors import CkptToolError, MalformedCheckpoint, UnknownFormat, UnsupportedFeature
from ckpttool.values.words import agree, plural, shorten, some

WHAT_IS_READ = (
    "files of torch.save (zip and pre-1.6), plain pickles, TorchScript, .pt2, .safetensors, "
    "*.index.json, and folders of shards"
)
_TAR_BLOCK = 512
_TAR_MEMBERS = 16  # looked at to say what a tar holds
_NAMES_SHOWN = 4
_LINE = 60  # characters of a name, or of the text in the file
_WEIGHT_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".safetensors", ".pt2", ".th", ".pkl")

_Answer: TypeAlias = tuple[str, str | None] | CkptToolError | None

_READ_HERE = f"read here: {WHAT_IS_READ}"
_TF_HINT = "tf.train.load_checkpoint reads it, if TensorFlow is at hand"
_UNZLIB = "python -c 'import sys, zlib; sys.stdout.buffer.write(zlib.decompress(sys.stdin.buffer.read()))'"


def describe_foreign(look: Look) -> CkptToolError:
    """What the content is, for a file that no format has recognised.

    Always an answer: of content that nothing here knows it shows the first bytes and says what is read.
    """
    head, source = look.head, look.source
    answers = (recognise(head, source) for recognise in _RECOGNISERS)
    answer = _zip(look) or next((answer for answer in answers if answer is not None), _unknown(head, source))
    if isinstance(answer, CkptToolError):
        answer.path = source.name
        return answer
    found, hint = answer
    if hint is not None:
        hint = hint.replace("{name}", shlex.quote(source.name.rstrip("/").rpartition("/")[2]))
    return UnknownFormat(found, path=source.name, hint=hint)


def _unknown(head: bytes, source: ByteSource) -> tuple[str, str]:
    shown = " ".join(f"{byte:02x}" for byte in head[:16])
    begin = agree(source.size, "begins with", "begin with")
    return f"unknown content: {plural(source.size, 'byte')} that {begin} {shown}", _READ_HERE


def _empty(head: bytes, source: ByteSource) -> _Answer:
    if source.size:
        return None
    return "empty file (0 bytes)", "the save or download wrote nothing (full disk?): make the file again"


_LFS_POINTER = re.compile(
    rb"version https://git-lfs\.github\.com/spec/v1\n(?:[^\n]*\n)*?oid sha256:([0-9a-f]{64})\n"
)
_LFS_SIZE = re.compile(rb"^size ([0-9]{1,20})$", re.MULTILINE)


def _pointer(head: bytes, source: ByteSource) -> _Answer:
    """Small text files that stand for large ones: git-lfs, git-annex, DVC, Xet."""
    # https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md: `version` comes first, less than 1024 bytes.
    if head.startswith(b"version https://git-lfs.github.com/"):
        oid, size = _LFS_POINTER.match(head), _LFS_SIZE.search(head)
        stands_for = f" that stand for {int(size[1]):,}" if size else ""
        digest = f" (sha256 {oid[1].decode()[:12]}…)" if oid else ""
        found = f"git-lfs pointer, not a checkpoint: {plural(source.size, 'byte')}{stands_for}{digest}"
        return found, "git lfs pull --include {name}"
    for start, tool, command in _POINTERS:
        if head.startswith(start):
            stands = f"{plural(source.size, 'byte')} that stand for a larger file"
            return f"{tool} pointer, not a checkpoint: {stands}", command
    return None


_POINTERS = (
    (b"/annex/objects/", "git-annex", "git annex get {name}"),
    (b"# xet version ", "git-xet", "git xet checkout {name}"),
    (b"outs:\n- md5: ", "DVC", "dvc pull {name}"),
)


def _magic(head: bytes, source: ByteSource) -> _Answer:
    for offset, magic, found, hint in MAGICS:
        if head.startswith(magic, offset):
            return found, hint
    return None


def _zlib(head: bytes, source: ByteSource) -> _Answer:
    """RFC 1950 has no magic: method 8, a window of at most 32 KiB, a check of both bytes, and it inflates."""
    if len(head) < 2 or head[0] & 0x8F != 0x08 or (head[0] << 8 | head[1]) % 31 or head[1] & 0x20:
        return None
    import zlib

    try:
        inside = zlib.decompressobj().decompress(head, 16)
    except zlib.error:
        return None
    if not inside:
        return None
    # joblib.dump(compress=…) of a number gives such a file.
    by = ", as joblib does, a pickle inside" if inside[0] == 0x80 and inside[1:2] <= b"\x05" else ""
    return f"compressed with zlib{by}", f"{UNPACK}{_UNZLIB} < {{name}} > unpacked"


def _skippable(head: bytes, source: ByteSource) -> _Answer:
    """A skippable frame, in front of one of zstd or lz4: 0x184D2A50 to 5F, and its length."""
    if head[1:4] != b"\x2a\x4d\x18" or head[0] & 0xF0 != 0x50:
        return None
    at = min(8 + int.from_bytes(head[4:8], "little"), source.size)
    behind = source.read_at(at, min(4, source.size - at))
    packer = next((name for magic, name in _FRAMES.items() if behind == magic), "zstd or lz4")
    return f"compressed with {packer}", f"{UNPACK}{packer.partition(' ')[0]} -dc < {{name}} > unpacked"


_FRAMES = {b"\x28\xb5\x2f\xfd": "zstd", b"\x04\x22\x4d\x18": "lz4"}


def _msgpack(head: bytes, source: ByteSource) -> _Answer:
    """A map whose first key is text: what flax.serialization writes, and much else that msgpack packs."""
    if 0x81 <= head[0] <= 0x8F:
        at = 1
    elif head[0] in (0xDE, 0xDF):
        at = 3 if head[0] == 0xDE else 5
    else:
        return None
    start = head[at : at + 2]
    if len(start) < 2 or not (0xA1 <= start[0] <= 0xBF or start[0] == 0xD9):
        return None
    nbytes, at = (start[1], at + 2) if start[0] == 0xD9 else (start[0] & 0x1F, at + 1)
    key, value = head[at : at + nbytes], head[at + nbytes : at + nbytes + 1]
    if len(key) < nbytes or not value or not (key.isascii() and key.decode().isprintable()):
        return None
    found = f"msgpack map that begins with {shorten(key.decode(), _LINE)!r}, as Flax writes it"
    return f"{found}; not a PyTorch checkpoint", "flax.serialization.msgpack_restore reads it"


def _arrow_stream(head: bytes, source: ByteSource) -> _Answer:
    """An IPC stream: a continuation mark, and the length of a message that is padded to 8 bytes."""
    length = int.from_bytes(head[4:8], "little")
    if head[:4] != b"\xff\xff\xff\xff" or not 0 < length < source.size or length % 8:
        return None
    return (
        "Arrow stream, as Hugging Face datasets are kept; not a checkpoint",
        "datasets.load_from_disk reads it",
    )


def _darknet(head: bytes, source: ByteSource) -> _Answer:
    """Three int32: version 0.1 or 0.2 and a revision; an int32 or int64, the images seen; floats."""
    major, minor, revision = (int.from_bytes(head[at : at + 4], "little") for at in (0, 4, 8))
    floats = source.size - (20 if minor == 2 else 16)
    if major or minor not in (1, 2) or revision > 5 or floats <= 0 or floats % 4:
        return None
    return (
        f"Darknet weights (YOLO) of {plural(floats // 4, 'number')} without names",
        "the .cfg beside it says what they are",
    )


def _gguf(head: bytes, source: ByteSource) -> _Answer:
    # https://github.com/ggml-org/ggml/blob/master/docs/gguf.md: magic, u32 version, u64 tensors, u64 pairs.
    if head[:4] != b"GGUF":
        return None
    # Big-endian files exist; a version that fits in 16 bits tells the order.
    order: Literal["little", "big"] = "little" if head[6:8] == b"\0\0" else "big"
    version, tensors = int.from_bytes(head[4:8], order), int.from_bytes(head[8:16], order)
    found = f"GGUF version {version} (llama.cpp) of {plural(tensors, 'tensor')}, not a PyTorch checkpoint"
    return found, "gguf-dump {name} (package gguf) lists it"


def _onnx(head: bytes, source: ByteSource) -> _Answer:
    """ONNX has no magic: field 1 of ModelProto (ir_version, a small varint), then field 2, 3 or 7."""
    if len(head) < 16 or head[0] != 0x08 or not 1 <= head[1] <= 32 or head[2] not in (0x12, 0x1A, 0x3A):
        return None
    producer = head[4 : 4 + head[3]] if head[2] == 0x12 else b""
    if head[2] == 0x12 and not (
        producer and head[3] < 64 and producer.isascii() and producer.decode().isprintable()
    ):
        return None
    by = f" written by {producer.decode()}" if producer else ""
    found = f"ONNX model{by} (IR version {head[1]}), not a PyTorch checkpoint"
    return found, "onnx.load and onnx.numpy_helper.to_array (package onnx) read its tensors"


# LevelDB's table_format.md: the last 8 bytes of a table, little-endian 0xdb4775248b80fb57.
_TABLE_MAGIC = bytes.fromhex("57fb808b247547db")


def _saved_model(head: bytes, source: ByteSource) -> _Answer:
    """saved_model.proto: field 1 (schema version 1), then field 2, a graph that fills the file."""
    if head[:3] != b"\x08\x01\x12":
        return None
    length = shift = 0
    for at in range(3, min(13, len(head))):
        length |= (head[at] & 0x7F) << shift
        shift += 7
        if head[at] < 0x80:
            if at + 1 + length != source.size:
                return None
            return "TensorFlow SavedModel (saved_model.pb), not a PyTorch checkpoint", _TF_HINT
    return None


def _tensorflow(head: bytes, source: ByteSource) -> _Answer:
    if head.startswith(b"model_checkpoint_path:"):
        return "TensorFlow's list of checkpoints (`checkpoint`), not a checkpoint itself", _TF_HINT
    if source.size >= 48 and source.read_at(source.size - 8, 8) == _TABLE_MAGIC:
        return "TensorFlow checkpoint (a table of names and ranges), not a PyTorch checkpoint", _TF_HINT
    return None


def _tar(head: bytes, source: ByteSource) -> _Answer:
    if not _is_tar_header(head[:_TAR_BLOCK]):
        return None
    names = _tar_names(source)
    # torch/serialization.py, legacy_load: a tar of these four members, written before torch 0.1.10.
    if {"pickle", "storages", "tensors"} <= set(names):
        name = source.name.rpartition("/")[2]
        return UnsupportedFeature(
            "torch tar archive, as torch.save wrote before 0.1.10",
            hint=f"if you trust it: torch.save(torch.load({name!r}, weights_only=False), 'new.pt')",
        )
    return f"tar archive that holds {_list_names(names)}", UNPACK + "tar -xf {name}"


def _is_tar_header(header: bytes) -> bool:
    """Its checksum is right: the sum of its bytes, its own as blanks. Not every tar says ustar."""
    try:
        written = int(header[148:156].strip(b" \0"), 8)
    except ValueError:
        return False
    return len(header) == _TAR_BLOCK and sum(header) - sum(header[148:156]) + 8 * 0x20 == written


def _tar_names(source: ByteSource) -> list[str]:
    """Names of the first members, found by walking the headers."""
    names: list[str] = []
    offset = 0
    while len(names) < _TAR_MEMBERS and offset + _TAR_BLOCK <= source.size:
        header = source.read_at(offset, _TAR_BLOCK)
        if not _is_tar_header(header):
            break
        name = header[:100].rstrip(b"\0").decode("utf-8", "replace").removeprefix("./")
        if header[156:157] in b"\x000" and name:
            names.append(name)
        try:
            size = int(header[124:136].strip(b" \0") or b"0", 8)
        except ValueError:
            break
        offset += _TAR_BLOCK + (max(size, 0) + _TAR_BLOCK - 1) // _TAR_BLOCK * _TAR_BLOCK
    return names


def _zip(look: Look) -> _Answer:
    head, source = look.head, look.source
    if head[:4] not in (LOCAL_MAGIC, b"PK\x05\x06"):
        return None
    if not has_end_record(source):
        first = [head[30 : 30 + int.from_bytes(head[26:28], "little")].decode("utf-8", "replace")]
        return MalformedCheckpoint(
            f"zip cut at byte {source.size}: no central directory; its first member is {_list_names(first)}",
            hint=FETCH_AGAIN,
        )
    try:
        return _describe_members(list(look.parse(read_archive).records))
    except CkptToolError as error:
        return error


def _describe_members(names: list[str]) -> tuple[str, str]:
    """(what a zip without torch's records is, what to do)."""
    files = [name for name in names if not name.endswith("/")]
    held = set(files)
    unzip = UNPACK + "unzip {name} -d FOLDER"
    if not files:
        return "zip archive without members", "make the file again"
    # torch's writer ends the archive all the same when what it pickles raises.
    below = {name.partition("/")[2] for name in files}
    if below & {"version", ".data/version", "byteorder"} and all("/" in name for name in files):
        storages = sum(name.startswith(("data/", "tensors/")) for name in below)
        if storages:
            found = f"torch zip of {plural(storages, 'storage')} without data.pkl, which says what they are"
            return found, FETCH_AGAIN
        found = "torch zip without data.pkl: torch.save failed before it wrote the object"
        return found, "save again, and look for the error: most often something in it cannot be pickled"
    if all(name.endswith(".npy") for name in files):
        found = (
            f"NumPy archive (.npz) of {plural(len(files), 'array')}: {_list_names(files)}; not a checkpoint"
        )
        return found, NUMPY_HINT
    if "model.weights.h5" in held:
        return "Keras 3 model (.keras), not a PyTorch checkpoint", KERAS_HINT
    if "[Content_Types].xml" in held:
        return "Office document, not a checkpoint", "find out where the checkpoint is"
    if "MAR-INF/MANIFEST.json" in held:
        return f"TorchServe model archive that holds {_list_names(_weights_first(files))}", unzip
    if any(name.endswith(".data/extern_modules") for name in files):
        return (
            "torch.package archive: Python source and pickles that need it; not read here",
            "save the module's state_dict() where the package can be trusted",
        )
    if any(name.endswith(".dist-info/RECORD") for name in files):
        return f"Python wheel that holds {_list_names(_weights_first(files))}", unzip
    return f"zip archive, not written by torch.save: it holds {_list_names(_weights_first(files))}", unzip


def _weights_first(names: list[str]) -> list[str]:
    return sorted(names, key=lambda name: not name.lower().endswith(_WEIGHT_SUFFIXES))


def _list_names(names: Sequence[str]) -> str:
    return some(names, lambda name: repr(shorten(name, _LINE)), _NAMES_SHOWN) or "nothing"


_TITLE = re.compile(rb"<title[^>]{0,200}>([^<]{1,200})</title>", re.IGNORECASE)
_XML_CODE = re.compile(rb"<Code>([^<]{1,100})</Code>")


def _markup(head: bytes, source: ByteSource) -> _Answer:
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:14].lower()
    if start.startswith((b"<!doctype html", b"<html", b"<head")):
        title = _TITLE.search(head)
        about = f" with the title {_text_of(title[1])!r}" if title else ""
        found = f"HTML page{about}, not a checkpoint: a login, quota or error page was saved under this name"
        return found, "download it again, logged in, from the link to the file itself"
    if start.startswith((b"<?xml", b"<error")):
        code = _XML_CODE.search(head)
        about = f" (a storage service's error {_text_of(code[1])!r})" if code else ""
        if b"<net " in head and b"<layer" in head:
            return "OpenVINO model (.xml), not a PyTorch checkpoint", "openvino.Core().read_model reads it"
        return f"XML{about}, not a checkpoint", "download it again"
    return None


def _text_of(raw: bytes) -> str:
    return " ".join(raw.decode("utf-8", "replace").split())


def _text(head: bytes, source: ByteSource) -> _Answer:
    """Text is UTF-8 without control characters; 4096 bytes may end inside a character."""
    if b"\0" in head:
        return None
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:
        if len(head) < 4096 or error.start < len(head) - 3:
            return None
        text = head[: error.start].decode("utf-8")
    if any(char < " " and char not in "\t\r\n\f" for char in text):
        return None
    if _JSON_START.match(text):
        return _json(text)
    line = shorten(text.strip().partition("\n")[0].strip(), _LINE)
    return f"text of {plural(source.size, 'byte')} that begins {line!r}, not a checkpoint", _READ_HERE


_JSON_START = re.compile(r"\s*(?:\{\s*[\"}]|\[\s*[\[{\"\]tfn0-9-])")  # and no template, which has {{ or {%


def _json(text: str) -> _Answer:
    if '"model_type"' in text or '"architectures"' in text:
        found = "a model's configuration (JSON): settings, no weights"
        return found, "name the folder it is in, or the checkpoint beside it"
    if '"_class_name"' in text or '"_diffusers_version"' in text:
        found = "a configuration of diffusers (JSON): settings, no weights"
        return found, "name the folder of one component, or the checkpoint in it"
    shown = shorten(" ".join(text[:200].split()), _LINE)
    return f"JSON without a weight_map, not a checkpoint: {shown}", _READ_HERE


def _zeros(head: bytes, source: ByteSource) -> _Answer:
    """A preallocated file of an interrupted download: zeros at the start, the end and between."""
    if head.strip(b"\0"):
        return None
    step = max(1, source.size // 16)
    for offset in (*range(0, source.size, step), max(0, source.size - 4096)):
        if source.read_at(offset, min(4096, source.size - offset)).strip(b"\0"):
            found = f"zeros for at least the first {len(head):,} of {plural(source.size, 'byte')}"
            return found, "an interrupted download or a damaged disk: fetch the file again"
    return (
        f"{plural(source.size, 'byte')} of zeros: space was set aside, and nothing was written",
        FETCH_AGAIN,
    )


_RECOGNISERS: tuple[Callable[[bytes, ByteSource], _Answer], ...] = (
    _empty,
    _pointer,
    _gguf,
    _magic,
    _tar,
    _zlib,
    _skippable,
    _zeros,
    _markup,
    _tensorflow,
    _saved_model,
    _onnx,
    _text,
    _arrow_stream,
    _darknet,
    _msgpack,
)

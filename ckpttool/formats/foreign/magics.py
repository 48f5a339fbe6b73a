"""Fixed bytes at a fixed place that tell what a file is, and what to do about it.

Each row is where the bytes stand, the bytes, what was found, and a hint in which ``{name}`` is the file.
Sources are the formats' own documents, else what ``file(1)`` knows of them.
"""

from __future__ import annotations

UNPACK = "unpack it, then inspect what is inside: "
NUMPY_HINT = "numpy.load(..., allow_pickle=False) reads it"
KERAS_HINT = "read it with keras or h5py, then write the tensors with safetensors"
_TO = "< {name} > unpacked"  # a suffix that is not the packer's own is no obstacle this way
_TABLE_HINT = "it holds data, not weights: find out where the checkpoint is"
_GGML_HINT = "an older llama.cpp reads it, or converts it to GGUF; find the model that it was made from"
_ENCRYPTED = "decrypt it first, then inspect what comes out"


def _packed(offset: int, magic: bytes, packer: str, command: str) -> tuple[int, bytes, str, str | None]:
    return offset, magic, f"compressed with {packer}", UNPACK + command.format(to=_TO)


MAGICS: tuple[tuple[int, bytes, str, str | None], ...] = (
    # Arrays and models.
    (0, b"\x93NUMPY", "NumPy array (.npy), not a checkpoint", NUMPY_HINT),
    (
        0,
        b"\x89HDF\r\n\x1a\n",
        "HDF5 file, such as Keras weights (.h5), not a PyTorch checkpoint",
        KERAS_HINT,
    ),
    (4, b"TFL3", "TensorFlow Lite model (.tflite), not a PyTorch checkpoint", None),
    (4, b"ET12", "ExecuTorch program (.pte), not a checkpoint", "inspect the file it was exported from"),
    *(
        (0, magic, "GGML file (llama.cpp before GGUF), not a PyTorch checkpoint", _GGML_HINT)
        for magic in (b"lmgg", b"fmgg", b"tjgg", b"algg")
    ),
    (
        0,
        b"\x04\0\0\0\x01\0\0\0\x03\0\0\0V 1",
        "file of Lua Torch7 (.t7), not a PyTorch checkpoint",
        "torchfile.load (package torchfile) reads it",
    ),
    (
        0,
        b"\x12\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
        "MXNet arrays (.params), not a PyTorch checkpoint",
        "mxnet.nd.load reads it",
    ),
    (
        0,
        b"\xba\x16\x4f\x2f",
        "fastText model (.bin), not a PyTorch checkpoint",
        "fasttext.load_model reads it",
    ),
    (0, b"CBM1", "CatBoost model, not a PyTorch checkpoint", None),
    (
        0,
        b"\x0c\xdb\x3a\x2a",
        "manifest of an OCDBT store (Orbax, JAX), not a PyTorch checkpoint",
        "orbax.checkpoint reads the folder that it is in",
    ),
    (0, b"MATLAB 5.0 MAT-file", "MATLAB file (.mat), not a PyTorch checkpoint", "scipy.io.loadmat reads it"),
    # Compressed files and archives.
    _packed(0, b"\x1f\x8b", "gzip", "gzip -dc {to}"),
    _packed(0, b"BZh", "bzip2", "bzip2 -dc {to}"),
    _packed(0, b"\xfd7zXZ\0", "xz", "xz -dc {to}"),
    _packed(0, b"\x5d\0\0", "LZMA", "xz --format=lzma -dc {to}"),
    _packed(0, b"\x28\xb5\x2f\xfd", "zstd", "zstd -dc {to}"),
    _packed(0, b"\x04\x22\x4d\x18", "lz4", "lz4 -dc {to}"),
    _packed(0, b"\x02\x21\x4c\x18", "lz4", "lz4 -dc {to}"),
    _packed(0, b"\xff\x06\0\0sNaPpY", "snappy", "python -m snappy -d {to}"),
    _packed(0, b"\x1f\x9d", "compress (.Z)", "gzip -dc {to}"),
    _packed(0, b"LZIP\x01", "lzip", "lzip -dc {to}"),
    _packed(0, b"\x89LZO\0\r\n\x1a\n", "lzop", "lzop -dc {to}"),
    (0, b"7z\xbc\xaf\x27\x1c", "7z archive", UNPACK + "7z x {name}"),
    (0, b"Rar!\x1a\x07", "RAR archive", UNPACK + "unrar x {name}"),
    (0, b"MSCF\0\0\0\0", "Windows cabinet", UNPACK + "7z x {name}"),
    (0, b"!<arch>\n", "ar archive (a Debian package or a static library)", UNPACK + "ar x {name}"),
    *(
        (0, magic, "cpio archive", UNPACK + "cpio -id < {name}")
        for magic in (b"070701", b"070702", b"070707")
    ),
    (0, b"\xed\xab\xee\xdb", "RPM package", UNPACK + "rpm2cpio {name} | cpio -id"),
    (0, b"hsqs", "squashfs image", UNPACK + "unsquashfs {name}"),
    (0, b"Salted__", "encrypted with openssl", _ENCRYPTED),
    (0, b"age-encryption.org/v1", "encrypted with age", _ENCRYPTED),
    # Data.
    (0, b"SQLite format 3\0", "SQLite database, not a checkpoint", _TABLE_HINT),
    (16, b"\xde\xc0\xef\xbe", "LMDB database, not a checkpoint", _TABLE_HINT),
    *((0, magic, "Parquet table, not a checkpoint", _TABLE_HINT) for magic in (b"PAR1", b"PARE")),
    (0, b"ARROW1\0\0", "Arrow table, not a checkpoint", _TABLE_HINT),
    (0, b"FEA1", "Feather table, not a checkpoint", _TABLE_HINT),
    (0, b"Obj\x01", "Avro table, not a checkpoint", _TABLE_HINT),
    (128, b"DICM", "DICOM image, not a checkpoint", None),
    # Documents and media.
    (0, b"%PDF-", "PDF document, not a checkpoint", None),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "Office document, not a checkpoint", None),
    (0, b"\x89PNG\r\n\x1a\n", "PNG image, not a checkpoint", None),
    (0, b"\xff\xd8\xff", "JPEG image, not a checkpoint", None),
    (0, b"GIF8", "GIF image, not a checkpoint", None),
    *((0, magic, "TIFF image, not a checkpoint", None) for magic in (b"II*\0", b"MM\0*")),
    (0, b"RIFF", "RIFF file (WAV, AVI or WebP), not a checkpoint", None),
    (4, b"ftyp", "MP4 or HEIF media, not a checkpoint", None),
    (0, b"\x1a\x45\xdf\xa3", "Matroska or WebM media, not a checkpoint", None),
    (0, b"OggS", "Ogg media, not a checkpoint", None),
    (0, b"fLaC", "FLAC audio, not a checkpoint", None),
    *((0, magic, "MP3 audio, not a checkpoint", None) for magic in (b"ID3\x03\0", b"ID3\x04\0")),
    # Programs.
    (0, b"\x7fELF", "ELF program or library, not a checkpoint", None),
    (0, b"MZ\x90\0", "Windows program or library, not a checkpoint", None),
    (0, b"\xcf\xfa\xed\xfe", "macOS program or library, not a checkpoint", None),
    (0, b"\xca\xfe\xba\xbe", "macOS program or Java class, not a checkpoint", None),
    (0, b"\0asm\x01\0\0\0", "WebAssembly module, not a checkpoint", None),
    (1, b"\r\r\n", "compiled Python module (.pyc), not a checkpoint", None),  # of Python 3.4 and later
)

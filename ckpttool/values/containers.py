"""The table of containers that ``convert`` writes. ``--help`` and completion read it: it imports nothing."""

CONTAINERS: dict[str, tuple[tuple[str, ...], str]] = {
    "safetensors": ((".safetensors",), "ckpttool.conversion.safetensors"),
    "pt": ((".pt", ".pth", ".bin", ".ckpt"), "ckpttool.conversion.pt.plan"),
}
"""Name -> suffixes of a destination, and the module whose ``CONTAINER`` says the rest and is imported when
it is asked for; the first is what a folder gets."""

HELD_LAYOUTS: dict[str, frozenset[str]] = {
    "safetensors": frozenset(),
    # Others need a class of their own.
    "pt": frozenset("quantized nested sparse_coo sparse_csr sparse_csc sparse_bsr sparse_bsc".split()),
}
"""The layouts of tensors made of parts that a container can hold; what inspect advises looks here as well."""

FORMS: dict[str, tuple[str, ...]] = {
    "text": (".txt", ".tsv"),
    "json": (".json",),
    "npy": (".npy",),
    **{name: suffixes for name, (suffixes, _) in CONTAINERS.items()},
}
"""What ``get`` writes one tensor as, and the suffixes of a file that say so."""

TEXT_FORMS = ("text", "json")
"""Those that a terminal can show, and that a plain value has as well."""

"""Inspections made by hand, so that what is drawn does not depend on what is read."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable

from ckpttool.values.checkpoint import (
    Basis,
    Checkpoint,
    Classification,
    CompositeTensor,
    Container,
    Entry,
    FileInfo,
    Finding,
    GlobalRef,
    Key,
    Kind,
    Opaque,
    Part,
    Presence,
    Root,
    StorageRef,
    TensorInfo,
    Value,
)
from ckpttool.values.dtypes import BY_NAME
from ckpttool.values.inspection import Group, Inspection, Row, Summary, Weights

PATH = "run/last.ckpt"


def tensor(
    shape: tuple[int, ...] = (4, 3),
    dtype: str = "float32",
    *,
    at: int = 1024,
    offset: int = 0,
    location: str | None = "cpu",
    compressed: int | None = None,
) -> TensorInfo:
    """A contiguous tensor whose storage starts at byte ``at`` of the file."""
    stride = tuple(math.prod(shape[index + 1 :]) for index in range(len(shape)))
    kind = BY_NAME[dtype]
    nbytes = (offset + math.prod(shape)) * kind.bits // 8
    return TensorInfo(
        kind, shape, stride, offset, StorageRef(PATH, "0", at, nbytes, location, compressed_nbytes=compressed)
    )


def row(
    name: Key,
    value: TensorInfo | CompositeTensor | None = None,
    kind: Kind = Kind.PARAMETER,
    basis: Basis = Basis.OPTIMIZER,
    *,
    root: Root = (),
    presence: Presence = Presence.PRESENT,
    tied_to: Entry | None = None,
    note: str = "",
) -> Row:
    """A row; without a value it is a missing one."""
    if value is None and presence is Presence.PRESENT:
        value = tensor()
    return Row(Entry(root, name, value), Classification(kind, basis, presence, note), tied_to)


def missing(name: Key, *, root: Root = (), kind: Kind = Kind.NON_PERSISTENT_BUFFER, note: str = "") -> Row:
    """A row for what the file does not hold."""
    return row(name, kind=kind, basis=Basis.NAME, root=root, presence=Presence.MISSING, note=note)


def summary(rows: Iterable[Row], absent: Iterable[Row] = ()) -> Summary:
    """Totals of ``rows``, counted plainly."""
    rows = list(rows)
    kinds = Counter(item.classification.kind for item in rows)
    bases = Counter((item.classification.kind.value, item.classification.basis.value) for item in rows)
    own = [item for item in rows if item.tied_to is None and item.entry.value is not None]
    numels = dict.fromkeys(Kind, 0)
    for item in own:
        numels[item.classification.kind] += item.entry.value.numel
    nbytes = sum(item.entry.value.nbytes for item in own)
    dtypes = Counter(item.entry.value.dtype.name for item in own if item.entry.value.dtype)
    devices = Counter(
        item.entry.tensor.storage.location or ""
        for item in own
        if item.entry.tensor and item.entry.tensor.storage
    )
    return Summary(
        tensors=len(rows),
        parameters=kinds[Kind.PARAMETER],
        persistent_buffers=kinds[Kind.PERSISTENT_BUFFER],
        non_persistent_buffers=kinds[Kind.NON_PERSISTENT_BUFFER],
        extra_state=kinds[Kind.EXTRA_STATE],
        optimizer_state=kinds[Kind.OPTIMIZER_STATE],
        unknown=kinds[Kind.UNKNOWN],
        missing=len(list(absent)),
        parameter_numel=numels[Kind.PARAMETER],
        buffer_numel=numels[Kind.PERSISTENT_BUFFER],
        tensor_nbytes=nbytes,
        storage_nbytes=nbytes,
        dtypes=tuple(dtypes.most_common()),
        locations=tuple((name, count) for name, count in devices.most_common() if name),
        bases=tuple((kind, basis, count) for (kind, basis), count in sorted(bases.items())),
    )


def inspection(
    rows: Iterable[Row],
    *,
    absent: Iterable[Row] = (),
    groups: tuple[Group, ...] = (),
    weights_root: Root | None = (),
    title: str = "state_dict",
    findings: tuple[Finding, ...] = (),
    **checkpoint: object,
) -> Inspection:
    """An inspection of ``rows``; further keywords are fields of its checkpoint."""
    rows, absent = tuple(rows), tuple(absent)
    counts = summary(rows, absent)
    fields: dict[str, object] = {
        "path": PATH,
        "format": "torch zip",
        "layout": "1.6-2.0 layout",
        "files": (FileInfo(PATH, 4_863_221, 0, 0),),
        "entries": tuple(item.entry for item in rows),
        **checkpoint,
    }
    return Inspection(
        Checkpoint(**fields),  # type: ignore[arg-type]
        title,
        rows,
        absent,
        groups,
        weights_root,
        counts,
        findings,
        weights=Weights(
            counts.parameters,
            sum(item.classification.kind is Kind.PARAMETER and item.tied_to is not None for item in rows),
            counts.parameter_numel,
            counts.persistent_buffers + counts.non_persistent_buffers,
            counts.buffer_numel,
            counts.unknown,
        ),
    )


def training() -> Inspection:
    """A training checkpoint with everything that the view knows to draw."""
    root: Root = ("model", "state_dict")
    rows = [
        row("embed.weight", tensor((512, 64)), root=root),
        *(
            row(f"blocks.{layer}.attn.{part}.weight", tensor((64, 64), at=200_000), root=root)
            for layer in range(6)
            for part in ("q_proj", "k_proj", "v_proj")
        ),
        *(
            row(f"blocks.{layer}.norm.weight", tensor((64,)), basis=Basis.ORDER, root=root)
            for layer in range(6)
        ),
        row("blocks.0.norm.running_mean", tensor((64,)), Kind.PERSISTENT_BUFFER, Basis.NAME, root=root),
        row("step", tensor((), "int64"), Kind.PERSISTENT_BUFFER, Basis.DTYPE, root=root),
        row(
            "inv_freq",
            tensor((32,)),
            Kind.NON_PERSISTENT_BUFFER,
            Basis.NAME,
            root=root,
            presence=Presence.UNEXPECTED,
        ),
        row("mystery", tensor((3,)), Kind.UNKNOWN, Basis.NONE, root=root),
        row("_extra_state", tensor((16,), "uint8"), Kind.EXTRA_STATE, Basis.NAME, root=root),
    ]
    rows.append(row("head.weight", tensor((512, 64)), root=root, tied_to=rows[0].entry))
    packed = CompositeTensor(
        "quantized",
        "torch._utils._rebuild_qtensor",
        BY_NAME["qint8"],
        (8, 8),
        (Part("int_repr", tensor((8, 8), "int8")), Part("scales", tensor((8,), "float64"))),
        (("scale", 0.5), ("zero_point", 0)),
    )
    rows.append(row("packed", packed, basis=Basis.SIBLING, root=root))
    rows += [
        row(
            "exp_avg",
            tensor((64, 64), location="cuda:7"),
            Kind.OPTIMIZER_STATE,
            root=("optimizer", "state", index),
        )
        for index in range(25)
    ]
    return inspection(
        rows,
        absent=[
            *(missing(f"blocks.{layer}.attn.mask", root=root, note="causal mask") for layer in range(6)),
        ],
        groups=(
            Group(root, "weights", 32, 442_000, 27, 2, 1, 143_616, "prefix module."),
            Group(
                ("optimizer",), "optimizer", 25, 409_600, 0, 0, 0, 0, "Adam, 25 parameters mapped by order"
            ),
        ),
        weights_root=root,
        title="training checkpoint",
        values=(
            Value((), "epoch", 29),
            Value((), "best_f", 0.0731),
            Value(("scheduler",), "T_max", 20),
            Value(("scheduler",), "eta_min", float("nan")),
            Value(("model", "model_args"), "dim", 64),
            Value(("optimizer", "param_groups", 0), "betas", (0.9, 0.999)),
        ),
        opaque=(Opaque((), "hyper_parameters", "omegaconf.dictconfig.DictConfig", "3 keys"),),
        containers=(Container(("scheduler",), "dict", 2), Container(("model", "model_args"), "dict", 1)),
        globals=(
            GlobalRef("torch._utils", "_rebuild_tensor_v2", True, ("model",)),
            GlobalRef("omegaconf.dictconfig", "DictConfig", True, ("hyper_parameters",)),
        ),
        findings=(
            Finding("stale-buffer", "warning", "inv_freq", "in the file, but the module does not save it"),
            Finding("opaque", "info", "", "1 object is described, not read: hyper_parameters (`--globals`)"),
            Finding("nan", "error", "mystery", "holds 3 NaN"),
        ),
    )

"""The models of a ``.pt2`` archive: entries with the kinds of their signatures, and what stands beside.

The rules are at the head of the folder; this is what follows them once a file is known to be one.
"""

from __future__ import annotations

from ckpttool.formats.base import Limits, Look
from ckpttool.formats.export.schema import (
    TENSOR_CONSTANT,
    Payload,
    Program,
    TensorMeta,
    parse_payloads,
    parse_program,
    parse_shared_views,
)
from ckpttool.formats.pickled.contents import Contents, assemble
from ckpttool.formats.pickled_members import list_pickled_globals, merge_members, read_torch_member
from ckpttool.formats.strict_json import parse_json
from ckpttool.formats.torch_archive import TorchArchive, open_torch_archive
from ckpttool.formats.zip_records import read_archive, read_record
from ckpttool.values.checkpoint import (
    UNCLASSIFIED,
    Basis,
    Checkpoint,
    Classification,
    Entry,
    Finding,
    GlobalRef,
    Kind,
    Opaque,
    Record,
    Root,
    StorageRef,
    TensorInfo,
)
from ckpttool.values.errors import LimitExceeded, MalformedCheckpoint, UnsupportedFeature
from ckpttool.values.words import plural

_OLD_PROGRAM = "serialized_exported_program.json"
_WEIGHTS, _CONSTANTS, _AOTI = "data/weights/", "data/constants/", "data/aotinductor/"
_MODELS, _SAMPLE_INPUTS = "models/", "data/sample_inputs/"
_FILES = (_AOTI, "data/executorch/", "data/mtia/", "extra/", "xl_model_weights/", "extra_files/")
_CONSTANTS_ROOT: Root = ("constants",)
# The flag is ``isinstance(tensor, nn.Parameter)``, which a registered buffer may be as well.
_FLAGGED_PARAMETER = Classification(
    Kind.PARAMETER, Basis.PICKLED_PARAMETER, note="saved as a Parameter, not in the signature"
)


def read_export(look: Look) -> Checkpoint:
    """The checkpoint in a ``.pt2`` archive.

    Raises:
        CkptToolError: malformed, of an unknown version, or beyond ``limits``.
    """
    source, archive = look.source, look.parse(read_archive)
    both = next((name for name in archive.records if name.partition("/")[2] == "data.pkl"), None)
    if both is not None:
        raise MalformedCheckpoint(
            "two checkpoints in one archive: torch.load reads this member, torch.export.load a program",
            name=both,
        )
    if _OLD_PROGRAM in archive.records:  # beside the others, not in a top folder
        view = TorchArchive(source, archive.records, "", False, archive.findings)
        reader = _Reader(view, look.limits)
        layout = reader.read_old()
    else:
        view = open_torch_archive(source, archive)
        for member, expected in (("archive_format", "pt2"), ("archive_version", "0")):
            text = view.text(member)
            if text not in (None, expected):
                raise UnsupportedFeature(f"{member} {text!r} of a .pt2 archive")
        reader = _Reader(view, look.limits)
        layout = reader.read_new()
    records = tuple(archive.records.values())
    checkpoint = assemble(source, "torch_export", layout, reader.contents(), records, view.findings)
    # Tied names stand together, so the order of registration is lost.
    return checkpoint._replace(ordered=False)


class _Reader:
    """Collects what the models of one archive hold."""

    def __init__(self, view: TorchArchive, limits: Limits) -> None:
        self.source, self.records, self.big_endian = view.source, view.records, view.big_endian
        self.limits = limits
        self.found = Contents.empty()
        self.entries, self.opaque = self.found.entries, self.found.opaque
        self.findings: list[Finding] = []
        self.globals: list[tuple[str, tuple[GlobalRef, ...]]] = []
        self.pickled: dict[str, Contents] = {}  # by member

    def contents(self) -> Contents:
        """What was collected, as for any other torch file."""
        return self.found._replace(globals=merge_members(self.globals), findings=tuple(self.findings))

    # -- layouts ------------------------------------------------------------------------------

    def read_new(self) -> str:
        """An archive with ``archive_format``; the result is its layout for people."""
        names = [name.removesuffix(".json") for name in self.below(_MODELS) if name.endswith(".json")]
        layout = []
        for name in names:
            program = parse_program(self.json(f"{_MODELS}{name}.json"))
            layout.append(f"exported program, torch {program.torch_version or '2.4 or older'}")
            root: Root = () if len(names) == 1 else (name,)
            self.read_model(name, program, root)
        packages = list(dict.fromkeys(member.partition("/")[0] for member in self.below(_AOTI)))
        for name in packages:
            self.read_aoti_weights(name)
        if packages:
            layout.append("AOTInductor package")
        self.describe_files()
        return ", ".join(dict.fromkeys(layout)) or "no model"

    def below(self, folder: str) -> list[str]:
        """Members of ``folder``, without it in front."""
        return [member[len(folder) :] for member in self.records if member.startswith(folder)]

    def read_model(self, name: str, program: Program, root: Root) -> None:
        """Weights, constants and sample inputs of one model."""
        for folder, suffixes in (
            (_WEIGHTS, ("_weights_config.json", "_model_param_config.json")),
            (_CONSTANTS, ("_constants_config.json", "_model_constants_config.json")),
        ):
            zipped = f"{folder}{name}.pt"
            configs = [f"{folder}{name}{suffix}" for suffix in suffixes]
            config = next((member for member in configs if member in self.records), None)
            if zipped in self.records:
                self.read_zipped(zipped, program, root)
            elif config is not None:
                for payload in parse_payloads(self.json(config)):
                    self.read_payload(folder, payload, program, root)
            else:
                raise MalformedCheckpoint("a member is missing", name=configs[0])
        self.describe_pickle(f"{_SAMPLE_INPUTS}{name}.pt", ("sample_inputs",), name)

    def read_old(self) -> str:
        """The layout of torch 2.1 to 2.7: three torch zips beside the JSON."""
        program = parse_program(self.json(_OLD_PROGRAM))
        for stem in ("serialized_state_dict", "serialized_constants"):
            member = next((m for m in (f"{stem}.pt", f"{stem}.json") if m in self.records), None)
            if member is not None:
                self.read_zipped(member, program, ())
            elif stem == "serialized_state_dict":
                raise MalformedCheckpoint("a member is missing", name=f"{stem}.pt")
        self.describe_pickle("serialized_example_inputs.pt", (), "serialized_example_inputs.pt")
        self.describe_files()
        return "exported program, torch 2.7 or older"

    # -- tensors ------------------------------------------------------------------------------

    def read_payload(self, folder: str, payload: Payload, program: Program, root: Root) -> None:
        """One name of a config: bytes, a pickled tensor, or an object that is only described."""
        member = folder + payload.member
        record = self.records.get(member)
        if record is None:
            raise MalformedCheckpoint("a tensor's member is not in the file", name=member)
        kind = program.kinds.get(payload.name) or (_FLAGGED_PARAMETER if payload.is_param else UNCLASSIFIED)
        meta = payload.meta
        if payload.use_pickle and meta is None:
            self.describe_pickle(member, (*root, *_CONSTANTS_ROOT), payload.name)
        elif payload.use_pickle:
            self.add_pickled(member, payload.name, kind, root)
        elif meta is None:
            raise MalformedCheckpoint("a tensor has no tensor_meta", name=payload.name)
        elif meta.layout != "strided":
            self.opaque.append(Opaque(root, payload.name, "torch.Tensor", f"layout {meta.layout}"))
        else:
            storage = self.storage(member, record, meta)
            tensor = TensorInfo(meta.dtype, meta.shape, meta.stride, meta.storage_offset, storage)
            self.add(Entry(root, payload.name, tensor, meta.requires_grad, kind))

    def storage(self, member: str, record: Record, meta: TensorMeta) -> StorageRef | None:
        """The bytes of a member; None for a fake tensor, which has none."""
        if record.nbytes == 0 and 0 not in meta.shape:
            return None
        _, file, offset, nbytes, compressed_nbytes, _ = record
        return StorageRef(file, member, offset, nbytes, meta.location, self.big_endian, compressed_nbytes)

    def read_zipped(self, member: str, program: Program, root: Root) -> None:
        """A whole dict of tensors in a torch zip (an empty member is an empty dict)."""
        contents = self.read_pickled(member)
        for entry in contents.entries:
            kind = program.kinds.get(entry.name, UNCLASSIFIED) if type(entry.name) is str else UNCLASSIFIED
            if not entry.root and kind is not UNCLASSIFIED:
                entry = entry._replace(declared=kind)
            self.add(entry._replace(root=root + entry.root))
        self.opaque += [item._replace(root=root + item.root) for item in contents.opaque]

    def add_pickled(self, member: str, name: str, kind: Classification, root: Root) -> None:
        """One tensor in a torch zip; a subclass that is unknown here gives its parts."""
        contents = self.read_pickled(member)
        for entry in contents.entries:
            if not entry.root and entry.name == "":
                self.add(entry._replace(root=root, name=name, declared=kind))
            else:
                self.add(entry._replace(root=(*root, name, *entry.root)))
        self.opaque += [
            item._replace(root=(*root, name, *item.root) if item.name else root, name=item.name or name)
            for item in contents.opaque
        ]

    def read_pickled(self, member: str) -> Contents:
        """``read_torch_member`` once for each member."""
        contents = self.pickled.get(member)
        if contents is None:
            record = self.records[member]
            contents = Contents.empty()
            if record.nbytes:
                contents = read_torch_member(self.source, record, self.limits)
                self.globals.append((member, contents.globals))
                self.findings += contents.findings
            self.pickled[member] = contents
        return contents

    def read_aoti_weights(self, name: str) -> None:
        """Weights beside compiled code: views of whole tensors, each in a torch zip."""
        config = f"{_AOTI}{name}/weights_config.json"
        if config not in self.records:
            return
        for view in parse_shared_views(self.json(config)):
            member = _WEIGHTS + view.member
            if member not in self.records:
                raise MalformedCheckpoint("a tensor's member is not in the file", name=member)
            whole = [entry.tensor for entry in self.read_pickled(member).entries]
            if len(whole) != 1 or whole[0] is None:
                raise MalformedCheckpoint("a member does not hold one plain tensor", name=member)
            _, _, shape, stride, offset = view
            tensor = whole[0]._replace(shape=shape, stride=stride, storage_offset=offset)
            self.add(Entry(("aotinductor", name), view.name, tensor))

    def add(self, entry: Entry) -> None:
        """One entry; constants of the program stand apart from its state_dict."""
        if entry.declared is TENSOR_CONSTANT:
            entry = entry._replace(root=entry.root + _CONSTANTS_ROOT)
        self.entries.append(entry)
        if len(self.entries) > self.limits.entries:
            raise LimitExceeded("number of tensors", limit=self.limits.entries)

    # -- what is only described ---------------------------------------------------------------

    def describe_pickle(self, member: str, root: Root, name: str) -> None:
        """A member that torch.export.load unpickles: its globals, and that it is there."""
        record = self.records.get(member)
        if record is None:
            return
        refs, findings = list_pickled_globals(self.source, record, self.limits)
        self.globals.append(("", refs))
        self.findings += findings
        summary = f"{plural(record.nbytes, 'byte')}, run by torch.export.load"
        self.opaque.append(Opaque(root, name, "pickle", summary))

    def describe_files(self) -> None:
        """Compiled code and extra files."""
        for member, record in self.records.items():
            folder = next((folder for folder in _FILES if member.startswith(folder)), None)
            if folder is not None:
                root = tuple(folder.removeprefix("data/").rstrip("/").split("/"))
                self.opaque.append(Opaque(root, member[len(folder) :], "file", plural(record.nbytes, "byte")))

    def json(self, member: str) -> object:
        """A JSON member; a graph of a large model has tens of MB."""
        data = read_record(self.source, self.records[member], self.limits.header_nbytes, f"member {member}")
        return parse_json(data, member, self.limits, self.source.name)

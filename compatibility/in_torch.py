"""Writes files, or says what it loads: for any torch from 1.4 on, and Python from 3.8 on.

    python in_torch.py write FOLDER   one file per case, and write.json: what is in each, or why it is missing
    python in_torch.py load FOLDER    load.json: what torch.load or safetensors makes of each file

Facts are those of the file as the same torch loads it again: up to 1.12, say, the conjugate bit is lost.
The facts of a tensor are its dtype, shape, stride and the SHA-256 of its elements, packed in row-major order.
Nothing here may need numpy or a newer Python: it runs beside torch releases of 2020.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import platform
import sys
import warnings
from collections import OrderedDict

import torch
from torch import nn

warnings.simplefilter("ignore")

FLOATS = ("float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2")
FNUZ = ("float8_e4m3fnuz", "float8_e5m2fnuz")
COMPLEX = ("complex32", "complex64", "complex128")
INTEGERS = ("bool", "uint8", "int8", "int16", "int32", "int64", "uint16", "uint32", "uint64")
DTYPES = (*FLOATS, *FNUZ, *COMPLEX, *INTEGERS)
SHAPES = {"scalar": (), "vector": (5,), "empty": (0,), "matrix": (2, 3), "hollow": (2, 0, 3)}
RELEASE = tuple(int(part) for part in torch.__version__.partition("+")[0].split(".")[:2])


# -- what is in a tensor --------------------------------------------------------------------------


def raw_bytes(tensor):
    """The elements in row-major order, packed."""
    tensor = tensor.detach()
    for resolve in ("resolve_conj", "resolve_neg"):
        tensor = getattr(tensor, resolve, lambda same=tensor: same)()
    tensor = tensor.contiguous()
    # Neither numpy nor any storage class knows every dtype; memory does.
    return ctypes.string_at(tensor.data_ptr(), tensor.numel() * tensor.element_size())


def strided_facts(tensor):
    return {
        "dtype": str(tensor.dtype)[len("torch.") :],
        "shape": list(tensor.shape),
        "stride": list(tensor.stride()),
        "sha256": hashlib.sha256(raw_bytes(tensor)).hexdigest(),
    }


def parts_of(tensor):
    """Name and value of what a tensor that is not strided is made of; empty for one that is."""
    if tensor.is_quantized:
        parts = {"int_repr": tensor.detach().int_repr()}
        if "channel" in str(tensor.qscheme()):
            parts["scale"] = tensor.q_per_channel_scales()
            parts["zero_point"] = tensor.q_per_channel_zero_points()
        return parts
    if tensor.layout == torch.sparse_coo:
        return {"indices": tensor.detach()._indices(), "values": tensor.detach()._values()}
    if str(tensor.layout) == "torch.sparse_csr":
        names = ("crow_indices", "col_indices", "values")
        return {name: getattr(tensor.detach(), name)() for name in names}
    return {}


def tensor_facts(path, tensor, kind, seen):
    """The facts of one tensor; ``seen`` remembers views by address, so that ties are told."""
    parts = parts_of(tensor)
    if parts:
        told = {name: dict(strided_facts(part), numbers=part.tolist()) for name, part in parts.items()}
        return {"path": path, "kind": kind, "parts": told}
    facts = {"path": path, "kind": kind, **strided_facts(tensor)}
    view = (tensor.data_ptr(), facts["dtype"], str(facts["shape"]), str(facts["stride"]))
    facts["tied_to"] = seen.setdefault(view, path) if tensor.numel() else path
    return facts


def flatten(value, path=()):
    """(path, tensor, kind) of nested mappings, sequences and modules; a kind only where torch says it."""
    if isinstance(value, torch.Tensor):
        yield list(path), value, None
    elif isinstance(value, nn.Module):
        yield from flatten_module(value, path)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from flatten(item, (*path, key))
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from flatten(item, (*path, index))


def flatten_module(module, path):
    """Parameters and buffers under every name; ``state_dict`` tells which buffers are persistent."""
    saved = set(module.state_dict())
    scripted = isinstance(module, torch.jit.ScriptModule)
    for prefix, child in module.named_modules():
        for kind, tensors in (("parameter", child._parameters), ("buffer", child._buffers)):
            for name, tensor in tensors.items():
                if tensor is None:
                    continue
                full = prefix + "." + name if prefix else name
                if kind == "parameter":
                    shown = kind
                elif scripted:
                    shown = None  # an archive saves every buffer, and torch.jit knows no persistence
                else:
                    shown = "persistent_buffer" if full in saved else "non_persistent_buffer"
                yield [*path, full], tensor, shown


def facts_of(value):
    seen = {}
    return [tensor_facts(path, tensor, kind, seen) for path, tensor, kind in flatten(value)]


# -- what is loaded -------------------------------------------------------------------------------


def load_file(path, scripted=False):
    if scripted:
        return torch.jit.load(path)
    if path.endswith(".safetensors"):
        from safetensors.torch import load_file as load_safetensors

        return load_safetensors(path)
    # The files are of our own making; releases before 1.13 know no weights_only.
    return torch.load(path, **({"weights_only": False} if RELEASE >= (1, 13) else {}))


# -- what is written ------------------------------------------------------------------------------


def filled(dtype, shape):
    """A tensor whose memory is a fixed pattern of bytes: every bit of every dtype is put to the test."""
    tensor = torch.empty(shape, dtype=dtype)
    nbytes = tensor.numel() * tensor.element_size()
    pattern = bytes((37 * index + 11) % 251 for index in range(nbytes))
    if dtype == torch.bool:
        pattern = bytes(byte & 1 for byte in pattern)
    ctypes.memmove(tensor.data_ptr(), pattern, nbytes)
    return tensor


def all_shapes(name):
    return {label: filled(getattr(torch, name), shape) for label, shape in SHAPES.items()}


class Net(nn.Module):
    """Parameters, persistent buffers, a tie, and a non-persistent buffer where torch has them."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.norm = nn.BatchNorm1d(4)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("scale", torch.tensor(0.5))
        if RELEASE >= (1, 7):
            self.register_buffer("positions", torch.arange(7), persistent=False)

    def forward(self, x):
        return self.head(self.norm(self.embed(x))) * self.scale


def training():
    """A step of Adam, so that its state is there."""
    model = Net()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    model(torch.tensor([0, 1, 2])).sum().backward()
    optimizer.step()
    schedule.step()
    return {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": schedule.state_dict(),
        "epoch": 3,
        "rng": torch.get_rng_state(),
    }


def views():
    base = torch.arange(24.0)
    return {
        "all": base,
        "part": base[5:12],
        "transposed": base.reshape(4, 6).t(),
        "step": base[::3],
        "expanded": torch.ones(1).expand(3, 4),
        "channels_last": base.reshape(1, 2, 3, 4).contiguous(memory_format=torch.channels_last),
    }


def tied():
    weight = filled(torch.float32, (4, 3))
    return OrderedDict([("embed.weight", weight), ("head.weight", weight), ("other", weight.clone())])


def containers():
    return {
        "list": [torch.ones(2), (torch.zeros(1), None)],
        5: {"a.b": torch.ones(1)},
        "none": None,
        "s": "text",
    }


def quantized():
    dense = torch.arange(12.0).reshape(3, 4)
    scales, zeros = torch.tensor([0.1, 0.2, 0.3]), torch.zeros(3, dtype=torch.int64)
    return {
        "tensor": torch.quantize_per_tensor(dense, 0.5, 3, torch.qint8),
        "channel": torch.quantize_per_channel(dense, scales, zeros, 0, torch.quint8),
    }


def conjugated():
    return {"conj": torch.tensor([1 + 2j]).conj(), "neg": torch.tensor([1 + 2j]).conj().imag}


CASES = {
    **{"dtype " + name: lambda name=name: all_shapes(name) for name in DTYPES},
    "state_dict": lambda: Net().state_dict(),
    "whole module": Net,
    "training": training,
    "parameters": lambda: OrderedDict(Net().named_parameters()),
    "tied": tied,
    "views": views,
    "containers": containers,
    "quantized": quantized,
    "sparse coo": lambda: {"w": torch.eye(3).to_sparse()},
    "sparse csr": lambda: {"w": torch.eye(3).to_sparse_csr()},
    "conj and neg": conjugated,
}
SCRIPTS = {
    "scripted": lambda: torch.jit.script(Net().eval()),
    "traced": lambda: torch.jit.trace(Net().eval(), torch.tensor([0, 1])),
}


def save_options():
    """The containers that this release writes: name and arguments of torch.save."""
    if RELEASE < (1, 6):
        return {"legacy": {}, "experimental zip": {"_use_new_zipfile_serialization": True}}
    return {"zip": {}, "legacy": {"_use_new_zipfile_serialization": False}}


def facts_as_loaded(value, path, scripted):
    """Facts of a file as the torch that wrote it loads it; of what it saved, if it cannot."""
    saved = facts_of(value)
    try:
        loaded = facts_of(load_file(path, scripted))
    except Exception as error:  # noqa: BLE001 - torch 2.13 writes legacy files of new dtypes that it cannot load
        return {"tensors": saved, "changed": "this torch cannot load it again: {}".format(error)}
    changed = {} if loaded == saved else {"changed": "this torch loads something else than it saved"}
    return {"tensors": loaded, **changed}


def write(folder):
    """Write every case in every container."""
    torch.manual_seed(0)
    jobs = []
    for case, make in CASES.items():
        for container, options in save_options().items():
            jobs.append(
                (
                    case,
                    container,
                    make,
                    lambda value, path, options=options: torch.save(value, path, **options),
                )
            )
    for case, make in SCRIPTS.items():
        jobs.append((case, "torchscript", make, torch.jit.save))
    facts = []
    for case, container, make, save in jobs:
        name = (case + " " + container).replace(" ", "_") + ".pt"
        fact = {"case": case, "container": container, "file": name}
        try:
            value = make()
            save(value, os.path.join(folder, name))
            fact.update(facts_as_loaded(value, os.path.join(folder, name), container == "torchscript"))
        except Exception as error:  # noqa: BLE001 - what an old release cannot write is a fact, not a failure
            fact["cannot"] = "{}: {}".format(type(error).__name__, str(error).split("\n")[0])
        facts.append(fact)
    return facts


def load(folder):
    names = [name for name in sorted(os.listdir(folder)) if name.endswith((".pt", ".safetensors"))]
    return [dict(load_in_fork(os.path.join(folder, name)), file=name) for name in names]


def load_in_fork(path):
    """Facts of one file, by a process of its own: torch 1.6 aborts on TorchScript of today."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            fact = {"tensors": facts_of(load_file(path))}
        except Exception as error:  # noqa: BLE001 - the answer
            fact = {"cannot": "{}: {}".format(type(error).__name__, str(error).split("\n")[0])}
        with os.fdopen(writing, "w") as file:
            json.dump(fact, file)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as file:
        answer = file.read()
    status = os.waitpid(child, 0)[1]
    return json.loads(answer) if answer else {"cannot": "torch ends with status {}".format(status)}


def main():
    what, folder = sys.argv[1:]
    result = {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "files": write(folder) if what == "write" else load(folder),
    }
    try:
        import safetensors

        result["safetensors"] = safetensors.__version__
    except ImportError:
        result["safetensors"] = None
    with open(os.path.join(folder, what + ".json"), "w") as file:
        json.dump(result, file)


if __name__ == "__main__":
    main()

"""Checkpoints in which the author of the file makes one count as large as he likes: ``SUBJECTS``.

Each writes a file or a folder in which there are ``n`` of what its name says, and returns its path. All else
stays as it is while ``n`` grows.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from tests.hostile import pickles as op
from tests.hostile.containers import ZEROS, legacy, safetensors, torch_zip

Grow = Callable[[Path, int], Path]

_F32 = {"dtype": "F32", "shape": [4]}


def _write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def _header(names: Iterable[str], metadata: Mapping[str, str] | None = None) -> bytes:
    """Tensors of four numbers; their bytes count up, so that no two are equal."""
    header: dict[str, object] = {} if metadata is None else {"__metadata__": metadata}
    count = 0
    for name in names:
        header[name] = {**_F32, "data_offsets": [16 * count, 16 * count + 16]}
        count += 1
    return safetensors(header, b"".join((n + 1).to_bytes(16, "little") for n in range(count)))


def _zip(code: bytes, storages: Mapping[str, bytes] | None = None) -> bytes:
    return torch_zip(op.PROTO(2) + code + op.STOP, storages)


def _pairs(items: Iterable[tuple[object, bytes]]) -> bytes:
    return op.EMPTY_DICT + op.MARK + b"".join(op.push(key) + value for key, value in items) + op.SETITEMS


def _list(items: Iterable[bytes]) -> bytes:
    return op.EMPTY_LIST + op.MARK + b"".join(items) + op.APPENDS


def _own(n: int) -> bytes:
    """A tensor with a storage of its own."""
    return op.tensor(op.storage(str(n)))


def _owned(count: int) -> dict[str, bytes]:
    return {str(n): (n + 1).to_bytes(16, "little") for n in range(count)}


def _folder(path: Path, index: Mapping[str, object], shards: Mapping[str, bytes]) -> Path:
    path.mkdir()
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    for name, data in shards.items():
        (path / name).write_bytes(data)
    return path


def _shard(number: int, total: int) -> str:
    return f"model-{number + 1:05d}-of-{total:05d}.safetensors"


# -- safetensors and folders


def names(path: Path, n: int) -> Path:
    return _write(path, _header(f"blocks.{k // 10}.layer_{k % 10}.weight" for k in range(n)))


def names_unlike(path: Path, n: int) -> Path:
    return _write(path, _header(f"m{k * 7919 % 1_000_003:x}.w{k:x}x" for k in range(n)))


def names_with_gaps(path: Path, n: int) -> Path:
    """Indices that make no full product: ``a.I.J.w`` below a diagonal."""
    return _write(path, _header(f"a.{k}.{k * k % 1009}.{k * 31 % 17}.w" for k in range(n)))


def batch_norms(path: Path, n: int) -> Path:
    leaves = ("weight", "bias", "num_batches_tracked")
    return _write(path, _header(f"b{k}.bn.{leaf}" for k in range(n) for leaf in leaves))


def wrapped_names(path: Path, n: int) -> Path:
    return _write(path, _header(f"{'module.' if k % 2 else ''}a{k}._orig_mod.weight" for k in range(n)))


def parts_of_a_name(path: Path, n: int) -> Path:
    return _write(path, _header([".".join(["part"] * n) + ".weight", "b.weight"]))


def indices_of_a_name(path: Path, n: int) -> Path:
    return _write(path, _header([".".join(["7"] * n) + f".{k}.w" for k in range(4)]))


def wrappers_of_a_name(path: Path, n: int) -> Path:
    return _write(path, _header(["module." * n + "weight", "_orig_mod." * n + "bias"]))


def length_of_a_name(path: Path, n: int) -> Path:
    return _write(path, _header(["n" * n + ".weight", "\u202e" * n]))


def metadata(path: Path, n: int) -> Path:
    return _write(path, _header(["a.weight"], {f"key{k}": str(k) for k in range(n)}))


def dimensions(path: Path, n: int) -> Path:
    header = {"a": {"dtype": "F32", "shape": [1] * n, "data_offsets": [0, 4]}}
    return _write(path, safetensors(header, bytes(4)))


def holes_and_overlaps(path: Path, n: int) -> Path:
    header = {f"a{k}": {**_F32, "data_offsets": [0, 16]} for k in range(n)}
    return _write(path, safetensors(header, ZEROS))


def tensors_without_elements(path: Path, n: int) -> Path:
    header = {f"a{k}x": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for k in range(n)}
    return _write(path, safetensors(header))


def shards_missing(path: Path, n: int) -> Path:
    return _folder(path, {"weight_map": {f"a{k}": _shard(k, n) for k in range(n)}}, {})


def shards_missing_but_few(path: Path, n: int) -> Path:
    there = {_shard(k, n): _header([f"a{k}"]) for k in range(4)}
    return _folder(path, {"weight_map": {f"a{k}": _shard(k, n) for k in range(n)}}, there)


def shards(path: Path, n: int) -> Path:
    there = {_shard(k, n): _header([f"a{k}.weight"]) for k in range(n)}
    return _folder(path, {"weight_map": {f"a{k}.weight": _shard(k, n) for k in range(n)}}, there)


def shards_without_an_index(path: Path, n: int) -> Path:
    shards(path, n)
    (path / "model.safetensors.index.json").unlink()
    return path


def shards_of_equal_names(path: Path, n: int) -> Path:
    there = {_shard(k, n): _header(["a.weight", "b.weight"], {"key": str(k)}) for k in range(n)}
    return _folder(path, {"weight_map": {f"{k}": _shard(k, n) for k in range(n)}}, there)


def keys_absent(path: Path, n: int) -> Path:
    weight_map = {f"a{k}.weight": _shard(0, 1) for k in range(n)}
    return _folder(path, {"weight_map": weight_map}, {_shard(0, 1): _header(["b.weight"])})


def keys_unlisted(path: Path, n: int) -> Path:
    there = {_shard(0, 1): _header(f"a{k}x.weight" for k in range(n))}
    return _folder(path, {"weight_map": {"a0x.weight": _shard(0, 1)}}, there)


def keys_elsewhere(path: Path, n: int) -> Path:
    there = {_shard(k, 2): _header(f"a{k}x{m}.weight" for m in range(n)) for k in range(2)}
    weight_map = {f"a{k}x{m}.weight": _shard(1 - k, 2) for k in range(2) for m in range(n)}
    return _folder(path, {"weight_map": weight_map}, there)


def keys_twice(path: Path, n: int) -> Path:
    there = {_shard(k, 2): _header(f"a{m}x.weight" for m in range(n)) for k in range(2)}
    return _folder(path, {"weight_map": {f"a{m}x.weight": _shard(1, 2) for m in range(n)}}, there)


def metadata_of_the_index(path: Path, n: int) -> Path:
    index = {"metadata": {f"k{k}": k for k in range(n)}, "weight_map": {"a": _shard(0, 1)}}
    return _folder(path, index, {_shard(0, 1): _header(["a"])})


def files_beside(path: Path, n: int) -> Path:
    there = {_shard(0, 1): _header(["a"]), **{f"file{k}.txt": b"" for k in range(n)}}
    return _folder(path, {"weight_map": {"a": _shard(0, 1)}}, there)


def stray_shards(path: Path, n: int) -> Path:
    there = {_shard(k, n): b"" for k in range(1, n)}
    return _folder(path, {"weight_map": {"a": _shard(0, 1)}}, {**there, _shard(0, 1): _header(["a"])})


def checkpoints_beside(path: Path, n: int) -> Path:
    path.mkdir()
    for k in range(n):
        (path / f"step{k}x.safetensors").write_bytes(b"")
    (path / "model.safetensors").write_bytes(_header(["a.weight"]))
    return path


# -- torch zips


def storages(path: Path, n: int) -> Path:
    return _write(path, _zip(_pairs((f"a{k // 9}x.w{k % 9}", _own(k)) for k in range(n)), _owned(n)))


def storages_of_a_legacy_file(path: Path, n: int) -> Path:
    code = op.PROTO(2) + _pairs(
        (f"a{k // 9}x.w{k % 9}", op.tensor(op.storage(str(k), "torch:FloatStorage", 4, "cpu", None)))
        for k in range(n)
    )
    return _write(path, legacy(code + op.STOP, [(4, ZEROS)] * n))


def ties(path: Path, n: int) -> Path:
    return _write(path, _zip(_pairs((f"a{k}x.weight", op.tensor()) for k in range(n))))


def views(path: Path, n: int) -> Path:
    code = _pairs((f"a{k}x.weight", op.tensor(op.storage("0", numel=4 * n), 4 * k)) for k in range(n))
    return _write(path, _zip(code, {"0": b"".join((k + 1).to_bytes(16, "little") for k in range(n))}))


def views_that_overlap(path: Path, n: int) -> Path:
    code = _pairs((f"a{k}x.weight", op.tensor(op.storage("0", numel=n + 4), k)) for k in range(n))
    return _write(path, _zip(code, {"0": bytes(4 * n + 16)}))


def views_within_views(path: Path, n: int) -> Path:
    """Each begins where all others do, and is longer than those before."""
    code = _pairs((f"a{k}x.weight", op.tensor(op.storage("0", numel=n + 4), 0, (k + 1,))) for k in range(n))
    return _write(path, _zip(code, {"0": bytes(4 * n + 16)}))


def branches(path: Path, n: int) -> Path:
    code = _pairs((f"b{k}x", _pairs([("a.weight", op.tensor()), ("a.bias", op.tensor())])) for k in range(n))
    return _write(path, _zip(code))


def averaged_branches(path: Path, n: int) -> Path:
    weights = _pairs([("a.weight", op.tensor()), ("a.bias", op.tensor())])
    code = _pairs([("model", weights), *((f"ema{k}x", weights) for k in range(n))])
    return _write(path, _zip(code))


def wrapped_branches(path: Path, n: int) -> Path:
    """Names that are wrapped in each, and not without the wrapper: those are taken."""
    one = _pairs([("module.a.weight", op.tensor()), ("a.weight", op.tensor())])
    return _write(path, _zip(_pairs((f"b{k}x", one) for k in range(n))))


def branches_in_branches(path: Path, n: int) -> Path:
    code = op.EMPTY_DICT + b"".join(op.push(f"b{k}") + op.EMPTY_DICT for k in range(n))
    code += op.push("w") + op.tensor() + op.SETITEM * (n + 1)
    return _write(path, _zip(code))


def lists_of_tensors(path: Path, n: int) -> Path:
    return _write(path, _zip(_pairs([("a", _list(op.tensor() for _ in range(n)))])))


def values(path: Path, n: int) -> Path:
    code = _pairs([*((f"v{k}x", op.push(k)) for k in range(n)), ("a.weight", op.tensor())])
    return _write(path, _zip(code))


def values_in_branches(path: Path, n: int) -> Path:
    code = _pairs([*((f"v{k}x", op.push({"lr": k})) for k in range(n)), ("a.weight", op.tensor())])
    return _write(path, _zip(code))


def items_of_a_value(path: Path, n: int) -> Path:
    return _write(path, _zip(_pairs([("v", op.push(list(range(n)))), ("a.weight", op.tensor())])))


def digits_of_a_value(path: Path, n: int) -> Path:
    return _write(path, _zip(_pairs([("v", op.push(1 << 8 * n)), ("a.weight", op.tensor())])))


def length_of_a_value(path: Path, n: int) -> Path:
    return _write(path, _zip(_pairs([("v", op.push("\x1b" * n)), ("a.weight", op.tensor())])))


def objects(path: Path, n: int) -> Path:
    code = _pairs([*((f"o{k}x", op.call("a:B", k)) for k in range(n)), ("a.weight", op.tensor())])
    return _write(path, _zip(code))


def attributes_of_an_object(path: Path, n: int) -> Path:
    state = _pairs((f"attribute{k}", op.push(k)) for k in range(n))
    return _write(path, _zip(_pairs([("o", op.call("a:B") + state + op.BUILD), ("a.weight", op.tensor())])))


def globals_(path: Path, n: int) -> Path:
    code = _pairs([*((f"o{k}x", op.call(f"m{k}:f")) for k in range(n)), ("a.weight", op.tensor())])
    return _write(path, _zip(code))


def globals_unused(path: Path, n: int) -> Path:
    dropped = b"".join(op.GLOBAL(f"os.m{k}", "system") + op.POP for k in range(n))
    return _write(path, _zip(dropped + _pairs([("a.weight", op.tensor())])))


def modules_of_metadata(path: Path, n: int) -> Path:
    versions = _pairs((f"a{k}x", op.push({"version": 2, "more": k})) for k in range(n))
    code = op.call("collections:OrderedDict") + op.push("a0x.weight") + op.tensor() + op.SETITEM
    code += _pairs([("_metadata", versions)]) + op.BUILD
    return _write(path, _zip(code))


def parameters_with_an_optimizer(path: Path, n: int) -> Path:
    weights = ((f"a{k}x.weight", _own(k)) for k in range(n))
    state = ((k, _pairs([("step", op.push(1)), ("exp_avg", _own(n + k))])) for k in range(n))
    group = {"lr": 0.1, "params": list(range(n))}
    optimizer = _pairs([("state", _pairs(state)), ("param_groups", op.push([group]))])
    code = _pairs([("model", _pairs(weights)), ("optimizer", optimizer)])
    return _write(path, _zip(code, _owned(2 * n)))


def param_groups(path: Path, n: int) -> Path:
    groups = [{"lr": 0.1, "params": [k], "param_names": [f"a{k}x.weight"]} for k in range(n)]
    optimizer = _pairs([("state", _pairs([])), ("param_groups", op.push(groups))])
    weights = ((f"a{k}x.weight", _own(k)) for k in range(n))
    return _write(path, _zip(_pairs([("model", _pairs(weights)), ("optimizer", optimizer)]), _owned(n)))


def optimizers(path: Path, n: int) -> Path:
    state = _pairs([(0, _pairs([("exp_avg", op.tensor())]))])
    one = _pairs([("state", state), ("param_groups", op.push([{"lr": 0.1, "params": [0]}]))])
    code = _pairs([("model", _pairs([("a.weight", op.tensor())])), ("optimizers", _list([one] * n))])
    return _write(path, _zip(code))


def modules(path: Path, n: int) -> Path:
    below = {f"m{k}x": op.module(parameters={"weight": op.parameter(_own(k))}) for k in range(n)}
    return _write(path, _zip(op.module(modules=below), _owned(n)))


def modules_in_modules(path: Path, n: int) -> Path:
    code = op.module(parameters={"w": op.parameter()})
    for _ in range(n):
        code = op.module(modules={"m": code})
    return _write(path, _zip(code))


def devices(path: Path, n: int) -> Path:
    weights = ((f"a{k}x", op.tensor(op.storage(str(k), location=f"cuda:{k}"))) for k in range(n))
    return _write(path, _zip(_pairs(weights), _owned(n)))


def tensors_of_one_state(path: Path, n: int) -> Path:
    """Tensors of a class of their own that share a dict of attributes."""
    state = _pairs((f"attribute{k}", op.push(k)) for k in range(n))
    plain = (op.storage("0"), 0, (4,), (1,), False, op.push({}))

    def one(attributes: bytes) -> bytes:
        function = op.named("torch._utils:_rebuild_tensor_v2")
        return op.call("torch._tensor:_rebuild_from_type_v2", function, op.named("a:B"), plain, attributes)

    made = [one(state + op.BINPUT(1)), *[one(op.BINGET(1))] * (n - 1)]
    return _write(path, _zip(_pairs((f"a{k}x", code) for k, code in enumerate(made))))


def parts_of_a_tensor(path: Path, n: int) -> Path:
    state = {f"part{k}": _own(k) for k in range(n)}
    plain = (op.storage("0"), 0, (4,), (1,), False, op.push({}))
    function = op.named("torch._utils:_rebuild_tensor_v2")
    code = op.call("torch._tensor:_rebuild_from_type_v2", function, op.named("a:B"), plain, state)
    return _write(path, _zip(_pairs([("w", code), ("a", op.tensor())]), _owned(n)))


def composites(path: Path, n: int) -> Path:
    quantizer = (op.named("torch:per_tensor_affine"), 0.5, 0)
    hooks = op.call("collections:OrderedDict")

    def one(k: int) -> bytes:
        source = op.storage("0", "torch:QInt8Storage", n)
        return op.call("torch._utils:_rebuild_qtensor", source, k, (1,), (1,), quantizer, False, hooks)

    return _write(path, _zip(_pairs((f"a{k}x", one(k)) for k in range(n)), {"0": bytes(n)}))


def members_of_no_use(path: Path, n: int) -> Path:
    return _write(path, _zip(_pairs([("a", op.tensor())]), {"0": ZEROS, **{f"x{k}": b"" for k in range(n)}}))


def opcodes_of_no_use(path: Path, n: int) -> Path:
    return _write(path, _zip((op.NONE + op.POP) * n + _pairs([("a", op.tensor())])))


def keys_of_no_text(path: Path, n: int) -> Path:
    return _write(path, _zip(op.EMPTY_DICT + op.MARK + b"".join(
        op.push((k, "x")) + op.tensor() for k in range(n)) + op.SETITEMS))  # fmt: skip


SUBJECTS: dict[str, Grow] = {
    function.__name__.rstrip("_"): function
    for function in (
        names, names_unlike, names_with_gaps, batch_norms, wrapped_names, parts_of_a_name, indices_of_a_name,
        wrappers_of_a_name, length_of_a_name, metadata, dimensions, holes_and_overlaps,
        tensors_without_elements, shards_missing, shards_missing_but_few, shards, shards_without_an_index,
        shards_of_equal_names, keys_absent, keys_unlisted, keys_elsewhere, keys_twice, metadata_of_the_index,
        files_beside, stray_shards, checkpoints_beside, storages, storages_of_a_legacy_file, ties, views,
        views_that_overlap, views_within_views, branches, averaged_branches, wrapped_branches,
        branches_in_branches, lists_of_tensors, values, values_in_branches, items_of_a_value,
        digits_of_a_value, length_of_a_value, objects, attributes_of_an_object, globals_, globals_unused,
        modules_of_metadata,
        parameters_with_an_optimizer, param_groups, optimizers, modules, modules_in_modules, devices,
        tensors_of_one_state, parts_of_a_tensor, composites, members_of_no_use,
        opcodes_of_no_use, keys_of_no_text,
    )
}  # fmt: skip

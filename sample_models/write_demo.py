"""Write checkpoints of the sample models, one of each sort that people meet.

`python -m sample_models.write_demo DIR` writes the same bytes on every run and every machine, by one version
of torch: see `same_bytes`. Beside them it writes the source of two models, for `--model swin.py:build` and
`lint forgotten.py:build`.
"""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from sample_models import (
    batch_norm_stack,
    conv_buffers,
    conv_parameters,
    extra_state,
    linear_xavier,
    low_precision,
    rotary_decoder,
    scalar_and_empty,
    seeding,
    swin_window_attention,
    tied_embeddings,
    unregistered_tensor,
)
from sample_models.same_bytes import save, save_legacy, save_scripted, with_exact_weights

# What transformers and safetensors' own `save_model` put there; some loaders refuse a file without it.
METADATA = {"format": "pt"}

LFS_POINTER = """\
version https://git-lfs.github.com/spec/v1
oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393
size 4265146304
"""


def train(model: nn.Module, inputs: tuple[Tensor, ...], steps: int) -> torch.optim.Adam:
    """Take Adam steps towards an output of zero, and return the optimizer with what it remembers.

    In double precision, and then back: how a processor adds up does not reach the digits that stay.
    """
    model.double()
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(trainable, lr=1e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        model(*inputs).square().mean().backward()
        optimizer.step()
    model.float()
    for moments in optimizer.state.values():
        moments.update({name: moment.float() for name, moment in moments.items()})
    return optimizer


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Return the state_dict in the form that `save_file` takes."""
    return {name: tensor.contiguous() for name, tensor in model.state_dict().items()}


def write_linear(folder: Path) -> None:
    """A state_dict and nothing else."""
    save(with_exact_weights(linear_xavier.build()).state_dict(), folder / "linear.pt")


def write_conv_twins(folder: Path) -> None:
    """Two files with equal names and bytes: parameters in one model, buffers in the other."""
    save(with_exact_weights(conv_parameters.build()).state_dict(), folder / "conv_parameters.pt")
    save(with_exact_weights(conv_buffers.build()).state_dict(), folder / "conv_buffers.pt")


def write_decoder_training(folder: Path) -> None:
    """A training checkpoint: weights, Adam's two moments of each, a schedule, and where the training was."""
    model = with_exact_weights(rotary_decoder.build(num_layers=2))
    optimizer = train(model, rotary_decoder.example_input(), steps=3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=10)
    checkpoint = {
        "epoch": 3,
        "global_step": 3,
        "lr": scheduler.get_last_lr()[0],
        "best_loss": 0.25,
        "args": {"num_layers": 2, "dataset": "none", "mixed_precision": False},
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
    }
    save(checkpoint, folder / "decoder_training.pt")


def write_decoder_safetensors(folder: Path) -> None:
    """One safetensors file, and no `inv_freq` in it."""
    save_file(
        tensors_of(with_exact_weights(rotary_decoder.build())),
        folder / "decoder.safetensors",
        metadata=METADATA,
    )


def write_swin(folder: Path) -> None:
    """The same weights twice: bare, and with the prefixes that DistributedDataParallel and compile leave."""
    state = with_exact_weights(swin_window_attention.build()).state_dict()
    save(state, folder / "swin.pt")
    wrapped = {f"module._orig_mod.{name}": tensor for name, tensor in state.items()}
    save({"epoch": 12, "state_dict": wrapped}, folder / "swin_ddp_compiled.pt")


def write_batch_norms_legacy(folder: Path) -> None:
    """The layout from before torch 1.6: a row of pickles and then the storages, no zip."""
    save_legacy(with_exact_weights(batch_norm_stack.build()).state_dict(), folder / "batch_norms_legacy.pth")


def write_batch_norms_whole_module(folder: Path) -> None:
    """A pickled module: names its class, and `torch.load` would import it. The kinds are in the file."""
    save(with_exact_weights(batch_norm_stack.build()).eval(), folder / "batch_norms_whole_module.pt")


def write_batch_norms_torchscript(folder: Path) -> None:
    """A scripted module: code and weights in one archive, which no import is needed for."""
    save_scripted(batch_norm_stack.build, folder / "batch_norms_torchscript.pt")


def write_sharded(folder: Path) -> None:
    """A folder of shards with an index, as published language models are."""
    tensors = tensors_of(with_exact_weights(rotary_decoder.build(num_layers=4)))
    names = list(tensors)
    parts = [names[:14], names[14:28], names[28:]]
    target = folder / "sharded"
    target.mkdir(exist_ok=True)
    weight_map: dict[str, str] = {}
    for number, part in enumerate(parts, start=1):
        file = f"model-{number:05d}-of-{len(parts):05d}.safetensors"
        save_file({name: tensors[name] for name in part}, target / file, metadata=METADATA)
        weight_map |= dict.fromkeys(part, file)
    total = sum(tensor.nbytes for tensor in tensors.values())
    write_json(
        target / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": weight_map}
    )


def write_tied(folder: Path) -> None:
    """One storage under two names; and the safetensors form, in which one name had to go."""
    model = with_exact_weights(tied_embeddings.build())
    save(model.state_dict(), folder / "tied.pt")
    kept = tensors_of(model)
    del kept["lm_head.weight"]
    save_file(kept, folder / "tied.safetensors", metadata=METADATA)


def write_low_precision(folder: Path) -> None:
    """bfloat16 and both float8 dtypes, in both containers."""
    model = with_exact_weights(low_precision.build())
    save(model.state_dict(), folder / "low_precision.pt")
    save_file(tensors_of(model), folder / "low_precision.safetensors", metadata=METADATA)


def write_odd_tensors(folder: Path) -> None:
    """Shapes `()` and `(0, 8)`, bool and complex; and a state_dict with a value that is no tensor."""
    save(with_exact_weights(scalar_and_empty.build()).state_dict(), folder / "scalar_and_empty.pt")
    save(with_exact_weights(extra_state.build()).state_dict(), folder / "extra_state.pt")


def write_base_and_tuned(folder: Path) -> None:
    """Before and after a fine-tune of the last layer and the head, in two containers."""
    model = with_exact_weights(rotary_decoder.build())
    save(model.state_dict(), folder / "base.pt")
    model.requires_grad_(False)
    model.layers[-1].requires_grad_(True)
    model.lm_head.requires_grad_(True)
    train(model, rotary_decoder.example_input(), steps=5)
    save_file(tensors_of(model), folder / "tuned.safetensors", metadata=METADATA)


def write_lfs_pointer(folder: Path) -> None:
    """What a clone without git-lfs leaves where 4 GB should be."""
    (folder / "not_pulled.safetensors").write_text(LFS_POINTER, encoding="ascii")


def write_sources(folder: Path) -> None:
    """The code of two models, each in one file that imports nothing but torch."""
    write_source(folder / "swin.py", swin_window_attention)
    write_source(folder / "forgotten.py", unregistered_tensor)


def write_source(path: Path, module: ModuleType) -> None:
    """Write the module with the one function that it imports from its package in place of that import."""
    source = inspect.getsource(module)
    imported = "from sample_models.seeding import seeded\n"
    if source.count(imported) != 1:
        raise ValueError(f"{module.__name__} no longer imports {imported.strip()!r}")
    header = "from collections.abc import Iterator\nfrom contextlib import contextmanager\n\nimport torch\n"
    source = source.replace("import torch\n", header, 1)
    path.write_text(source.replace(imported, "\n" + inspect.getsource(seeding.seeded)), encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write JSON as transformers does: indented, sorted, a newline at the end."""
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


WRITERS: tuple[Callable[[Path], None], ...] = (
    write_linear,
    write_conv_twins,
    write_decoder_training,
    write_decoder_safetensors,
    write_swin,
    write_batch_norms_legacy,
    write_batch_norms_whole_module,
    write_batch_norms_torchscript,
    write_sharded,
    write_tied,
    write_low_precision,
    write_odd_tensors,
    write_base_and_tuned,
    write_lfs_pointer,
    write_sources,
)


NEXT = {
    "ckpttool verify swin.pt --model swin.py:build": "does a load restore the model?",
    "ckpttool inspect swin.pt --source swin.py": "which buffers are not in the file?",
    "ckpttool diff base.pt tuned.safetensors": "what changed, and by how much?",
    "ckpttool convert decoder_training.pt model.safetensors": "the weights alone, byte for byte",
    "ckpttool lint forgotten.py:build": "which tensors would be lost?",
}
"""What `make demo` ends with: commands in the folder that it writes, and what each answers."""


def write_demo(folder: Path) -> list[Path]:
    """Write all of them into the folder, which is made if need be, and return the files in it, sorted."""
    folder.mkdir(parents=True, exist_ok=True)
    for write in WRITERS:
        write(folder)
    return sorted(path for path in folder.rglob("*") if path.is_file())


def main(arguments: list[str]) -> int:
    """Write the demo checkpoints into the one folder that the arguments name, or print what is next."""
    if arguments == ["--next"]:
        width = max(map(len, NEXT))
        print("".join(f"  {command:{width}}  # {why}\n" for command, why in NEXT.items()), end="")
        return 0
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print("usage: python -m sample_models.write_demo DIR", file=sys.stderr)
        return 2
    folder = Path(arguments[0])
    files = write_demo(folder)
    print(f"{folder}: {len(files)} files, {sum(path.stat().st_size for path in files):,} bytes")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

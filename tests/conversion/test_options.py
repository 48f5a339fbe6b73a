"""What the options of convert do, told by torch and safetensors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ckpttool.cli import main


class Outcome:
    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err

    @property
    def document(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Any:
    def run(*arguments: object) -> Outcome:
        status = main(["convert", *map(str, arguments)])
        captured = capsys.readouterr()
        return Outcome(status, captured.out, captured.err)

    return run


def save(path: Path, value: object) -> Path:
    torch.save(value, path)
    return path


def weights(**more: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"a.weight": torch.randn(4, 4), "a.bias": torch.randn(4), **more}


# -- names --------------------------------------------------------------------------------------------


def test_wrapper_prefixes_go_and_the_versions_move_with_them(run: Any, tmp_path: Path) -> None:
    model = torch.nn.DataParallel(torch.nn.Sequential(torch.nn.BatchNorm1d(3)))
    source = save(tmp_path / "a.pt", model.state_dict())
    assert run(source, tmp_path / "b.pt", "--strip-prefix", "auto").status == 0
    back = torch.load(tmp_path / "b.pt", weights_only=True)
    bare = model.module.state_dict()
    assert list(back) == list(bare)
    assert back._metadata == bare._metadata
    fresh = torch.nn.Sequential(torch.nn.BatchNorm1d(3))
    assert str(fresh.load_state_dict(back)) == "<All keys matched successfully>"


def test_prefix_is_whole_parts_and_repeated(run: Any, tmp_path: Path) -> None:
    source = save(tmp_path / "a.pt", {"m.m.x": torch.ones(1), "mm.y": torch.ones(1), "k.m.z": torch.ones(1)})
    assert run(source, tmp_path / "b.safetensors", "--strip-prefix", "m").status == 0
    assert set(load_file(tmp_path / "b.safetensors")) == {"x", "mm.y", "k.m.z"}


def test_rename_and_add_prefix(run: Any, tmp_path: Path) -> None:
    source = save(tmp_path / "a.pt", weights())
    done = run(
        source, tmp_path / "b.safetensors", "--rename", r"^a\.(.*)=>b.\1", "--add-prefix", "net", "--json"
    )
    assert done.document["renamed"] == {"a.weight": "net.b.weight", "a.bias": "net.b.bias"}
    assert set(load_file(tmp_path / "b.safetensors")) == {"net.b.weight", "net.b.bias"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--rename", "bias|weight=>x"], "both be called 'a.x'"),
        (["--rename", "no arrow"], "not of the form REGEX=>REPL"),
        (["--rename", "(=>x"], "not a regular expression"),
        (["--rename", r"a=>\7"], "not a regular expression"),
        (["--strip-prefix", "nothing"], "no name changes"),
    ],
)
def test_bad_renames_are_refused(run: Any, tmp_path: Path, options: list[str], words: str) -> None:
    done = run(save(tmp_path / "a.pt", weights()), tmp_path / "b.safetensors", *options)
    assert done.status == 2 and words in done.err
    assert not (tmp_path / "b.safetensors").exists()


# -- branches -----------------------------------------------------------------------------------------


def training() -> dict[str, Any]:
    model = torch.nn.Linear(3, 4)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    return {"epoch": 7, "state_dict": model.state_dict(), "optimizer": optimizer.state_dict()}


def test_weights_are_found_and_the_rest_is_listed(run: Any, tmp_path: Path) -> None:
    done = run(save(tmp_path / "a.pt", training()), tmp_path / "b.safetensors", "--json")
    document = done.document
    assert document["schema"] == "ckpttool/convert/1"
    assert document["root"] == ["state_dict"] and document["written"] is True and document["checked"] is True
    assert {tuple(item["root"][:1]) for item in document["dropped"]} == {("optimizer",)}
    assert not any(item["asked"] for item in document["dropped"])


def test_strict_refuses_to_leave_anything_behind(run: Any, tmp_path: Path) -> None:
    source = save(tmp_path / "a.pt", training())
    assert run(source, tmp_path / "b.safetensors", "--strict").status == 2
    assert not (tmp_path / "b.safetensors").exists()
    assert run(source, tmp_path / "b.safetensors", "--strict", "--drop", "optimizer").status == 0


def test_root_takes_a_branch_and_flattens_it(run: Any, tmp_path: Path) -> None:
    checkpoint = training()
    source = save(tmp_path / "a.pt", checkpoint)
    assert run(source, tmp_path / "b.safetensors", "--root", "optimizer").status == 0
    read = load_file(tmp_path / "b.safetensors")
    assert torch.equal(read["state.0.exp_avg"], checkpoint["optimizer"]["state"][0]["exp_avg"])
    assert run(tmp_path / "b.safetensors", tmp_path / "c.pt").status == 0
    back = torch.load(tmp_path / "c.pt", weights_only=True)
    assert torch.equal(back["state"][1]["exp_avg_sq"], checkpoint["optimizer"]["state"][1]["exp_avg_sq"])
    assert back["param_groups"] == checkpoint["optimizer"]["param_groups"]


def test_everything_fits_into_safetensors_with_an_empty_root(run: Any, tmp_path: Path) -> None:
    checkpoint = training()
    source = save(tmp_path / "a.pt", checkpoint)
    assert run(source, tmp_path / "b.safetensors", "--root", "", "--strict").status == 0
    assert run(tmp_path / "b.safetensors", tmp_path / "c.pt").status == 0
    back = torch.load(tmp_path / "c.pt", weights_only=True)
    assert back["epoch"] == 7 and set(back) == set(checkpoint)
    for index, state in checkpoint["optimizer"]["state"].items():
        assert all(torch.equal(state[key], back["optimizer"]["state"][index][key]) for key in state)
    assert back["state_dict"]._metadata == checkpoint["state_dict"]._metadata


def test_weights_only_makes_a_bare_state_dict(run: Any, tmp_path: Path) -> None:
    checkpoint = training()
    source = save(tmp_path / "a.pt", checkpoint)
    assert run(source, tmp_path / "b.pt", "--weights-only", "--strict").status == 0
    assert list(torch.load(tmp_path / "b.pt", weights_only=True)) == list(checkpoint["state_dict"])


def test_averaged_weights_are_preferred_on_demand(run: Any, tmp_path: Path) -> None:
    checkpoint = {"model": weights(), "ema": weights()}
    source = save(tmp_path / "a.pt", checkpoint)
    assert run(source, tmp_path / "b.safetensors", "--prefer", "ema").status == 0
    assert torch.equal(load_file(tmp_path / "b.safetensors")["a.bias"], checkpoint["ema"]["a.bias"])


def test_two_equal_branches_are_ambiguous(run: Any, tmp_path: Path) -> None:
    source = save(tmp_path / "a.pt", {"generator": weights(), "discriminator": weights()})
    done = run(source, tmp_path / "b.safetensors")
    assert done.status == 2 and "--root takes one of: generator, discriminator" in done.err


def test_keep_and_drop(run: Any, tmp_path: Path) -> None:
    source = save(tmp_path / "a.pt", weights(c=torch.ones(1)))
    assert run(source, tmp_path / "b.safetensors", "--keep", "a.*", "--drop", "*.bias").status == 0
    assert set(load_file(tmp_path / "b.safetensors")) == {"a.weight"}
    done = run(source, tmp_path / "c.safetensors", "--keep", "c", "--drop", "c")
    assert done.status == 2 and "no tensor is left" in done.err


@pytest.mark.parametrize("option", ["--keep", "--include", "--drop", "--exclude", "--keep-dtype"])
def test_a_glob_that_fits_nothing_is_a_slip(run: Any, tmp_path: Path, option: str) -> None:
    source = save(tmp_path / "a.pt", {"model": weights(), "epoch": 3})
    done = run(source, tmp_path / "b.safetensors", "--dtype", "bf16", option, "a.wieght")
    assert done.status == 2 and "no entry matches 'a.wieght'\nhint:  did you mean a.weight\n" in done.err
    assert not (tmp_path / "b.safetensors").exists()


def test_a_value_may_be_dropped_and_no_tensor(run: Any, tmp_path: Path) -> None:
    source = save(tmp_path / "a.pt", {"model": weights(), "epoch": 3, "args": {"lr": 1}})
    for glob in ("epoch", "args", "args.lr", "model"):
        done = run(source, tmp_path / "b.pt", "--drop", glob)
        assert (done.status, "no entry" in done.err) == ((2, False) if glob == "model" else (0, False))
        (tmp_path / "b.pt").unlink(missing_ok=True)


def test_pickled_module_gives_its_state_dict(run: Any, tmp_path: Path) -> None:
    model = torch.nn.BatchNorm1d(3)
    model.register_buffer("cache", torch.ones(2), persistent=False)
    source = save(tmp_path / "a.pt", model)
    assert run(source, tmp_path / "b.safetensors").status == 0
    assert set(load_file(tmp_path / "b.safetensors")) == set(model.state_dict())
    assert run(source, tmp_path / "c.safetensors", "--non-persistent").status == 0
    assert set(load_file(tmp_path / "c.safetensors")) == {*model.state_dict(), "cache"}


# -- ties and views -----------------------------------------------------------------------------------


def test_overlapping_views_are_both_there(run: Any, tmp_path: Path) -> None:
    big = torch.arange(20.0)
    source = save(tmp_path / "a.pt", {"view": big[:4], "full": big})
    done = run(source, tmp_path / "b.safetensors", "--json")
    read = load_file(tmp_path / "b.safetensors")
    assert torch.equal(read["view"], big[:4]) and torch.equal(read["full"], big)
    assert any("written apart" in note for note in done.document["notes"])


def test_shared_can_be_duplicated_or_refused(run: Any, tmp_path: Path) -> None:
    tied = torch.randn(3, 3)
    source = save(tmp_path / "a.pt", {"a": tied, "b": tied})
    assert run(source, tmp_path / "b.safetensors", "--shared", "fail").status == 2
    assert run(source, tmp_path / "b.safetensors", "--shared", "duplicate").status == 0
    assert set(load_file(tmp_path / "b.safetensors")) == {"a", "b"}
    assert run(source, tmp_path / "b.pt", "--shared", "duplicate").status == 0
    back = torch.load(tmp_path / "b.pt", weights_only=True)
    assert back["a"].data_ptr() != back["b"].data_ptr()


def test_views_of_one_flat_storage_split_and_leave_the_rest_behind(run: Any, tmp_path: Path) -> None:
    flat = torch.randn(100_000)
    state = {"a": flat[10:20].view(2, 5), "b": flat[20:30]}
    source = save(tmp_path / "a.pt", state)
    assert run(source, tmp_path / "b.pt").status == 0
    assert (tmp_path / "b.pt").stat().st_size < 4000
    back = torch.load(tmp_path / "b.pt", weights_only=True)
    assert torch.equal(back["a"], state["a"]) and torch.equal(back["b"], state["b"])


def test_alias_of_a_reserved_key_is_written_apart(run: Any, tmp_path: Path) -> None:
    tied = torch.randn(3)
    source = save(tmp_path / "a.pt", {"a": tied, "format": tied, "ckpttool.x": tied})
    assert run(source, tmp_path / "b.safetensors").status == 0
    assert set(load_file(tmp_path / "b.safetensors")) == {"a", "format", "ckpttool.x"}
    with safe_open(tmp_path / "b.safetensors", framework="pt") as opened:
        assert opened.metadata()["format"] == "pt"


# -- dtypes -------------------------------------------------------------------------------------------


def test_only_parameters_are_cast(run: Any, tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 1), torch.nn.BatchNorm2d(3))
    source = save(tmp_path / "a.pt", model.state_dict())
    done = run(source, tmp_path / "b.safetensors", "--dtype", "bf16", "--keep-dtype", "1.bias", "--json")
    read = load_file(tmp_path / "b.safetensors")
    for name, tensor in model.state_dict().items():
        is_cast = name in ("0.weight", "0.bias", "1.weight")
        assert read[name].dtype is (torch.bfloat16 if is_cast else tensor.dtype)
        assert torch.equal(read[name], tensor.to(read[name].dtype))
    assert {item["name"] for item in done.document["cast"]} == {"0.weight", "0.bias", "1.weight"}
    assert all(
        0 < item["max_relative"] <= 2**-8 for item in done.document["cast"] if item["name"] != "1.weight"
    )
    assert any("cast 3 parameters to bfloat16" in note for note in done.document["notes"])


@pytest.mark.parametrize("name", ["bf16", "fp16", "fp8_e4m3", "fp8_e5m2", "fp64"])
def test_casts_are_torchs_and_losses_are_counted(run: Any, tmp_path: Path, name: str) -> None:
    values = torch.tensor([0.0, -0.0, 1.0, 1e30, -1e30, 1e-30, float("inf"), float("nan"), 3.14159, 1e-7])
    weight = torch.cat([values, torch.randn(200_000)]).reshape(-1, 10)
    source = save(tmp_path / "a.pt", {"fc.weight": weight, "fc.bias": torch.randn(10)})
    done = run(source, tmp_path / "b.safetensors", "--dtype", name, "--json")
    read = load_file(tmp_path / "b.safetensors")["fc.weight"]
    expected = weight.to(read.dtype)
    assert read.dtype is not torch.float32
    nan = expected.double().isnan()  # whose bits are torch's choice, by CPU: see test_float_casts
    assert torch.equal(read.double().isnan(), nan)
    bits = [tensor[~nan].view(torch.uint8) for tensor in (read, expected)]
    assert torch.equal(*bits)
    loss = next(item for item in done.document["cast"] if item["name"] == "fc.weight")
    back = expected.double()
    exact = weight.double()
    assert loss["overflow"] == int((exact.isfinite() & ~back.isfinite()).sum())
    assert loss["underflow"] == int(((exact != 0) & (back == 0)).sum())
    counted = exact.isfinite() & (exact != 0) & back.isfinite() & (back != 0)
    worst = ((back - exact).abs() / exact.abs())[counted].max().item()
    assert loss["max_relative"] == pytest.approx(worst, rel=1e-4)


def test_unsupported_types_are_refused_by_name(run: Any, tmp_path: Path) -> None:
    source = save(
        tmp_path / "a.pt", {"fine": torch.ones(1), "odd\x1b": torch.ones(2, dtype=torch.complex128)}
    )
    done = run(source, tmp_path / "b.safetensors")
    assert done.status == 2 and "complex128" in done.err and "odd" in done.err and "\x1b" not in done.err
    assert run(source, tmp_path / "b.pt").status == 0


def test_meta_tensors_are_refused(run: Any, tmp_path: Path) -> None:
    source = save(tmp_path / "a.pt", {"here": torch.ones(1), "gone": torch.empty(3, device="meta")})
    done = run(source, tmp_path / "b.safetensors")
    assert done.status == 2 and "'gone'" in done.err and "without bytes" in done.err
    assert run(source, tmp_path / "b.safetensors", "--drop", "gone").status == 0


# -- shards, metadata, plans --------------------------------------------------------------------------


@pytest.mark.parametrize("container", ["safetensors", "pt"])
def test_shards_hold_what_the_source_holds(run: Any, tmp_path: Path, container: str) -> None:
    tied = torch.randn(40)
    state = {f"l.{i}": torch.randn(10 + i) for i in range(9)} | {
        "t1": tied,
        "t2": tied,
        "c": torch.ones(3, 2).t(),
    }
    source = save(tmp_path / "a.pt", state)
    assert run(source, tmp_path / "out", "--max-shard-size", "200B", "--to", container).status == 0
    index_path = next((tmp_path / "out").glob("*.index.json"))
    index = json.loads(index_path.read_text("utf-8"))
    files = sorted(path.name for path in (tmp_path / "out").iterdir() if path != index_path)
    assert files == sorted(set(index["weight_map"].values())) and len(files) > 3
    found: dict[str, torch.Tensor] = {}
    for name in files:
        path = tmp_path / "out" / name
        part = load_file(path) if container == "safetensors" else torch.load(path, weights_only=True)
        assert {index["weight_map"][key] for key in part} == {name}
        found |= part
    aliased = {"t2"} if container == "safetensors" else set()
    assert set(found) == set(state) - aliased == set(index["weight_map"])
    assert all(torch.equal(found[name], state[name]) for name in found)
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in found.values())
    assert run(tmp_path / "out", tmp_path / "back.pt").status == 0
    back = torch.load(tmp_path / "back.pt", weights_only=True)
    assert set(back) == set(state) and all(torch.equal(back[name], state[name]) for name in state)
    assert back["t1"].data_ptr() == back["t2"].data_ptr()


def test_one_shard_needs_no_index(run: Any, tmp_path: Path) -> None:
    source = save(tmp_path / "a.pt", weights())
    assert run(source, tmp_path / "out", "--max-shard-size", "5GB").status == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["model.safetensors"]


def test_metadata_only_edit_copies_the_data(run: Any, tmp_path: Path) -> None:
    save_file(weights(), tmp_path / "a.safetensors")
    assert (
        run(tmp_path / "a.safetensors", tmp_path / "b.safetensors", "--metadata", "title=ünï=x").status == 0
    )
    with safe_open(tmp_path / "b.safetensors", framework="pt") as opened:
        assert opened.metadata() == {"format": "pt", "title": "ünï=x"}


def test_foreign_metadata_stays_in_safetensors_and_is_listed_for_pt(run: Any, tmp_path: Path) -> None:
    save_file(weights(), tmp_path / "a.safetensors", metadata={"format": "pt", "license": "mit"})
    assert run(tmp_path / "a.safetensors", tmp_path / "b.safetensors").status == 0
    assert (tmp_path / "a.safetensors").read_bytes().count(b'"license":"mit"') == 1
    with safe_open(tmp_path / "b.safetensors", framework="pt") as opened:
        assert opened.metadata()["license"] == "mit"
    done = run(tmp_path / "a.safetensors", tmp_path / "b.pt", "--json")
    assert [(item["name"], item["asked"]) for item in done.document["dropped"]] == [("license", False)]


def test_dry_run_writes_nothing_and_tells_the_same_sizes(run: Any, tmp_path: Path) -> None:
    source = save(tmp_path / "a.pt", training())
    planned = run(source, tmp_path / "b.safetensors", "--dry-run", "--json").document
    assert planned["written"] is False and sorted(os.listdir(tmp_path)) == ["a.pt"]
    done = run(source, tmp_path / "b.safetensors", "--json").document
    assert done["files"] == planned["files"]
    assert (tmp_path / "b.safetensors").stat().st_size == planned["files"][0]["nbytes"]


def test_manifests_of_both_containers_agree(run: Any, tmp_path: Path) -> None:
    tied = torch.randn(4)
    state = {
        "t": torch.randn(3, 4).t(),
        "a": tied,
        "b": tied,
        "v": tied[:2],
        "e": torch.empty(0),
        "s": torch.tensor(1),
    }
    source = save(tmp_path / "a.pt", state)
    digests = []
    for name in ("b.safetensors", "c.pt", "shards"):
        options = ["--max-shard-size", "20B"] if name == "shards" else []
        assert (
            run(source, tmp_path / name, "--manifest", tmp_path / "m.json", "--force", *options).status == 0
        )
        digests.append(json.loads((tmp_path / "m.json").read_text("utf-8"))["digest"]["all"])
    assert len(set(digests)) == 1
    save(tmp_path / "d.pt", state | {"s": torch.tensor(2)})
    run(tmp_path / "d.pt", tmp_path / "c.pt", "--manifest", tmp_path / "m.json", "--force")
    assert json.loads((tmp_path / "m.json").read_text("utf-8"))["digest"]["all"] not in digests


def test_pipe_output_is_a_word_a_tab_a_fact(run: Any, tmp_path: Path) -> None:
    done = run(save(tmp_path / "a.pt", training()), tmp_path / "b.safetensors")
    assert all(line.count("\t") == 1 for line in done.out.splitlines())
    assert done.out.startswith("converted\t")


def test_conversions_import_no_more_than_they_need(tmp_path: Path) -> None:
    source = save(
        tmp_path / "a.pt", weights(t=torch.ones(3, 4).t()[::2], c=torch.ones(2, dtype=torch.complex64).conj())
    )
    code = (
        "import sys; from ckpttool.cli import main; status = main(sys.argv[2:]); "
        "sys.exit(status or bool(set(sys.argv[1].split(',')) & set(sys.modules)))"
    )
    for target, absent, *options in (
        ("b.safetensors", "torch,numpy,safetensors,hashlib,isal,ckpttool.conversion.pt"),
        ("c.pt", "torch,numpy,safetensors,hashlib,ckpttool.conversion.safetensors"),
        ("shards/", "torch,numpy,safetensors"),
        ("bf16.pt", "torch,safetensors", "--dtype", "bf16"),
    ):
        arguments = [absent, "convert", str(source), f"{tmp_path}/{target}", "--quiet", *options]
        subprocess.run([sys.executable, "-c", code, *arguments], check=True)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--to", "gguf"], "not one of"),
        (["--dtype", "int8"], "no floating dtype"),
        (["--shared", "maybe"], "not one of"),
        (["--max-shard-size", "many"], "not a size"),
        (["--metadata", "novalue"], "not key=value"),
        (["--metadata", "ckpttool.root=x"], "its own"),
        (["--prefer", "best"], "only ema"),
        (["--root", "nowhere"], "no branch"),
        (["--prefer", "ema"], "no averaged weights"),
    ],
)
def test_wrong_usage_is_one_sentence(run: Any, tmp_path: Path, options: list[str], words: str) -> None:
    done = run(save(tmp_path / "a.pt", weights()), tmp_path / "b.safetensors", *options)
    assert done.status == 2 and words in done.err.lower(), done.err
    assert "Traceback" not in done.err


def test_a_suffix_that_tells_nothing_is_refused(run: Any, tmp_path: Path) -> None:
    done = run(save(tmp_path / "a.pt", weights()), tmp_path / "b.weights")
    assert done.status == 2 and "--to" in done.err


# -- with a model -------------------------------------------------------------------------------------

MODEL = """
import torch

class Net(torch.nn.Module):
    def __init__(self, persistent=False):
        super().__init__()
        self.shift = torch.nn.Parameter(torch.zeros(3))
        self.register_buffer("scale_table", torch.full((3,), 2.5))
        self.register_buffer("table", torch.arange(5.0), persistent=persistent)
"""


def test_buffers_of_the_model_can_be_added_and_dropped(run: Any, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(MODEL)
    namespace: dict[str, Any] = {}
    exec(MODEL, namespace)
    source = save(tmp_path / "a.pt", namespace["Net"]().state_dict())
    model = ["--model", f"{tmp_path}/net.py:Net"]
    assert run(source, tmp_path / "b.pt", *model, "--add-known-buffers").status == 0
    back = torch.load(tmp_path / "b.pt", weights_only=True)
    old = namespace["Net"](persistent=True)
    assert str(old.load_state_dict(back)) == "<All keys matched successfully>"
    assert torch.equal(old.table, torch.arange(5.0))
    assert run(tmp_path / "b.pt", tmp_path / "c.pt", *model, "--drop-known-buffers").status == 0
    assert set(torch.load(tmp_path / "c.pt", weights_only=True)) == {"shift", "scale_table"}


def test_a_model_decides_what_is_cast(run: Any, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(MODEL)
    source = save(tmp_path / "a.pt", {"shift": torch.ones(3), "scale_table": torch.ones(3)})
    done = run(
        source, tmp_path / "b.safetensors", "--dtype", "bf16", "--model", f"{tmp_path}/net.py:Net", "--json"
    )
    read = load_file(tmp_path / "b.safetensors")
    assert (read["shift"].dtype, read["scale_table"].dtype) == (torch.bfloat16, torch.float32)
    assert any("1 module" in note for note in done.document["notes"])


def test_facts_of_modules_survive_shards_and_containers(run: Any, tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.utils.spectral_norm(torch.nn.Linear(4, 4)), torch.nn.BatchNorm1d(4))
    source = save(tmp_path / "a.pt", model.state_dict())
    for steps in (["b.safetensors"], ["shards"], ["b.safetensors", "shards2"]):
        at = source
        for step in steps:
            options = ["--max-shard-size", "20B", "--to", "pt"] if step.startswith("shards") else []
            assert run(at, tmp_path / step, "--force", *options).status == 0
            at = tmp_path / step
        assert run(at, tmp_path / "c.pt", "--force").status == 0
        back = torch.load(tmp_path / "c.pt", weights_only=True)
        assert back._metadata == model.state_dict()._metadata
        assert any("spectral_norm" in facts for facts in back._metadata.values())


def test_an_older_set_in_the_folder_is_not_left_in_silence(run: Any, tmp_path: Path) -> None:
    """Loaders take what is named like a shard, or an index that nothing replaced."""
    source, out = save(tmp_path / "a.pt", weights()), tmp_path / "out"
    assert run(source, out, "--max-shard-size", "30B").status == 0
    old = {path.name: path.read_bytes() for path in out.iterdir()}
    assert len(old) == 3
    outcome = run(source, f"{out}/")  # one file, of a name that is not there yet
    assert outcome.status == 2
    assert "already holds 3 files of an older set: model-00001-of-00002.safetensors" in outcome.err
    assert {path.name: path.read_bytes() for path in out.iterdir()} == old
    for arguments in (["--dry-run"], []):
        outcome = run(source, f"{out}/", "--force", "--json", *arguments)
        assert outcome.status == 0
        assert any("still holds 3 files of an older set" in note for note in outcome.document["notes"])
    assert {path.name for path in out.iterdir()} == {*old, "model.safetensors"}
    (out / "notes.safetensors").write_bytes(b"of another model")  # not of this family
    (out / "model.safetensors.index.json").unlink()
    for shard in out.glob("model-*"):
        shard.unlink()
    assert "note" not in run(source, f"{out}/", "--force").out

"""No secret of an address that somebody types, or that an error quotes, is ever printed."""

from __future__ import annotations

import io
import re
import string
import time
import traceback
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import ckpttool
from ckpttool import cli
from ckpttool.api.verify import keep_reference
from ckpttool.values.errors import CkptToolError, redact
from tests.support.folders import standing_in


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://u:p@h/x?token=t#f", "https://h/x"),
        ("https://h:8080/a/b.pt", "https://h:8080/a/b.pt"),
        ("s3://key:secret@bucket/k?versionId=3", "s3://bucket/k"),
        ("https://token@h", "https://h"),
        ("https://h?sig=1", "https://h"),
        ("https://h/models@v2/x.pt", "https://h/models@v2/x.pt"),
        ("https://u:p@ss@h/x", "https://h/x"),
        ("https://u:p/w@h/x", "https://h/x"),
        ("https://u:p?w@h/x", "https://h/x"),
        ("https://u:p#w@h/x", "https://h/x"),
        ("read 'https://u:p@h/x?t=1': no", "read 'https://h/x': no"),
        ("(https://u:p@h/x?t=1).", "(https://h/x)."),
        ("a https://u@h/1 b http://v@i/2", "a https://h/1 b http://i/2"),
        ("url=https://u:p@h/x?t", "url=https://h/x"),
        ("no address: a://", "no address: a://"),
        ("C:/a?b#c", "C:/a?b#c"),
    ],
)
def test_an_address_keeps_its_scheme_host_and_path(text: str, shown: str) -> None:
    assert redact(text) == shown
    assert redact(shown) == shown


def test_a_file_whose_name_looks_like_an_address_keeps_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "odd:" / "u:p@h").mkdir(parents=True)
    (tmp_path / "odd:" / "u:p@h" / "x?y").write_text("text")
    assert redact("odd://u:p@h/x?y: not a checkpoint") == "odd://u:p@h/x?y: not a checkpoint"
    status, out = run("inspect", "odd://u:p@h/x?y")
    assert status == 2
    assert "odd://u:p@h/x?y: " in out
    assert redact("odd://u:p@h/x?z: no such file") == "odd://h/x: no such file"


def test_a_long_word_costs_no_more_than_its_length() -> None:
    started = time.process_time()
    for start in ("a" * 1_000_000, "a." * 500_000, "://" * 10_000):
        assert redact(f"{start} ://") == f"{start} ://"
        assert redact(f"{start} https://u:p@h").endswith(" https://h")
    assert time.process_time() - started < 10


def run(*arguments: str) -> tuple[int, str]:
    """Status, and all that was printed."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        status = cli.main(arguments)
    return status, out.getvalue() + err.getvalue()


SECRET = st.text(alphabet=string.ascii_letters + string.digits, min_size=12, max_size=16).map("Sx".__add__)
AROUND = st.text(alphabet=string.printable.translate({ord(c): None for c in "/?#@"}) + "äß\u202e", max_size=4)


@st.composite
def addresses(draw: st.DrawFn) -> tuple[str, list[str]]:
    """An address as somebody types one, and the secrets in it."""
    user, password, value, fragment = (draw(SECRET) for _ in range(4))
    dirty = draw(AROUND)
    login = draw(
        st.sampled_from(
            ["", f"{user}@", f"{user}:{password}@", f"{user}:{dirty}{password}@", f":{password}@"]
        )
    )
    query = draw(
        st.sampled_from(["", f"?token={value}", f"?a=1&X-Amz-Signature={value}{dirty}", f"?{value}"])
    )
    end = draw(st.sampled_from(["", f"#{fragment}", f"#{dirty}{fragment}"]))
    scheme = draw(st.sampled_from(["https", "http", "s3", "gs", "hf", "ssh", "ftp", "abfs+x", "FILE"]))
    host = draw(st.sampled_from(["h", "host.example", "host:8443", "[::1]:80"]))
    path = draw(
        st.sampled_from(["", "/", "/m.pt", "/a/b.safetensors", "/o/m@v1/x.pt", "/a.py:build", "/n%20.pt"])
    )
    address = f"{scheme}://{login}{host}{path}{query}{end}"
    return address, [s for s in (user, password, value, fragment) if s in address]


COMMANDS = """
    inspect {}
    inspect {} --json
    inspect {} --stats
    inspect model.pt --model {}
    inspect {0} {0}
    inspect model.pt --root {}
    inspect model.pt --tensor {}
    inspect model.pt --sort {}
    inspect --{}
    diff {} model.pt
    diff model.pt {}
    diff {0} {0} --json
    convert {} out.pt
    convert model.pt {}
    convert model.pt {} --dry-run
    convert model.pt {} --max-shard-size 1KB
    convert model.pt {} --to pt
    convert model.pt out.pt --manifest {} --force
    verify {} --model m.py:build
    verify model.pt --model {}
    verify model.pt --model m.py:build --model-arg {}
    verify model.pt --model m.py:build --model-arg url={}
    verify model.pt --model m.py:build --reference {}
    verify model.pt --model m.py:build --device {}
    verify model.pt --model m.py:build --write-reference {}
    lint {}
    lint m.py:build --model-arg url={}
    lint m.py:build --example-input {}
    git-textconv {}
    get {} x
    get model.pt {}
    get model.pt weight -o {}
    get model.pt weight --slice {}
    inspect model.pt --values {}
    {}
    --{}
    inspect model.pt --model m.py:{}
""".strip().splitlines()

MODEL = """
from torch import nn
def build(url=None):
    if url:
        raise ValueError(f"cannot fetch {url}: 403")
    return nn.Linear(2, 2)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    torch = pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("typed")
    torch.save(torch.nn.Linear(2, 2).state_dict(), folder / "model.pt")
    (folder / "m.py").write_text(MODEL)
    with standing_in(folder):
        yield folder


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_prints_a_secret_of_what_was_typed(command: str, folder: Path) -> None:
    @settings(max_examples=15)
    @given(addresses())
    def no_secret(drawn: tuple[str, list[str]]) -> None:
        address, secrets = drawn
        parts = command.strip().replace("{0}", "{}").split()
        _, printed = run(*(part.replace("{}", address) for part in parts))
        assert not [secret for secret in secrets if secret in printed], printed

    no_secret()


@settings(max_examples=300)
@given(addresses())
def test_what_is_shown_is_what_a_parser_of_addresses_calls_host_and_path(
    drawn: tuple[str, list[str]],
) -> None:
    address, _ = drawn
    if re.search(r"[\s'\"<>)\]}.,;:\\`^|\u202e{]", address.partition("://")[2].rpartition("@")[0]):
        return  # urllib strips and normalises what no address may hold
    found = urlsplit(address)
    expected = f"{address.partition('://')[0]}://{found.netloc.rpartition('@')[2]}{found.path}"
    assert redact(address, (address,)) == expected


def test_errors_of_the_api_are_bare_too(folder: Path) -> None:
    for call in (ckpttool.open, lambda path: ckpttool.diff(path, path)):
        with pytest.raises(OSError, match="https://h/x") as caught:
            call("https://u:SECRET@h/x?token=SECRET").entries  # type: ignore[operator]  # noqa: B018
        assert "SECRET" not in str(caught.value) + repr(caught.value)
    here, model = ckpttool.open(folder / "model.pt"), partial(torch.nn.Linear, 2, 2)
    address = "s3://u:SECRET@h/x.{}?token=SECRET"
    for write in (
        lambda: here.convert(address.format("pt")),
        lambda: here.convert(address.format("pt").partition("?")[0]),
        lambda: here.convert(address.format("safetensors/"), to="safetensors", max_shard_size="1KB"),
        lambda: here.convert("out.pt", manifest=address.format("json"), force=True),
        lambda: keep_reference(address.format("json"), ckpttool.verify(folder / "model.pt", model)),
        lambda: ckpttool.verify(folder / "model.pt", model, reference=address.format("json")),
    ):
        with pytest.raises((OSError, CkptToolError, ValueError)) as caught:
            write()
        chain: list[BaseException | None] = [caught.value, caught.value.__cause__, caught.value.__context__]
        assert "SECRET" not in "".join(f"{error} {error!r}" for error in chain), chain
        assert "SECRET" not in "".join(traceback.format_exception(caught.value, limit=0))
    error = CkptToolError("see https://u:SECRET@h", path="https://h/x?SECRET", hint="or https://SECRET@h")
    assert "SECRET" not in f"{error} {error!r} {error.hint} {error.path} {error.what}"

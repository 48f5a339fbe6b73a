"""What every test shares: tracebacks on, golden files, and skips that say why."""

from __future__ import annotations

import importlib.util
import os
import random
import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path

import hypothesis
import pytest

from tests.support.quick import make_quick
from tests.support.schemas import check_every_document
from tests.support.warm import Warm

make_quick()
check_every_document()

# Outside of tests the error boundary turns a bug into one line; here it must show where the bug is.
os.environ["CKPTTOOL_TRACEBACK"] = "1"
# What is parsed of source is kept for nobody: a test that wants a cache says where.
os.environ["CKPTTOOL_NO_CACHE"] = "1"

# What a script starts in the background ignores interrupts, and so do the programs that it starts in turn.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Equal runs everywhere: no deadline on a busy machine, and the same examples on every one of them.
# `make fuzz` is where luck is wanted.
hypothesis.settings.register_profile("default_here", deadline=None, derandomize=True, database=None)
hypothesis.settings.register_profile("fuzz", deadline=None, max_examples=2000)
hypothesis.settings.load_profile("default_here")

DEVICE_TESTS = Path(__file__).parent / "torch_bridge"
REAL_DIR_VARIABLE = "CKPTTOOL_REAL_DIR"


def pytest_configure() -> None:
    if (encoding := sys.getfilesystemencoding()) != "utf-8":
        raise pytest.UsageError(
            f"tests write file names that {encoding} lacks: unset PYTHONUTF8 and PYTHONCOERCECLOCALE"
        )


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden", action="store_true", help="write what is printed now into the golden files"
    )
    parser.addoption(
        "--shuffle", type=int, metavar="SEED", help="run modules, and tests in them, in random order"
    )


class TorchFreeModule(pytest.Module):
    """A test module where torch is not installed: skipped if it, or what it imports, needs torch."""

    def collect(self) -> Iterable[pytest.Item | pytest.Collector]:
        try:
            return super().collect()
        except self.CollectError as error:
            cause = error.__cause__
            if isinstance(cause, ModuleNotFoundError) and (cause.name or "").partition(".")[0] == "torch":
                pytest.skip("torch is not installed", allow_module_level=True)
            raise


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    if importlib.util.find_spec("torch") is not None:
        return None
    module: pytest.Module = TorchFreeModule.from_parent(parent, path=module_path)
    return module


def why_no_cuda() -> str | None:
    """Return why tests of a device cannot run here, or None if they can: on whatever accelerator there is."""
    if importlib.util.find_spec("torch") is None:
        return "torch is not installed"
    import torch

    from ckpttool.torch_bridge.accelerator import accelerator

    if accelerator() is not None:
        return None
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA"
    return f"torch {torch.__version__} finds no CUDA device"


def shuffle(items: list[pytest.Item], seed: int) -> None:
    """Reorder in place; the tests of a module stay together, so that its fixtures are made once."""
    modules: dict[str, list[pytest.Item]] = {}
    for item in items:
        modules.setdefault(item.nodeid.partition("::")[0], []).append(item)
    draw, order = random.Random(seed), list(modules.values())
    draw.shuffle(order)
    for tests in order:
        draw.shuffle(tests)
    items[:] = [item for tests in order for item in tests]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if (seed := config.getoption("--shuffle")) is not None:
        shuffle(items, seed)
    on_cuda = [item for item in items if item.get_closest_marker("cuda")]
    if astray := [item.nodeid for item in on_cuda if DEVICE_TESTS not in item.path.parents]:
        raise pytest.UsageError(f"`make cuda` collects {DEVICE_TESTS} alone, and would not see {astray[0]}")
    if on_cuda and (reason := why_no_cuda()):
        for item in on_cuda:
            item.add_marker(pytest.mark.skip(reason=f"needs CUDA: {reason}"))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Let a test and its fixtures draw the same numbers in every run, whatever ran before them."""
    random.seed(0)
    if torch := sys.modules.get("torch"):
        torch.default_generator.manual_seed(
            0
        )  # `torch.manual_seed` seeds devices too, and takes 70 times as long


@pytest.fixture
def update_golden(request: pytest.FixtureRequest) -> bool:
    """Return whether a golden test should write its file instead of comparing with it."""
    return bool(request.config.getoption("--update-golden"))


@pytest.fixture(scope="session")
def real_dir() -> Path:
    """Return the folder of published checkpoints, or skip."""
    value = os.environ.get(REAL_DIR_VARIABLE)
    if not value:
        pytest.skip(f"${REAL_DIR_VARIABLE} is not set: no folder of published checkpoints")
    path = Path(value)
    if not path.is_dir():
        pytest.fail(f"${REAL_DIR_VARIABLE}={value} is not a folder")
    return path


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder that ``make demo`` writes. Who writes into it takes a copy."""
    pytest.importorskip("torch", reason="torch is not installed: it writes the demo files")
    from sample_models.write_demo import write_demo

    folder = tmp_path_factory.mktemp("demo")
    write_demo(folder)
    return folder


@pytest.fixture(scope="session")
def warm() -> Iterator[Warm]:
    """Return what runs Python in a fork of a process that has imported torch."""
    pytest.importorskip("torch", reason="torch is not installed")
    with closing(Warm("torch", "ckpttool.cli")) as process:
        yield process


# Threads take address space that no file asked for.
_FEW_THREADS = {"OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1", "PYTHONDONTWRITEBYTECODE": "1"}


@pytest.fixture(scope="session")
def reader() -> Iterator[Warm]:
    """Return what reads hostile files under watch, and has not imported torch."""
    with closing(Warm("tests.hostile.child:warm_up", **_FEW_THREADS)) as process:
        yield process


@pytest.fixture(scope="session")
def reader_with_torch() -> Iterator[Warm]:
    """Return what also verifies them."""
    pytest.importorskip("torch", reason="torch is not installed")
    with closing(Warm("tests.hostile.child:warm_up_verify", **_FEW_THREADS)) as process:
        yield process


@pytest.fixture(autouse=True)
def plain_terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Take the developer's terminal out of the result: no forced colour, no width but the test's own."""
    for name in (
        "FORCE_COLOR",
        "NO_COLOR",
        "CLICOLOR_FORCE",
        "CLICOLOR",
        "COLUMNS",
        "LINES",
        "TTY_COMPATIBLE",
    ):
        monkeypatch.delenv(name, raising=False)
    yield


@pytest.fixture(autouse=True)
def restored_path() -> Iterator[None]:
    """Where modules are found is as it was: a model that a test names puts its folder there."""
    before = list(sys.path)
    yield
    sys.path[:] = before

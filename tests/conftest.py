"""The tiers of the tests, where their real files are, and the halves that many tests share.

A test belongs to the unit tier unless it has one of four marks. ``process``: it starts a process; the test says so
itself, and :func:`_refuse_unmarked` fails one that does not. ``model``: it uses a downloaded file; ``browser``: it uses
Chromium; both follow from the test's fixtures. ``long``: it computes or waits for more than about a second.
``make unit`` runs the others, ``make test`` all.
"""

from __future__ import annotations

import base64
import fcntl
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Generator
from functools import cache
from pathlib import Path

import pytest
import torch

from llama.checkpoint.opening import open_source
from llama.checkpoint.splitting import split
from llama.tokenizer import Tokenizer
from tests import volumes
from tests.programs import notices
from tests.small_checkpoints import params, weights, write_meta
from tests.support import Halves

ROOT = Path(__file__).resolve().parent.parent
# Under nohup, or in the background of a script, signals are ignored here and would be in every process that is started.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)

FIXTURES = Path(os.environ.get("SPLIT_LLAMA_CACHE", ROOT / ".cache"))
SPLITS = "SPLIT_LLAMA_TEST_SPLITS"  # environment variable: the directory of SmolLM2's halves, for all workers of a run

MARKS_OF_FIXTURES = {
    "smollm2_gguf": "model",
    "smollm2_split": "model",
    "llama3_tokenizer": "model",
    "browser": "browser",
}
NOT_UNIT = ("process", "model", "browser", "long")
STARTS = {"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn"}  # audit events
_running: pytest.Item | None = None  # the test at work, where it may not start processes


# ---- tiers


def pytest_configure(config: pytest.Config) -> None:
    """Choose the volume of the property tests; make the directory that the workers of this run share."""
    config.addinivalue_line("markers", "process: starts at least one process")
    config.addinivalue_line("markers", "long: takes more than about a second")
    config.addinivalue_line("markers", "model: uses a file that make fixtures fetches")
    config.addinivalue_line("markers", "browser: uses Chromium")
    volumes.load_profile()
    if not hasattr(config, "workerinput"):
        os.environ[SPLITS] = tempfile.mkdtemp(prefix="split-llama-splits-")


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove the directory that the workers of this run shared."""
    if not hasattr(config, "workerinput"):
        shutil.rmtree(os.environ.pop(SPLITS), ignore_errors=True)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by their fixtures; keep a file's tests on one worker where they share a cloud or a browser.

    First, so that ``-m`` sees the marks.
    """
    for item in items:
        for fixture in getattr(item, "fixturenames", ()):
            if fixture in MARKS_OF_FIXTURES:
                item.add_marker(MARKS_OF_FIXTURES[fixture])
        if item.get_closest_marker("process") or item.get_closest_marker("browser"):  # others share nothing dear
            item.add_marker(pytest.mark.xdist_group(item.path.stem))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Know which test runs, for :func:`_refuse_unmarked`."""
    global _running
    _running = None if any(item.get_closest_marker(mark) for mark in NOT_UNIT) else item
    try:
        return (yield)
    finally:
        _running = None


def _refuse_unmarked(event: str, _: tuple[object, ...]) -> None:
    if _running is not None and event in STARTS:
        pytest.fail(f"{_running.nodeid} starts a process ({event}); give it the mark: @pytest.mark.process")


sys.addaudithook(_refuse_unmarked)


@pytest.fixture(autouse=True)
def _as_many_threads_as_before() -> Generator[None]:
    """Give torch back its number of CPU threads: a test that raises it would slow every later one on busy cores."""
    before = torch.get_num_threads()
    yield
    if torch.get_num_threads() != before:
        torch.set_num_threads(before)


# ---- files and halves


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> Generator[None]:
    """At the very end, one line for each program for want of which tests were skipped or failed."""
    yield
    reports = [each for kind in ("skipped", "failed", "error") for each in terminalreporter.getreports(kind)]
    for line in notices([str(report.longrepr) for report in reports]):
        terminalreporter.write_line(line, yellow=True)


def _fetched(name: str) -> Path:
    path = FIXTURES / name
    if not path.is_file():
        pytest.fail(f"{path} is missing; run: make fixtures")
    return path


@pytest.fixture(scope="session")
def smollm2_gguf() -> Path:
    """SmolLM2-135M-Instruct, the small real checkpoint."""
    return _fetched("SmolLM2-135M-Instruct.Q4_1.gguf")


@pytest.fixture(scope="session")
def llama3_tokenizer() -> Path:
    """The real Llama 3 rank file."""
    return _fetched("llama3-tokenizer.model")


@pytest.fixture(scope="session")
def golden() -> Path:
    """Meta's reference's numbers for a small checkpoint, as released directories of one and two shards."""
    return ROOT / "tests" / "data"


@pytest.fixture(scope="module")
def halves() -> Halves:
    """Both halves of a small random model, for the tests of one file."""
    return Halves()


@pytest.fixture(scope="module")
def tokenizer(golden: Path) -> Tokenizer:
    """Every byte is a token, so that ids are as easily read as text."""
    return Tokenizer(golden / "tiny-llama3" / "tokenizer.model")


@pytest.fixture(scope="session")
def smollm2_split(smollm2_gguf: Path) -> Callable[..., Path]:
    """``smollm2_split(k=1, ranks=1)``: SmolLM2 in float32, cut after layer k-1.

    The workers of a run share each cut: the first that asks makes it, the others wait for its lock. It is read-only.
    """
    base = Path(os.environ[SPLITS])

    def halves(k: int = 1, ranks: int = 1) -> Path:
        out = base / f"k{k}-ranks{ranks}"
        with out.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not out.exists():
                split(open_source(smollm2_gguf), out, split_layer=k, cloud_model_parallel_size=ranks)
        return out

    return halves


@pytest.fixture(scope="session")
def tiny_split(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``tiny_split(k=1, ranks=1, dtype=torch.float32)``: 4 random layers, 4 heads, 2 key/value heads, 516 tokens.

    Fits 1, 2 and 4 ranks. Two tokens more than the golden tokenizer has, so that 4 divides the vocabulary and every id
    is a token.
    """
    base = tmp_path_factory.mktemp("tiny_split")
    tokenizer = base / "tokenizer.model"
    ranks_of_more = "".join(f"{base64.b64encode(two).decode()} {258 + i}\n" for i, two in enumerate((b"he", b"an")))
    tokenizer.write_bytes((golden / "tiny-llama3" / "tokenizer.model").read_bytes() + ranks_of_more.encode())
    p = params(n_layers=4, n_heads=4, n_kv_heads=2, vocab_size=516)

    @cache
    def source(dtype: torch.dtype) -> Path:
        return write_meta(base / f"source-{dtype}", p, weights(p, dtype), tokenizer)

    def halves(k: int = 1, ranks: int = 1, dtype: torch.dtype = torch.float32) -> Path:
        out = base / f"k{k}-ranks{ranks}-{dtype}"
        if not out.exists():
            split(open_source(source(dtype)), out, split_layer=k, cloud_model_parallel_size=ranks)
        return out

    return halves

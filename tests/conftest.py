"""Where the tests' real files are, and the halves that many tests share."""

from __future__ import annotations

import base64
import os
import shutil
import signal
from collections.abc import Callable, Generator, Iterator
from functools import cache
from pathlib import Path

import pytest
import torch

from llama.checkpoint.opening import open_source
from llama.checkpoint.splitting import split
from llama.tokenizer import Tokenizer
from tests.programs import notices
from tests.small_checkpoints import params, weights, write_meta
from tests.support import Halves

ROOT = Path(__file__).resolve().parent.parent
# Under nohup, or in the background of a script, signals are ignored here and would be in every process that is started.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)

FIXTURES = Path(os.environ.get("SPLIT_LLAMA_CACHE", ROOT / ".cache"))


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
def smollm2_split(smollm2_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Path]]:
    """``smollm2_split(k=1, ranks=1)``: SmolLM2 in float32, cut after layer k-1; made once, nobody writes to it."""
    base = tmp_path_factory.mktemp("smollm2_split")

    def halves(k: int = 1, ranks: int = 1) -> Path:
        out = base / f"k{k}-ranks{ranks}"
        if not out.exists():
            split(open_source(smollm2_gguf), out, split_layer=k, cloud_model_parallel_size=ranks)
        return out

    yield halves
    shutil.rmtree(base)


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

"""Where the tests' real files are, and the halves that many tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FIXTURES = Path(os.environ.get("SPLIT_LLAMA_CACHE", ROOT / ".cache"))


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

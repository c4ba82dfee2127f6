"""Tells which kind of checkpoint a path is, and opens it.

Knows: by which files each kind is recognised.
Knows nothing about: what is in them.
"""

from __future__ import annotations

from pathlib import Path

from llama.checkpoint.gguf_file import GGUFSource
from llama.checkpoint.hugging_face import HuggingFaceSource
from llama.checkpoint.layout import HALVES
from llama.checkpoint.meta import MetaSource
from llama.checkpoint.source import Source, told
from llama.errors import CheckpointError

_KINDS = "a Meta directory (params.json), a Hugging Face directory (config.json) or a .gguf file"


def open_source(path: Path, rope_scaling_factor: float | None = None, chat_format: str | None = None) -> Source:
    """The checkpoint at ``path``: a Meta directory, a Hugging Face directory or a ``.gguf`` file.

    Args:
        path: file or directory.
        rope_scaling_factor: factor of the scaled rotary embedding, where the checkpoint should be overruled.
        chat_format: ``template``, ``llama3`` or ``chatml``, likewise.

    Raises:
        CheckpointError: it is none of these, or cannot be used.
        TokenizerError: its tokenizer cannot be used.
    """
    with told(path):
        return _open(path, rope_scaling_factor, chat_format)


def _open(path: Path, rope_scaling_factor: float | None, chat_format: str | None) -> Source:
    if path.is_file():
        if path.suffix == ".gguf":
            return GGUFSource(path, rope_scaling_factor, chat_format)
        raise CheckpointError(f"{path} is not a checkpoint; --ckpt_dir takes {_KINDS}")
    if path.exists() and not path.is_dir():
        raise CheckpointError(f"{path} is neither a file nor a directory; --ckpt_dir takes {_KINDS}")
    if not path.is_dir():
        raise CheckpointError(f"{path} does not exist; --ckpt_dir takes {_KINDS}")
    try:
        names = {entry.name for entry in path.iterdir()}
    except OSError as err:
        raise CheckpointError(f"{path} cannot be read: {err.strerror or err}") from None
    if not names:
        raise CheckpointError(f"{path} is empty; --ckpt_dir takes {_KINDS}")
    if all((path / half / "params.json").is_file() for half in HALVES):
        raise CheckpointError(f"{path} holds the two halves of a split checkpoint; give the original checkpoint")
    if "params.json" in names:
        return MetaSource(path, rope_scaling_factor, chat_format)
    if "config.json" in names:
        return HuggingFaceSource(path, rope_scaling_factor, chat_format)
    ggufs = sorted(name for name in names if name.endswith(".gguf"))
    if ggufs:
        raise CheckpointError(f"{path} holds GGUF files; give the file itself: --ckpt_dir {path / ggufs[0]}")
    if any(name.endswith(".pth") for name in names):
        raise CheckpointError(f"{path} has weights but no params.json; finish the download")
    raise CheckpointError(f"{path} holds no checkpoint that is known; --ckpt_dir takes {_KINDS}")

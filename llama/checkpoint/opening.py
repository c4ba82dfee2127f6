"""Recognise the kind of a checkpoint and open it.

Knows: the files that identify each kind, and which kind to use if a directory has files of both.
Knows nothing about: the contents of the files.
"""

from __future__ import annotations

import re
from pathlib import Path

from llama.checkpoint import signatures
from llama.checkpoint.gguf_file import GGUFSource
from llama.checkpoint.hugging_face import HuggingFaceSource
from llama.checkpoint.layout import HALVES
from llama.checkpoint.meta import SHARD_NAME, MetaSource
from llama.checkpoint.safetensors_files import ADAPTER, holds_weights
from llama.checkpoint.source import Source, damage_refused, unreadable
from llama.errors import CheckpointError
from llama.files import not_a_path, shown

_KINDS = "a Meta directory (params.json), a Hugging Face directory (config.json) or a .gguf file"
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def open_source(path: Path, rope_scaling_factor: float | None = None, chat_format: str | None = None) -> Source:
    """Open the checkpoint at ``path``: a Meta directory, a Hugging Face directory or a GGUF file.

    Args:
        path: file or directory.
        rope_scaling_factor: overrides the checkpoint's factor of the scaled rotary embedding.
        chat_format: ``template``, ``llama3`` or ``chatml``; overrides the checkpoint's.

    Raises:
        CheckpointError: it is not one of these, or cannot be used.
        TokenizerError: its tokenizer cannot be used.
    """
    _check_path(path)
    with damage_refused(path):
        if path.is_dir():
            return _open_directory(path, rope_scaling_factor, chat_format)
        return _open_file(path, rope_scaling_factor, chat_format)


def _check_path(path: Path) -> None:
    """Refuse a path that is not UTF-8: the libraries that read checkpoints cannot open it."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        readable = str(path).encode(errors="surrogateescape").decode(errors="backslashreplace")
        raise CheckpointError(
            f"the path {readable} is not UTF-8, but the libraries that read checkpoints need UTF-8 "
            f"paths; rename it, or give a link to it whose path is UTF-8"
        ) from None


def _open_file(path: Path, rope_scaling_factor: float | None, chat_format: str | None) -> Source:
    if not path.is_file():
        raise _nothing_to_open(path)
    if path.suffix == ".gguf" or signatures.is_gguf(path):
        return GGUFSource(path, rope_scaling_factor, chat_format)
    if path.stat().st_size:
        signatures.refuse_misplaced(path)
    if (what := signatures.part_of_checkpoint(path)) is not None:
        raise CheckpointError(f"{path} is {what}; give its directory: --ckpt_dir {path.parent}")
    if signatures.is_zip(path):
        raise CheckpointError(f"{path} is an archive (zip); unpack it first; --ckpt_dir takes {_KINDS}")
    raise CheckpointError(f"{path} is not a checkpoint; --ckpt_dir takes {_KINDS}")


def _nothing_to_open(path: Path) -> CheckpointError:
    if path.is_symlink() and not path.exists():
        return unreadable(path, FileNotFoundError())
    if path.exists():
        return CheckpointError(f"{path} is neither a file nor a directory; --ckpt_dir takes {_KINDS}")
    hint = not_a_path(path) and f"; {not_a_path(path)}"
    if _HUB_NAME.fullmatch(str(path)) and not path.parent.exists():
        hint = "; download a model of the Hugging Face hub first (hf download)"
    return CheckpointError(f"{path} does not exist; --ckpt_dir takes {_KINDS}{hint}")


def _open_directory(path: Path, rope_scaling_factor: float | None, chat_format: str | None) -> Source:
    try:
        names = {entry.name for entry in path.iterdir()}
    except OSError as err:
        raise unreadable(path, err) from None
    if not names:
        raise CheckpointError(f"{path} is empty; --ckpt_dir takes {_KINDS}")
    if all((path / half / "params.json").is_file() for half in HALVES):
        raise CheckpointError(f"{path} holds the two halves of a split checkpoint; give the original checkpoint")
    if "params.json" in names and "config.json" in names:
        kind: type[MetaSource | HuggingFaceSource] = _kind_of_two(path, names)
        return kind(path, rope_scaling_factor, chat_format)
    if "params.json" in names:
        return MetaSource(path, rope_scaling_factor, chat_format)
    if "config.json" in names:
        return HuggingFaceSource(path, rope_scaling_factor, chat_format)
    raise _no_checkpoint(path, names)


def _kind_of_two(path: Path, names: set[str]) -> type[MetaSource | HuggingFaceSource]:
    """Return the reader for a directory with both families' settings, by the weights that it holds.

    Raises:
        CheckpointError: it holds both families' weights, which may be two models; or no weights.
    """
    shards = sorted(name for name in names if SHARD_NAME.fullmatch(name))
    weights = holds_weights(names)
    if shards and weights:
        raise CheckpointError(
            f"{path} holds two checkpoints: params.json with {shards[0]} (Meta's) and config.json "
            f"with {weights} (Hugging Face's); move one checkpoint into another directory"
        )
    if shards:
        return MetaSource
    if weights:
        return HuggingFaceSource
    raise CheckpointError(
        f"{path} has params.json and config.json, but no weights: neither consolidated.*.pth nor "
        f"model.safetensors; finish the download"
    )


def _no_checkpoint(path: Path, names: set[str]) -> CheckpointError:
    """Return the error for a directory without either family's settings. It says what lies there and what to do."""
    if ADAPTER in names:
        return CheckpointError(
            f"{path} holds an adapter ({ADAPTER}, such as LoRA) without its model; merge it into the "
            f"model (merge_and_unload), save the model and give that"
        )
    ggufs = sorted(name for name in names if name.endswith(".gguf"))
    if ggufs:
        return CheckpointError(f"{path} holds GGUF files; give the file itself: --ckpt_dir {path / shown(ggufs[0])}")
    snapshots = sorted(path.glob("snapshots/*/config.json"))
    if snapshots:
        return CheckpointError(
            f"{path} is a model's directory in the cache of the Hugging Face hub; give a snapshot "
            f"inside it: --ckpt_dir {snapshots[0].parent}"
        )
    for settings in ("params.json", "config.json"):
        if below := sorted(path.glob(f"*/{settings}")):
            return CheckpointError(
                f"{path} holds no checkpoint, but a subdirectory does; give that: --ckpt_dir {below[0].parent}"
            )
        if half := signatures.unfinished(path, settings):
            return CheckpointError(f"{path} has {settings} only as an unfinished download ({half}); finish it")
    if any(name.endswith(".pth") for name in names):
        return CheckpointError(f"{path} has weights but no params.json; finish the download")
    if any(name.endswith(".safetensors") for name in names):
        return CheckpointError(f"{path} has weights but no config.json; finish the download")
    return CheckpointError(f"{path} holds no known checkpoint; --ckpt_dir takes {_KINDS}")

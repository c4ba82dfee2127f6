"""File signatures: recognise a file by its first bytes, so that an error can say what lies there instead of weights.

Knows: the signatures of checkpoint files, of archives, and of the remains of failed downloads and clones.
Knows nothing about: the rest of a file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from llama.checkpoint.source import unreadable
from llama.errors import CheckpointError
from llama.files import open_regular, shown

GGUF = b"GGUF"
_READ = 4096
_TAR_AT, _TAR = 257, b"ustar"
_LFS = b"version https://git-lfs.github.com/spec/"
_MARKUP = re.compile(rb"\s*<(?:!doctype html|html|head|\?xml|error|!--)", re.IGNORECASE)
_ARCHIVES = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"7z\xbc\xaf\x27\x1c": "7-Zip",
    b"\x28\xb5\x2f\xfd": "Zstandard",
    b"Rar!": "RAR",
}
# Magic numbers (little-endian) of llama.cpp's model files before GGUF.
_BEFORE_GGUF = (b"lmgg", b"fmgg", b"tjgg", b"algg")
_PICKLE, _LAST_PROTOCOL = 0x80, 5
_UNFINISHED = (".part", ".incomplete", ".tmp", ".crdownload", ".download", ".aria2", ".partial", ".filepart")


def misplaced(path: Path, *, binary: bool = False) -> str | None:
    """Return what lies at ``path`` instead of weights or settings, and what to do; None if nothing is wrong.

    The caller puts the words after the file's name. If ``binary``, short texts and bare pickles are recognised, too.
    """
    try:
        with open_regular(path) as file:
            begin = file.read(_READ)
    except OSError:
        return None
    unfinished = next((suffix for suffix in _UNFINISHED if path.name.endswith(suffix)), None)
    if unfinished:
        return f"is an unfinished download ({unfinished}); finish it"
    if not begin:
        return "is empty; finish the download"
    if begin.startswith(_LFS):
        return "is a Git LFS pointer, not the file itself; run git lfs pull in the clone"
    if _MARKUP.match(begin.removeprefix(b"\xef\xbb\xbf")):
        return (
            "is a web page or an error message (HTML or XML), not the file; download the file itself, "
            "and sign in if the site asks for it"
        )
    archive = next((kind for magic, kind in _ARCHIVES.items() if begin.startswith(magic)), None)
    if begin[_TAR_AT : _TAR_AT + len(_TAR)] == _TAR:
        archive = "tar"
    if archive:
        return f"is an archive ({archive}); unpack it first"
    if begin.startswith(_BEFORE_GGUF):
        return "is a file of llama.cpp from before GGUF, which is not supported; use a GGUF of the same model"
    if not any(begin) and len(begin) == _READ:
        return "begins with zeros only, like an unfinished download; finish it or get the file again"
    if binary and begin[0] == _PICKLE and begin[1:2] <= bytes([_LAST_PROTOCOL]):
        return "is a bare pickle, which is not loaded; save its tensors with torch.save"
    if binary and len(begin) < _READ and begin.isascii() and begin.decode().strip().replace("\n", " ").isprintable():
        return "is a short text, such as a site's error message, and not the file; download the file itself"
    return None


def refuse_misplaced(path: Path) -> None:
    """Refuse a path that holds something else than the expected file, or that may not be read.

    A missing file is not refused here; the reader reports it.

    Raises:
        CheckpointError: says what lies there and what to do.
    """
    try:
        open_regular(path).close()
    except PermissionError as err:
        raise unreadable(path, err) from None
    except OSError:
        return
    if (what := misplaced(path)) is not None:
        raise CheckpointError(f"{path} {what}")


def other_format(path: Path, own: str) -> str | None:
    """Return the format of a weight file and what to do if it is not its ``own`` (GGUF, safetensors, torch); or None.

    The caller puts the words after the file's name.
    """
    if own != "GGUF" and is_gguf(path):
        return f"is a GGUF file under another name; give the file itself: --ckpt_dir {path}"
    if own != "safetensors" and _begins(path, b'{"', at=8):
        return "is a safetensors file under another name; put it into a Hugging Face directory as model.safetensors"
    if own != "torch" and is_zip(path):
        return (
            "is a file of torch.save (or another zip) under another name; use its released name, or save "
            "the model with transformers' save_pretrained"
        )
    return None


def is_gguf(path: Path) -> bool:
    """Return whether the file begins with GGUF's magic number."""
    return _begins(path, GGUF)


def is_zip(path: Path) -> bool:
    """Return whether the file begins like a zip archive, torch's included."""
    return _begins(path, b"PK\x03\x04")


def part_of_checkpoint(path: Path) -> str | None:
    """Return the file's role in a checkpoint directory (``a safetensors file``, …), or None."""
    name = path.name
    if name in ("config.json", "params.json", "tokenizer.json", "tokenizer.model") or name.endswith(".index.json"):
        return "one file of a checkpoint directory"
    if name.endswith(".safetensors"):
        return "a safetensors file"
    if name.endswith((".pth", ".pt", ".bin")):
        return "a file of weights"
    return None


def unfinished(directory: Path, name: str) -> str | None:
    """Return the name of an unfinished download of the file ``name`` in ``directory``, or None."""
    return next(_unfinished(directory, name), None)


def _unfinished(directory: Path, name: str) -> Iterator[str]:
    try:
        found = sorted(entry.name for entry in directory.iterdir())
    except OSError:
        return
    for other in found:
        if other.startswith(name) and other.endswith(_UNFINISHED):
            yield shown(other)


def _begins(path: Path, magic: bytes, at: int = 0) -> bool:
    try:
        with open_regular(path) as file:
            file.seek(at)
            return file.read(len(magic)) == magic
    except OSError:
        return False

"""What a file is by its first bytes, so that a refusal can say what lies there instead of the weights.

Knows: the signatures of checkpoint files, of archives, and of what is left where a download or a clone went wrong.
Knows nothing about: what is in a file.
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
# Models of llama.cpp before GGUF, by the magic numbers of their files (little-endian).
_BEFORE_GGUF = (b"lmgg", b"fmgg", b"tjgg", b"algg")
_PICKLE, _LAST_PROTOCOL = 0x80, 5
_UNFINISHED = (".part", ".incomplete", ".tmp", ".crdownload", ".download", ".aria2", ".partial", ".filepart")


def misplaced(path: Path, *, binary: bool = False) -> str | None:
    """What lies at ``path`` instead of a file of weights or of settings, and what to do; None where nothing is known.

    The words go behind the file's name. Where the file is to be ``binary``, a short text is named, too.
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
        return "is not the file but a pointer to it, which Git LFS leaves; run git lfs pull in the clone"
    if _MARKUP.match(begin.removeprefix(b"\xef\xbb\xbf")):
        return (
            "is a web page or an error message (HTML or XML) saved in the file's place; download the file itself, "
            "signed in if the site asks for it"
        )
    archive = next((kind for magic, kind in _ARCHIVES.items() if begin.startswith(magic)), None)
    if begin[_TAR_AT : _TAR_AT + len(_TAR)] == _TAR:
        archive = "tar"
    if archive:
        return f"is an archive ({archive}); unpack it and give what is in it"
    if begin.startswith(_BEFORE_GGUF):
        return "is a file of llama.cpp from before GGUF, which is not supported; use a GGUF of the same model"
    if not any(begin) and len(begin) == _READ:
        return "begins with zeros only, as a download does that did not finish; finish it or get the file again"
    if binary and begin[0] == _PICKLE and begin[1:2] <= bytes([_LAST_PROTOCOL]):
        return (
            "is a bare pickle, which is not loaded, and no file of weights that is known; save its tensors with "
            "torch.save"
        )
    if binary and len(begin) < _READ and begin.isascii() and begin.decode().strip().replace("\n", " ").isprintable():
        return "is a short text, such as a site's error message, and not the file; download the file itself"
    return None


def refuse_misplaced(path: Path) -> None:
    """Refuse a file in whose place something else lies, or which may not be read.

    One that is missing is left to whoever reads it.

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
    """What a file of weights is, if not of its ``own`` format (GGUF, safetensors, torch), and what to do; or None.

    The words go behind the file's name.
    """
    if own != "GGUF" and is_gguf(path):
        return f"is a GGUF file under another name; give it by itself: --ckpt_dir {path}"
    if own != "safetensors" and _begins(path, b'{"', at=8):
        return "is a safetensors file under another name; use it in a directory of Hugging Face's, as model.safetensors"
    if own != "torch" and is_zip(path):
        return (
            "is a file of torch.save (or another zip) under another name; use it as the release has it, or save "
            "the model with transformers' save_pretrained"
        )
    return None


def is_gguf(path: Path) -> bool:
    """Whether the file begins as a GGUF does."""
    return _begins(path, GGUF)


def is_zip(path: Path) -> bool:
    """Whether the file begins as an archive of torch's does, or any other zip."""
    return _begins(path, b"PK\x03\x04")


def part_of_checkpoint(path: Path) -> str | None:
    """What the file is in a checkpoint that is a directory (``a safetensors file``, …), or None."""
    name = path.name
    if name in ("config.json", "params.json", "tokenizer.json", "tokenizer.model") or name.endswith(".index.json"):
        return "a file of a checkpoint that is a directory"
    if name.endswith(".safetensors"):
        return "a safetensors file"
    if name.endswith((".pth", ".pt", ".bin")):
        return "a file of weights"
    return None


def unfinished(directory: Path, name: str) -> str | None:
    """The name of an unfinished download of the file ``name`` in ``directory``, or None."""
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

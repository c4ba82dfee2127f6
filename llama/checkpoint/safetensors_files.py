"""The weight files of a Hugging Face directory, and their tensors.

The choice of files follows transformers 5 (``modeling_utils.py``, ``_get_resolved_checkpoint_files``): the file that
config.json names, else ``model.safetensors``, else the files in the index. An index beside a whole
``model.safetensors`` is therefore ignored: ``save_pretrained`` leaves it there from an earlier, larger model.

Knows: safetensors' format up to its header's length, the index.
Knows nothing about: the tensors that a model needs.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from safetensors import SafetensorError, safe_open

from llama.checkpoint import signatures
from llama.checkpoint.source import distinct_files, unreadable
from llama.errors import CheckpointError
from llama.files import lies_there, open_regular, read_json, shown

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
ADAPTER = "adapter_config.json"
MAX_INDEX_BYTES = 4 << 20  # a model of 1,000 tensors has an index of 0.1 MiB
MAX_HEADER_BYTES = 4 << 20  # per safetensors file; the header of 1,000 tensors has 0.1 MiB
MAX_HEADERS_BYTES = 16 << 20  # in all files together; each byte takes four bytes of memory
MAX_TENSORS = 100_000  # in all files together
MAX_NAME_CHARACTERS = 200  # in a file name; systems allow 255 bytes
MAX_FILES = 512  # Llama 3.1 405B has 191; each stays open
_LENGTH_DIFFERS = "file not fully covered"  # from the library's error message
_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")


class WeightFiles:
    """The open files of a checkpoint.

    Args:
        directory: the checkpoint's directory.
        named: the file or index that config.json names (``transformers_weights``), or None.

    Attributes:
        files: in the order of their names.
        holder: the file that holds each tensor.
        passed_over: the ignored index beside a whole file, or None.

    Raises:
        CheckpointError: a file is missing, damaged, unfinished, of another kind, or present under two names; a tensor
            is in two files, or in another file than the index says; there are too many files or tensors.
    """

    def __init__(self, directory: Path, named: str | None = None) -> None:
        self.files, stated = _chosen(directory, named)
        whole = named is None and self.files == [directory / WEIGHTS] and lies_there(directory / INDEX)
        self.passed_over = INDEX if whole else None
        self._open, self.holder = _open_all(self.files, stated)

    def slice(self, name: str) -> Any:
        """Return safetensors' lazy slice of the tensor ``name``; its bytes are not read yet."""
        return self._open[self.holder[name]].get_slice(name)


def holds_weights(names: set[str]) -> str | None:
    """Return the file name by which transformers would recognise a model's weights in a directory, or None."""
    return next((name for name in (WEIGHTS, INDEX, *_PICKLES) if name in names), None)


def _chosen(directory: Path, named: str | None) -> tuple[list[Path], dict[str, str]]:
    """Return the files, and the file that the index states for each tensor."""
    if lies_there(directory / ADAPTER):
        raise CheckpointError(
            f"{directory / ADAPTER} says that an adapter (PEFT, such as LoRA) belongs to this model; "
            f"merge it (merge_and_unload) and save the model, or move the adapter's files away"
        )
    if named is not None:
        if not named.endswith((".safetensors", ".safetensors.index.json")):
            raise CheckpointError(
                f"{directory / 'config.json'} names {shown(named)} as its weights "
                f"(transformers_weights), which is not a safetensors file; name a safetensors file"
            )
        _check_inside(named, directory / "config.json")
        if named.endswith(".json"):
            return _indexed(directory, directory / named)
        return [_present(directory, named, "config.json")], {}
    if (directory / WEIGHTS).is_file():
        return [directory / WEIGHTS], {}
    if lies_there(directory / WEIGHTS):
        raise _unusable(directory / WEIGHTS)
    if lies_there(directory / INDEX):
        return _indexed(directory, directory / INDEX)
    raise _without_weights(directory)


def _unusable(path: Path) -> CheckpointError:
    """Return the error for a path that exists but cannot be read as a file."""
    try:
        with open_regular(path):
            return CheckpointError(f"{path} cannot be read; get the file again")
    except OSError as err:
        return unreadable(path, err)


def _without_weights(directory: Path) -> CheckpointError:
    """Return the error for a directory without safetensors. It says what lies there instead and what to do."""
    names = sorted(path.name for path in directory.iterdir())
    if any(name in _PICKLES or (name.endswith(".bin") and name.startswith("pytorch_model")) for name in names):
        return CheckpointError(
            f"{directory} has its weights as .bin (pickle); use a safetensors version, or make one: "
            f"load it with transformers and call save_pretrained"
        )
    for wanted in (WEIGHTS, INDEX):
        if half := signatures.unfinished(directory, wanted):
            return CheckpointError(f"{directory} has {wanted} only as an unfinished download ({half}); finish it")
    parts = [name for name in names if name.endswith(".safetensors") and name.startswith("model-0")]
    if parts:
        return CheckpointError(
            f"{directory} has parts of a checkpoint ({shown(parts[0])}, …) but no {INDEX}, which "
            f"lists them; get that file, too"
        )
    others = [name for name in names if name.endswith((".safetensors", ".safetensors.index.json"))]
    if others:
        return CheckpointError(
            f"{directory} has neither {WEIGHTS} nor {INDEX}, but {shown(others[0])}; if that is the "
            f"model in transformers' layout, rename it to {WEIGHTS}"
        )
    if ggufs := [name for name in names if name.endswith(".gguf")]:
        return CheckpointError(
            f"{directory} has neither {WEIGHTS} nor {INDEX}, but GGUF files; give the file itself: "
            f"--ckpt_dir {directory / shown(ggufs[0])}"
        )
    if shards := [name for name in names if name.startswith("consolidated.") and name.endswith(".pth")]:
        return CheckpointError(
            f"{directory} has config.json, but the weights of a Meta release ({shown(shards[0])}); "
            f"get the params.json and tokenizer.model that belong to them"
        )
    if pickles := [name for name in names if name.endswith((".bin", ".pth", ".pt", ".msgpack", ".h5"))]:
        return CheckpointError(
            f"{directory} has neither {WEIGHTS} nor {INDEX}, but {shown(pickles[0])}, which is "
            f"another format; use a safetensors version"
        )
    return CheckpointError(f"{directory} has neither {WEIGHTS} nor {INDEX}; finish the download")


def _indexed(directory: Path, index: Path) -> tuple[list[Path], dict[str, str]]:
    signatures.refuse_misplaced(index)
    try:
        listed = msgspec.json.decode(read_json(index, MAX_INDEX_BYTES), type=dict[str, Any]).get("weight_map")
        stated = msgspec.convert(listed, dict[str, str])
    except OSError as err:
        raise unreadable(index, err) from None
    except msgspec.ValidationError as err:
        raise CheckpointError(f"{index} is malformed ({err}); use the index that belongs to the files") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as err:
        raise CheckpointError(f"{index} is malformed ({err}); get the file again") from None
    names = sorted(set(stated.values()))
    if not 1 <= len(names) <= MAX_FILES:
        raise CheckpointError(
            f"{index} lists {len(names)} files, but must list 1 to {MAX_FILES}; use the index that belongs to the files"
        )
    for name in names:
        _check_inside(name, index)
    return [_present(directory, name, index.name) for name in names], stated


def _check_inside(name: str, where: Path) -> None:
    if Path(name).name != name or "\0" in name or len(name) > MAX_NAME_CHARACTERS:
        raise CheckpointError(
            f"{where} names a file outside its directory ({shown(name)}); put all files into one directory"
        )


def _present(directory: Path, name: str, lister: str) -> Path:
    path = directory / name
    if path.is_file():
        return path
    if lies_there(path):
        raise _unusable(path)
    if half := signatures.unfinished(directory, name):
        raise CheckpointError(f"{directory} has {shown(name)} only as an unfinished download ({half}); finish it")
    raise CheckpointError(f"{directory} lacks {shown(name)}, which {lister} lists; finish the download")


def _open_all(files: Sequence[Path], stated: Mapping[str, str]) -> tuple[dict[Path, Any], dict[str, Path]]:
    """Return the open files, and the file that holds each tensor.

    Check the totals before opening the next file: many files may each be within their own bounds.
    """
    opened, holder, header_bytes = dict[Path, Any](), dict[str, Path](), 0
    distinct_files(files)
    for path in files:
        opened[path], size = _open(path)
        header_bytes += size
        names = opened[path].keys()
        if header_bytes > MAX_HEADERS_BYTES or len(holder) + len(names) > MAX_TENSORS:
            raise CheckpointError(
                f"{path} and the files before it have more tensors than {MAX_TENSORS}, or headers of more than "
                f"{MAX_HEADERS_BYTES >> 20} MiB; use the files as released"
            )
        for name in names:
            if name in holder:
                raise CheckpointError(
                    f"{path} and {shown(holder[name].name)} both hold the tensor {shown(name)}; they "
                    f"belong to two checkpoints: use the files of one, with its index"
                )
            if stated.get(name, path.name) != path.name:
                raise CheckpointError(
                    f"{path} holds the tensor {shown(name)}, but {INDEX} says it is in "
                    f"{shown(stated[name])}; use the index that belongs to the files"
                )
            holder[name] = path
    return opened, holder


def _open(path: Path) -> tuple[Any, int]:
    """Return the open file and the size of its header in bytes."""
    try:
        with open_regular(path) as file:
            size, (header,) = os.fstat(file.fileno()).st_size, struct.unpack("<Q", file.read(8))
        if header > min(MAX_HEADER_BYTES, size - 8):  # the library accepts headers a hundred times larger
            raise ValueError
        return safe_open(path, framework="pt"), header
    except OSError as err:
        raise unreadable(path, err) from None
    except (SafetensorError, ValueError, struct.error) as err:
        what = signatures.misplaced(path, binary=True) or signatures.other_format(path, "safetensors")
        if what is not None:
            raise CheckpointError(f"{path} {what}") from None
        reason = "its length differs from its header" if _LENGTH_DIFFERS in str(err) else "its header is invalid"
        raise CheckpointError(
            f"{path} is damaged or incomplete ({reason}); finish the download or get it again"
        ) from None

"""Which files of a Hugging Face directory make its checkpoint, and their tensors.

Which files they are follows transformers 5 (``modeling_utils.py``, ``_get_resolved_checkpoint_files``): the one that
config.json names, else ``model.safetensors``, else those that the index lists. So an index that lies beside a whole
``model.safetensors`` says nothing: it is what ``save_pretrained`` leaves of a larger model before.

Knows: safetensors' format as far as its header's length, the index.
Knows nothing about: which tensors a model has.
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
MAX_HEADER_BYTES = 4 << 20  # of a safetensors file; of 1,000 tensors it has 0.1 MiB
MAX_HEADERS_BYTES = 16 << 20  # of all files together; each byte takes four of memory
MAX_TENSORS = 100_000  # likewise
MAX_NAME_CHARACTERS = 200  # of a file; systems take 255 bytes
MAX_FILES = 512  # Llama 3.1 405B has 191; each stays open
_LENGTH_DIFFERS = "file not fully covered"  # in the library's words
_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")


class WeightFiles:
    """The open files of a checkpoint.

    Args:
        directory: where they lie.
        named: the file or index that config.json names (``transformers_weights``), or None.

    Attributes:
        files: in the order of their names.
        holder: which of them holds each tensor.
        passed_over: the index that lies beside a whole file and does not count, or None.

    Raises:
        CheckpointError: one is missing, damaged, unfinished or of another kind; one lies there under two names; a
            tensor is in two, or in another than the index says; there are too many.
    """

    def __init__(self, directory: Path, named: str | None = None) -> None:
        self.files, stated = _chosen(directory, named)
        whole = named is None and self.files == [directory / WEIGHTS] and lies_there(directory / INDEX)
        self.passed_over = INDEX if whole else None
        self._open, self.holder = _open_all(self.files, stated)

    def slice(self, name: str) -> Any:
        """Safetensors' slice of the tensor ``name``, of which nothing has been read yet."""
        return self._open[self.holder[name]].get_slice(name)


def holds_weights(names: set[str]) -> str | None:
    """The file, out of a directory's, by which transformers would know that it holds a model's weights; or None."""
    return next((name for name in (WEIGHTS, INDEX, *_PICKLES) if name in names), None)


def _chosen(directory: Path, named: str | None) -> tuple[list[Path], dict[str, str]]:
    """The files, and which of them the index says a tensor is in."""
    if lies_there(directory / ADAPTER):
        raise CheckpointError(
            f"{directory / ADAPTER} says that an adapter (PEFT, as LoRA) belongs to this model; "
            f"merge it (merge_and_unload) and save the model, or move the adapter's files "
            "away"
        )
    if named is not None:
        if not named.endswith((".safetensors", ".safetensors.index.json")):
            raise CheckpointError(
                f"{directory / 'config.json'} names {shown(named)} as its weights "
                f"(transformers_weights), which is no safetensors file; name one that "
                "is"
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
    """The error for what bears a file's name and is none."""
    try:
        with open_regular(path):
            return CheckpointError(f"{path} cannot be read")
    except OSError as err:
        return unreadable(path, err)


def _without_weights(directory: Path) -> CheckpointError:
    """The error for a directory in which transformers finds no safetensors: what lies there instead, and the cure."""
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
            f"says what belongs to it; get that file, too"
        )
    others = [name for name in names if name.endswith((".safetensors", ".safetensors.index.json"))]
    if others:
        return CheckpointError(
            f"{directory} has neither {WEIGHTS} nor {INDEX}, but {shown(others[0])}; if that is the "
            f"model in transformers' layout, give it the name {WEIGHTS}"
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
            f"{directory} has neither {WEIGHTS} nor {INDEX}, but {shown(pickles[0])}, of another "
            f"kind; use a safetensors version"
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
            f"{index} lists {len(names)} files, of which there are 1 to {MAX_FILES}; use the index "
            f"that belongs to the files"
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
    """The open files, and which of them holds each tensor.

    Each is looked at before the next is opened: there may be many, of which each is within its own bounds.
    """
    opened, holder, header_bytes = dict[Path, Any](), dict[str, Path](), 0
    distinct_files(files)
    for path in files:
        opened[path], size = _open(path)
        header_bytes += size
        names = opened[path].keys()
        if header_bytes > MAX_HEADERS_BYTES or len(holder) + len(names) > MAX_TENSORS:
            raise CheckpointError(
                f"{path} and the files before it say more of their tensors than {MAX_TENSORS} need, "
                f"as no model's do; use the files as released"
            )
        for name in names:
            if name in holder:
                raise CheckpointError(
                    f"{path} and {shown(holder[name].name)} both hold the tensor {shown(name)}; they "
                    f"are of two checkpoints: use the files of one, with its index"
                )
            if stated.get(name, path.name) != path.name:
                raise CheckpointError(
                    f"{path} holds the tensor {shown(name)}, which {INDEX} says is in "
                    f"{shown(stated[name])}; use the index that belongs to the files"
                )
            holder[name] = path
    return opened, holder


def _open(path: Path) -> tuple[Any, int]:
    """The file, and how many bytes its header has."""
    try:
        with open_regular(path) as file:
            size, (header,) = os.fstat(file.fileno()).st_size, struct.unpack("<Q", file.read(8))
        if header > min(MAX_HEADER_BYTES, size - 8):  # the library takes a hundred times as much at its word
            raise ValueError
        return safe_open(path, framework="pt"), header
    except OSError as err:
        raise unreadable(path, err) from None
    except (SafetensorError, ValueError, struct.error) as err:
        what = signatures.misplaced(path, binary=True) or signatures.other_format(path, "safetensors")
        if what is not None:
            raise CheckpointError(f"{path} {what}") from None
        reason = "its length is not what its header says" if _LENGTH_DIFFERS in str(err) else "its header is none"
        raise CheckpointError(
            f"{path} is damaged or incomplete ({reason}); finish the download or get it again"
        ) from None

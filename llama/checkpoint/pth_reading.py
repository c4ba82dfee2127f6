"""Read the tensors of a ``.pth`` file by name, without executing the pickle.

``torch.save`` writes a state dict as a pickle that calls few functions, with the tensors' bytes beside it. This reader
interprets such a pickle opcode by opcode and refuses any other. ``torch.load`` accepts more. A few malicious bytes can
make it fill the memory or never end; each of those ways would have to be found and forbidden.

Knows: torch's file format, and the opcodes and functions of pickles that hold tensors (protocol 2).
Knows nothing about: models, the tensors that a model needs.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import torch

from llama.checkpoint.zip_records import ZipRecord, records_of
from llama.files import open_regular

MAX_PICKLE_BYTES = 512 << 10  # a pickle of 1,000 tensors takes a fifth
_MAX_DIMENSIONS = 8
_PROTOCOL = 2
_MAX_KEY_BITS = 31  # larger integers can be chosen to collide in a hash table: n of them take n² steps
_OLD_MAGIC = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."  # start of files from torch before 1.6

_DTYPES = {
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64,
    "ByteStorage": torch.uint8,
    "CharStorage": torch.int8,
    "ShortStorage": torch.int16,
    "IntStorage": torch.int32,
    "LongStorage": torch.int64,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
}
_REBUILD = {"torch._utils _rebuild_tensor", "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_tensor_v3"}
_PARAMETER, _ORDERED_DICT, _BYTES = (
    "torch._utils _rebuild_parameter",
    "collections OrderedDict",
    "torch.storage UntypedStorage",
)


class ForeignContents(ValueError):
    """The pickle holds more, or does more, than a state dict's pickle."""


class OldFormat(ValueError):
    """The file has the format of torch before 1.6: consecutive pickles, no archive."""


class OtherProtocol(ValueError):
    """The pickle has a protocol above 2, which torch writes only on request."""


class OtherByteOrder(ValueError):
    """A big-endian machine wrote the file."""


class NotAStateDict(ValueError):
    """The file holds something other than tensors by name."""


@dataclass(frozen=True)
class _Global:
    """A function or type that the pickle refers to: its module, a space, its name."""

    name: str


@dataclass(frozen=True)
class _Storage:
    """A run of bytes in the file and the dtype of their elements."""

    record: ZipRecord
    dtype: torch.dtype
    nbytes: int


@dataclass(frozen=True)
class _View:
    """A tensor within the bounds of a storage; offset and strides are in elements."""

    storage: _Storage
    dtype: torch.dtype
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return torch.Size(self.shape).numel() * self.dtype.itemsize


def read_state_dict(path: Path) -> dict[str, torch.Tensor]:
    """Return the tensors in ``path``, memory-mapped and private: bytes are read only when accessed.

    Raises:
        ForeignContents, NotAStateDict, OldFormat, OtherProtocol, OtherByteOrder, Compressed: the pickle, or the file,
            is of another kind.
        OSError: the path is not a regular file, or it cannot be read.
        ValueError, KeyError, struct.error, …: the file is damaged.
    """
    with open_regular(path) as file:
        if file.read(len(_OLD_MAGIC)) == _OLD_MAGIC:
            raise OldFormat
        records, size = records_of(file)
        views = _views(file, records, size)
        mapped = torch.UntypedStorage.from_file(str(path), False, file.seek(0, 2))
    tensors = dict[str, torch.Tensor]()
    for name, view in views.items():
        start = view.storage.record.offset
        storage = mapped[start : start + view.storage.nbytes]
        tensors[name] = torch.empty(0, dtype=view.dtype).set_(storage, view.offset, view.shape, view.strides)
    return tensors


def _views(file: BinaryIO, records: Mapping[str, ZipRecord], size: int) -> dict[str, _View]:
    roots = [name.removesuffix("data.pkl") for name in records if name.endswith("/data.pkl") and name.count("/") == 1]
    if not roots:
        raise NotAStateDict
    (root,) = roots
    if f"{root}byteorder" in records and _contents(file, records[f"{root}byteorder"]) != b"little":
        raise OtherByteOrder
    state_dict = _Reader(_contents(file, records[f"{root}data.pkl"]), records, root).value()
    if not isinstance(state_dict, dict):
        raise NotAStateDict
    for name, view in state_dict.items():
        if not isinstance(name, str) or not isinstance(view, _View):
            raise NotAStateDict
    # Two names may share a storage, as tied embeddings do. A larger total is forged.
    if sum(view.nbytes for view in state_dict.values()) > 2 * size:
        raise ValueError("the tensors have more elements than the file")
    return state_dict


def _contents(file: BinaryIO, record: ZipRecord) -> bytes:
    if record.size > MAX_PICKLE_BYTES:
        raise ValueError("too large a record")
    file.seek(record.offset)
    data = file.read(record.size)
    if len(data) != record.size:
        raise ValueError("a record ends behind the file")
    return data  # check sums are optional in torch.save, and torch.load never verifies them


class _Reader:
    """Interpreter for the opcodes of a pickle (described in CPython's ``pickletools``)."""

    def __init__(self, data: bytes, records: Mapping[str, ZipRecord], root: str) -> None:
        self._data, self._at = data, 0
        self._records, self._root = records, root
        self._stack, self._marks = list[Any](), list[list[Any]]()
        self._memo = dict[int, Any]()

    def value(self) -> Any:
        """Return the pickle's value. Raise ``ForeignContents`` at any opcode that a state dict does not use."""
        while True:
            opcode = self._take(1)
            if opcode == b".":
                return self._stack.pop()
            self._do(opcode)

    def _take(self, count: int) -> bytes:
        taken = self._data[self._at : self._at + count]
        if len(taken) < count:
            raise ValueError("the pickle ends early")
        self._at += count
        return taken

    def _number(self, form: str) -> int:
        number: int
        (number,) = struct.unpack(form, self._take(struct.calcsize(form)))
        return number

    def _do(self, opcode: bytes) -> None:
        stack = self._stack
        match opcode:
            case b"\x80":  # PROTO
                if self._number("B") > _PROTOCOL:
                    raise OtherProtocol
            case b"q":  # BINPUT
                self._memo[self._number("B")] = stack[-1]
            case b"r":  # LONG_BINPUT
                self._memo[self._number("<I")] = stack[-1]
            case b"h":  # BINGET
                stack.append(self._memo[self._number("B")])
            case b"j":  # LONG_BINGET
                stack.append(self._memo[self._number("<I")])
            case b"K" | b"M" | b"J":  # BININT1, BININT2, BININT
                stack.append(self._number({b"K": "B", b"M": "<H", b"J": "<i"}[opcode]))
            case b"\x8a":  # LONG1
                stack.append(int.from_bytes(self._take(self._number("B")), "little", signed=True))
            case b"G":  # BINFLOAT
                stack.append(self._number(">d"))
            case b"X":  # BINUNICODE
                stack.append(self._take(self._number("<I")).decode())
            case b"N" | b"\x88" | b"\x89":  # NONE, NEWTRUE, NEWFALSE
                stack.append({b"N": None, b"\x88": True, b"\x89": False}[opcode])
            case b"c":  # GLOBAL
                stack.append(self._global())
            case b"(":  # MARK
                self._marks.append(stack)
                self._stack = []
            case b")" | b"}" | b"]":  # EMPTY_TUPLE, EMPTY_DICT, EMPTY_LIST
                stack.append({b")": (), b"}": {}, b"]": []}[opcode])
            case b"t":  # TUPLE
                self._stack = self._marks.pop()
                self._stack.append(tuple(stack))
            case b"\x85" | b"\x86" | b"\x87":  # TUPLE1, TUPLE2, TUPLE3
                length = opcode[0] - 0x84
                stack[-length:] = [tuple(stack[-length:])]
            case b"a" | b"e":  # APPEND, APPENDS
                self._append([stack.pop()] if opcode == b"a" else self._since_mark())
            case b"s" | b"u":  # SETITEM, SETITEMS
                self._set([stack.pop(-2), stack.pop()] if opcode == b"s" else self._since_mark())
            case b"Q":  # BINPERSID
                stack.append(self._storage(stack.pop()))
            case b"R":  # REDUCE
                called, arguments = stack[-2:]
                stack[-2:] = [_result(called, arguments)]
            case b"b":  # BUILD: a module's state dict stores its parts' versions this way
                if not isinstance(stack.pop(), dict) or not isinstance(stack[-1], dict):
                    raise ForeignContents
            case _:
                raise ForeignContents

    def _since_mark(self) -> list[Any]:
        items, self._stack = self._stack, self._marks.pop()
        return items

    def _append(self, items: Sequence[Any]) -> None:
        if not isinstance(self._stack[-1], list):
            raise ForeignContents
        self._stack[-1].extend(items)

    def _set(self, items: Sequence[Any]) -> None:
        # Only texts and small numbers may be keys: hashing deeply nested tuples can take forever.
        if not isinstance(self._stack[-1], dict) or not all(map(_is_key, items[::2])):
            raise ForeignContents
        self._stack[-1].update(zip(items[::2], items[1::2], strict=True))

    def _global(self) -> _Global:
        words = []
        for _ in range(2):
            end = self._data.index(b"\n", self._at)
            words.append(self._data[self._at : end].decode())
            self._at = end + 1
        name, (module, kind) = " ".join(words), words
        known = {*_REBUILD, _PARAMETER, _ORDERED_DICT, _BYTES}
        if name in known or (module == "torch" and (kind in _DTYPES or _dtype(name) is not None)):
            return _Global(name)
        raise ForeignContents

    def _storage(self, saved: Any) -> _Storage:
        match saved:
            case ("storage", _Global(name), str(key), str(), int(count)):
                dtype = torch.uint8 if name == _BYTES else _DTYPES[name.removeprefix("torch ")]
                record = self._records[f"{self._root}data/{key}"]
                if not 0 <= count * dtype.itemsize <= record.size or record.offset % dtype.itemsize:
                    raise ValueError("a storage is larger than its record")
                return _Storage(record, dtype, count * dtype.itemsize)
        raise ForeignContents


def _is_key(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, int) and value.bit_length() <= _MAX_KEY_BITS)


def _result(called: Any, arguments: Any) -> Any:
    """Return the result of a known function for these arguments."""
    match called, arguments:
        case _Global("collections OrderedDict"), ():
            return {}
        case _Global("torch._utils _rebuild_parameter"), (_View() as view, bool(), dict()):
            return view
        case _Global(name), (_Storage() as storage, int(offset), tuple(shape), tuple(strides), *others):
            if name in _REBUILD:
                dtype = _dtype(others.pop(2).name) if name.endswith("_v3") else storage.dtype
                # The other arguments: requires_grad, hooks, and metadata such as "negated".
                if dtype is not None and not any(others[2:]):
                    return _view(storage, dtype, offset, shape, strides)
    raise ForeignContents


def _view(
    storage: _Storage, dtype: torch.dtype, offset: int, shape: tuple[Any, ...], strides: tuple[Any, ...]
) -> _View:
    for number in (offset, *shape, *strides):
        if not isinstance(number, int) or not 0 <= number < 2**62:
            _refuse_view()
    if len(shape) != len(strides) or len(shape) > _MAX_DIMENSIONS or storage.record.offset % dtype.itemsize:
        _refuse_view()
    count, last = 1, offset
    for size, stride in zip(shape, strides, strict=True):
        count *= size
        last += (size - 1) * stride
    elements = storage.nbytes // dtype.itemsize
    # With a stride of 0, a few bytes could claim to be a tensor of any size.
    if count and not (count <= elements and last < elements):
        _refuse_view()
    return _View(storage, dtype, offset, shape, strides)


def _refuse_view() -> NoReturn:
    raise ValueError("a tensor extends beyond its storage")


def _dtype(name: str) -> torch.dtype | None:
    """Return the dtype that a pickle calls ``torch float32`` (for example), or None."""
    found = getattr(torch, name.removeprefix("torch "), None)
    return found if isinstance(found, torch.dtype) else None

"""Header and tensor locations of a GGUF file (github.com/ggml-org/ggml, ``docs/gguf.md``).

The header is read once, front to back, within bounds. Every count is checked against the bytes that are left before
anything is allocated. (The gguf library's own reader trusts each count, and makes several objects for every element of
every array.)

Knows: the format, versions 2 and 3, little-endian; which types of tensors the gguf library can dequantise.
Knows nothing about: which fields and tensors a model has, how quantised values are decoded.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from llama.files import open_regular, shown

MAX_HEADER_BYTES = 64 << 20  # a vocabulary of 128,000 tokens takes 8 MiB
MAX_ELEMENTS = 2_000_000  # in all arrays together; a vocabulary of 128,000 tokens has 540,000
MAX_FIELDS, MAX_TENSORS = 10_000, 100_000
MAX_TEXT_BYTES = 1 << 20  # per value; the longest is the chat template
MAX_NAME_BYTES = 65_535  # the format's limit for a key
MAX_DIMENSIONS = 4  # the format's limit for a tensor
_PLAUSIBLE_VERSION = 99  # a larger version number means damage

ValueType = gguf.GGUFValueType
Type = gguf.GGMLQuantizationType
_NUMBERS = {kind.value for kind in Type}

_SCALARS = {
    ValueType.UINT8: "<u1",
    ValueType.INT8: "<i1",
    ValueType.UINT16: "<u2",
    ValueType.INT16: "<i2",
    ValueType.UINT32: "<u4",
    ValueType.INT32: "<i4",
    ValueType.FLOAT32: "<f4",
    ValueType.BOOL: "?",
    ValueType.UINT64: "<u8",
    ValueType.INT64: "<i8",
    ValueType.FLOAT64: "<f8",
}
_PLAIN = {
    Type.F16: "<f2",
    Type.F32: "<f4",
    Type.F64: "<f8",
    Type.I8: "<i1",
    Type.I16: "<i2",
    Type.I32: "<i4",
    Type.I64: "<i8",
}  # other types are blocks of bytes
_ENDS_EARLY = "its header claims more bytes than the file has, or than a header may have"
_ALIGNMENT = "general.alignment"
# Retired types that llama.cpp no longer reads (ggml.h).
_GONE = {
    4: "Q4_2",
    5: "Q4_3",
    31: "Q4_0_4_4",
    32: "Q4_0_4_8",
    33: "Q4_0_8_8",
    36: "IQ4_NL_4_4",
    37: "IQ4_NL_4_8",
    38: "IQ4_NL_8_8",
}


class NotSupported(ValueError):
    """The file is intact, but of an unsupported kind. The message says what to do."""


@dataclass(frozen=True)
class GGUFTensor:
    """A tensor as stored in the file.

    Attributes:
        name: its name in the file.
        tensor_type: how its values are stored.
        shape: from the slowest dimension to the fastest (the file lists them in reverse).
        data: mapped from the file: values of that shape, or bytes if the type stores blocks.
    """

    name: str
    tensor_type: gguf.GGMLQuantizationType
    shape: tuple[int, ...]
    data: np.ndarray[Any, Any]


class GGUFFile:
    """A file's fields and tensors. Tensors are memory-mapped, so their bytes are read only when accessed.

    Attributes:
        tensors: by name, in the file's order.

    Raises:
        OSError: the path is not a regular file, or it cannot be read.
        NotSupported: its version, byte order or the type of a tensor is not supported.
        ValueError: it is not a GGUF file, or it is damaged; the message says how.
    """

    def __init__(self, path: Path) -> None:
        with open_regular(path) as file:
            if not file.seek(0, 2):
                raise ValueError("it is empty")
            self._map = np.memmap(file, mode="r")
        header = _Header(self._map.data[:MAX_HEADER_BYTES])
        n_tensors = header.begin()
        self._fields = header.fields()
        infos = [header.tensor() for _ in range(n_tensors)]
        alignment = self.get(_ALIGNMENT)
        alignment = gguf.GGUF_DEFAULT_ALIGNMENT if alignment is None else alignment
        if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
            raise ValueError(f"{_ALIGNMENT} is not a power of two")
        start = -(-header.at // alignment) * alignment
        self.tensors = dict[str, GGUFTensor]()
        taken = 0
        for info in infos:
            if info.name in self.tensors:
                raise ValueError(f"the tensor {shown(info.name)} appears twice")
            self.tensors[info.name] = self._tensor(info, start)
            taken += self.tensors[info.name].data.nbytes
        if taken > len(self._map):
            raise ValueError("its tensors overlap")

    def get(self, name: str) -> Any:
        """Return the value of a field: a number, a text, or a list of either; None if the field is missing.

        Raises:
            UnicodeDecodeError: a text is not UTF-8.
        """
        value = self._fields.get(name)
        if isinstance(value, bytes):
            return value.decode()
        if isinstance(value, list):
            return [text.decode() for text in value]
        return value.tolist() if isinstance(value, np.ndarray | np.generic) else value

    def forget_fields(self) -> None:
        """Free the memory of all fields."""
        self._fields.clear()

    def _tensor(self, info: _TensorInfo, start: int) -> GGUFTensor:
        kind = _usable_type(info)
        block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
        *outer, row = info.shape
        if row % block:
            raise ValueError(
                f"the tensor {shown(info.name)} has rows of {row}, not a multiple of {block}, the block size of "
                f"{kind.name}"
            )
        dtype = np.dtype(_PLAIN.get(kind, "u1"))
        shape = info.shape if kind in _PLAIN else (*outer, row // block * block_bytes)
        size = dtype.itemsize
        for width in shape:
            size *= width
        if start + info.offset + size > len(self._map):
            raise ValueError(f"the tensor {shown(info.name)} extends past the end of the file")
        data = np.ndarray(shape, dtype, self._map, start + info.offset)
        return GGUFTensor(info.name, kind, info.shape, data)


@dataclass(frozen=True)
class _TensorInfo:
    """A tensor's entry in the header. ``offset`` counts from the start of the tensor data."""

    name: str
    shape: tuple[int, ...]
    type: int
    offset: int


def _usable_type(info: _TensorInfo) -> gguf.GGMLQuantizationType:
    """Return the type of a tensor if its values can be read.

    Raises:
        NotSupported: names the tensor and the type, by number and (if known) by name.
    """
    known = _known_type(info.type)
    if known is not None and (known in _PLAIN or _can_be_undone(known)):
        return known
    name = known.name if known is not None else _GONE.get(info.type)
    called = f"{info.type} ({name})" if name else f"{info.type}"
    raise NotSupported(
        f"has the tensor {shown(info.name)} in type {called}, which is not supported; use a file of the "
        f"model in another type, such as Q8_0, Q4_K_M, F16 or BF16"
    )


def _known_type(number: int) -> gguf.GGMLQuantizationType | None:
    return Type(number) if number in _NUMBERS else None


@cache
def _can_be_undone(kind: gguf.GGMLQuantizationType) -> bool:
    """Return whether the gguf library can dequantise this type, by trying it on a block of zeros."""
    try:
        gguf.dequantize(np.zeros((1, gguf.GGML_QUANT_SIZES[kind][1]), np.uint8), kind)
    except NotImplementedError:
        return False
    return True


class _Header:
    """The header's bytes and the position reached in them."""

    def __init__(self, data: memoryview) -> None:
        self._data, self.at = data, 0
        self._elements = 0

    def begin(self) -> int:
        """Read the part before the fields; return the number of tensors."""
        magic, version = self._number("<I"), self._number("<I")
        if magic != gguf.GGUF_MAGIC:
            raise ValueError("it does not begin as a GGUF file")
        if version and not version & 0xFFFF:
            raise NotSupported("is big-endian, which is not supported; convert it with gguf-convert-endian")
        if version == 1 or 3 < version <= _PLAUSIBLE_VERSION:
            cure = "make a new file from the original model" if version == 1 else "use a file of version 3"
            raise NotSupported(f"is GGUF version {version}; only 2 and 3 are supported; {cure}")
        if version not in (2, 3):
            raise ValueError(f"it claims to be version {version}")
        n_tensors, self._n_fields = self._number("<Q"), self._number("<Q")
        if n_tensors > MAX_TENSORS or self._n_fields > MAX_FIELDS:
            raise ValueError(f"it claims {n_tensors} tensors and {self._n_fields} fields")
        return n_tensors

    def fields(self) -> dict[str, Any]:
        """Return every field by its key. Values are numpy scalars and arrays, ``bytes``, and lists of ``bytes``."""
        fields = dict[str, Any]()
        for _ in range(self._n_fields):
            key = self._name()
            if key in fields:
                raise ValueError(f"the field {shown(key)} appears twice")
            fields[key] = self._value(self._kind(key), key)
        return fields

    def tensor(self) -> _TensorInfo:
        name, n_dimensions = self._name(), self._number("<I")
        if not 1 <= n_dimensions <= MAX_DIMENSIONS:
            raise ValueError(f"the tensor {shown(name)} has {n_dimensions} dimensions")
        shape = tuple(self._number("<Q") for _ in range(n_dimensions))[::-1]
        if not all(shape):
            raise ValueError(f"the tensor {shown(name)} has a dimension of 0")
        return _TensorInfo(name, shape, self._number("<I"), self._number("<Q"))

    def _take(self, count: int) -> memoryview:
        if count > len(self._data) - self.at:
            raise ValueError(_ENDS_EARLY)
        taken = self._data[self.at : self.at + count]
        self.at += count
        return taken

    def _number(self, form: str) -> int:
        number: int
        (number,) = struct.unpack(form, self._take(struct.calcsize(form)))
        return number

    def _name(self) -> str:
        length = self._number("<Q")
        if length > MAX_NAME_BYTES:
            raise ValueError(f"a name in it has {length} bytes")
        try:
            return bytes(self._take(length)).decode()
        except UnicodeDecodeError:
            raise ValueError("a name in it is not UTF-8") from None

    def _kind(self, key: str) -> gguf.GGUFValueType:
        number = self._number("<I")
        try:
            return ValueType(number)
        except ValueError:
            raise ValueError(f"the field {shown(key)} has the unknown type {number}") from None

    def _value(self, kind: gguf.GGUFValueType, key: str) -> Any:
        if kind == ValueType.STRING:
            length = self._number("<Q")
            if length > MAX_TEXT_BYTES:
                raise ValueError(f"the field {shown(key)} claims {length} bytes")
            return bytes(self._take(length))
        if kind != ValueType.ARRAY:
            return self._array(kind, 1)[0]
        of, count = self._kind(key), self._number("<Q")
        self._elements += count
        if self._elements > MAX_ELEMENTS:
            raise ValueError(f"the field {shown(key)} claims {count} elements")
        if of == ValueType.ARRAY:
            raise ValueError(f"the field {shown(key)} is an array of arrays, which is not supported")
        if of == ValueType.STRING:
            return self._strings(count)
        return self._array(of, count)

    def _array(self, kind: gguf.GGUFValueType, count: int) -> np.ndarray[Any, Any]:
        dtype = np.dtype(_SCALARS[kind])
        return np.frombuffer(self._take(count * dtype.itemsize), dtype)

    def _strings(self, count: int) -> list[bytes]:
        """Read ``count`` strings. Faster than ``_take`` for each: a vocabulary has some hundred thousand."""
        data, at, end = self._data, self.at, len(self._data)
        length, strings = struct.Struct("<Q"), list[bytes]()
        for _ in range(count):
            if at + 8 > end:
                break
            (size,) = length.unpack_from(data, at)
            at += 8
            if size > MAX_TEXT_BYTES:
                raise ValueError(f"a text in a list claims {size} bytes")
            if size > end - at:
                break
            strings.append(bytes(data[at : at + size]))
            at += size
        self.at = at
        if len(strings) < count:
            raise ValueError(_ENDS_EARLY)
        return strings

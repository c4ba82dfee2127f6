"""Write ``consolidated.NN.pth`` files larger than memory.

``torch.save`` under ``torch.serialization.skip_data()`` lays out the file and writes everything except the tensors'
bytes. These follow piece by piece, in order within each tensor, with ordinary writes at the tensor's place. (A shared
memory map would also work, but a full disk kills a process that writes to a map, while an ordinary write only fails.)

Knows: the place of a record's CRC-32 in a zip archive (PKWARE's APPNOTE, sections 4.3.9 and 4.3.12), so that any zip
tool accepts the finished file. ``zip_records`` finds where a record's bytes begin.
Knows nothing about: models, halves, the meaning of the tensors.
"""

from __future__ import annotations

import errno
import os
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import torch

from llama.checkpoint.zip_records import records_of

# Linux caches each write in pages of up to that write's size, and maps such a page whole when one byte of it is read.
# With larger writes, a device that looks up single rows of a new file would seem to use a hundred times their memory.
_WRITE_BYTES = 64 << 10

_DESCRIPTOR, _DESCRIPTOR_CRC = b"PK\x07\x08", 4
_CENTRAL, _CENTRAL_HEADER_BYTES, _CENTRAL_CRC, _CENTRAL_NAME_LENGTHS = b"PK\x01\x02", 46, 16, 28


def raw_bytes(tensor: torch.Tensor) -> memoryview:
    """Return the tensor's bytes in row-major order; copy only if it is not contiguous."""
    return tensor.contiguous().flatten().view(torch.uint8).numpy().data


@dataclass
class _TensorRecord:
    """Place of one tensor's bytes in the file, and progress of writing them."""

    archive_name: str
    offset: int
    size: int
    written: int = 0
    crc: int = 0


class PthFile:
    """A state dict on disk whose tensors are written piece by piece; a context manager.

    Args:
        path: file to create.
        shapes: name and shape of each tensor, in the order of the state dict.
        dtype: dtype of all tensors.

    Raises:
        OSError: the file cannot be created.
    """

    def __init__(self, path: Path, shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype) -> None:
        # These tensors are never accessed, so they take no physical memory.
        try:
            with torch.serialization.skip_data():
                torch.save({name: torch.empty(shape, dtype=dtype) for name, shape in shapes.items()}, path)
        except RuntimeError:  # torch does not report why the system refused
            raise OSError(errno.EIO, f"{path.name} could not be created (full disk, or file size limit)") from None
        self._dtype = dtype
        self._records = _records(path, list(shapes))
        self._fd = os.open(path, os.O_RDWR)

    def append(self, name: str, piece: torch.Tensor) -> None:
        """Append ``piece``'s bytes to the tensor ``name``.

        Raises:
            OSError: the disk is full or failing.
        """
        record, data = self._records[name], raw_bytes(piece.to(self._dtype))
        if record.written + len(data) > record.size:
            raise ValueError(f"more data than {name} has room for")
        record.crc = zlib.crc32(data, record.crc)
        while data:
            count = os.pwrite(self._fd, data[:_WRITE_BYTES], record.offset + record.written)
            record.written += count
            data = data[count:]

    def finish(self) -> None:
        """Write the check sums, once every tensor is complete."""
        incomplete = [name for name, record in self._records.items() if record.written != record.size]
        if incomplete:
            raise ValueError(f"not filled: {', '.join(incomplete)}")
        _write_check_sums(self._fd, {record.archive_name: record for record in self._records.values()})

    def __enter__(self) -> PthFile:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._fd)


def _records(path: Path, names: list[str]) -> dict[str, _TensorRecord]:
    """Return the record of each tensor. torch numbers them ``data/0``, ``data/1``, … in the order of the dict."""
    with path.open("rb") as file:
        found, _ = records_of(file)
    by_number = {name.rpartition("/data/")[2]: name for name in found}
    placed = {name: by_number[str(number)] for number, name in enumerate(names)}
    return {name: _TensorRecord(entry, found[entry].offset, found[entry].size) for name, entry in placed.items()}


def _write_check_sums(fd: int, records: Mapping[str, _TensorRecord]) -> None:
    """Write each record's CRC-32 after its data and in the archive's directory."""
    for record in records.values():
        end = record.offset + record.size
        if os.pread(fd, 4, end) == _DESCRIPTOR:
            os.pwrite(fd, struct.pack("<I", record.crc), end + _DESCRIPTOR_CRC)
    with os.fdopen(os.dup(fd), "rb") as file, zipfile.ZipFile(file) as archive:
        position = archive.start_dir
    while (header := os.pread(fd, _CENTRAL_HEADER_BYTES, position)).startswith(_CENTRAL):
        name_length, extra_length, comment_length = struct.unpack_from("<HHH", header, _CENTRAL_NAME_LENGTHS)
        name = os.pread(fd, name_length, position + _CENTRAL_HEADER_BYTES).decode()
        if name in records:
            os.pwrite(fd, struct.pack("<I", records[name].crc), position + _CENTRAL_CRC)
        position += _CENTRAL_HEADER_BYTES + name_length + extra_length + comment_length

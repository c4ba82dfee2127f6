"""Writing ``consolidated.NN.pth`` files larger than memory.

The file is laid out by ``torch.save`` under ``torch.serialization.skip_data()``, which writes everything but the
tensors' bytes; these follow piece by piece, each tensor's in order, with ordinary writes at the tensor's place. (A
shared memory map would do as well, but a full disk kills the process that writes to one, where a write only fails.)

Knows: where in a zip archive (PKWARE's APPNOTE, sections 4.3.9 and 4.3.12) a record's CRC-32 stands, so that any zip
tool finds the finished file sound; where its bytes begin is ``zip_records``'s.
Knows nothing about: models, halves, what the tensors are.
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

# Linux caches what one write brings in pages as large as that, and maps such a page whole when a byte of it is read: a
# device that looks up single rows of a file just written would seem to use a hundred times their memory.
_WRITE_BYTES = 64 << 10

_DESCRIPTOR, _DESCRIPTOR_CRC = b"PK\x07\x08", 4
_CENTRAL, _CENTRAL_HEADER_BYTES, _CENTRAL_CRC, _CENTRAL_NAME_LENGTHS = b"PK\x01\x02", 46, 16, 28


def raw_bytes(tensor: torch.Tensor) -> memoryview:
    """The tensor's bytes in row-major order; a copy is made only if it is not contiguous."""
    return tensor.contiguous().flatten().view(torch.uint8).numpy().data


@dataclass
class _TensorRecord:
    """Where one tensor's bytes lie in the file, and how far they are written."""

    archive_name: str
    offset: int
    size: int
    written: int = 0
    crc: int = 0


class PthFile:
    """A state dict on disk whose tensors are appended to piece by piece; a context manager.

    Args:
        path: file to make.
        shapes: name and shape of each tensor, in the order of the state dict.
        dtype: dtype of all of them.

    Raises:
        OSError: the file cannot be made.
    """

    def __init__(self, path: Path, shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype) -> None:
        # Memory that is allocated here is never touched, so none is used.
        try:
            with torch.serialization.skip_data():
                torch.save({name: torch.empty(shape, dtype=dtype) for name, shape in shapes.items()}, path)
        except RuntimeError:  # torch tells neither its caller nor its user why the system refused
            raise OSError(errno.EIO, f"{path.name} could not be laid out (a full disk, or a limit on sizes)") from None
        self._dtype = dtype
        self._records = _records(path, list(shapes))
        self._fd = os.open(path, os.O_RDWR)

    def append(self, name: str, piece: torch.Tensor) -> None:
        """Write ``piece``'s bytes behind what the tensor ``name`` has so far.

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
        """Put in the check sums, once every tensor is complete."""
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
    """The record of each tensor: torch numbers them ``data/0``, ``data/1``, … in the order of the dict."""
    with path.open("rb") as file:
        found, _ = records_of(file)
    by_number = {name.rpartition("/data/")[2]: name for name in found}
    placed = {name: by_number[str(number)] for number, name in enumerate(names)}
    return {name: _TensorRecord(entry, found[entry].offset, found[entry].size) for name, entry in placed.items()}


def _write_check_sums(fd: int, records: Mapping[str, _TensorRecord]) -> None:
    """Write each record's CRC-32 behind its data and in the archive's directory."""
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

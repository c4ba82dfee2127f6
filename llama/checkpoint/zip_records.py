"""Locations of the records in a ``.pth`` file, a zip archive of uncompressed records.

Knows: the part of the zip format (PKWARE's APPNOTE, sections 4.3.7 to 4.3.12) that locates a record's bytes.
Knows nothing about: the contents of the records.
"""

from __future__ import annotations

import io
import struct
import zipfile
from dataclasses import dataclass
from typing import BinaryIO

MAX_DIRECTORY_BYTES = 4 << 20  # 40,000 records; the directory of 1,000 tensors takes a fortieth
_LOCAL_HEADER, _LOCAL_HEADER_BYTES, _LOCAL_NAME_LENGTHS = b"PK\x03\x04", 30, 26
_ENCRYPTED = 0x1


class Compressed(ValueError):
    """A record is compressed or encrypted. The archive is intact, but torch did not write it."""


@dataclass(frozen=True)
class ZipRecord:
    """One record's bytes in the archive.

    Attributes:
        offset: offset of the first byte from the start of the file.
        size: number of bytes.
    """

    offset: int
    size: int


def records_of(file: BinaryIO) -> tuple[dict[str, ZipRecord], int]:
    """Return the records of an archive by name, and the offset of its directory.

    Raises:
        Compressed: a record is compressed or encrypted.
        ValueError: it is not an archive, or its records overlap, have equal names or extend into the directory.
        zipfile.BadZipFile, struct.error, …: raised by ``zipfile`` for damaged archives.
    """
    with zipfile.ZipFile(_Bounded(file)) as archive:
        entries, end = archive.infolist(), archive.start_dir
    records = dict[str, ZipRecord]()
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
            raise Compressed("a record is compressed")
        if entry.flag_bits & _ENCRYPTED:
            raise Compressed("a record is encrypted")
        if entry.filename in records:
            raise ValueError("a record appears twice")
        file.seek(entry.header_offset)
        header = file.read(_LOCAL_HEADER_BYTES)
        if not header.startswith(_LOCAL_HEADER):
            raise ValueError("a record does not begin where the directory says")
        lengths = struct.unpack_from("<HH", header, _LOCAL_NAME_LENGTHS)
        offset = entry.header_offset + _LOCAL_HEADER_BYTES + sum(lengths)
        records[entry.filename] = ZipRecord(offset, entry.file_size)
    last = 0
    for record in sorted(records.values(), key=lambda record: (record.offset, record.size)):
        if record.offset < last:
            raise ValueError("two records overlap")
        last = record.offset + record.size
    if last > end:
        raise ValueError("a record extends into the directory")
    return records, end


class _Bounded(io.RawIOBase):
    """A file wrapper with bounded reads: ``zipfile`` reads an archive's whole directory at its claimed size."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def read(self, size: int = -1) -> bytes:
        if size > MAX_DIRECTORY_BYTES:
            raise ValueError("the directory is too large")
        return self._file.read(MAX_DIRECTORY_BYTES if size < 0 else size)

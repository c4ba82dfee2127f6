"""Back-up of record and catalogue: a copy of both at one moment, made while a cloud uses them.

    python -m llama.cloud.backup --record_file runs.sqlite --catalogue products.sqlite --output_dir DIR

``DIR`` must not exist, and appears complete or not at all: ``runs.sqlite``, ``products.sqlite`` and ``manifest.json``
with a digest per file. ``llama.cloud.restore`` restores it.

The record is read in one transaction, which sees the state at its beginning. With SQLite's write-ahead log readers do
not block writers, so the cloud's runs continue meanwhile. If each piece were read in a separate transaction, SQLite
would restart the copy after every finished run.
"""

from __future__ import annotations

from llama import starting

if __name__ == "__main__":
    starting.begin()

import contextlib
import hashlib
import os
import sqlite3
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated

import msgspec

from llama import placing
from llama.cloud.catalogue import check_version
from llama.cloud.schema import has_tables
from llama.command import run
from llama.disk import create_empty, fsync_directory, fsync_file, keep_to_owner
from llama.errors import BackupError, CatalogueError, RecordError, UsageError
from llama.process_end import end_if_signalled
from llama.text.dates import utc

RECORD, CATALOGUE, MANIFEST = "runs.sqlite", "products.sqlite", "manifest.json"
FLAGS = {RECORD: "record_file", CATALOGUE: "catalogue"}
_OUTPUT = placing.OutputSpec(
    "--output_dir", BackupError, frozenset({*FLAGS, MANIFEST}), frozenset(f"{name}-journal" for name in FLAGS), 0o700
)
_FORMAT = 1
_PAGES = 1024  # copied between two checks for a signal; about 4 MiB
_CHUNK = 1 << 20
_TIMEOUT_S = 5.0  # longest wait for another program's lock
_STEPS = 10_000  # of SQLite, between two checks for a signal


class BackupEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Size and SHA-256 of a file in a back-up."""

    bytes: int
    sha256: str


class BackupManifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Contents of a back-up's manifest."""

    format: int
    # UTC, ISO 8601; runs finished before it are included. It is printed, so the pattern allows nothing else.
    made_at: Annotated[str, msgspec.Meta(pattern=r"\A[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z\Z")]
    files: dict[str, BackupEntry]


def back_up(sources: Mapping[str, str | Path], output_dir: str | Path) -> int:
    """Make a back-up; return its size in bytes.

    Args:
        sources: the files by their names in the back-up: :data:`RECORD`, :data:`CATALOGUE`.
        output_dir: the new directory; it must not exist.

    Raises:
        BackupError: ``output_dir`` exists or cannot be written.
        RecordError, CatalogueError: a source is of another kind or version, damaged, or cannot be read.
    """
    target = Path(output_dir).absolute()
    if os.path.lexists(target):
        raise BackupError(f"{target} exists and is not overwritten; give --output_dir another name")
    for name, source in sources.items():
        if not Path(source).is_file():
            raise _error_of(name)(f"{source} is not a file; give --{FLAGS[name]} the cloud's own")
    made_at = utc(time.time())
    try:
        with placing.appearing(target, _OUTPUT) as partial:
            sizes = [Path(source).stat().st_size for source in sources.values()]
            placing.check_room(partial, target, _OUTPUT, needed=sum(sizes), largest=max(sizes), files=len(sizes) + 1)
            entries = {}
            for name, source in sources.items():
                _copy(name, Path(source).absolute(), partial / name)
                verify(name, partial / name, of=Path(source).absolute())
                entries[name] = entry_of(partial / name)
                fsync_file(partial / name)
            manifest = msgspec.json.encode(BackupManifest(_FORMAT, made_at, entries))
            (partial / MANIFEST).write_bytes(msgspec.json.format(manifest, indent=1) + b"\n")
            keep_to_owner(partial / MANIFEST, 0o600)
            fsync_file(partial / MANIFEST)
            fsync_directory(partial)
        fsync_directory(target.parent)
    except OSError as err:
        raise BackupError(
            f"the back-up {target} cannot be written: {err.strerror or err}; free some space, or give "
            f"--output_dir a path where you may write"
        ) from None
    return sum(entry.bytes for entry in entries.values())


def _copy(name: str, source: Path, target: Path) -> None:
    """Copy a database as it is at this moment, also while other programs write to it."""
    create_empty(target)
    with _sqlite_errors_of(name, source):
        uri = f"{source.as_uri()}?mode=ro"  # a writable last connection would merge the log a cloud has left
        with (
            contextlib.closing(sqlite3.connect(uri, _TIMEOUT_S, uri=True, isolation_level=None)) as db,
            contextlib.closing(sqlite3.connect(target, isolation_level=None)) as copy,
        ):
            db.execute("BEGIN")
            db.execute("SELECT count(*) FROM sqlite_master").fetchone()  # the snapshot starts here
            _check_kind(name, db, source)
            copy.execute("PRAGMA journal_mode = OFF")  # on any error the file is deleted
            copy.execute("PRAGMA synchronous = OFF")
            db.backup(copy, pages=_PAGES, progress=lambda *_: end_if_signalled(), sleep=0)


def verify(name: str, path: Path, *, of: Path) -> None:
    """Check that a file is undamaged, and of the kind and version that its name says. No program may have it open.

    Args:
        name: :data:`RECORD` or :data:`CATALOGUE`.
        path: the file.
        of: the original of this copy, which errors name.

    Raises:
        RecordError, CatalogueError: it is not.
    """
    with _sqlite_errors_of(name, of):
        uri = f"{path.as_uri()}?immutable=1"  # no companion files
        with contextlib.closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as db:
            db.set_progress_handler(end_if_signalled, _STEPS)
            _check_kind(name, db, of)
            (said,) = db.execute("PRAGMA integrity_check(1)").fetchone()
    if said != "ok":
        raise _error_of(name)(f"{of} is damaged; restore an earlier back-up")


def _check_kind(name: str, db: sqlite3.Connection, path: Path) -> None:
    if name == CATALOGUE:
        check_version(db, path)
    elif not has_tables(db, path):
        raise RecordError(f"the run record {path} is empty; give --record_file the cloud's own")


@contextlib.contextmanager
def _sqlite_errors_of(name: str, path: Path) -> Iterator[None]:
    """Raise SQLite's errors as ours. After a signal, raise the signal's exception, which SQLite has dropped."""
    try:
        yield
    except sqlite3.Error as err:
        end_if_signalled()
        what = "run record" if name == RECORD else "catalogue"
        raise _error_of(name)(
            f"the {what} {path} cannot be copied: {err}; check that it is readable, that there is "
            f"space, and that no other program locks it"
        ) from None


def _error_of(name: str) -> type[RecordError] | type[CatalogueError]:
    return RecordError if name == RECORD else CatalogueError


def entry_of(path: Path) -> BackupEntry:
    """Return a file's size and digest. Raises OSError."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            end_if_signalled()
            digest.update(chunk)
            size += len(chunk)
    return BackupEntry(size, digest.hexdigest())


def main(output_dir: str, record_file: str | None = None, catalogue: str | None = None) -> None:
    """Copy a cloud's record and catalogue as they are now. The cloud may go on using them.

    Args:
        output_dir: Directory for the back-up. It must not exist.
        record_file: The cloud's --record_file.
        catalogue: The cloud's --catalogue.
    """
    given = {RECORD: record_file, CATALOGUE: catalogue}
    sources = {name: path for name, path in given.items() if path is not None}
    if not sources:
        raise UsageError("--record_file or --catalogue is required")
    began = time.monotonic()
    size = back_up(sources, output_dir)
    seconds = time.monotonic() - began
    print(f"{output_dir}: {', '.join(sources)}; {size / 1e6:.1f} MB, {seconds:.1f} s", file=sys.stderr, flush=True)


if __name__ == "__main__":
    run(main)

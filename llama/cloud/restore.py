"""Restore of a back-up: copies its files to a cloud's paths.

    python -m llama.cloud.restore --backup_dir DIR --record_file runs.sqlite --catalogue products.sqlite

Existing files are never overwritten. Each file gets its name after its digest and its contents are checked.
"""

from __future__ import annotations

from llama import starting

if __name__ == "__main__":
    starting.begin()

import contextlib
import os
import secrets
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from llama import placing
from llama.cloud.backup import CATALOGUE, FLAGS, MANIFEST, RECORD, BackupManifest, entry_of, verify
from llama.command import run
from llama.disk import create_empty, cure_of_writing, fsync_directory, fsync_file, give_name
from llama.errors import BackupError, UsageError
from llama.files import open_regular, read_regular
from llama.process_end import end_if_signalled, uninterrupted

_COMPANIONS = ("", "-wal", "-shm", "-journal")  # SQLite would apply another file's log to this one
_MANIFEST_BYTES = 1 << 16
_CHUNK = 1 << 20


def restore(backup_dir: str | Path, targets: Mapping[str, str | Path]) -> BackupManifest:
    """Write the requested files of a back-up, all or none; return the back-up's manifest.

    Args:
        backup_dir: made by ``llama.cloud.backup``.
        targets: the paths to write, by the files' names in the back-up.

    Raises:
        BackupError: the directory is not a back-up, lacks a file or is damaged. Or a target exists, cannot be written,
            or has a name that SQLite gives to a companion file of another target.
        RecordError, CatalogueError: a file of the back-up is damaged, or of another version.
    """
    source = Path(backup_dir).absolute()
    manifest = _manifest_of(source)
    places = {name: _place_of(path) for name, path in targets.items()}
    for name, place in places.items():
        taken = {f"{other}{companion}" for n, other in places.items() if n != name for companion in _COMPANIONS}
        if str(place) in taken:  # SQLite would empty and delete it
            raise BackupError(
                f"{place} is another file of this restore, or its SQLite log; give --{FLAGS[name]} another path"
            )
        if name not in manifest.files:
            raise BackupError(f"the back-up {source} has no {name}; omit --{FLAGS[name]}")
        for companion in _COMPANIONS:
            if _is_there(Path(f"{place}{companion}")):
                raise BackupError(
                    f"{place}{companion} exists and is not overwritten; move it away, or give "
                    f"--{FLAGS[name]} another path"
                )
    ending = f".{secrets.token_hex(8)}"
    unfinished = {
        name: place.with_name(placing.hidden_name(place.parent, place.name, ending)) for name, place in places.items()
    }
    named = list[Path]()
    try:
        for path in unfinished.values():  # fail before minutes of copying
            create_empty(path)
        for name in unfinished:
            _check_room(name, places, manifest)
        for name, path in unfinished.items():
            _copy(source, name, path, manifest)
        end_if_signalled()
        with uninterrupted():  # all of them or none
            try:
                for name, place in places.items():
                    give_name(unfinished[name], place)
                    named.append(place)
            except BaseException:
                for place in named:
                    place.unlink()
                raise
    except OSError as err:
        raise _not_restored(err, source, {str(path): places[name] for name, path in unfinished.items()}) from None
    finally:
        for path in unfinished.values():
            with contextlib.suppress(OSError):
                path.unlink()
    for place in places.values():
        fsync_directory(place.parent)
    return manifest


def _not_restored(err: OSError, source: Path, places: Mapping[str, Path]) -> BackupError:
    """Return an OSError as a BackupError that names the target; ``places`` maps temporary names to targets."""
    where, cure = places.get(str(err.filename), err.filename or source), cure_of_writing(err)
    return BackupError(f"{where}: {err.strerror or err}; nothing was restored{f': {cure}' if cure else ''}")


def _place_of(path: str | Path) -> Path:
    """Return a target's path with its directory resolved, so that two targets can be compared."""
    place = Path(path).absolute()
    return place.parent.resolve() / place.name


def _is_there(path: Path) -> bool:
    """Return whether a path exists, also as a dangling link. Raises BackupError for an impossible name."""
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    except OSError as err:
        raise BackupError(f"{path}: {err.strerror or err}; nothing was restored") from None
    return True


def _check_room(name: str, places: Mapping[str, Path], manifest: BackupManifest) -> None:
    """Check that a target's file system has enough space. Raises BackupError, OSError."""
    parents = {other: place.parent.stat().st_dev for other, place in places.items()}
    sizes = [manifest.files[other].bytes for other, device in parents.items() if device == parents[name]]
    placing.check_room(
        places[name].parent,
        places[name],
        placing.OutputSpec(f"--{FLAGS[name]}", BackupError),
        needed=sum(sizes),
        largest=manifest.files[name].bytes,
        files=0,
    )


def _manifest_of(source: Path) -> BackupManifest:
    try:
        manifest = msgspec.json.decode(read_regular(source / MANIFEST, _MANIFEST_BYTES), type=BackupManifest)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        raise BackupError(
            f"{source} is not a back-up: its {MANIFEST} is missing or malformed; "
            f"give --backup_dir a directory that llama.cloud.backup wrote"
        ) from None
    if manifest.format != 1:
        raise BackupError(
            f"the back-up {source} has format {manifest.format}, and this program reads format 1; "
            f"use another --backup_dir, or the program that wrote it"
        )
    return manifest


def _copy(source: Path, name: str, target: Path, manifest: BackupManifest) -> None:
    """Copy a file of the back-up over an empty one, and check size, digest and contents. Read no more than its size."""
    entry = manifest.files[name]
    changed = BackupError(f"{source / name} has changed since the back-up; use another back-up")
    with open_regular(source / name) as there:
        if os.fstat(there.fileno()).st_size != entry.bytes:
            raise changed
        left = entry.bytes
        with target.open("wb") as here:
            while chunk := there.read(min(left, _CHUNK)):
                end_if_signalled()
                with _named(target):
                    here.write(chunk)
                    here.flush()
                left -= len(chunk)
    if entry_of(target) != entry:
        raise changed
    verify(name, target, of=source / name)
    with _named(target):
        fsync_file(target)


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Add the path to an OSError from writing to an open file."""
    try:
        yield
    except OSError as err:
        err.filename = err.filename or str(path)
        raise


def main(backup_dir: str, record_file: str | None = None, catalogue: str | None = None) -> None:
    """Restore a cloud's record and catalogue from a back-up.

    Args:
        backup_dir: Directory of the back-up, from llama.cloud.backup.
        record_file: Path for the record. It must not exist.
        catalogue: Path for the catalogue. It must not exist.
    """
    given = {RECORD: record_file, CATALOGUE: catalogue}
    targets = {name: path for name, path in given.items() if path is not None}
    if not targets:
        raise UsageError("--record_file or --catalogue is required")
    if len({Path(path).absolute() for path in targets.values()}) < len(targets):
        raise UsageError("--record_file and --catalogue are the same file; give --catalogue another path")
    manifest = restore(backup_dir, targets)
    print(f"{', '.join(targets.values())}: as of {manifest.made_at}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    run(main)

"""Placement of a directory of results: its place is tried before the work, and filled afterwards in one step.

A directory that does not exist yet is made as ``.NAME.partial`` beside its place and renamed. An existing empty
directory is kept, since it may be a mount point, or the only place that this user may write into. Then ``.partial`` is
made inside it, and its parts are renamed at the end, one after the other. Only a SIGKILL between two of these renames
leaves one part without the other, each of them whole. The next run reuses that directory.

A link is followed to the place of the results. If the work ends early for any reason, the partial directory is deleted.
The next run reuses the remains of a killed run, but never those of a run that is still writing.

Knows: file systems. Does not know: what is written.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import resource
import shutil
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from llama.disk import keep_to_owner, lock
from llama.errors import SplitLlamaError
from llama.process_end import end_if_signalled, uninterrupted

_PARTIAL, _TRIAL = ".partial", ".trial"
_USUAL_NAME_BYTES = 255
# Allowed in an empty directory: names of a file system or a desktop.
_NOBODYS = {"lost+found", ".snapshot", ".DS_Store", "System Volume Information"}


@dataclass(frozen=True)
class OutputSpec:
    """The output of a program, and its names in errors.

    Attributes:
        flag: of the directory, as errors name it.
        error: the class of errors.
        parts: names in the directory, once it is whole.
        leaves: further names that a killed run may leave in a partial directory.
        mode: of the directory, if it is made.
    """

    flag: str
    error: type[SplitLlamaError]
    parts: frozenset[str] = frozenset()
    leaves: frozenset[str] = frozenset()
    mode: int = 0o777


class _OnlyATrial(Exception):
    """The end of a trial, which writes nothing."""


def check(output: Path, spec: OutputSpec) -> None:
    """Check that results can be put there. Everything made for the check is removed. Raises as :func:`appearing`."""
    with contextlib.suppress(_OnlyATrial), appearing(output, spec):
        raise _OnlyATrial


@contextlib.contextmanager
def appearing(output: Path, spec: OutputSpec) -> Iterator[Path]:
    """Provide an empty directory to write into. On exit without an exception, its content moves to ``output``.

    Raises:
        SplitLlamaError: ``output`` is in use, or cannot take results; raised before anything is written.
        OSError: ``output`` could take results, but no longer can.
    """
    try:
        place = Path(os.path.realpath(output))
        try:
            mode = place.lstat().st_mode  # a link here is one that leads in circles
        except FileNotFoundError:
            mode = None
        if stat.S_ISLNK(mode or 0):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    except OSError as err:
        raise _useless(output, spec, err) from None
    if mode is None:
        with _parents(output, place, spec), _beside(output, place, spec) as partial:
            yield partial
    elif stat.S_ISDIR(mode):
        with _inside(output, place, spec) as partial:
            yield partial
    else:
        raise _in_use(output, spec)


def check_room(directory: Path, output: Path, spec: OutputSpec, *, needed: int, largest: int, files: int) -> None:
    """Check that a directory's file system has room for the files.

    Args:
        directory: the directory to write to.
        output: its name in errors.
        spec: the flag and the error class.
        needed: bytes in all.
        largest: bytes of the largest file.
        files: number of files.

    Raises:
        SplitLlamaError: it has too little room.
    """
    room = os.statvfs(directory)
    free, more = room.f_bavail * room.f_frsize, f"make room or choose another {spec.flag}"
    if room.f_blocks and free < needed:  # 0: the file system does not report it
        sizes = f"{_gigabytes(free)} GB free, but {_gigabytes(needed)} GB are needed"
        raise spec.error(f"{output}: its file system has {sizes}; {more}")
    if room.f_files and room.f_favail < files:
        sizes = f"room for {room.f_favail} files, but {files} are needed"
        raise spec.error(f"{output}: its file system has {sizes}; {more}")
    most = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    if most != resource.RLIM_INFINITY and largest > most:
        raise spec.error(
            f"{output}: a file of {largest / 1e9:.3g} GB is needed, but this process may write at most "
            f"{most / 1e9:.3g} GB per file; raise the limit (ulimit -f)"
        )
    if not _takes_a_file_of(directory, largest):
        raise spec.error(
            f"{output}: a file of {largest / 1e9:.1f} GB is needed, but its file system allows none so "
            f"large (FAT: 4.3 GB); choose another {spec.flag}"
        )


def _gigabytes(count: int) -> str:
    """Write a size in GB with enough digits to tell little room from less."""
    return f"{count / 1e9:.1f}" if count >= 1e9 else f"{count / 1e9:.2g}"


def check_replaceable(file: Path) -> None:
    """Check that another file can be renamed to this path, whether or not a file is there.

    Raises:
        OSError: it cannot. The file is a mount point, as a single file mounted into a container is; or it may not be
            changed; or it belongs to another user in a directory such as /tmp.
    """
    try:
        there = file.stat()
    except FileNotFoundError:
        return
    if _is_a_mount_point(file):
        raise OSError(errno.EBUSY, "it is a mount point, which cannot be replaced; mount its directory", str(file))
    above = file.parent.stat()
    if above.st_mode & stat.S_ISVTX and os.geteuid() not in (0, there.st_uid, above.st_uid):
        raise PermissionError(errno.EPERM, "it belongs to another user", str(file))
    try:
        os.close(os.open(file, os.O_WRONLY | os.O_NONBLOCK))
    except OSError as err:
        if err.errno in (errno.EPERM, errno.EROFS):  # immutable; for one without write access, its directory counts
            raise


def _is_a_mount_point(path: Path) -> bool:
    """Return whether a path is a mount point, even of the same file system, which only the kernel's list shows."""
    if os.path.ismount(path):
        return True
    try:
        mounts = Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()
    except OSError:
        return False
    escaped = re.sub(r"[\\ \t\n]", lambda found: f"\\{ord(found[0]):03o}", str(path))
    return any(line.split(" ")[4] == escaped for line in mounts)


def hidden_name(directory: Path, name: str, ending: str) -> str:
    """Return ``.NAME`` and an ending, for an unfinished file; with a digest instead of a name that is too long."""
    try:
        most = os.pathconf(directory, "PC_NAME_MAX")
    except (OSError, ValueError):
        most = _USUAL_NAME_BYTES
    whole = f".{name}{ending}"
    if len(os.fsencode(whole)) <= most:
        return whole
    return f".{hashlib.sha256(os.fsencode(name)).hexdigest()[:32]}{ending}"


@contextlib.contextmanager
def _parents(output: Path, place: Path, spec: OutputSpec) -> Iterator[None]:
    """Make the directories above. If anything fails, remove those that were made."""
    made = [path for path in place.parents if not path.exists()]
    try:
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
        except OSError as err:
            raise _useless(output, spec, err) from None
        yield
    except BaseException:
        for path in made:
            with contextlib.suppress(OSError):  # not empty: another program uses it by now
                path.rmdir()
        raise


@contextlib.contextmanager
def _beside(output: Path, place: Path, spec: OutputSpec) -> Iterator[Path]:
    partial = _partial_beside(place)
    with _held(output, partial, spec):
        if os.path.lexists(place):  # created meanwhile
            raise _in_use(output, spec)
        try:
            with uninterrupted():
                _try_name(partial / _TRIAL, place, output, spec)
        except OSError as err:
            raise _useless(output, spec, err) from None
        yield partial
        end_if_signalled()
        partial.rename(place)


def _partial_beside(place: Path) -> Path:
    return place.with_name(hidden_name(place.parent, place.name, _PARTIAL))


def _try_name(trial: Path, place: Path, output: Path, spec: OutputSpec) -> None:
    """Check that a directory can be renamed to ``place``; raises OSError.

    This uses a separate directory. The partial directory keeps its name, which another run would otherwise take. The
    trial directory is locked, so that no other run begins in it.
    """
    trial.mkdir()
    held = os.open(trial, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _lock(held, output, spec)
        trial.rename(place)
        place.rmdir()
    finally:
        os.close(held)


def _clear_beside(output: Path, place: Path, spec: OutputSpec) -> None:
    """Delete what a run left beside if it was killed while it tried the name, but not what another run is writing."""
    if place.name and (partial := _partial_beside(place)).is_dir():
        with contextlib.suppress(spec.error, OSError), _held(output, partial, spec):
            partial.rmdir()


@contextlib.contextmanager
def _inside(output: Path, place: Path, spec: OutputSpec) -> Iterator[Path]:
    partial, trial = place / _PARTIAL, place / _TRIAL
    try:
        held = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:  # another run had tried its name here
        raise _writing(output, spec) from None
    except OSError as err:
        raise _useless(output, spec, err) from None
    try:
        # It may be a directory that another run tries, or has finished. So nothing is judged before that run is done.
        _lock(held, output, spec)
        if not _has_name(held, place):  # another run had tried its name here
            raise _writing(output, spec)
        _clear_beside(output, place, spec)
        yield from _filled(output, place, partial, trial, spec)
    finally:
        os.close(held)


def _filled(output: Path, place: Path, partial: Path, trial: Path, spec: OutputSpec) -> Iterator[Path]:
    try:
        there = {path.name for path in place.iterdir()} - _NOBODYS - {_PARTIAL, _TRIAL}
        begun = {path.name for path in partial.iterdir()} if partial.is_dir() else set[str]()
    except OSError as err:
        raise _useless(output, spec, err) from None
    if there and not (begun and begun == spec.parts - there):  # otherwise a run was killed between its renames
        raise _in_use(output, spec)
    with _held(output, partial, spec):
        try:
            for part in there:
                shutil.rmtree(place / part)
            with uninterrupted():
                if not trial.is_dir():
                    (partial / _TRIAL).mkdir()
                    (partial / _TRIAL).rename(trial)
                trial.rmdir()
        except OSError as err:
            raise _useless(output, spec, err) from None
        yield partial
        end_if_signalled()
        with uninterrupted():
            _move_up(partial, place)


def _move_up(partial: Path, place: Path) -> None:
    """Rename the content of ``partial`` into ``place``: all of it, or nothing. Raises OSError."""
    moved = list[Path]()
    try:
        for part in sorted(partial.iterdir()):
            part.rename(place / part.name)
            moved.append(part)
    except BaseException:
        for part in moved:
            (place / part.name).rename(part)
        raise
    with contextlib.suppress(OSError):
        partial.rmdir()


@contextlib.contextmanager
def _held(output: Path, partial: Path, spec: OutputSpec) -> Iterator[None]:
    """Hold ``partial`` as an empty directory for this process only; delete it if anything fails."""
    in_the_way = spec.error(f"{partial} is in the way, and was not left by a killed run; move it elsewhere")
    try:
        with contextlib.suppress(FileExistsError):
            partial.mkdir(spec.mode)
        try:
            held = os.open(partial, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except FileNotFoundError:  # another run had it, and has renamed or deleted it
            raise _writing(output, spec) from None
    except OSError as err:
        if os.path.lexists(partial) and not (partial.is_dir() and not partial.is_symlink()):
            raise in_the_way from None
        raise _useless(output, spec, err) from None
    try:
        _lock(held, output, spec)
        if not _has_name(held, partial):  # another run had it
            raise _writing(output, spec)
        if any(path.name not in {*spec.parts, *spec.leaves, _TRIAL} for path in partial.iterdir()):
            raise in_the_way
        try:
            try:
                for left_over in partial.iterdir():
                    if left_over.is_dir() and not left_over.is_symlink():
                        shutil.rmtree(left_over)
                    else:
                        left_over.unlink()
                if spec.mode != OutputSpec.mode:
                    keep_to_owner(partial, spec.mode)
            except OSError as err:
                raise _useless(output, spec, err) from None
            yield
        except BaseException:
            with uninterrupted():
                shutil.rmtree(partial, ignore_errors=True)
            raise
    finally:
        os.close(held)


def _lock(directory: int, output: Path, spec: OutputSpec) -> None:
    """Lock a directory until it is closed. Raises the error of the spec if another process has the lock."""
    try:
        lock(directory)
    except BlockingIOError:
        raise _writing(output, spec) from None


def _has_name(directory: int, path: Path) -> bool:
    """Return whether an open directory still has this name."""
    try:
        return os.path.samestat(os.fstat(directory), path.lstat())
    except OSError:
        return False


def _takes_a_file_of(directory: Path, size: int) -> bool:
    """Return whether the file system allows files of this size. No such file is written.

    A file system with a lower limit refuses to seek to that position.
    """
    with tempfile.TemporaryFile(dir=directory) as file:
        try:
            os.lseek(file.fileno(), size, os.SEEK_SET)
        except OSError:
            return False
    return True


def _writing(output: Path, spec: OutputSpec) -> SplitLlamaError:
    return spec.error(f"another process is writing {output} right now; wait until it is done")


def _in_use(output: Path, spec: OutputSpec) -> SplitLlamaError:
    return spec.error(f"{output} exists already; delete it or choose another {spec.flag}")


def _useless(output: Path, spec: OutputSpec, err: OSError) -> SplitLlamaError:
    why = err.strerror or str(err)
    return spec.error(f"{output} cannot be used for {spec.flag}: {why}; choose another place")

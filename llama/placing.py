"""Where a directory of results is to stand: found out before the work by doing it, and then made there, whole.

What does not exist yet is made as ``.NAME.partial`` beside it and renamed. A directory that is there and empty stays
the one it is, which may be a mount point, or the only place that this user may write into: ``.partial`` is made inside
it, and what that holds is renamed at the end, one part after the other. Only a SIGKILL between two of these renames
leaves one part without the other, each of them whole; the next run takes that over.

A link leads to where the results are to stand. Whatever ends the work early takes the partial directory away; what a
killed run has left is taken over by the next one, what another run is writing is not.

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
# What an empty directory may have in it: a file system's own, or a desktop's.
_NOBODYS = {"lost+found", ".snapshot", ".DS_Store", "System Volume Information"}


@dataclass(frozen=True)
class OutputSpec:
    """What is to be written, and how errors speak of it.

    Attributes:
        flag: of the directory, as errors name it.
        error: what is raised.
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
    """Nothing is to be written."""


def check(output: Path, spec: OutputSpec) -> None:
    """Whether results can be put there; what that takes is made and taken away again. Raises as :func:`appearing`."""
    with contextlib.suppress(_OnlyATrial), appearing(output, spec):
        raise _OnlyATrial


@contextlib.contextmanager
def appearing(output: Path, spec: OutputSpec) -> Iterator[Path]:
    """An empty directory to write into, whose content stands in ``output`` once this is left without an exception.

    Raises:
        SplitLlamaError: ``output`` is in use, or results cannot be put there; before anything is written.
        OSError: they could be, and cannot any more.
    """
    try:
        place = Path(os.path.realpath(output))
        try:
            mode = place.lstat().st_mode  # a link is one that leads round in circles
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
    """Whether a directory's file system takes so much.

    Args:
        directory: where it is to be written.
        output: how errors name that.
        spec: whose flag and error are used.
        needed: bytes in all.
        largest: bytes of the largest file.
        files: how many there are.

    Raises:
        SplitLlamaError: it does not.
    """
    room = os.statvfs(directory)
    free, more = room.f_bavail * room.f_frsize, f"make room or choose another {spec.flag}"
    if room.f_blocks and free < needed:  # 0: it cannot say
        sizes = f"{_gigabytes(free)} GB free, {_gigabytes(needed)} GB are needed"
        raise spec.error(f"{output}: its file system has {sizes}; {more}")
    if room.f_files and room.f_favail < files:
        sizes = f"room for {room.f_favail} files, {files} are needed"
        raise spec.error(f"{output}: its file system has {sizes}; {more}")
    most = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    if most != resource.RLIM_INFINITY and largest > most:
        raise spec.error(
            f"{output}: a file of {largest / 1e9:.3g} GB is needed, and this process may write no more "
            f"than {most / 1e9:.3g} GB into one; raise the limit (ulimit -f)"
        )
    if not _takes_a_file_of(directory, largest):
        raise spec.error(
            f"{output}: a file of {largest / 1e9:.1f} GB is needed, and its file system has none so "
            f"large (FAT: 4.3 GB); choose another {spec.flag}"
        )


def _gigabytes(count: int) -> str:
    """With as many digits as tell little room from less."""
    return f"{count / 1e9:.1f}" if count >= 1e9 else f"{count / 1e9:.2g}"


def check_replaceable(file: Path) -> None:
    """Whether another file can be renamed over one that is there, or over nothing.

    Raises:
        OSError: it cannot: it is a mount point, as a single file that is mounted into a container is; it may not be
            changed; or it is another's in a directory such as /tmp.
    """
    try:
        there = file.stat()
    except FileNotFoundError:
        return
    if _is_a_mount_point(file):
        raise OSError(errno.EBUSY, "it is a mount point, which cannot be replaced; mount its directory", str(file))
    above = file.parent.stat()
    if above.st_mode & stat.S_ISVTX and os.geteuid() not in (0, there.st_uid, above.st_uid):
        raise PermissionError(errno.EPERM, "it is another user's", str(file))
    try:
        os.close(os.open(file, os.O_WRONLY | os.O_NONBLOCK))
    except OSError as err:
        if err.errno in (errno.EPERM, errno.EROFS):  # immutable; where it is only not writable, its directory counts
            raise


def _is_a_mount_point(path: Path) -> bool:
    """Also of what is mounted from the same file system, of which only the kernel's list knows."""
    if os.path.ismount(path):
        return True
    try:
        mounts = Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()
    except OSError:
        return False
    escaped = re.sub(r"[\\ \t\n]", lambda found: f"\\{ord(found[0]):03o}", str(path))
    return any(line.split(" ")[4] == escaped for line in mounts)


def hidden_name(directory: Path, name: str, ending: str) -> str:
    """``.NAME`` and an ending for what is not finished; of a name that is too long for that, a digest of it."""
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
    """Makes the directories above; what had to be made of them goes again if anything goes wrong."""
    made = [path for path in place.parents if not path.exists()]
    try:
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
        except OSError as err:
            raise _useless(output, spec, err) from None
        yield
    except BaseException:
        for path in made:
            with contextlib.suppress(OSError):  # not empty: somebody else's too by now
                path.rmdir()
        raise


@contextlib.contextmanager
def _beside(output: Path, place: Path, spec: OutputSpec) -> Iterator[Path]:
    partial = _partial_beside(place)
    with _held(output, partial, spec):
        if os.path.lexists(place):  # by now
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
    """Whether a directory can be renamed to ``place``; raises OSError.

    It is one of its own: the partial directory keeps its name, which another run would take meanwhile. And it is
    locked, so that no other run begins in what is only tried.
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
    """Take away what a run has left beside that was killed while it tried the name; not what another is writing."""
    if place.name and (partial := _partial_beside(place)).is_dir():
        with contextlib.suppress(spec.error, OSError), _held(output, partial, spec):
            partial.rmdir()


@contextlib.contextmanager
def _inside(output: Path, place: Path, spec: OutputSpec) -> Iterator[Path]:
    partial, trial = place / _PARTIAL, place / _TRIAL
    try:
        held = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:  # it was what another run tried
        raise _writing(output, spec) from None
    except OSError as err:
        raise _useless(output, spec, err) from None
    try:
        # By now it may be what another run tries, or has finished: nothing is judged before that one is out of it.
        _lock(held, output, spec)
        if not _has_name(held, place):  # it was what another run tried
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
    if there and not (begun and begun == spec.parts - there):  # else one was killed when it had renamed some
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
    """Rename what is in ``partial`` into ``place``: all of it, or nothing. Raises OSError."""
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
    """``partial`` is there, empty, and nobody else's; it vanishes if anything goes wrong."""
    in_the_way = spec.error(f"{partial} is in the way, and not what a killed run leaves; move it elsewhere")
    try:
        with contextlib.suppress(FileExistsError):
            partial.mkdir(spec.mode)
        try:
            held = os.open(partial, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except FileNotFoundError:  # it was another run's, which has renamed it or taken it away
            raise _writing(output, spec) from None
    except OSError as err:
        if os.path.lexists(partial) and not (partial.is_dir() and not partial.is_symlink()):
            raise in_the_way from None
        raise _useless(output, spec, err) from None
    try:
        _lock(held, output, spec)
        if not _has_name(held, partial):  # it was another run's
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
    """Until it is closed; raises the error of the spec where another process has it."""
    try:
        lock(directory)
    except BlockingIOError:
        raise _writing(output, spec) from None


def _has_name(directory: int, path: Path) -> bool:
    """Whether an open directory still is what bears this name."""
    try:
        return os.path.samestat(os.fstat(directory), path.lstat())
    except OSError:
        return False


def _takes_a_file_of(directory: Path, size: int) -> bool:
    """Whether its file system has files so large. None is made: one that has not refuses to go to that place in one."""
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

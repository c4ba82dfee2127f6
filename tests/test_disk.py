"""Claims about file systems of other kinds: without hard links, without modes; nothing is ever written over."""

from __future__ import annotations

import errno
import os
import platform
import stat
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from llama.disk import create_file, give_name, keep_to_owner, replace_file, replace_file_in, temporary_name
from tests.support import ROOT
from tests.volumes import SOAK

# By machine: its number for the kernel's seccomp, and those of link (where it has one), linkat and renameat2.
_FSYNC = {"x86_64": 74, "aarch64": 82}
_CALLS = {"x86_64": (0xC000003E, (86, 265), 316), "aarch64": (0xC00000B7, (37,), 276)}
WITHOUT = f"""
import ctypes, os, struct, sys

def refuse(machine, calls):
    '''The kernel says so to these calls of this process, from now on.'''
    rules = [(0x20, 0, 0, 4), (0x15, 1, 0, machine), (0x06, 0, 0, 0x7FFF0000), (0x20, 0, 0, 0)]
    for number, error in calls:
        rules += [(0x15, 0, 1, number), (0x06, 0, 0, 0x00050000 | error)]
    rules.append((0x06, 0, 0, 0x7FFF0000))
    code = b"".join(struct.pack("HBBI", *rule) for rule in rules)
    buffer = ctypes.create_string_buffer(code)
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(rules), ctypes.addressof(buffer)))
    c = ctypes.CDLL(None, use_errno=True)
    assert c.prctl(38, 1, 0, 0, 0) == 0 and c.prctl(22, 2, program, 0, 0) == 0, ctypes.get_errno()

machine, links, rename = {_CALLS.get(platform.machine())!r}
link_error, rename_error, *sys.argv[1:] = sys.argv[1:]
if link_error == "none":
    del os.link
else:
    refuse(machine, [(number, int(link_error)) for number in links])
if int(rename_error):
    refuse(machine, [(rename, int(rename_error))])
"""
pytestmark = pytest.mark.skipif(platform.machine() not in _CALLS, reason="the numbers of this machine's calls")


def run_without(link_error: object, rename_error: int, code: str, *words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WITHOUT + code, str(link_error), str(rename_error), *map(str, words)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


KINDS = [
    (errno.EACCES, 0),  # Android's policy
    (errno.EPERM, errno.EINVAL),  # FAT and exFAT of older kernels
    (errno.EOPNOTSUPP, errno.ENOSYS),  # network shares
    ("none", 0),  # a Python without os.link
    ("none", errno.EPERM),
]


@pytest.mark.process
@pytest.mark.parametrize(("link_error", "rename_error"), KINDS)
def test_keys_are_made_where_there_are_no_hard_links_and_none_is_written_over(
    tmp_path: Path, link_error: object, rename_error: int
) -> None:
    """The pair and nothing else; a second one of that name, or beside a link of that name, leaves all as it is."""
    code = """
from llama.errors import KeysError
from llama.keys import make_keys, read_key
from pathlib import Path
place = Path(sys.argv[1])
private, public = make_keys("phone", "device", place)
assert read_key(str(private), "device")
kept = private.read_bytes(), public.read_bytes()
(place / "tablet.pub").symlink_to("nowhere")
for name in ("phone", "tablet"):
    try: make_keys(name, "vendor", place)
    except KeysError as err: assert "exists and is not written over" in str(err), err
    else: raise AssertionError(name)
from llama.disk import give_name
for taken in ("phone.key", "tablet.pub"):
    (place / "other").write_text("other")
    try: give_name(place / "other", place / taken)
    except FileExistsError: pass
    else: raise AssertionError(taken)
assert (private.read_bytes(), public.read_bytes()) == kept and (place / "tablet.pub").is_symlink()
(place / "other").unlink()
print(*sorted(os.listdir(place)))
"""
    done = run_without(link_error, rename_error, code, tmp_path)
    assert done.stdout == "phone.key phone.pub tablet.pub\n", done.stderr
    assert stat.S_IMODE((tmp_path / "phone.key").stat().st_mode) == 0o600


@pytest.mark.process
@pytest.mark.parametrize(
    ("number", "cure"),
    [
        (errno.ENOSPC, "free some room, or write to another disk"),
        (errno.EDQUOT, "free some room, or write to another disk"),
        (errno.EIO, "the disk failed; check it, or write to another one"),
    ],
)
def test_what_a_disk_does_not_take_is_told_with_what_helps_and_leaves_nothing(
    tmp_path: Path, number: int, cure: str
) -> None:
    """A key and a restore: the file that was wanted is named, not the temporary one, and no other cure."""
    code = f"""
from pathlib import Path
from llama.cloud.backup import RECORD, back_up
from llama.cloud.run_store import RunStore
from llama.cloud.restore import restore
from llama.errors import BackupError, KeysError
from llama.keys import make_keys
place = Path(sys.argv[1])
RunStore(place / "runs").close()
back_up({{RECORD: place / "runs"}}, place / "copy")
refuse(machine, [({_FSYNC[platform.machine()]}, {number})])
(place / "new").mkdir()
try: make_keys("phone", "device", place / "new")
except KeysError as err: print(err)
try: restore(place / "copy", {{RECORD: place / "new" / "runs"}})
except BackupError as err: print(err)
print(*os.listdir(place / "new"))
"""
    done = run_without(errno.EPERM, 0, code, tmp_path)
    new, why = tmp_path / "new", os.strerror(number)
    assert done.stdout.splitlines() == [
        f"{new}/phone.key: cannot be written ({why}); {cure}", f"{new}/runs: {why}; nothing was restored: {cure}", "",
    ], done.stderr  # fmt: skip


@pytest.mark.process
def test_of_many_who_give_a_file_the_same_name_one_does(tmp_path: Path) -> None:
    """Whatever the file system has: here by links, by a rename that does not replace, and by neither."""
    code = """
from llama.disk import give_name, temporary_name
from pathlib import Path
place, who = Path(sys.argv[1]), sys.argv[2]
sys.stdin.read(1)
won = 0
for i in range(50):
    with temporary_name(place / str(i)) as mine:
        mine.write_text(who)
        try: give_name(mine, place / str(i))
        except FileExistsError: continue
        won += 1
print(won)
"""
    for link_error, rename_error in ((errno.EPERM, 0), (errno.EPERM, errno.EINVAL)):
        place = tmp_path / str(rename_error)
        place.mkdir()
        command = [sys.executable, "-c", WITHOUT + code, str(link_error), str(rename_error), str(place)]
        racing = [
            subprocess.Popen([*command, str(i)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, text=True)
            for i in range(3)
        ]
        for each in racing:
            assert each.stdin is not None
            each.stdin.write("x")
            each.stdin.flush()
        won = [int(each.communicate()[0]) for each in racing]
        assert sum(won) == 50 and len(os.listdir(place)) == 50  # noqa: PTH208
        held = [(place / str(i)).read_text() for i in range(50)]
        assert [held.count(str(who)) for who in range(3)] == won


@pytest.mark.skipif(not SOAK, reason="of a restore only the giving of names is its own, which is tried above")
def test_a_restore_needs_no_hard_links(tmp_path: Path) -> None:
    """A record is backed up and restored; the restored one is never written over."""
    code = """
from llama.cloud.backup import back_up
from llama.cloud.run_store import RunStore
from llama.cloud.restore import restore
from llama.errors import BackupError
from pathlib import Path
place = Path(sys.argv[1])
RunStore(place / "runs.sqlite").close()
back_up({"runs.sqlite": place / "runs.sqlite"}, place / "backup")
restore(place / "backup", {"runs.sqlite": place / "again.sqlite"})
RunStore(place / "again.sqlite").close()
try: restore(place / "backup", {"runs.sqlite": place / "again.sqlite"})
except BackupError as err: print(err)
"""
    done = run_without(errno.EACCES, errno.EINVAL, code, tmp_path)
    assert "again.sqlite exists and is not overwritten" in done.stdout, done.stderr


@pytest.mark.process
def test_a_mode_that_cannot_be_set_is_no_error_but_on_a_file_of_somebody_elses(tmp_path: Path) -> None:
    """FAT refuses; but what somebody else has made there first is not to be trusted with what is private."""
    calls = {"x86_64": (90, 268), "aarch64": (53,)}[platform.machine()]
    code = f"""
from llama.disk import keep_to_owner
from pathlib import Path
refuse(machine, [(number, 1) for number in {calls}])
place = Path(sys.argv[1])
(place / "mine").touch()
keep_to_owner(place / "mine", 0o600)
try: keep_to_owner(Path("/proc/self/status") if os.geteuid() else place / "theirs", 0o600)
except OSError as err: print(err.errno)
"""
    if os.geteuid() == 0:
        (tmp_path / "theirs").touch()
        os.chown(tmp_path / "theirs", 12345, 12345)
        assert run_without("none", 0, code, tmp_path).stdout == "1\n"
    mine = tmp_path / "a"
    mine.touch(0o644)
    keep_to_owner(mine, 0o600)
    assert stat.S_IMODE(mine.stat().st_mode) == 0o600


def test_a_temporary_name_is_nobodys_afterwards(tmp_path: Path) -> None:
    """Whether it was given another name or not."""
    with temporary_name(tmp_path / "a") as unfinished:
        unfinished.write_text("a")
        give_name(unfinished, tmp_path / "a")
    with pytest.raises(ZeroDivisionError), temporary_name(tmp_path / "b") as unfinished:
        unfinished.write_text("b")
        1 / 0  # noqa: B018
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_file_is_replaced_whole_or_stays_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A link stays and what it names is replaced; in an open directory the link itself is. A full disk changes nothing.

    A new file is not written over what is there.
    """
    kept, link = tmp_path / "kept", tmp_path / "link"
    kept.write_bytes(b"old")
    link.symlink_to(kept)
    replace_file(link, b"new")
    assert link.is_symlink()
    assert kept.read_bytes() == b"new"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    with pytest.raises(FileExistsError):
        create_file(kept, b"other", 0o600)
    directory = os.open(tmp_path, os.O_RDONLY)
    try:
        (tmp_path / ".unfinished").write_bytes(b"of a kill")
        replace_file_in(directory, "link", b"own", 0o600)
        assert not link.is_symlink()
        assert (link.read_bytes(), kept.read_bytes()) == (b"own", b"new")

        def full(fd: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "fsync", full)
        for write in (
            partial(replace_file, kept, b"more"),
            partial(replace_file_in, directory, "kept", b"more", 0o600),
            partial(create_file, tmp_path / "another", b"more", 0o600),
        ):
            with pytest.raises(OSError, match="No space"):
                write()
    finally:
        os.close(directory)
    assert kept.read_bytes() == b"new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept", "link"]

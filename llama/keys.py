"""Keys: who may speak to the cloud, and which cloud a device speaks to.

Used as::

    python -m llama.keys new NAME --role device      (or vendor, operator; cloud for the cloud's own)

writes ``NAME.key``, which stays where it is used, and ``NAME.pub``. The cloud has the public files of all who may speak
to it in one directory; a device has the cloud's. Both are TOML: ``name``, ``role``, ``public``, and in the private one
``secret``. The keys are CURVE's (Curve25519, in ZeroMQ's Z85 spelling).

Who else may read a private key's file: nobody but, in some cases, its group (:func:`_check_mode`). Its directory's mode
does not matter (Kubernetes mounts Secrets as 1777, read only), nor do links on the way: the file itself is looked at.

Errors and notices name files and fields, never a key.
"""

from __future__ import annotations

from llama import starting

if __name__ == "__main__":
    starting.begin()

import errno
import os
import stat
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

import zmq

from llama.command import run
from llama.disk import create_file, cure_of_writing
from llama.errors import KeysError, UsageError
from llama.files import NotRegular, TooLarge, open_regular, read_open
from llama.listing import PASSED_OVER, ends_in, is_a_copy
from llama.text.names import MAX_PARTY_NAME, is_party_name, name_rule
from llama.texts import decoded
from llama.toml import parsed

ROLES = ("device", "vendor", "operator", "cloud")
MAX_BYTES = 4096
_FOR_NOW = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO, errno.EINTR}  # says nothing of the file
LOOK_AGAIN_S = 1.0  # a file that was written over does not change its directory

_Z85 = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
_VALUE = {c: i for i, c in enumerate(_Z85)}
_KEY_CHARACTERS = 40


@dataclass(frozen=True)
class Identity:
    """Who somebody is: by the key, which the name and the role belong to."""

    name: str
    role: str
    public: str = field(repr=False)  # Z85


@dataclass(frozen=True)
class KeyPair:
    """A private key file."""

    identity: Identity
    secret: str = field(repr=False)  # Z85


@dataclass(frozen=True)
class LinkKeys:
    """What a device, a vendor or an operator needs: its own keys, and the key of the one cloud that it trusts."""

    own: KeyPair
    cloud: Identity


# ---- files


def make_keys(name: str, role: str, directory: str | os.PathLike[str]) -> tuple[Path, Path]:
    """Write a new pair, ``NAME.key`` for its owner's eyes only and ``NAME.pub``; gives both paths.

    Where the file system keeps no modes, others may be able to read it all the same: see :func:`others_may_read`.

    Raises:
        UsageError: no such role, or not a name.
        KeysError: one of the files is there already, or cannot be written.
    """
    if not is_party_name(name):
        raise UsageError(f"the name of a key is {name_rule(MAX_PARTY_NAME)}")
    if role not in ROLES:
        raise UsageError(f"--role is one of {', '.join(ROLES)}")
    private, public = Path(directory) / f"{name}.key", Path(directory) / f"{name}.pub"
    public_key, secret_key = (key.decode() for key in zmq.curve_keypair())
    text = f'name = "{name}"\nrole = "{role}"\npublic = "{public_key}"\n'
    for path in (private, public):
        if os.path.lexists(path):
            raise _exists(path)
    _write_new(private, f'# Private: whoever has this file is "{name}".\n{text}secret = "{secret_key}"\n', 0o600)
    try:
        _write_new(public, text, 0o644)
    except KeysError:
        private.unlink()  # half a pair is of no use
        raise
    return private, public


def _write_new(path: Path, text: str, mode: int) -> None:
    """Under a temporary name, which then becomes ``path``; nothing that is there is replaced."""
    try:
        create_file(path, text.encode(), mode)
    except FileExistsError:
        raise _exists(path) from None
    except OSError as err:
        cure = cure_of_writing(err) or "give --dir a directory where this user may write"
        raise KeysError(f"{path}: cannot be written ({err.strerror}); {cure}") from None


def others_may_read(path: Path) -> bool:
    """Whether a private key's file that was just made is open to others, for all that was asked."""
    return bool(path.stat().st_mode & 0o077)


def _exists(path: Path) -> KeysError:
    return KeysError(f"{path} exists and is not written over; choose another name, or move it away")


def read_key(path: str, role: str) -> KeyPair:
    """A private key file of that role.

    Raises:
        KeysError: it cannot be read, is none, is of another role, or others may read it.
    """
    try:
        raw, status = _read(path)
        pair = parse_private(raw)  # first: others may read what turns out to be a public one
        _check_mode(path, status)
    except ValueError as err:
        raise KeysError(f"key {path}: {err}") from None
    _check_role(path, pair.identity, role)
    return pair


def _check_mode(path: str, status: os.stat_result) -> None:
    """Nobody but its owner may have to do with a private key's file, except that its group may read it:

    - where root owns it and the group is one of the process's own, as in a Secret that Kubernetes hands to a process by
      way of a group of its own (0440 with ``fsGroup``); PostgreSQL allows that, too, and for root's files only;
    - where the reader owns it, the group is one of its own, and no other account is in that (:func:`_others_in`).

    With an access control list the group's bits are that list's mask, and say nothing of who is named in it.

    Raises:
        ValueError: others may read or write it; says what helps.
    """
    mode, owner, group = stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid
    if not mode & 0o077:
        return
    listed = _has_acl(path)
    only_read = mode & 0o077 == stat.S_IRGRP and not listed and group in {os.getegid(), *os.getgroups()}
    if only_read and (owner == 0 or (owner == os.geteuid() and not _others_in(group))):
        return
    who, does = ("its group", mode >> 3) if not mode & 0o007 else ("others", mode | mode >> 3)
    if listed and mode & 0o070:
        who = "whom its access control list names"
    can = "write to it" if does & 0o002 else "read it" if does & 0o004 else "use it"
    raise ValueError(
        f"{who} may {can} (mode {mode:04o}), so it may be known; make a new one, or chmod 600 {path}"
        f"{f' and setfacl -b {path}' if listed else ''}; "
        f"where that changes nothing (FAT, a network share, a Windows drive, Android's shared storage) "
        f"move it to a file system that keeps modes; for a Secret of Kubernetes set defaultMode: 0440"
    )


def _has_acl(path: str) -> bool:
    """Whether a file has a POSIX access control list: accounts or groups that may have to do with it by name."""
    try:
        return bool(os.getxattr(path, "system.posix_acl_access"))
    except (OSError, AttributeError):  # it has none, or there is no such thing here
        return False


def _others_in(group: int) -> bool:
    """Whether other accounts are in a group, or may be: lists need not name all.

    A directory service such as LDAP usually lists nobody. So the account that asks must be in the list itself, and each
    member that the group names must be of that account.
    """
    try:
        import grp  # Android has neither
        import pwd

        accounts = pwd.getpwall()
    except (ImportError, AttributeError):
        return True
    try:
        members = grp.getgrgid(group).gr_mem
    except KeyError:  # a group without a name, as Kubernetes gives a process
        members = []
    own = {a.pw_name for a in accounts if a.pw_uid == os.geteuid()}
    if not own or not own.issuperset(members):
        return True
    return any(a.pw_uid != os.geteuid() and a.pw_gid == group for a in accounts)


def read_public(path: str, role: str) -> Identity:
    """A public key file of that role. Raises as :func:`read_key`, but anybody may read it."""
    try:
        identity = parse_public(_read(path)[0])
    except ValueError as err:
        raise KeysError(f"key {path}: {err}") from None
    _check_role(path, identity, role)
    return identity


def link_keys(key_file: str | None, cloud_key: str | None, role: str) -> LinkKeys | None:
    """The keys that the flags name; without them none.

    Raises:
        UsageError: only one of the two is given.
        KeysError: as :func:`read_key`.
    """
    if key_file is None and cloud_key is None:
        return None
    if key_file is None or cloud_key is None:
        raise UsageError("--key_file and --cloud_key belong together: your own key, and the cloud's public one")
    return LinkKeys(read_key(key_file, role), read_public(cloud_key, "cloud"))


def parse_public(raw: bytes) -> Identity:
    """The content of a public key file.

    Raises:
        ValueError: it is none; the message says why, and quotes nothing of it.
    """
    return _identity(_fields(raw, ("name", "role", "public")))


def parse_private(raw: bytes) -> KeyPair:
    """The content of a private key file. Raises as :func:`parse_public`."""
    fields = _fields(raw, ("name", "role", "public", "secret"))
    identity = _identity(fields)
    if not _is_a_key(fields["secret"]):
        raise ValueError("secret is not a key")
    if zmq.curve_public(fields["secret"].encode()).decode() != identity.public:
        raise ValueError("public does not belong to secret")
    return KeyPair(identity, fields["secret"])


def _fields(raw: bytes, wanted: Sequence[str]) -> dict[str, str]:
    try:
        text = decoded(raw)
    except ValueError as err:
        raise ValueError(str(err)) from None
    try:
        # Lines of an old Mac's end in CR alone, which TOML has not; no value of a key's file has one.
        table = parsed(text.replace("\r\n", "\n").replace("\r", "\n"))
    except ValueError as err:
        raise ValueError(f"not TOML {err}".rstrip()) from None
    if "secret" in table and "secret" not in wanted:
        raise ValueError("this is a private key; give the .pub file, and keep the private one where it is used")
    if "secret" in wanted and table.keys() == set(wanted) - {"secret"}:
        raise ValueError("this is a public key; give the private one that belongs to it, NAME.key")
    if table.keys() != set(wanted) or not all(isinstance(value, str) for value in table.values()):
        raise ValueError(f"must have {', '.join(wanted)}, each a text, and nothing else; python -m llama.keys makes it")
    return table


def _identity(fields: dict[str, str]) -> Identity:
    if not is_party_name(fields["name"]):
        raise ValueError(f"name is {name_rule(MAX_PARTY_NAME)}")
    if fields["role"] not in ROLES:
        raise ValueError(f"role is one of {', '.join(ROLES)}")
    if not _is_a_key(fields["public"]):
        raise ValueError("public is not a key")
    return Identity(fields["name"], fields["role"], fields["public"])


def _is_a_key(text: str) -> bool:
    """32 bytes in Z85; not all zero, which no secret belongs to."""
    if len(text) != _KEY_CHARACTERS or not set(text) <= _VALUE.keys() or set(text) == {"0"}:
        return False
    groups = (text[i : i + 5] for i in range(0, _KEY_CHARACTERS, 5))
    return all(sum(_VALUE[c] * 85 ** (4 - i) for i, c in enumerate(group)) < 2**32 for group in groups)


def _check_role(path: str, identity: Identity, role: str) -> None:
    if identity.role != role:
        raise KeysError(f"key {path}: this is a key of role {identity.role}, and {role} is needed")


class _Unreadable(ValueError):
    """It cannot be read for now."""


def _read(path: str | Path) -> tuple[bytes, os.stat_result]:
    """A small regular file, and whose it is; never waits, as a pipe would.

    Raises:
        ValueError: it is none, or cannot be read.
    """
    try:
        with open_regular(path) as file:
            return read_open(file, path, MAX_BYTES), os.fstat(file.fileno())
    except NotRegular:
        raise ValueError("not a file") from None
    except TooLarge:
        raise ValueError("too large for a key") from None
    except OSError as err:
        kind = _Unreadable if err.errno in _FOR_NOW else ValueError
        lost = "a link to nothing" if Path(path).is_symlink() else "no such file"
        raise kind(lost if err.errno == errno.ENOENT else f"cannot be read ({err.strerror})") from None


# ---- the cloud's list


_Stamp = tuple[int, int, int, int]
_NO_FILE: _Stamp = (0, 0, 0, 0)  # of a link to nothing, or where it cannot even be asked what is there


class AllowList:
    """Everybody whose public file lies in a directory, as it is now: ``*.pub``, whatever they are called before that.

    What is hidden or ends otherwise is passed over; so is what looks like a copy that a program made (a key that was
    taken off the list may live on in it), which is told of once. A file that is no public key, or repeats the
    name or the key of one before it, counts as absent and is told of once. A directory that cannot be read lists
    nobody. Links are followed, and looked at anew like the files that they name: Kubernetes swaps a link to a directory
    where a ConfigMap changes.

    Args:
        directory: where the files are.
        tell: told, in one line, of files that do not count.
        clock: monotonic seconds.

    Raises:
        KeysError: the directory cannot be read now.
    """

    def __init__(
        self, directory: str | os.PathLike[str], tell: Callable[[str], None] = lambda line: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self.directory = Path(directory)
        self.version = 0  # counts the changes
        self._tell, self._clock = tell, clock
        self._changed_at: int | None = None  # the directory's own time
        self._look_again = -1.0
        self._stamps: dict[str, _Stamp] | None = None
        self._unread = False  # a file that is to be read at the next look
        self._read: dict[str, tuple[_Stamp, Identity | str]] = {}  # what each file says, or why it does not count
        self._reported = set[tuple[str, str]]()
        self._listed: dict[str, Identity] = {}
        try:
            os.listdir(directory)  # noqa: PTH208
        except OSError as err:
            raise KeysError(f"--allow_dir {directory}: cannot be read ({err.strerror})") from None
        self.refresh()

    def __len__(self) -> int:
        return len(self._listed)

    @property
    def keys(self) -> frozenset[str]:
        """Those that are listed, as of the last look."""
        return frozenset(self._listed)

    def find(self, public: str) -> Identity | None:
        """Who has this key, if they are listed now."""
        self.refresh()
        return self._listed.get(public)

    def refresh(self) -> None:
        """Look whether the directory has changed; cheap when it has not."""
        now = self._clock()
        try:
            changed_at: int | None = self.directory.stat().st_mtime_ns
        except OSError:
            changed_at = None
        if changed_at == self._changed_at and now < self._look_again:
            return
        self._changed_at, self._look_again = changed_at, now + LOOK_AGAIN_S
        try:
            stamps = self._stamps_now(os.listdir(self.directory))  # noqa: PTH208
        except OSError as err:
            # Whoever uses up this process's descriptors must not empty the list. That a file is gone, or is another
            # one, is seen without any.
            for_now = err.errno in _FOR_NOW
            stamps = self._stamps_now(self._stamps or ()) if for_now else {}
            self._say("", f"cannot be read ({err.strerror}): {'no new key' if for_now else 'nobody'} is listed")
        if stamps != self._stamps or self._unread:
            self._stamps, self._unread = stamps, False
            self._rescan(stamps)

    def _stamps_now(self, names: Iterable[str]) -> dict[str, _Stamp]:
        stamps = {}
        for name in names:
            if ends_in(name, ".pub"):
                path = self.directory / name
                try:
                    s = path.stat()
                except FileNotFoundError:
                    if path.is_symlink():
                        stamps[name] = _NO_FILE
                    continue  # else it was just removed
                except OSError:
                    stamps[name] = _NO_FILE  # whoever reads it will tell
                    continue
                stamps[name] = (s.st_mtime_ns, s.st_ctime_ns, s.st_size, s.st_ino)
        return stamps

    def _rescan(self, stamps: dict[str, _Stamp]) -> None:
        before, read = self._read, dict[str, tuple[_Stamp, Identity | str]]()
        listed, names = dict[str, Identity](), set[str]()
        problems = set[tuple[str, str]]()
        for file, stamp in sorted(stamps.items()):
            if is_a_copy(file):
                problems.add((file, PASSED_OVER))
                continue
            known = before.get(file)
            try:
                says = known[1] if known is not None and known[0] == stamp else self._says(file)
                read[file] = (stamp, says)
            except _Unreadable as err:
                says, self._unread = str(err), True
            if isinstance(says, Identity) and (says.public in listed or says.name in names):
                says = "another file has this name or key"
            if isinstance(says, str):
                problems.add((file, f"{says}; it does not count"))
            elif says.role != "cloud":  # its own may lie there, too
                listed[says.public] = says
                names.add(says.name)
        if listed != self._listed:
            self.version += 1
        self._read, self._listed = read, listed
        self._reported &= problems  # what was mended and breaks again is told again
        for file, problem in sorted(problems):
            self._say(file, problem)

    def _says(self, file: str) -> Identity | str:
        try:
            return parse_public(_read(self.directory / file)[0])
        except _Unreadable:
            raise
        except ValueError as err:
            return str(err)

    def _say(self, file: str, problem: str) -> None:
        if (file, problem) not in self._reported:
            self._reported.add((file, problem))
            self._tell(f"--allow_dir: {file!r}: {problem}" if file else f"--allow_dir: {problem}")


# ---- the command line


def main(name: str, role: str, dir: str = ".") -> None:
    """Make a key pair.

    Args:
        name: new NAME is short for it. Whose: 1 to 40 of a-z, 0-9 and -; a vendor's is that of its directory of sheets.
        role: device, vendor or operator; or cloud, for the cloud itself.
        dir: where the two files are written.
    """
    private, public = make_keys(name, role, dir)
    if others_may_read(private):
        _print(f"warning: {private}: this file system keeps no modes, so others may read it, and it is refused here; "
               f"move it to one that does, and chmod 600 it there", sys.stderr)  # fmt: skip
    goes_to = (
        "give it to whoever connects, as --cloud_key" if role == "cloud" else "it goes into the cloud's --allow_dir"
    )
    _print(f"{private}: private, stays where it is used (--key_file)\n{public}: public, {goes_to}", sys.stdout)


def _print(text: str, stream: TextIO | None) -> None:
    """Print, with escapes for what the stream's encoding has not: a directory may be called anything."""
    if stream is not None:
        encoding = stream.encoding or "ascii"
        print(text.encode(encoding, "backslashreplace").decode(encoding), file=stream)


def flags_of(words: Sequence[str]) -> list[str]:
    """``new NAME`` as the flag that it is short for.

    Raises:
        UsageError: there is another word, or no name.
    """
    if not words or words[0].startswith("-"):
        return list(words)
    if words[0] != "new":
        raise UsageError(f"'{words[0]}' is not known; write new NAME --role ROLE")
    if len(words) < 2 or words[1].startswith("-"):
        raise UsageError("whose key? write new NAME --role ROLE")
    return [f"--name={words[1]}", *words[2:]]


if __name__ == "__main__":
    words = sys.argv[1:]
    try:
        words = flags_of(words)
    except UsageError as err:
        wrong = err

        def refuse() -> None:
            """Tells what is wrong with the words, as any other command line does."""
            raise wrong

        run(refuse, [])
    run(main, words, usage="new NAME --role ROLE")

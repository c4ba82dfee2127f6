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
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

import zmq

from llama.command import run
from llama.disk import create_file, cure_of_writing
from llama.errors import KeysError, UsageError
from llama.files import NotRegular, TooLarge, open_regular, read_open
from llama.text.decoding import decoded
from llama.text.names import MAX_PARTY_NAME, is_party_name, name_rule
from llama.toml import parsed

ROLES = ("device", "vendor", "operator", "cloud")
MAX_BYTES = 4096
ERRNOS_FOR_NOW = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO, errno.EINTR}  # says nothing of the file

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
        raise UsageError(f"the name of a key must be {name_rule(MAX_PARTY_NAME)} (got '{name}')")
    if role not in ROLES:
        raise UsageError(f"--role must be one of {', '.join(ROLES)} (got '{role}')")
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
        raw, status = read_key_file(path)
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
        identity = parse_public(read_key_file(path)[0])
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
        given, missing = ("cloud_key", "key_file") if key_file is None else ("key_file", "cloud_key")
        raise UsageError(f"--{given} requires --{missing}")
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


class UnreadableForNow(ValueError):
    """A key's file cannot be read now; that says nothing of the file."""


def read_key_file(path: str | Path) -> tuple[bytes, os.stat_result]:
    """Read a key's file, a small regular one, and whose it is; never waits, as a pipe would.

    Raises:
        UnreadableForNow: this process, or this moment, is to blame.
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
        kind = UnreadableForNow if err.errno in ERRNOS_FOR_NOW else ValueError
        lost = "a link to nothing" if Path(path).is_symlink() else "no such file"
        raise kind(lost if err.errno == errno.ENOENT else f"cannot be read ({err.strerror})") from None


# ---- the command line

USAGE = "new NAME --role ROLE"


def main(name: str, role: str, dir: str = ".") -> None:
    """Make a key pair. NAME.key is private and stays where it is used; NAME.pub is public.

    Args:
        name: Name of the key, 1 to 40 of a-z, 0-9 and -. A vendor's is the name of its directory of sheets. The two
            words new NAME are short for --name NAME.
        role: Role of the key's owner, device, vendor, operator or cloud.
        dir: Directory for the two files.
    """
    private, public = make_keys(name, role, dir)
    if others_may_read(private):
        _print(
            f"warning: {private}: this file system keeps no modes, so others may read it, and it is refused here; "
            f"move it to one that does, and chmod 600 it there",
            sys.stderr,
        )
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
        raise UsageError(f"unknown word '{words[0]}'; write python -m llama.keys new NAME --role ROLE")
    if len(words) < 2 or words[1].startswith("-"):
        raise UsageError("missing NAME; write python -m llama.keys new NAME --role ROLE")
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
    run(main, words, usage=USAGE)

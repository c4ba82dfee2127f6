"""Key files: the clients that the cloud accepts, and the cloud that a device trusts.

Used as::

    python -m llama.keys new NAME --role device      (or vendor, operator; cloud for the cloud's own)

writes ``NAME.key``, which stays where it is used, and ``NAME.pub``. The cloud keeps the public files of all accepted
keys in one directory (the allow list). A device has the cloud's public file. Both files are TOML with ``name``,
``role`` and ``public``; the private one also has ``secret``. The keys are CURVE's (Curve25519) in Z85 (ZeroMQ RFC 32).

Only the owner may read a private key file, and in some cases its group (:func:`_check_mode`). The check looks at the
file itself. Its directory's mode does not matter (Kubernetes mounts Secrets as 1777, read only), and neither do links.

Errors and notices name files and fields, never a key.
"""

from __future__ import annotations

from llama import starting

if __name__ == "__main__":
    starting.begin()

import errno
import os
import stat
import struct
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

import zmq
from zmq.utils import z85

from llama.command import run
from llama.disk import create_file, cure_of_writing
from llama.errors import KeysError, UsageError
from llama.files import NotRegular, TooLarge, open_regular, read_open
from llama.text.decoding import decoded
from llama.text.names import MAX_PARTY_NAME, is_party_name, name_rule
from llama.toml import parsed

ROLES = ("device", "vendor", "operator", "cloud")
MAX_BYTES = 4096
ERRNOS_FOR_NOW = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO, errno.EINTR}  # temporary; the file may be good

_KEY_BYTES = 32


@dataclass(frozen=True)
class Identity:
    """A public key, with the name and role that belong to it."""

    name: str
    role: str
    public: str = field(repr=False)  # Z85


@dataclass(frozen=True)
class KeyPair:
    """The content of a private key file."""

    identity: Identity
    secret: str = field(repr=False)  # Z85


@dataclass(frozen=True)
class LinkKeys:
    """The keys of a device, a vendor or an operator: its own pair, and the key of the one cloud that it trusts."""

    own: KeyPair
    cloud: Identity


# ---- files


def make_keys(name: str, role: str, directory: str | os.PathLike[str]) -> tuple[Path, Path]:
    """Write a new pair: ``NAME.key``, which only its owner may read, and ``NAME.pub``. Return both paths.

    On a file system without modes others may be able to read ``NAME.key``: see :func:`others_may_read`.

    Raises:
        UsageError: the role does not exist, or the name is not valid.
        KeysError: one of the files exists, or cannot be written.
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
    _write_new(private, f'# Private: its holder can act as "{name}".\n{text}secret = "{secret_key}"\n', 0o600)
    try:
        _write_new(public, text, 0o644)
    except KeysError:
        private.unlink()  # half a pair is of no use
        raise
    return private, public


def _write_new(path: Path, text: str, mode: int) -> None:
    """Write a temporary file and rename it to ``path``. Never replace an existing file."""
    try:
        create_file(path, text.encode(), mode)
    except FileExistsError:
        raise _exists(path) from None
    except OSError as err:
        cure = cure_of_writing(err) or "give --dir a directory where this user may write"
        raise KeysError(f"{path}: cannot be written ({err.strerror}); {cure}") from None


def others_may_read(path: Path) -> bool:
    """Return whether others may read a new private key file, although it was made with mode 0600."""
    return bool(path.stat().st_mode & 0o077)


def _exists(path: Path) -> KeysError:
    return KeysError(f"{path} exists and is not written over; choose another name, or move it away")


def read_key(path: str, role: str) -> KeyPair:
    """Read a private key file of that role.

    Raises:
        KeysError: the file cannot be read, is no private key, has another role, or others may read it.
    """
    try:
        raw, status = read_key_file(path)
        pair = parse_private(raw)  # before the mode check: a public key file may be open to others
        _check_mode(path, status)
    except ValueError as err:
        raise KeysError(f"key {path}: {err}") from None
    _check_role(path, pair.identity, role)
    return pair


def _check_mode(path: str, status: os.stat_result) -> None:
    """Check that only its owner may use a private key file. Its group may read it in two cases.

    - Root owns the file, and the process is in its group. Kubernetes gives Secrets to a process this way (0440 with
      ``fsGroup``). PostgreSQL has the same rule, also for root's files only.
    - The process owns the file and is in its group, and no other account is in that group (:func:`_others_in`).

    With an access control list the group's bits are the list's mask. They do not show which accounts it names.

    Raises:
        ValueError: others may read or write the file. The message says what to do.
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
    """Return whether a file has a POSIX access control list, which gives rights to named accounts or groups."""
    try:
        return bool(os.getxattr(path, "system.posix_acl_access"))
    except (OSError, AttributeError):  # the file has none, or the system has no such lists
        return False


def _others_in(group: int) -> bool:
    """Return whether other accounts are, or may be, in a group. The system's lists can be incomplete.

    A directory service such as LDAP usually lists no accounts. So the process's own account must be in the list, and
    every member of the group must belong to that account.
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
    """Read a public key file of that role. Raise as :func:`read_key`, but accept every mode."""
    try:
        identity = parse_public(read_key_file(path)[0])
    except ValueError as err:
        raise KeysError(f"key {path}: {err}") from None
    _check_role(path, identity, role)
    return identity


def link_keys(key_file: str | None, cloud_key: str | None, role: str) -> LinkKeys | None:
    """Read the keys that the flags name. Return None without these flags.

    Raises:
        UsageError: only one of the two flags is given.
        KeysError: as :func:`read_key`.
    """
    if key_file is None and cloud_key is None:
        return None
    if key_file is None or cloud_key is None:
        given, missing = ("cloud_key", "key_file") if key_file is None else ("key_file", "cloud_key")
        raise UsageError(f"--{given} requires --{missing}")
    return LinkKeys(read_key(key_file, role), read_public(cloud_key, "cloud"))


def parse_public(raw: bytes) -> Identity:
    """Parse the content of a public key file.

    Raises:
        ValueError: this is no public key. The message says why, and quotes nothing of the content.
    """
    return _identity(_fields(raw, ("name", "role", "public")))


def parse_private(raw: bytes) -> KeyPair:
    """Parse the content of a private key file. Raise as :func:`parse_public`."""
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
        # Some editors end lines with CR alone, which TOML does not allow. No value in a key file contains CR.
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
    """Return whether this is 32 bytes in Z85. All zeros is not a key: no secret belongs to it."""
    try:
        raw = z85.decode(text)
    except (ValueError, KeyError, struct.error):  # not ASCII or a wrong length; not of the alphabet; beyond 32 bits
        return False
    return len(raw) == _KEY_BYTES and any(raw)


def _check_role(path: str, identity: Identity, role: str) -> None:
    if identity.role != role:
        raise KeysError(f"key {path}: this is a key of role {identity.role}, and {role} is needed")


class UnreadableForNow(ValueError):
    """A key file cannot be read at the moment. The file itself may be good."""


def read_key_file(path: str | Path) -> tuple[bytes, os.stat_result]:
    """Read a key file. Return its content and its status (owner and mode). Never block, for example on a pipe.

    Raises:
        UnreadableForNow: a temporary failure, such as no free file descriptor.
        ValueError: this is not a small regular file, or it cannot be read.
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
    goes_to = "give it to all clients, as --cloud_key" if role == "cloud" else "it goes into the cloud's --allow_dir"
    _print(f"{private}: private, stays where it is used (--key_file)\n{public}: public, {goes_to}", sys.stdout)


def _print(text: str, stream: TextIO | None) -> None:
    """Print, and escape characters that the stream's encoding lacks: a directory may have any name."""
    if stream is not None:
        encoding = stream.encoding or "ascii"
        print(text.encode(encoding, "backslashreplace").decode(encoding), file=stream)


def as_flags(words: Sequence[str]) -> list[str]:
    """Return the words with ``new NAME`` replaced by ``--name=NAME``.

    Raises:
        UsageError: the first word is not ``new``, or the name is missing.
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
        words = as_flags(words)
    except UsageError as err:
        wrong = err

        def refuse() -> None:
            """Report the wrong words, in the same form as every other command."""
            raise wrong

        run(refuse, [])
    run(main, words, usage=USAGE)

"""The person's profile: labelled values in a file that stays on the device.

::

    name = "Sari Wulandari"
    phone = ["0812-3456-7890", "(022) 750 1234"]
    birth_date = 1991-04-12
    interests = "coffee, hiking"

    [policy]                    # optional: this person's own choice for a field
    employer = "open"

``private_words`` is a field for words that belong to no other one: they become tags wherever the person writes them.

A value is text, a number, a date, true/false, or a list of these. ``llama.privacy.policy`` decides the form in which a
field may leave, unless ``[policy]`` sets another. No error and no repr contains any part of a value.
"""

from __future__ import annotations

import datetime as dt
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llama import toml
from llama.errors import ProfileError
from llama.files import NotRegular, TooLarge, read_regular
from llama.privacy.policy import FieldPolicy, field_of, same_field
from llama.text.dates import day_in_words
from llama.text.decoding import decoded
from llama.text.names import is_field_name
from llama.text.printable import is_blank

PRIVATE_WORDS = "private_words"
MAX_FIELDS = 200
MAX_VALUE_CHARS = 20_000

Value = str | int | float | dt.date
"""A value. ``bool`` becomes text; a date with a time of day loses the time."""


@dataclass(frozen=True)
class ProfileField:
    """A labelled field. Its values do not print."""

    name: str
    policy: FieldPolicy
    values: tuple[Value, ...] = field(repr=False)

    @property
    def is_opened(self) -> bool:
        """True if this person has chosen to send it openly, or if it is their town."""
        known = field_of(self.name)
        return self.policy is FieldPolicy.OPEN and (known.place or known.policy is not FieldPolicy.OPEN)


@dataclass(frozen=True)
class Profile:
    """All fields, by name, in the order of the file."""

    fields: Mapping[str, ProfileField] = field(default_factory=dict)

    def find(self, name: str) -> ProfileField | None:
        """Return the field of this name or of a synonym: a sheet's ``budget`` is the profile's ``anggaran``."""
        return next((self.fields[other] for other in same_field(name) if other in self.fields), None)

    def with_private_words(self, words: Sequence[str]) -> Profile:
        """Return the profile with more words that become tags, for one run."""
        if not words:
            return self
        before = self.fields.get(PRIVATE_WORDS)
        values = (*(before.values if before else ()), *words)
        return Profile({**self.fields, PRIVATE_WORDS: ProfileField(PRIVATE_WORDS, FieldPolicy.SECRET, values)})


def read_profile(path: str | Path) -> Profile:
    """Return the profile in a TOML file.

    Raises:
        ProfileError: the file is missing, too large or malformed, or a field is invalid. The error names file and
            field, never a value.
    """
    return parse(read_raw(path), f"profile {path}")


def read_raw(path: str | Path) -> bytes:
    """Return the bytes of a profile's file, without checking them.

    Raises:
        ProfileError: the file is missing, not a regular file, unreadable or too large.
    """
    where = f"profile {path}"
    try:
        return read_regular(path, toml.MAX_BYTES)
    except NotRegular:
        raise ProfileError(f"{where}: not a regular file; name a regular file") from None
    except TooLarge:
        raise _too_large(where) from None
    except FileNotFoundError:
        lost = "a link to a missing file; create that file or fix the link" if Path(path).is_symlink() else ""
        raise ProfileError(f"{where}: {lost or 'no such file; check the path'}") from None
    except IsADirectoryError:
        raise ProfileError(f"{where}: a directory; name a file") from None
    except (OSError, ValueError) as err:
        reason = getattr(err, "strerror", None) or "not a path"
        raise ProfileError(f"{where}: cannot be read ({reason}); name a file that you may read") from None


def parse(raw: bytes, where: str = "profile") -> Profile:
    """Parse the profile in the bytes of a file.

    Raises:
        ProfileError: as :func:`read_profile`; ``where`` begins its message.
    """
    if len(raw) > toml.MAX_BYTES:
        raise _too_large(where)
    try:
        text = decoded(raw)
    except ValueError as err:
        raise ProfileError(f"{where}: {err}") from None
    try:
        table = toml.parsed(text)
    except ValueError as err:
        place = f"{where}: not valid TOML {err}".rstrip()
        raise ProfileError(f'{place}; write each field on a line of its own, as name = "value"') from None
    return profile_from(table, where)


def _too_large(where: str) -> ProfileError:
    return ProfileError(f"{where}: larger than {toml.MAX_BYTES >> 20} MiB; keep only fields that a sheet may ask for")


def profile_from(table: Mapping[str, Any], where: str = "profile") -> Profile:
    """Return the profile in a parsed table.

    Raises:
        ProfileError: as :func:`read_profile`; ``where`` begins its message.
    """
    own_policies = table.get("policy", {})
    if not isinstance(own_policies, dict):
        raise ProfileError(f'{where}: policy must be a table, [policy], with lines such as employer = "open"')
    fields = {}
    for name, given in table.items():
        if name == "policy":
            continue
        if not is_field_name(name):
            raise ProfileError(
                f"{where}: a field's name has 1 to 40 lower-case letters, digits and _, and begins with "
                f"a letter; rename {_shown(name)}"
            )
        values = tuple(
            _value(item, f"{where}: field {name}") for item in (given if isinstance(given, list) else [given])
        )
        values = tuple(value for value in values if value != "")
        if values:
            fields[name] = ProfileField(name, _policy(own_policies.get(name), name, where), values)
    for name in own_policies:
        if name not in fields:
            raise ProfileError(f"{where}: [policy] sets {_shown(name)}, a field without a value; remove it there")
    if len(fields) > MAX_FIELDS:
        raise ProfileError(f"{where}: {len(fields)} fields, but at most {MAX_FIELDS} are allowed; remove some")
    return Profile(fields)


def _policy(own: Any, name: str, where: str) -> FieldPolicy:
    known = field_of(name)
    if own is None:
        return known.policy
    choices = [policy for policy in FieldPolicy if policy is not FieldPolicy.QUASI or known.generaliser]
    if own not in choices:
        raise ProfileError(f"{where}: the policy of {name} must be {' or '.join(choices)}; correct it in [policy]")
    return FieldPolicy(own)


def _value(given: Any, where: str) -> Value:
    if isinstance(given, bool):
        return "yes" if given else "no"
    if isinstance(given, dt.datetime):
        return given.date()
    if isinstance(given, float) and not math.isfinite(given):
        raise ProfileError(f"{where}: not a finite number; write a number, or text in quotes")
    if isinstance(given, (int, float, dt.date)):
        if isinstance(given, int) and abs(given) >= 10**40:
            raise ProfileError(f"{where}: a number of more than 40 digits; write it as text in quotes")
        return given
    if not isinstance(given, str):
        raise ProfileError(f'{where}: must be text, a number, a date or a list of these; write field = "…"')
    if len(given) > MAX_VALUE_CHARS:
        raise ProfileError(f"{where}: {len(given)} characters, but at most {MAX_VALUE_CHARS} are allowed; shorten it")
    return "" if is_blank(given) else given.strip()


def _shown(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]", "?", name)[:40]


def text_of(value: Value, language: str = "en") -> str:
    """Return a value in readable form: a date in words, a whole number without a fraction."""
    if isinstance(value, dt.date):
        return day_in_words(value, language)
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)

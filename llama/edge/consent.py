"""The store of the person's agreements: one per origin and set of fields, in a file beside the profile.

``PROFILE.consents.json`` lists, for each origin of sheets, the fields that it may have and each field's disclosure
level. It holds no values. Delete it to be asked again. A new field, or a field at another level, needs a new agreement.

Knows: levels, origins, the file. Does not know: how the person is asked.
"""

from __future__ import annotations

import datetime as dt
import enum
from dataclasses import dataclass
from pathlib import Path

import msgspec

from llama.disk import replace_file
from llama.errors import ProfileError
from llama.files import read_regular
from llama.privacy.profile import Profile
from llama.privacy.sanitiser import Mode
from llama.prompt import SourcedPrompt
from llama.sheets import Sheet

MAX_BYTES = 16 << 20  # of all agreements; each has some hundred bytes
RAW = "raw"  # the level of every field under --sanitise off


class Consent(msgspec.Struct, frozen=True):
    """One agreement: ``origin`` may have ``fields``, each at the level named; ``agreed`` is the day."""

    origin: str
    fields: dict[str, str]
    agreed: str


def consents_of(profile_file: str) -> Path:
    """Return the path of the file with the agreements about a profile."""
    return Path(f"{profile_file}.consents.json")


class ConsentState(enum.Enum):
    """State of the person's agreement to a prompt."""

    NOT_NEEDED = enum.auto()  # nothing of the profile would leave
    GIVEN = enum.auto()  # the person has agreed to it before
    NEEDED = enum.auto()


@dataclass(frozen=True)
class ConsentRequest:
    """The fields of a profile that a prompt would get.

    Attributes:
        sourced: the prompt and its origin.
        profile: the person's profile.
        profile_file: path of the profile, or None if no file was given.
        mode: with ``off``, fields leave raw. That level differs from the level of every policy.
    """

    sourced: SourcedPrompt
    profile: Profile
    profile_file: str | None
    mode: Mode

    @property
    def levels(self) -> dict[str, str]:
        """The fields that the sheet would get, each with its disclosure level."""
        prompt = self.sourced.prompt
        return disclosure_levels(prompt, self.profile, self.mode) if isinstance(prompt, Sheet) else {}

    def state(self) -> ConsentState:
        """Return whether the person must be asked.

        Raises:
            ProfileError: the remembered agreements cannot be read.
        """
        levels = self.levels
        if self.profile_file is None or not levels:
            return ConsentState.NOT_NEEDED
        for each in _read(consents_of(self.profile_file)):
            if each.origin == self.sourced.origin and levels.items() <= each.fields.items():
                return ConsentState.GIVEN
        return ConsentState.NEEDED

    def remember(self) -> None:
        """Store the person's agreement.

        Raises:
            ProfileError: the agreement cannot be stored.
        """
        assert self.profile_file is not None
        path = consents_of(self.profile_file)
        agreement = Consent(self.sourced.origin, self.levels, dt.date.today().isoformat())
        try:
            _write(path, [*_read(path), agreement])
        except OSError as err:
            raise ProfileError(f"{path}: your agreement cannot be stored there ({err.strerror})") from None


def disclosure_levels(sheet: Sheet, profile: Profile, mode: Mode) -> dict[str, str]:
    """Return the fields that the sheet would get, each with the level at which it would leave: a policy or ``RAW``."""
    asked = {name: profile.find(name) for name in sheet.asks_for}
    return {name: RAW if mode == "off" else str(each.policy) for name, each in asked.items() if each is not None}


def _read(path: Path) -> list[Consent]:
    try:
        return msgspec.json.decode(read_regular(path, MAX_BYTES), type=list[Consent])
    except FileNotFoundError:
        return []
    except OSError as err:
        raise ProfileError(
            f"{path}: your agreements cannot be read ({err.strerror}); make the file readable, or move it away "
            f"to be asked again"
        ) from None
    except (ValueError, RecursionError):
        raise ProfileError(
            f"{path}: damaged, so your agreements cannot be read; delete the file to be asked again"
        ) from None


def _write(path: Path, consents: list[Consent]) -> None:
    replace_file(path, msgspec.json.format(msgspec.json.encode(consents)) + b"\n")

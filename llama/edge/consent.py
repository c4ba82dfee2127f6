"""The store of the person's agreements: one per origin and set of fields, in a file beside the profile.

``PROFILE.consents.json`` holds which fields of the profile, at which disclosure level, whose sheets may have; no value.
Delete it to be asked again. A set that has grown, or a field that would leave at another level, is not covered.

Knows: levels, origins, the file. Does not know: how a person is asked.
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

MAX_BYTES = 16 << 20  # of all agreements: some hundred bytes each
RAW = "raw"  # the level of every field under --sanitise off


class Consent(msgspec.Struct, frozen=True):
    """One agreement: ``origin`` may have ``fields``, each at the level named; ``agreed`` is the day."""

    origin: str
    fields: dict[str, str]
    agreed: str


def consents_of(profile_file: str) -> Path:
    """Name the file of the agreements about a profile."""
    return Path(f"{profile_file}.consents.json")


class ConsentState(enum.Enum):
    """Whether the person has to be asked before a prompt may leave."""

    NOT_NEEDED = enum.auto()  # nothing of the profile would leave
    GIVEN = enum.auto()  # the person has agreed to it before
    NEEDED = enum.auto()


@dataclass(frozen=True)
class ConsentRequest:
    """What a prompt would get of a profile.

    Attributes:
        sourced: the prompt, and whose it is.
        profile: of the person.
        profile_file: its path; None where no file was given.
        mode: with ``off``, fields leave raw, which is another level than any policy's.
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
        """Tell whether the person must be asked.

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
        """Write down that the person has agreed.

        Raises:
            ProfileError: it cannot be written down.
        """
        assert self.profile_file is not None
        path = consents_of(self.profile_file)
        agreement = Consent(self.sourced.origin, self.levels, dt.date.today().isoformat())
        try:
            _write(path, [*_read(path), agreement])
        except OSError as err:
            raise ProfileError(f"{path}: your agreement cannot be remembered there ({err.strerror})") from None


def disclosure_levels(sheet: Sheet, profile: Profile, mode: Mode) -> dict[str, str]:
    """Give the fields that the sheet would get, each with the level at which it would leave: a policy, or ``RAW``."""
    asked = {name: profile.find(name) for name in sheet.asks_for}
    return {name: RAW if mode == "off" else str(each.policy) for name, each in asked.items() if each is not None}


def _read(path: Path) -> list[Consent]:
    try:
        return msgspec.json.decode(read_regular(path, MAX_BYTES), type=list[Consent])
    except FileNotFoundError:
        return []
    except OSError as err:
        raise ProfileError(
            f"{path}: what you agreed to cannot be read ({err.strerror}); make it readable, or move it away "
            f"and be asked again"
        ) from None
    except (ValueError, RecursionError):
        raise ProfileError(
            f"{path}: damaged, so what you agreed to cannot be read; delete it, and be asked again"
        ) from None


def _write(path: Path, consents: list[Consent]) -> None:
    replace_file(path, msgspec.json.format(msgspec.json.encode(consents)) + b"\n")

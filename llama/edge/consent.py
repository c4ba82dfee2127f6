"""The person's agreement: once per origin and set of fields, remembered beside the profile.

``PROFILE.consents.json`` holds which fields of the profile, in which form, whose sheets may have; no value. Delete it
to be asked again. A set that has grown, or a field that would leave in another form, is asked anew.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from pathlib import Path

import msgspec

from llama.disk import replace_file
from llama.errors import Declined, PrivacyRefused, ProfileError
from llama.files import read_regular
from llama.privacy.policy import FieldPolicy, field_of
from llama.privacy.profile import Profile
from llama.privacy.sanitiser import Mode
from llama.prompt import Found
from llama.sheets import Sheet

MAX_BYTES = 16 << 20  # of all agreements: some hundred bytes each
RAW = "raw"  # the form of a field under --sanitise off


class Consent(msgspec.Struct, frozen=True):
    """One agreement: ``origin`` may have ``fields``, each in the form named; ``agreed`` is the day."""

    origin: str
    fields: dict[str, str]
    agreed: str


def consents_of(profile_file: str) -> Path:
    """Where the agreements about a profile are remembered."""
    return Path(f"{profile_file}.consents.json")


def require(
    found: Found, profile: Profile, profile_file: str, mode: Mode, *, yes: bool, ask: Callable[[str], bool | None],
    notice: Callable[[str], None],
) -> None:  # fmt: skip
    """Return if the person has agreed to what the sheet asks for, or agrees now.

    Args:
        found: the sheet and its origin.
        profile: whose fields are asked for.
        profile_file: its path.
        mode: with ``off``, fields leave raw, which is another form than any policy's.
        yes: agreed, for this run only.
        ask: puts a question to the person; None where nobody is there to answer.
        notice: tells the person something.

    Raises:
        PrivacyRefused: declined, or nobody is there.
        ProfileError: the remembered agreements cannot be read.
    """
    if yes:
        return
    if given(found, profile, profile_file, mode):
        if isinstance(found.prompt, Sheet) and forms_of(found.prompt, profile, mode):
            notice(f"you have agreed to this before; delete {consents_of(profile_file)} to be asked again")
        return
    assert isinstance(found.prompt, Sheet)
    fields = forms_of(found.prompt, profile, mode)
    answer = ask(question(found, profile, mode, profile_file))
    if answer is None:
        raise PrivacyRefused(f"the sheet asks for {', '.join(fields)}, and nobody is here to agree; run it in a "
                             f"terminal, or agree with --yes")  # fmt: skip
    if not answer:
        raise Declined("declined; nothing was sent")
    try:
        remember(found, profile, profile_file, mode)
    except ProfileError as err:
        notice(f"{err}, so you will be asked again")


def given(found: Found, profile: Profile, profile_file: str, mode: Mode) -> bool:
    """Whether nothing needs to be asked: nothing of the profile would leave, or the person has agreed to it before.

    Raises:
        ProfileError: the remembered agreements cannot be read.
    """
    if not isinstance(found.prompt, Sheet):
        return True
    fields = forms_of(found.prompt, profile, mode)
    remembered = _read(consents_of(profile_file)) if fields else []
    return not fields or any(c.origin == found.origin and fields.items() <= c.fields.items() for c in remembered)


def remember(found: Found, profile: Profile, profile_file: str, mode: Mode) -> None:
    """The person has agreed.

    Raises:
        ProfileError: it cannot be written down.
    """
    assert isinstance(found.prompt, Sheet)
    path, fields = consents_of(profile_file), forms_of(found.prompt, profile, mode)
    try:
        _write(path, [*_read(path), Consent(found.origin, fields, dt.date.today().isoformat())])
    except OSError as err:
        raise ProfileError(f"{path}: your agreement cannot be remembered there ({err.strerror})") from None


def forms_of(sheet: Sheet, profile: Profile, mode: Mode) -> dict[str, str]:
    """The fields that the sheet would get, each with the form in which it would leave."""
    asked = {name: profile.find(name) for name in sheet.asks_for}
    return {name: RAW if mode == "off" else str(each.policy) for name, each in asked.items() if each is not None}


def question(found: Found, profile: Profile, mode: Mode, profile_file: str = "") -> str:
    """What the person is asked."""
    assert isinstance(found.prompt, Sheet)
    width = max(map(len, found.prompt.asks_for))
    fields = [f"  {name:{width}}  {form}" for name, form in forms_in_words(found.prompt, profile, mode).items()]
    return "\n".join([heading(found), *fields, *notes(found, mode, profile_file), "Agree?"])


def heading(found: Found) -> str:
    """Who asks."""
    sheet = found.prompt
    assert isinstance(sheet, Sheet)
    return (
        f"{sheet.title or found.prompt_id or 'This sheet'} (from {origin_in_words(found)}, to {sheet.task}) asks for:"
    )


def forms_in_words(sheet: Sheet, profile: Profile, mode: Mode) -> dict[str, str]:
    """Each field that is asked for, and in which form it would leave."""
    forms = forms_of(sheet, profile, mode)
    return {name: _in_words(name, forms.get(name)) for name in sheet.asks_for}


def notes(found: Found, mode: Mode, profile_file: str = "") -> list[str]:
    """Who gets what, besides, and where the answer is remembered, if it is."""
    lines = ["The provider can read all that is sent, and the reply, which may quote it."]
    if found.party:
        lines.append(f"The third party {found.party} gets the reply, as the model writes it"
                     f"{'' if mode == 'off' else ': tags stay tags'}, and which of its own products fit.")  # fmt: skip
    if profile_file:
        lines.append(f"To agree is remembered in {consents_of(profile_file)}; delete that to be asked again.")
    return lines


def origin_in_words(found: Found) -> str:
    """Whose sheet it is: ``the provider``, ``the third party insurer``, or the file."""
    if found.party:
        return f"the third party {found.party}"
    return found.origin.replace("file:", "the file ", 1) if found.origin.startswith("file:") else "the provider"


def _in_words(name: str, form: str | None) -> str:
    if form is None:
        return "not in your profile"
    words = {
        FieldPolicy.SECRET: f"as a tag, [{field_of(name).tag}_n]; the value stays here",
        FieldPolicy.QUASI: f"made coarser ({field_of(name).generaliser})",
        FieldPolicy.OPEN: f"as you wrote it, with tags for what is recognised as secret in it{_warning(name)}",
    }
    return "just as it is, since --sanitise is off" if form == RAW else words[FieldPolicy(form)]


def _warning(name: str) -> str:
    """The law's word for a field that the person has opened."""
    return " (specific personal data, UU PDP article 4)" if field_of(name).specific else ""


def _read(path: Path) -> list[Consent]:
    try:
        return msgspec.json.decode(read_regular(path, MAX_BYTES), type=list[Consent])
    except FileNotFoundError:
        return []
    except OSError as err:
        raise ProfileError(f"{path}: what you agreed to cannot be read ({err.strerror}); make it readable, or move it "
                           f"away and be asked again") from None  # fmt: skip
    except (ValueError, RecursionError):
        raise ProfileError(f"{path}: damaged, so what you agreed to cannot be read; delete it, and be asked "
                           f"again") from None  # fmt: skip


def _write(path: Path, consents: list[Consent]) -> None:
    replace_file(path, msgspec.json.format(msgspec.json.encode(consents)) + b"\n")

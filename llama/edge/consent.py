"""The person's agreement: once per origin and set of fields, remembered beside the profile.

``PROFILE.consents.json`` holds which fields of the profile, in which form, whose sheets may have; no value. Delete it
to be asked again. A set that has grown, or a field that would leave in another form, is asked anew.
"""

from __future__ import annotations

import datetime as dt
import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec

from llama.errors import PrivacyRefused, ProfileError
from llama.privacy.policy import FieldPolicy, field_of
from llama.privacy.profile import Profile
from llama.privacy.sanitiser import Mode
from llama.prompt import Found
from llama.sheets import Sheet

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
    assert isinstance(found.prompt, Sheet)
    fields = forms_of(found.prompt, profile, mode)
    if not fields or yes:
        return
    path = consents_of(profile_file)
    remembered = _read(path)
    if any(c.origin == found.origin and fields.items() <= c.fields.items() for c in remembered):
        return
    answer = ask(question(found, profile, mode))
    if answer is None:
        raise PrivacyRefused(f"the sheet asks for {', '.join(fields)}, and nobody is here to agree; run it in a "
                             f"terminal, or agree with --yes")  # fmt: skip
    if not answer:
        raise PrivacyRefused("declined; nothing was sent")
    try:
        _write(path, [*remembered, Consent(found.origin, fields, dt.date.today().isoformat())])
    except OSError as err:
        notice(f"{path}: your agreement cannot be remembered there ({err.strerror}), so you will be asked again")


def forms_of(sheet: Sheet, profile: Profile, mode: Mode) -> dict[str, str]:
    """The fields that the sheet would get, each with the form in which it would leave."""
    asked = {name: profile.find(name) for name in sheet.asks_for}
    return {name: RAW if mode == "off" else str(each.policy) for name, each in asked.items() if each is not None}


def question(found: Found, profile: Profile, mode: Mode) -> str:
    """What the person is asked."""
    sheet = found.prompt
    assert isinstance(sheet, Sheet)
    forms = forms_of(sheet, profile, mode)
    lines = [
        f"{sheet.title or found.prompt_id or 'This sheet'} (from {origin_in_words(found)}, to {sheet.task}) asks for:"
    ]
    width = max(map(len, sheet.asks_for))
    lines += [f"  {name:{width}}  {_in_words(name, forms.get(name))}" for name in sheet.asks_for]
    lines.append("The provider can read all that is sent, and the reply, which may quote it.")
    if found.party:
        lines.append(f"The third party {found.party} gets the reply, as the model writes it"
                     f"{'.' if mode == 'off' else ': tags stay tags.'}")  # fmt: skip
    return "\n".join(lines) + "\nAgree?"


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
        FieldPolicy.OPEN: f"as you wrote it, with tags for what is secret in it{_warning(name)}",
    }
    return "just as it is, since --sanitise is off" if form == RAW else words[FieldPolicy(form)]


def _warning(name: str) -> str:
    """The law's word for a field that the person has opened."""
    return " (specific personal data, UU PDP article 4)" if field_of(name).specific else ""


def _read(path: Path) -> list[Consent]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=list[Consent])
    except FileNotFoundError:
        return []
    except OSError as err:
        raise ProfileError(f"{path}: what you agreed to cannot be read ({err.strerror}); make it readable, or move it "
                           f"away and be asked again") from None  # fmt: skip
    except (ValueError, RecursionError):
        raise ProfileError(f"{path}: damaged, so what you agreed to cannot be read; delete it, and be asked "
                           f"again") from None  # fmt: skip


def _write(path: Path, consents: list[Consent]) -> None:
    _replace(path, msgspec.json.format(msgspec.json.encode(consents)) + b"\n")


def _replace(path: Path, content: bytes) -> None:
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        try:
            file.write(content)
            file.flush()
            Path(file.name).replace(path)  # mkstemp has made it for its owner only
        except BaseException:
            Path(file.name).unlink()
            raise

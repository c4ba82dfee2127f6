"""Prompt files: the questions of a provider, a vendor or the person.

========  ==============================================================================================
``.txt``  the person's own words, one user message: the file's text (UTF-8; a byte order mark is removed)
``.json`` the person's own words, a dialogue: ``[{"role": "system" | "user" | "assistant", "content": "…"}, …]``
``.toml`` a prompt sheet, another party's words; see ``llama.sheets``
========  ==============================================================================================

A sheet may also come from the provider's directory, here or at the cloud. The channel of a sheet determines its owner,
never its content.

Knows nothing about: tokens, the model, the person's profile. Errors name the file and the place in it, never its text.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from llama import sheets
from llama.chat import Message
from llama.errors import PromptError
from llama.sheets import MAX_BYTES, Listed, Sheet
from llama.text.decoding import without_marks
from llama.text.printable import is_blank

FILE = "file"  # the origin of a sheet that the person has chosen by its path
PROVIDER = "provider"
VENDOR = "vendor"


class _Turn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True)
class OwnWords:
    """The person's own words; they do not print."""

    dialog: tuple[Message, ...] = field(repr=False)


@dataclass(frozen=True)
class SourcedPrompt:
    """A prompt, and the channel that it came through, which determines its owner.

    Attributes:
        prompt: its content.
        origin: ``file:PATH``, ``provider:WHERE`` or ``vendor:NAME:WHERE``; WHERE is a directory or the cloud's address.
            It is stamped here, never read from a sheet.
        prompt_id: the id that the cloud gets: the sheet's own id, or its place in the provider's directory.
        party: the vendor's name, or empty.
        provider_system: the provider's own system prompt, for a vendor's sheet.
    """

    prompt: Sheet | OwnWords
    origin: str
    prompt_id: str = ""
    party: str = ""
    provider_system: str = field(default="", repr=False)


def read_prompt(path: str) -> SourcedPrompt:
    """Return the prompt in a file, local or in cloud storage (any that blobfile opens).

    Raises:
        PromptError: the file is missing, empty, too large, binary, malformed, or of an unknown kind.
    """
    kind = PurePath(path).suffix.lower()
    if kind not in _PARSERS:
        raise PromptError(f"prompt file {path}: unknown file type; use a name that ends in .txt, .json or .toml")
    prompt = _PARSERS[kind](sheets.read_text(path), f"prompt file {path}")
    where = path if "://" in path else _absolute(path)
    return SourcedPrompt(prompt, f"{FILE}:{where}", prompt.id if isinstance(prompt, Sheet) else "")


def read_from_directory(sheet_dir: str, prompt_id: str) -> SourcedPrompt:
    """Return a sheet of the provider's directory by its id: ``birthday``, or ``insurer/cover`` for a vendor's.

    Raises:
        PromptError: there is no such sheet (the error lists the existing ones), or it cannot be read.
    """
    listed, system = sheets.read_listed(sheet_dir, prompt_id)
    return _listed(listed, system, _absolute(sheet_dir))


def received(prompt_id: str, text: str, system: str, address: str) -> SourcedPrompt:
    """Return a sheet that the cloud at ``address`` has sent from its own directory.

    Raises:
        PromptError: it is malformed.
    """
    where = f"sheet {prompt_id} of {address}"
    if len(text) > MAX_BYTES or len(system) > MAX_BYTES:
        raise PromptError(f"{where}: larger than {MAX_BYTES >> 20} MiB, more than any context holds; shorten it")
    sheets.check_text(system, f"{where}, the provider's system prompt")
    system = "" if is_blank(system) else system
    return _listed(Listed(prompt_id, text, sheets.parse_sheet(text, where)), system, address)


def _absolute(path: str) -> str:
    """Return an absolute path as text that UTF-8 can write; no two paths become the same."""
    place = str(Path(path).resolve())
    try:
        place.encode()
    except UnicodeEncodeError:  # no absolute path begins with this prefix
        return "bytes:" + os.fsencode(place).replace(b"\\", rb"\\").decode(errors="backslashreplace")
    return place


def _listed(listed: Listed, system: str, channel: str) -> SourcedPrompt:
    whose = f"{VENDOR}:{listed.party}" if listed.party else PROVIDER
    return SourcedPrompt(listed.sheet, f"{whose}:{channel}", listed.prompt_id, listed.party, system)


def _parse_text(text: str, where: str) -> OwnWords:
    return OwnWords((Message("user", text),))


def _parse_dialogue(text: str, where: str) -> OwnWords:
    try:
        turns = msgspec.json.decode(without_marks(text), type=Annotated[list[_Turn], Meta(min_length=1)])
    except msgspec.ValidationError as err:  # a value may be personal, and so may a key
        problem = re.sub(r"value ['\"].*['\"]", "value", str(err), flags=re.DOTALL)
        problem = re.sub(r"unknown field `.*`", "unknown field", problem, flags=re.DOTALL)
        shape = 'a dialogue is a list of {"role": "system" | "user" | "assistant", "content": "…"}'
        raise PromptError(f"{where}: {problem}; {shape}") from None
    except (ValueError, RecursionError) as err:
        # The library's message may quote a character. Only the place is kept.
        place = str(err)[str(err).rfind("(") :] if "(" in str(err) else ""
        raise PromptError(f"{where}: not valid JSON {place}".rstrip()) from None
    if all(is_blank(turn.content) for turn in turns):
        raise PromptError(f"{where}: empty: no message has visible text; write the question into it")
    return OwnWords(tuple(Message(turn.role, _said(turn)) for turn in turns))


def _said(turn: _Turn) -> str:
    """Return the content of a turn; empty for a system message without visible text."""
    return "" if turn.role == "system" and is_blank(turn.content) else turn.content


_PARSERS: dict[str, Callable[[str, str], Sheet | OwnWords]] = {
    ".txt": _parse_text,
    ".json": _parse_dialogue,
    ".toml": sheets.parse_sheet,
}

"""Prompt files: what a provider, a third party or a person wants to ask, as a dialogue.

========  ==============================================================================================
``.txt``  one user message: the file's text, byte for byte (UTF-8; a byte order mark is removed)
``.json`` a dialogue: a list of ``{"role": "system" | "user" | "assistant", "content": "…"}``
``.toml`` a prompt sheet: ``id``, ``title``, ``system``, ``examples = [{user = "…", assistant = "…"}, …]``, played as
          earlier turns, and ``questions = ["…", …]``, which form one user message, a line each
========  ==============================================================================================

Knows nothing about: tokens, the model. Errors name the file and the place in it, never its text.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Annotated, Literal

import blobfile as bf
import msgspec
from msgspec import Meta

from llama.chat import Message
from llama.errors import PromptError

MAX_BYTES = 16 << 20  # far beyond any context; keeps a wrong path from being read into memory

Text = Annotated[str, Meta(min_length=1)]


@dataclass(frozen=True)
class Prompt:
    """A dialogue to be answered. ``id`` is the sheet's, or empty."""

    id: str
    dialog: list[Message] = field(repr=False)


class _Turn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    role: Literal["system", "user", "assistant"]
    content: str


class _Example(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    user: Text
    assistant: Text


class _Sheet(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    questions: Annotated[list[Text], Meta(min_length=1)]
    id: Annotated[str, Meta(max_length=200)] = ""
    title: str = ""
    system: str = ""
    examples: list[_Example] = []


def read_prompt(path: str) -> Prompt:
    """The dialogue in a prompt file, local or in cloud storage (whatever blobfile opens).

    Raises:
        PromptError: missing, empty, too large, binary, malformed, or of an unknown kind.
    """
    kind = PurePath(path).suffix.lower()
    if kind not in _PARSERS:
        raise PromptError(
            f"prompt file {path}: a name ending in .txt, .json or .toml is needed, to know how to read it"
        )
    text = _read_text(path)
    try:
        return _PARSERS[kind](text)
    except msgspec.ValidationError as err:
        problem = re.sub(r"value ['\"].*['\"]", "value", str(err), flags=re.DOTALL)  # a value may be personal
        raise PromptError(f"prompt file {path}: {problem}; {_SHAPES[kind]}") from None
    except (ValueError, RecursionError) as err:
        # Both libraries say where, and may quote a character; only the place is passed on.
        place = str(err)[str(err).rfind("(") :] if "(" in str(err) else ""
        raise PromptError(f"prompt file {path}: not valid {kind[1:].upper()} {place}".rstrip()) from None


def _read_text(path: str) -> str:
    try:
        with bf.BlobFile(path, "rb") as f:
            raw = f.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise PromptError(f"prompt file {path}: no such file") from None
    except IsADirectoryError:
        raise PromptError(f"prompt file {path}: a directory; name a file") from None
    except (OSError, bf.Error) as err:
        raise PromptError(f"prompt file {path}: cannot be read ({type(err).__name__})") from None
    if len(raw) > MAX_BYTES:
        raise PromptError(f"prompt file {path}: larger than {MAX_BYTES >> 20} MiB, which no context holds")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as err:
        raise PromptError(f"prompt file {path}: not UTF-8 text (byte {err.start}); save it as UTF-8") from None
    if "\0" in text:
        raise PromptError(f"prompt file {path}: holds NUL bytes, so it is binary or UTF-16; save it as UTF-8")
    if not text.strip():
        raise PromptError(f"prompt file {path}: empty; write the question into it")
    return text


def _parse_text(text: str) -> Prompt:
    return Prompt("", [Message("user", text)])


def _parse_dialogue(text: str) -> Prompt:
    turns = msgspec.json.decode(text, type=Annotated[list[_Turn], Meta(min_length=1)])
    return Prompt("", [Message(turn.role, turn.content) for turn in turns])


def _parse_sheet(text: str) -> Prompt:
    sheet = msgspec.convert(tomllib.loads(text), _Sheet)
    dialog = [Message("system", sheet.system)] if sheet.system else []
    for example in sheet.examples:
        dialog += [Message("user", example.user), Message("assistant", example.assistant)]
    return Prompt(sheet.id, [*dialog, Message("user", "\n".join(sheet.questions))])


_PARSERS: dict[str, Callable[[str], Prompt]] = {".txt": _parse_text, ".json": _parse_dialogue, ".toml": _parse_sheet}
_SHAPES = {
    ".txt": "",
    ".json": 'a dialogue is a list of {"role": "system" | "user" | "assistant", "content": "…"}',
    ".toml": 'a sheet has id, title, system, examples = [{user, assistant}, …] and questions = ["…", …]',
}

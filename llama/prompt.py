"""Prompt files: what a provider, a third party or the person wants to ask.

========  ==============================================================================================
``.txt``  the person's own words, one user message: the file's text (UTF-8; a byte order mark is removed)
``.json`` the person's own words, a dialogue: ``[{"role": "system" | "user" | "assistant", "content": "…"}, …]``
``.toml`` a prompt sheet, another party's words; see :class:`Sheet`
========  ==============================================================================================

A directory of sheets is the provider's channel::

    system.txt          the provider's own system prompt
    birthday.toml       a sheet of the provider's         prompt id: birthday
    insurer/cover.toml  a sheet of the third party "insurer"         insurer/cover

Whose a sheet is follows from where it was found, never from what it says.

Knows nothing about: tokens, the model, anybody's profile. Errors name the file and the place in it, never its text.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Annotated, Literal

import blobfile as bf
import msgspec
from msgspec import Meta

from llama import toml
from llama.chat import Message
from llama.errors import PromptError

MAX_BYTES = 16 << 20  # far beyond any context; keeps a wrong path from being read into memory

MAX_ASKED = 64  # fields
FILE = "file"  # the origin of a sheet that the person has chosen by its path
PROVIDER = "provider"

Text = Annotated[str, Meta(min_length=1)]
Line = Annotated[str, Meta(max_length=200, pattern=r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]*$")]  # shown in a question
FieldName = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]{0,39}$")]


class _Turn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    role: Literal["system", "user", "assistant"]
    content: str


class _Example(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    user: Text
    assistant: Text


class _SheetFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    questions: Annotated[list[Text], Meta(min_length=1)]
    id: Line = ""
    title: Line = ""
    system: str = ""
    examples: list[_Example] = []
    asks_for: Annotated[list[FieldName], Meta(max_length=MAX_ASKED)] = []
    task: Literal["recommend", "answer", "extract"] = "answer"
    language: Literal["en", "id"] = "en"


@dataclass(frozen=True)
class Sheet:
    """Another party's words, none of them the person's.

    Attributes:
        questions: form one user message, a line each; ``{field}`` is where a field that is asked for goes.
        id: which sheet; what the cloud is told.
        title: for the person who is asked to agree.
        system: what the model is told first.
        examples: earlier turns, as (user, assistant), that show the form of an answer.
        asks_for: fields of the profile.
        task: what the reply is: gift ideas to be searched in a catalogue, an answer, or what a text mentions.
        language: ``en`` or ``id``: of the labels and generalised values.
    """

    questions: tuple[str, ...]
    id: str = ""
    title: str = ""
    system: str = ""
    examples: tuple[tuple[str, str], ...] = ()
    asks_for: tuple[str, ...] = ()
    task: str = "answer"
    language: str = "en"


@dataclass(frozen=True)
class OwnWords:
    """What the person has written; it does not print."""

    dialog: tuple[Message, ...] = field(repr=False)


@dataclass(frozen=True)
class Found:
    """A prompt, and the channel that it came through.

    Attributes:
        prompt: what it says.
        origin: ``file:PATH``, ``provider:DIRECTORY`` or ``vendor:NAME:DIRECTORY``; stamped here, never read from a
            sheet.
        prompt_id: what the cloud is told: the sheet's own id, or its place in the provider's directory.
        party: the third party's name, or empty.
        provider_system: the provider's own system prompt, for a third party's sheet.
    """

    prompt: Sheet | OwnWords
    origin: str
    prompt_id: str = ""
    party: str = ""
    provider_system: str = field(default="", repr=False)


def read_prompt(path: str) -> Found:
    """The prompt in a file, local or in cloud storage (whatever blobfile opens).

    Raises:
        PromptError: missing, empty, too large, binary, malformed, or of an unknown kind.
    """
    kind = PurePath(path).suffix.lower()
    if kind not in _PARSERS:
        raise PromptError(
            f"prompt file {path}: a name ending in .txt, .json or .toml is needed, to know how to read it"
        )
    prompt = _parsed(path, _read_text(path), kind)
    where = path if "://" in path else str(Path(path).resolve())
    return Found(prompt, f"{FILE}:{where}", prompt.id if isinstance(prompt, Sheet) else "")


def read_from_directory(sheet_dir: str, prompt_id: str) -> Found:
    """A sheet of the provider's directory, by its id: ``birthday``, or ``insurer/cover`` for a third party's.

    Raises:
        PromptError: no such sheet (with those that there are), or one that cannot be read.
    """
    directory = Path(sheet_dir)
    if not directory.is_dir():
        raise PromptError(f"--sheet_dir {sheet_dir}: no such directory; name the provider's directory of sheets")
    known = {
        ".".join(path.relative_to(directory).as_posix().split(".")[:-1]): path
        for path in sorted([*directory.glob("*.toml"), *directory.glob("*/*.toml")])
        if re.fullmatch(r"(?:[a-z0-9-]{1,40}/)?[a-z0-9-]{1,80}\.toml", path.relative_to(directory).as_posix())
    }
    if prompt_id not in known:
        names = ", ".join(known) if known else "none: sheets end in .toml, and have names of a-z, 0-9 and -"
        raise PromptError(f"--sheet_dir {sheet_dir} has no sheet {prompt_id}; it has {names}")
    path = str(known[prompt_id])
    sheet = _parsed(path, _read_text(path), ".toml")
    assert isinstance(sheet, Sheet)
    party = prompt_id.partition("/")[0] if "/" in prompt_id else ""
    system = directory / "system.txt"
    if party and not (system.is_file() and system.stat().st_size):
        raise PromptError(f"--sheet_dir {sheet_dir}: {prompt_id} is a third party's sheet, which is wrapped in the "
                          f"provider's own system prompt; write that into system.txt")  # fmt: skip
    channel = f"vendor:{party}" if party else PROVIDER
    return Found(
        sheet, f"{channel}:{directory.resolve()}", prompt_id, party,
        _read_text(str(system)).strip() if system.is_file() and system.stat().st_size else "",
    )  # fmt: skip


def _parsed(path: str, text: str, kind: str) -> Sheet | OwnWords:
    try:
        return _PARSERS[kind](text)
    except msgspec.ValidationError as err:
        problem = re.sub(r"value ['\"].*['\"]", "value", str(err), flags=re.DOTALL)  # a value may be personal
        if kind == ".json":
            problem = re.sub(r"unknown field `.*`", "unknown field", problem, flags=re.DOTALL)  # and so may a key
        raise PromptError(f"prompt file {path}: {problem}; {_SHAPES[kind]}") from None
    except (ValueError, RecursionError) as err:
        # Both libraries say where, and may quote a character; only the place is passed on.
        place = str(err)[str(err).rfind("(") :] if "(" in str(err) else ""
        raise PromptError(f"prompt file {path}: not valid {kind[1:].upper()} {place}".rstrip()) from None


def _read_text(path: str) -> str:
    if "://" not in path and Path(path).exists() and not (Path(path).is_file() or Path(path).is_dir()):
        raise PromptError(f"prompt file {path}: not a file; name one")  # a pipe would be waited for
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


def _parse_text(text: str) -> OwnWords:
    return OwnWords((Message("user", text),))


def _parse_dialogue(text: str) -> OwnWords:
    turns = msgspec.json.decode(text, type=Annotated[list[_Turn], Meta(min_length=1)])
    return OwnWords(tuple(Message(turn.role, turn.content) for turn in turns))


def _parse_sheet(text: str) -> Sheet:
    file = msgspec.convert(toml.parsed(text), _SheetFile)
    return Sheet(
        tuple(file.questions), file.id, file.title, file.system, tuple((e.user, e.assistant) for e in file.examples),
        tuple(dict.fromkeys(file.asks_for)), file.task, file.language,
    )  # fmt: skip


_PARSERS: dict[str, Callable[[str], Sheet | OwnWords]] = {
    ".txt": _parse_text, ".json": _parse_dialogue, ".toml": _parse_sheet,
}  # fmt: skip
_SHAPES = {
    ".txt": "",
    ".json": 'a dialogue is a list of {"role": "system" | "user" | "assistant", "content": "…"}',
    ".toml": 'a sheet has questions = ["…", …] and may have id, title, system, examples = [{user, assistant}, …], '
    'asks_for = ["a_field", …], task = "recommend" | "answer" | "extract" and language = "en" | "id"',
}

"""Prompt sheets: the questions of a provider or a third party, without the person's words; and directories of them.

A sheet is a TOML file; see :class:`Sheet`. A directory of sheets is the provider's channel::

    system.txt          the provider's own system prompt
    birthday.toml       a sheet of the provider's         prompt id: birthday
    insurer/cover.toml  a sheet of the third party "insurer"         insurer/cover

The place of a sheet determines its owner, never its content. Both sides read such directories. The device reads the one
that it was given; the cloud reads the one that it serves and that names its third parties. ``llama.listing`` decides
which files of a directory count as sheets.

Knows nothing about: tokens, the model, the person's profile. Errors name the file and the place in it, never its text.
"""

from __future__ import annotations

import itertools
import os
import re
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import Meta

from llama import listing, toml
from llama.errors import PromptError
from llama.files import NotRegular, StorageRefused, TooLarge, read_anywhere
from llama.text.decoding import decoded
from llama.text.names import FIELD_NAME, is_prompt_id
from llama.text.printable import ARABIC_MARK, CONTROLS, DIRECTION_MARKS, LINE_ENDS, TURNS, is_blank, one_line
from llama.wire import MAX_SHEET_BYTES, MAX_SHEETS

MAX_BYTES = 16 << 20  # far beyond any context; keeps a wrong path from being read into memory
MAX_ASKED = 64  # fields
SYSTEM_FILE, SUFFIX = "system.txt", ".toml"
TRIES, TRY_AGAIN_S = 5, 0.05  # to read a directory that changes meanwhile

MAX_NAMED = 10  # most sheets that a message lists

_STEERING = CONTROLS + LINE_ENDS + TURNS  # TOML allows few of these in a file, but all of them as escapes
_NO_TEXT = re.compile(rf"(?![\n\t])(?!\r\n)[{_STEERING}]")

Text = Annotated[str, Meta(min_length=1)]
_ON_A_LINE = rf"[^{_STEERING}{ARABIC_MARK}{DIRECTION_MARKS}]"  # nor the marks that right-to-left text may need
Line = Annotated[str, Meta(max_length=200, pattern=rf"\A{_ON_A_LINE}*\Z")]  # shown in a question
FieldName = Annotated[str, Meta(pattern=rf"\A{FIELD_NAME}\Z")]


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
    max_gen_len: Annotated[int, Meta(ge=1, le=1 << 20)] | None = None
    language: Literal["en", "id"] = "en"


@dataclass(frozen=True)
class Sheet:
    """Another party's words, none of them the person's.

    Attributes:
        questions: they form one user message, a line each; ``{field}`` marks the place of a field that is asked for.
        id: the id of the sheet, which the cloud gets.
        title: for the person who is asked to agree.
        system: first instructions to the model.
        examples: earlier turns, as (user, assistant), that show the form of an answer.
        asks_for: fields of the profile.
        task: the kind of the reply: gift ideas to search in a catalogue, an answer, or items that a text mentions.
        language: ``en`` or ``id``: of the labels and generalised values.
        max_gen_len: most tokens of the reply, or None.
    """

    questions: tuple[str, ...]
    id: str = ""
    title: str = ""
    system: str = ""
    examples: tuple[tuple[str, str], ...] = ()
    asks_for: tuple[str, ...] = ()
    task: str = "answer"
    language: str = "en"
    max_gen_len: int | None = None

    @property
    def texts(self) -> list[str]:
        """All texts of the sheet for the model."""
        return [self.system, *(text for example in self.examples for text in example), *self.questions]


@dataclass(frozen=True)
class Listed:
    """A sheet of a directory.

    Attributes:
        prompt_id: its place there: ``birthday``, ``insurer/cover``.
        text: the file's text.
        sheet: the parsed sheet.
    """

    prompt_id: str
    text: str = field(repr=False)
    sheet: Sheet = field(repr=False)

    @property
    def party(self) -> str:
        """The third party that owns the sheet, or empty."""
        return party_of(self.prompt_id)


def party_of(prompt_id: str) -> str:
    """Return the third party that a sheet's place names, or empty for the provider's own."""
    return prompt_id.partition("/")[0] if "/" in prompt_id else ""


@dataclass(frozen=True)
class SheetDirectory:
    """All sheets of a directory, read once.

    Attributes:
        sheets: by prompt id.
        system: the provider's own system prompt, or empty.
    """

    sheets: Mapping[str, Listed]
    system: str = field(default="", repr=False)

    @property
    def parties(self) -> frozenset[str]:
        """The third parties that have sheets here."""
        return frozenset(party_of(prompt_id) for prompt_id in self.sheets) - {""}

    def of(self, party: str) -> list[str]:
        """Return the prompt ids of a third party's sheets."""
        return [prompt_id for prompt_id in self.sheets if party_of(prompt_id) == party]

    def with_sheet(self, listed: Listed) -> SheetDirectory:
        """Return a copy with this sheet, which is new or replaces the one with its prompt id."""
        sheets = {**self.sheets, listed.prompt_id: listed}
        return SheetDirectory({prompt_id: sheets[prompt_id] for prompt_id in sorted(sheets, key=_order)}, self.system)

    def without_sheet(self, prompt_id: str) -> SheetDirectory:
        """Return a copy without this sheet."""
        return SheetDirectory({each: listed for each, listed in self.sheets.items() if each != prompt_id}, self.system)


def _order(prompt_id: str) -> Path:
    return Path(f"{prompt_id}.toml")  # the order of the files


_said = set[str]()


def _say_once(line: str) -> None:
    """Print a line to stderr, once per process: a directory is read anew for each question."""
    if line not in _said and sys.stderr is not None:
        _said.add(line)
        print(one_line(line), file=sys.stderr, flush=True)


def read_all(sheet_dir: str, tell: Callable[[str], None] = _say_once) -> SheetDirectory:
    """Read all sheets of a directory, as of one moment. Report copies, which are ignored, to ``tell``.

    Raises:
        PromptError: there is no directory, it has too many sheets, or one cannot be read.
    """
    _tell_of_copies(sheet_dir, tell)
    return _at_one_moment(sheet_dir, lambda: _read_all(sheet_dir))


def _tell_of_copies(sheet_dir: str, tell: Callable[[str], None]) -> None:
    for path in listing.passed_over(Path(sheet_dir), SUFFIX):
        tell(f"prompt file {path}: {listing.PASSED_OVER}")


def _read_all(sheet_dir: str) -> SheetDirectory:
    paths = _all_paths_of(sheet_dir)
    for prompt_id, path in paths.items():
        if not is_prompt_id(prompt_id) or path.suffix != SUFFIX:
            raise PromptError(
                f"prompt file {path}: the name of the file or its directory cannot be a prompt id; use a-z, 0-9 "
                f"and -, and {SUFFIX}"
            )
    if len(paths) > MAX_SHEETS:
        raise PromptError(
            f"--sheet_dir {sheet_dir} has {len(paths)} sheets, but at most {MAX_SHEETS} are allowed; remove some"
        )
    system = system_of(sheet_dir)
    return SheetDirectory(
        {prompt_id: _listed(sheet_dir, prompt_id, paths[prompt_id], system) for prompt_id in paths}, system
    )


def read_listed(sheet_dir: str, prompt_id: str) -> tuple[Listed, str]:
    """Return one sheet of a directory, and the provider's own system prompt there, as of one moment.

    Raises:
        PromptError: there is no such sheet (the error lists the existing ones), or it cannot be read.
    """

    def read() -> tuple[Listed, str]:
        known, system = paths_of(sheet_dir), system_of(sheet_dir)
        if prompt_id not in known:
            names = named(known) or f"none: names of sheets end in {SUFFIX} and consist of a-z, 0-9 and -"
            raise PromptError(f"--sheet_dir {sheet_dir} has no sheet {prompt_id}; it has {names}")
        return _listed(sheet_dir, prompt_id, known[prompt_id], system), system

    _tell_of_copies(sheet_dir, _say_once)
    return _at_one_moment(sheet_dir, read)


def _listed(sheet_dir: str, prompt_id: str, path: Path, system: str) -> Listed:
    text = read_text(str(path))
    if party_of(prompt_id) and not system:
        raise PromptError(
            f"--sheet_dir {sheet_dir}: {prompt_id} is a third party's sheet, which needs the "
            f"provider's own system prompt around it; write that into {SYSTEM_FILE}"
        )
    return Listed(prompt_id, text, parse_sheet(text, f"prompt file {path}"))


def paths_of(sheet_dir: str) -> dict[str, Path]:
    """Return the paths of the sheets of a directory, by prompt id, in order.

    Raises:
        PromptError: there is no directory, or it cannot be listed.
    """
    return {each: path for each, path in _all_paths_of(sheet_dir).items() if is_prompt_id(each)}


def _all_paths_of(sheet_dir: str) -> dict[str, Path]:
    """Return the same, including sheets whose names are no valid prompt ids."""
    directory = Path(sheet_dir)
    try:
        paths = sorted(listing.files_in(directory, SUFFIX, below=True))
    except (FileNotFoundError, NotADirectoryError):
        raise PromptError(
            f"--sheet_dir {sheet_dir}: no such directory; name the provider's directory of sheets"
        ) from None
    except OSError as err:
        where = err.filename or sheet_dir
        raise PromptError(
            f"--sheet_dir {sheet_dir}: {where} cannot be listed ({err.strerror}); change its mode or "
            f"owner, or remove it"
        ) from None
    return {path.relative_to(directory).as_posix()[: -len(SUFFIX)]: path for path in paths}


_Read = TypeVar("_Read")


def _at_one_moment(sheet_dir: str, read: Callable[[], _Read]) -> _Read:
    """Read a directory, and read it again if it changes meanwhile, as when Kubernetes replaces a ConfigMap.

    A replacement takes several steps, and between two of them a link may lead nowhere. So an error counts only if the
    directory stays as it is for ``TRY_AGAIN_S``.
    """
    for _ in range(TRIES):
        before = listing.stamp_of(sheet_dir, SUFFIX, SYSTEM_FILE)
        try:
            result = read()
        except PromptError:
            time.sleep(TRY_AGAIN_S)
            if listing.stamp_of(sheet_dir, SUFFIX, SYSTEM_FILE) == before:
                raise
        else:
            if listing.stamp_of(sheet_dir, SUFFIX, SYSTEM_FILE) == before:
                return result
            time.sleep(TRY_AGAIN_S)
    return read()


def named(names: Collection[str]) -> str:
    """List names for a message: the first :data:`MAX_NAMED`, and the number of the others."""
    listed, more = ", ".join(itertools.islice(names, MAX_NAMED)), len(names) - MAX_NAMED
    return f"{listed} and {more} more" if more > 0 else listed


def system_of(sheet_dir: str) -> str:
    """Return the provider's own system prompt, or empty if there is none or it has no visible text.

    Raises:
        PromptError: it cannot be read, or contains control characters.
    """
    path = Path(sheet_dir) / SYSTEM_FILE
    if not os.path.lexists(path):
        return ""
    text = read_text(str(path), may_be_blank=True).strip()
    if is_blank(text):
        return ""
    check_text(text, f"prompt file {path}")
    return text


def check_text(text: str, where: str, place: str = "") -> None:
    """Check that a text for the model can be shown unaltered; line ends and tabs can.

    Args:
        text: untrusted.
        where: begins the message of an error.
        place: the part of the sheet.

    Raises:
        PromptError: it contains control characters, or signs that change the direction of writing. The error names the
            place, not the character.
    """
    if found := _NO_TEXT.search(text):
        at = place or f"line {text.count(chr(10), 0, found.start()) + 1}"
        raise PromptError(
            f"{where}: a control character, or a sign that changes the direction of writing - at `{at}`; remove it"
        )


def parse_sheet(text: str, where: str) -> Sheet:
    """Parse the sheet in a TOML text.

    Args:
        text: untrusted.
        where: begins the message of an error.

    Raises:
        PromptError: it is malformed. The error names the place, and quotes nothing.
    """
    try:
        file = msgspec.convert(toml.parsed(text), _SheetFile)
    except msgspec.ValidationError as err:
        problem = re.sub(r"value ['\"].*['\"]", "value", str(err), flags=re.DOTALL)
        problem = re.sub(r"unknown field `(?![\w-]{1,40}`).*`", "unknown field", problem, flags=re.DOTALL | re.ASCII)
        raise PromptError(f"{where}: {problem}; {_SHAPE}") from None
    except (ValueError, RecursionError) as err:
        # The library's message may quote a character. Only the place is kept.
        place = str(err)[str(err).rfind("(") :] if "(" in str(err) else ""
        raise PromptError(f"{where}: not valid TOML {place}".rstrip()) from None
    for name, text in _bodies(file):
        check_text(text, where, name)
        if is_blank(text) and name.startswith("$.examples"):
            raise PromptError(f"{where}: no visible text - at `{name}`; write it, or omit the example")
    if all(map(is_blank, file.questions)):
        raise PromptError(f"{where}: no visible text - at `$.questions`; write the question into it")
    ident, title, system = ("" if is_blank(text) else text for text in (file.id, file.title, file.system))
    return Sheet(
        tuple(file.questions),
        ident,
        title,
        system,
        tuple((e.user, e.assistant) for e in file.examples),
        tuple(dict.fromkeys(file.asks_for)),
        file.task,
        file.language,
        file.max_gen_len,
    )


def _bodies(file: _SheetFile) -> Iterator[tuple[str, str]]:
    """Yield each text for the model with its place; ids and titles are already checked."""
    yield "$.system", file.system
    for i, question in enumerate(file.questions):
        yield f"$.questions[{i}]", question
    for i, example in enumerate(file.examples):
        yield f"$.examples[{i}].user", example.user
        yield f"$.examples[{i}].assistant", example.assistant


def parse_published(text: str, where: str) -> Sheet:
    """Parse a sheet that a third party publishes: as :func:`parse_sheet`, with the cloud's limit on its size."""
    if (size := len(text.encode())) > MAX_SHEET_BYTES:
        raise PromptError(f"{where}: {size} bytes, but a published sheet has at most {MAX_SHEET_BYTES}; shorten it")
    return parse_sheet(text, where)


def read_text(path: str, what: str = "prompt file", *, may_be_blank: bool = False) -> str:
    """Return the text of a file, local or in cloud storage (any that blobfile opens).

    ``what`` is the kind of the file; it begins the message of an error.

    Raises:
        PromptError: the file is missing, empty, too large or binary.
    """
    try:
        raw = read_anywhere(path, MAX_BYTES)
    except NotRegular:
        raise PromptError(f"{what} {path}: not a regular file; name a regular file") from None
    except TooLarge:
        raise PromptError(
            f"{what} {path}: larger than {MAX_BYTES >> 20} MiB, more than any context holds; shorten it"
        ) from None
    except FileNotFoundError:
        lost = "a link to a missing file; create that file, or remove the link" if Path(path).is_symlink() else ""
        raise PromptError(f"{what} {path}: {lost or 'no such file; check the path'}") from None
    except IsADirectoryError:
        raise PromptError(f"{what} {path}: a directory; name a file") from None
    except StorageRefused as err:
        raise PromptError(
            f"{what} {path}: cannot be read ({err.strerror}); check the address and your access to it"
        ) from None
    except OSError as err:
        raise PromptError(
            f"{what} {path}: cannot be read ({err.strerror or type(err).__name__}); name a file that you may read"
        ) from None
    try:
        text = decoded(raw)
    except ValueError as err:
        raise PromptError(f"{what} {path}: {err}") from None
    if is_blank(text) and not may_be_blank:
        raise PromptError(f"{what} {path}: empty; write the question into it")
    return text


_SHAPE = (
    'a sheet has questions = ["…", …] and may have id, title, system, examples = [{user, assistant}, …], '
    'asks_for = ["a_field", …], task = "recommend" | "answer" | "extract", language = "en" | "id" and max_gen_len = 200'
)

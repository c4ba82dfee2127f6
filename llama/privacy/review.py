"""What the person looks at before a prompt leaves: their own words, with three kinds of stretches marked.

A stretch has become a tag, or it is declared open, or it *looks personal and stays*: nothing has recognised it, but it
is a name, a capitalised or rare word, or a number of an identifier's length. The last kind is a question to the person,
not a finding: only they know. Words of a sheet are not read: they are the same for all people.

Knows nothing about: screens, files.
"""

from __future__ import annotations

import enum
import itertools
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import regex

from llama.chat import Message
from llama.privacy.lexicon import entry, plain
from llama.privacy.merging import Passage
from llama.privacy.policy import FieldPolicy
from llama.privacy.profile import Profile, text_of
from llama.privacy.sanitiser import CleanText, Sanitiser, Substitute, whole_words
from llama.privacy.stretches import Stretches
from llama.privacy.tags import AS_ISSUED
from llama.privacy.word_lists import known_words, places

MAX_STAYS = 500  # different words that look personal; a person does not read more
_LEAST_OPEN = 3  # characters of an open value that is marked in the person's own words
_MOST_OPEN = 200  # of such values

_WORD = regex.compile(r"(?<![\p{L}\p{M}\p{N}])@?\p{L}[\p{L}\p{M}]*(?:[-'’.]\p{L}[\p{L}\p{M}]{1,40}){0,4}")
_DIGITS = re.compile(r"(?<![\d.,])\d(?:[.,\-/–]?\d| (?=\d{3})){5,40}(?!\d)")
_CODE = re.compile(
    r"(?<![^\W_])(?=[a-z-]{0,40}\d)(?=[\d-]{0,40}[a-z])[a-z\d](?:-?[a-z\d]){5,40}(?![^\W_])", re.IGNORECASE
)
_NO_ID = re.compile(
    r"\d{1,3}(?:[.,]\d{3})+(?:[.,]\d{1,2})?"  # 1.500.000
    r"|\d{3,6}000"  # 1500000
    r"|\d{1,2}[.:]\d{2} ?[-–] ?\d{1,2}[.:]\d{2}"  # 10.00-22.00
    r"|(?:19|20)\d\d[-–/](?:19|20)?\d\d"  # 2019-2024
    r"|\d{1,3}(?:[-–/x.,]\d{1,3}){1,2}[a-z]{0,4}"  # 220-240V, 60x110cm
    r"|\d{1,5}[a-z]{1,4}-?\d{1,5}[ap]m",  # 6pm-10pm
    re.IGNORECASE,
)
_LEAST_DIGITS, _LEAST_DIGITS_OF_CODE = 6, 3
_SENTENCE_ENDS = frozenset('.!?:;•*"“”()[]{}<>|–—\n\t')
_MOSTLY = 0.6  # share of a line's words; above it the line is in capitals or title case, which say nothing of a word
_EVERYDAY = 4  # zipf
_COMMON_NAME = 2  # class of a name in the lexicon
_SUFFIXES = re.compile(r"(?:'s|’s|s|es|ed|ing|ly|er|ness|less|nya|ku|mu|lah|kah|pun|kan|an|i|in)$")
_PREFIXES = re.compile(r"^(?:di|ke|se|ber|ter|per|pe|pem|pen|peng|me|mem|men|meng|meny|nge|ng|un|re|non|anti|over)")


class MarkKind(enum.StrEnum):
    """What a marked stretch is."""

    TAG = "tag"
    OPEN = "open"
    STAYS = "stays"
    OWN = "own"  # the person's own words, of which any can be hidden; the other kinds are about parts of them


class Reason(enum.StrEnum):
    """Why a stretch looks personal."""

    NAME = "may be a name"
    CAPITAL = "a capitalised word"
    RARE = "a rare word"
    NUMBER = "a long number"


@dataclass(frozen=True)
class Mark:
    """A marked stretch of a message: ``content[start:end]``.

    Attributes:
        message: index of the message in the dialogue.
        start: where it begins in the message's content.
        end: where it ends.
        kind: what it is.
    """

    message: int
    start: int
    end: int
    kind: MarkKind


@dataclass(frozen=True)
class LooksPersonal:
    """Words or a number that look personal and would leave as they are written.

    Attributes:
        text: the words. They do not print.
        reason: why they look personal.
        count: how often they are written.
    """

    text: str = field(repr=False)
    reason: Reason
    count: int = 1


@dataclass(frozen=True)
class Review:
    """What the person looks at.

    Attributes:
        marks: the stretches, by message and position. They may lie in each other.
        stays: the different words that look personal, in the order of the text.
    """

    marks: tuple[Mark, ...] = ()
    stays: tuple[LooksPersonal, ...] = ()

    @cached_property
    def by_message(self) -> Mapping[int, Sequence[Mark]]:
        """The marks of each message that has any."""
        return {i: tuple(marks) for i, marks in itertools.groupby(self.marks, key=lambda mark: mark.message)}

    def words_in(self, dialog: Sequence[Message]) -> str:
        """Return the person's own words of the dialogue that was reviewed, with a line's end for each tag."""
        words = list[str]()
        for i, marks in self.by_message.items():
            for piece, kinds in pieces_of(dialog[i].content, marks):
                is_own = MarkKind.OWN in kinds and MarkKind.TAG not in kinds
                words.append(piece if is_own else "\n")
            words.append("\n")
        return "".join(words)


def written_in(text: str, word: str) -> str:
    """Return a word, or several, as a text writes it: in the same case if that occurs, else in another, else empty."""
    if not word:
        return ""
    found = whole_words([word]).search(text) or whole_words([word], any_case=True).search(text)
    return str(found[0]) if found else ""


def pieces_of(content: str, marks: Sequence[Mark]) -> Iterator[tuple[str, tuple[MarkKind, ...]]]:
    """Yield a message's content in pieces, each with the kinds of the marks that it lies in."""
    begins, ends = defaultdict[int, list[MarkKind]](list), defaultdict[int, list[MarkKind]](list)
    for mark in marks:
        begins[mark.start].append(mark.kind)
        ends[mark.end].append(mark.kind)
    kinds = list[MarkKind]()
    for start, end in itertools.pairwise(sorted({0, len(content), *begins, *ends})):
        for kind in ends[start]:
            kinds.remove(kind)
        kinds += begins[start]
        yield content[start:end], tuple(kinds)


def review(passages: Sequence[Passage], sanitiser: Sanitiser, *, first: int = 0, fields: bool = True) -> Review:
    """Return the marks of a cleaned dialogue.

    Args:
        passages: the dialogue.
        sanitiser: of this session.
        first: index of the first passage among the messages that the person sees.
        fields: the person's pieces are fields that a sheet asks for, each declared open; otherwise their own words.
    """
    if sanitiser.mode == "off":
        return Review()
    reviewer = _Reviewer(sanitiser, fields=fields)
    for i, passage in enumerate(passages, start=first):
        at = 0
        for piece in passage.pieces:
            text = piece if isinstance(piece, str) else piece.text
            if isinstance(piece, CleanText):
                reviewer.read(i, at, text, substitute=isinstance(piece, Substitute))
            at += len(text)
    return reviewer.result()


class _Reviewer:
    """Reads the person's pieces one by one."""

    def __init__(self, sanitiser: Sanitiser, *, fields: bool) -> None:
        self._tags, self._fields = sanitiser.tags, fields
        self._marks = list[Mark]()
        self._stays: dict[str, LooksPersonal] = {}
        profile = sanitiser.profile.fields.values()
        self._chosen = {
            word for each in profile if each.is_opened for value in each.values for word in _words_of(text_of(value))
        }
        self._open_values = None if fields else _pattern_of_open_values(sanitiser.profile)

    def read(self, message: int, at: int, text: str, *, substitute: bool) -> None:
        """Read a piece that begins at a position of a message."""
        tags = [m.span() for m in AS_ISSUED.finditer(text) if m[0] in self._tags]
        self._mark(message, at, MarkKind.TAG, tags)
        if substitute:
            return
        self._mark(message, at, MarkKind.OWN, [(0, len(text))])
        if self._fields:
            is_open = [(0, len(text))]
        else:
            is_open = [] if self._open_values is None else [m.span() for m in self._open_values.finditer(text)]
        self._mark(message, at, MarkKind.OPEN, _without(is_open, tags))
        for start, end, reason in looks_personal(text, tags):
            if not self._chosen.issuperset(_words_of(text[start:end])):
                self._mark(message, at, MarkKind.STAYS, [(start, end)])
                self._count(text[start:end], reason)

    def _mark(self, message: int, at: int, kind: MarkKind, spans: Iterable[tuple[int, int]]) -> None:
        self._marks += [Mark(message, at + start, at + end, kind) for start, end in spans]

    def _count(self, word: str, reason: Reason) -> None:
        key = word.casefold()
        if key in self._stays:
            self._stays[key] = replace(self._stays[key], count=self._stays[key].count + 1)
        elif len(self._stays) < MAX_STAYS:
            self._stays[key] = LooksPersonal(word, reason)

    def result(self) -> Review:
        marks = sorted(self._marks, key=lambda mark: (mark.message, mark.start, -mark.end))
        return Review(tuple(mark for mark in marks if mark.start < mark.end), tuple(self._stays.values()))


def _words_of(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.casefold())


def _pattern_of_open_values(profile: Profile) -> regex.Pattern[str] | None:
    fields = (each for each in profile.fields.values() if each.policy is FieldPolicy.OPEN)
    values = [text for each in fields for value in each.values if len(text := text_of(value)) >= _LEAST_OPEN]
    if not values:
        return None
    return whole_words(sorted(values[:_MOST_OPEN], key=len, reverse=True), any_case=True)


def _without(spans: Sequence[tuple[int, int]], tags: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yield what is left of spans without the tags in them. Neither overlap among themselves; both are by position."""
    waiting = iter(tags)
    tag = next(waiting, None)
    for start, end in spans:
        while tag is not None and tag[1] <= start:
            tag = next(waiting, None)
        while tag is not None and tag[0] < end:
            if start < tag[0]:
                yield start, tag[0]
            start = tag[1]
            tag = next(waiting, None)
        if start < end:
            yield start, end


def looks_personal(text: str, known: Iterable[tuple[int, int]] = ()) -> Iterator[tuple[int, int, Reason]]:
    """Yield the stretches of a text that look personal, by position. Words beside each other are one stretch.

    Args:
        text: the text.
        known: stretches that are not read, such as tags.
    """
    avoided = Stretches(known)
    numbers = [m.span() for m in _numbers(text) if not avoided.meet(*m.span())]
    taken = Stretches(numbers)
    found = [(start, end, Reason.NUMBER) for start, end in numbers]
    line_start = 0
    for line in text.split("\n"):
        words = list(_WORD.finditer(line))
        line_says = _capitals_say_something(words)
        for m in words:
            start, end = line_start + m.start(), line_start + m.end()
            if avoided.meet(start, end) or taken.meet(start, end):
                continue
            reason = _reason(m[0], begins=not line_says or _begins(line, m.start()))
            if reason is not None:
                found.append((start, end, reason))
        line_start += len(line) + 1
    yield from _joined(text, sorted(found))


def _numbers(text: str) -> Iterator[re.Match[str]]:
    taken = 0
    for m in sorted([*_CODE.finditer(text), *_DIGITS.finditer(text)], key=lambda m: (m.start(), -m.end())):
        least = _LEAST_DIGITS if m.re is _DIGITS else _LEAST_DIGITS_OF_CODE
        if m.start() >= taken and sum(map(str.isdigit, m[0])) >= least:
            taken = m.end()
            if not _NO_ID.fullmatch(m[0]):
                yield m


def _reason(written: str, *, begins: bool) -> Reason | None:
    """Return why a word looks personal, or None if it does not. ``begins``: a capital letter there says nothing."""
    if written.startswith("@"):
        return Reason.NAME
    words = [plain(word) for word in re.split(r"[-'’.]", written)]
    if len(max(words, key=len)) < 3 or written.casefold() in places():
        return None
    known = [entry(word) for word in words]
    frequency = min(each.frequency for each in known)
    name = max(max(each.given, each.surname) for each in known)
    is_capital = written[0].isupper() and not begins
    if name >= _COMMON_NAME and frequency < (_EVERYDAY + 1 if is_capital else _EVERYDAY):
        return Reason.NAME
    if is_capital and frequency < _EVERYDAY:
        return Reason.NAME if name else Reason.CAPITAL
    if all(_is_word(word) for word in words):
        return None
    return Reason.RARE


def _is_word(word: str) -> bool:
    """Return whether a word, or what is left of it without a suffix and a prefix, is in general use."""
    forms = {word}
    forms |= {_SUFFIXES.sub("", each) for each in forms}
    forms |= {_PREFIXES.sub("", each) for each in forms}
    return any(len(each) < 3 or entry(each).frequency > 0 or each in known_words() for each in forms)


def _begins(line: str, position: int) -> bool:
    before = line[:position].rstrip(" '‘’")
    return not before or before[-1] in _SENTENCE_ENDS


def _capitals_say_something(words: Collection[regex.Match[str]]) -> bool:
    """Return whether a capital letter distinguishes a word of a line: not in title case, capitals or small letters."""
    capitals = sum(m[0][0].isupper() for m in words)
    return capitals <= _MOSTLY * len(words) or len(words) <= 3


def _joined(text: str, found: Sequence[tuple[int, int, Reason]]) -> Iterator[tuple[int, int, Reason]]:
    """Join words that only a space separates, but no word with a number."""
    open_one: tuple[int, int, Reason] | None = None
    for start, end, reason in found:
        if open_one is not None:
            first, last, why = open_one
            if Reason.NUMBER not in (reason, why) and text[last:start] == " ":
                open_one = first, end, Reason.NAME if Reason.NAME in (reason, why) else why
                continue
            yield open_one
        open_one = start, end, reason
    if open_one is not None:
        yield open_one

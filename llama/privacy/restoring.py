"""Restoration of tags to values, on the device only, in a reply that is still arriving.

Text that could be the beginning of a tag is held back until that is decided. Only tags that this session has issued are
restored, written in any of the ways of ``llama.privacy.tags``. A tag is never restored where a value could be carried
off or run. These places are: inside a link, its title or reference; an address with ``@``; ``{braces}`` or
`` `code` ``; anywhere after ``<markup>`` has begun. Control characters are removed. All other text stays unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto
from unicodedata import category

import regex

from llama.privacy.tags import ALL_KINDS, name_of, tag_pattern
from llama.text.printable import printable

_HOLD = 24  # characters after a tag that decide whether it is part of a link

# After one of these in a word, the rest of the word may be part of a link. A word ends at white space as browsers
# define it.
_LINK_SIGNS = frozenset("/?=&#%@\\")
_LINK_STARTS = ("www.", "](")
_SPACE = frozenset(" \t\n")
_DOTS = ".\u3002\uff0e\uff61"  # full stops that a host name may have

# After the colon of a scheme that is not an ordinary word, the next word may be part of the link too. After ``Tel:``
# and a space it is not: letters write phone numbers so.
_NO_WORDS = r"(?:https?|ftps?|(?:java|vb)script|mailto)"
_ALSO_WORDS = (
    r"(?<![^\W_])(?:blob|callto|data|facetime|geo|ircs?|link|magnet|news|sips?|skype|sms|ssh|tel|urn|whatsapp|xmpp)"
)
_SCHEMES = rf"(?:{_NO_WORDS}|file|{_ALSO_WORDS})"
_SCHEME = regex.compile(rf"{_SCHEMES}:\Z", regex.IGNORECASE)
_NEXT_WORD_TOO = regex.compile(rf"(?:{_NO_WORDS}:|\[(?:url|img|email)\])\Z", regex.IGNORECASE)
_PROGRAM = regex.compile(r"(?:(?:java|vb)script:|(?<![^\W_])data:\w+/)\Z", regex.IGNORECASE)  # contains many words
_WORD_END = 32  # characters, more than any of these patterns has

_SO_MANY = rf"{{0,{_HOLD}}}"  # at most so many are read
_GAP = rf"(?:[^\S\n]|\p{{Cf}}){_SO_MANY}\n?(?:[^\S\n]|\p{{Cf}}){_SO_MANY}"  # at most one line end
_LINK_AFTER = regex.compile(
    rf"[\w'’+~.\x80-\U0010ffff-]{_SO_MANY}(?:[@/\\=&%#]|[{_DOTS}]\p{{Cf}}*\w|:[\d/]|\?[\w/&=])"
    rf"|[\w'’+~$^|`.\x80-\U0010ffff-]{_SO_MANY}[{_DOTS}]\p{{Cf}}*\p{{L}}"  # to some, a host; |[NAME_1]|15.000| is none
    r"|\(|\s?\][(\[:]"  # the tag is a link's text, or all of it
    rf"|(?:(?:\s?\])?{_GAP}\(|:){_GAP}<?(?i:{_SCHEMES}:\S|//|www\.)"  # (other asides) are prose, and so are colons
    rf"|[^ \t\n]{{{_HOLD}}}"  # the end of so long a word is unknown
)

_OPENING = {")": "(", "]": "[", "\n": ""}  # the bracket that nests in a link, by the sign that ends the link
_TITLES = {")": {'"': '"', "'": "'"}, "]": {}, "\n": {'"': '"', "'": "'", "(": ")"}}  # title signs, likewise


class Restorer:
    """Restorer of one reply.

    Args:
        tags: issued tags, each with its value.

    Attributes:
        restored: number of tags that were replaced.
        left: number of tag-shaped texts that were not: never issued, or in a place where nothing is restored.
    """

    def __init__(self, tags: Mapping[str, str]) -> None:
        self._values = {tag.strip("[]"): value for tag, value in tags.items()}
        self._pattern = tag_pattern(ALL_KINDS)
        self._held = ""
        self._before = ""  # the end of the earlier text, as it was sent
        self._markup = _Markup()
        self.restored = self.left = 0

    @property
    def held(self) -> int:
        """The number of characters held back."""
        return len(self._held)

    def push(self, text: str) -> str:
        """Return the text that may be shown now that ``text`` has arrived, without control characters."""
        self._held += printable(text)  # clean first: removing characters later could join a word to a link
        return self._take(final=False)

    def finish(self) -> str:
        """Return the text that was held back; no more text follows."""
        return self._take(final=True)

    def _take(self, *, final: bool) -> str:
        out, position, context = list[str](), 0, self._before + self._held
        while True:
            match = self._pattern.search(context, self._offset + position, partial=not final)
            if match is None:
                break
            start, end = match.start() - self._offset, match.end() - self._offset
            link = self._link_after(end, final=final)
            if match.partial or (link is not None and link.partial):
                out.append(self._pass_on(self._held[position:start]))
                self._keep(start)
                return "".join(out)
            out.append(self._pass_on(self._held[position:start]))
            out.append(self._replaced(match, in_link=link is not None))
            position = end
        out.append(self._pass_on(self._held[position:]))
        self._keep(len(self._held))
        return "".join(out)

    def _link_after(self, end: int, *, final: bool) -> regex.Match[str] | None:
        """Return the match that makes a tag part of a link with the text after it; partial if still undecided."""
        whole = final or len(self._held) - end >= _HOLD
        return _LINK_AFTER.match(self._held, end, end + _HOLD, partial=not whole)

    @property
    def _offset(self) -> int:
        return len(self._before)

    def _keep(self, position: int) -> None:
        self._before = (self._before + self._held[max(0, position - 2) : position])[-2:]
        self._held = self._held[position:]

    def _pass_on(self, text: str) -> str:
        self._markup.read(text)
        return text

    def _replaced(self, match: regex.Match[str], *, in_link: bool) -> str:
        written, name = match[0], name_of(match)
        value = self._values.get(name)
        if value is None or in_link or self._markup.forbids():
            self.left += 1
            return self._pass_on(written)
        self.restored += 1
        self._markup.read(name)  # without brackets, which are not shown; without the value, which is only text
        return value


class _Markup:
    """State of the markup: whether the text so far has left a link, markup, braces or code open."""

    def __init__(self) -> None:
        self._word = ""  # the end of the text since the last white space
        self._is_link = False  # this word is a link
        self._program = False  # a program has begun in this paragraph
        self._brackets = _Brackets()
        self._blank = False  # the line so far is blank
        self._code = ("", 0)  # the sign that opened code, and its count
        self._ticks = ("", 0)  # the same at the end of the text
        self._angle = False  # markup has begun; it never ends here, since browsers differ in where it ends
        self._braces = 0

    def read(self, text: str) -> None:
        """Read on to the end of ``text``."""
        for char in text:
            self._read(char)

    def forbids(self) -> bool:
        """Return True if nothing may be restored next."""
        self._end_ticks()
        in_link = self._is_link or self._program or self._brackets.forbids()
        return in_link or self._code[1] > 0 or self._angle or self._braces > 0 or self._word.endswith("<")

    def _read(self, char: str) -> None:
        if char in "`~" and self._ticks[0] in ("", char):
            self._ticks, self._blank = (char, self._ticks[1] + 1), False
            self._brackets.read(char, in_code=self._code[1] > 0)
            return
        self._end_ticks()
        self._brackets.read(char, in_code=self._code[1] > 0)
        if char in _SPACE:
            self._read_space(char)
            return
        self._blank = False
        if self._word.endswith("<") and (char.isalpha() or char in "/!?"):
            self._angle = True
        self._braces = max(0, self._braces + (char == "{") - (char == "}"))
        self._word = (self._word + char)[-_WORD_END:]
        self._is_link |= char in _LINK_SIGNS or self._word.casefold().endswith(_LINK_STARTS)
        if char in ":/]":
            self._is_link |= (_SCHEME.search(self._word) or _NEXT_WORD_TOO.search(self._word)) is not None
            self._program |= _PROGRAM.search(self._word) is not None

    def _read_space(self, char: str) -> None:
        if not _NEXT_WORD_TOO.search(self._word):
            self._word, self._is_link = "", False
        if char != "\n":
            return
        if self._code[1] in (1, 2):  # inline code ends with its line at the latest
            self._code = ("", 0)
        if self._blank:  # a link ends with its paragraph
            self._word, self._is_link, self._program, self._brackets = "", False, False, _Brackets()
        self._blank = True

    def _end_ticks(self) -> None:
        (sign, count), self._ticks = self._ticks, ("", 0)
        opening, opened = self._code
        if not count or (sign == "~" and count < 3):
            self._word = (self._word + sign * count)[-_WORD_END:]
        elif not opened:
            self._code = (sign, count)
        elif sign == opening and (count == opened or count > opened >= 3):
            self._code = ("", 0)


class _LinkPart(Enum):
    """The part of a link that has been reached."""

    LABEL = auto()
    BEFORE = auto()  # only white space yet
    DESTINATION = auto()
    ANGLE = auto()  # a destination between < and >
    AFTER = auto()
    TITLE = auto()


class _Brackets:
    """State of Markdown's brackets: whether the paragraph so far has left a link open.

    The links are ``](here "here")``, also with white space before the bracket, ``]: here "here"``, ``][here]`` and
    ``[[here]]``. Renderers differ in where a link ends; this class uses the longest of all readings.
    """

    def __init__(self) -> None:
        self._last, self._apart = "", False  # the last sign, and whether white space came after it
        self._escapes = False  # the last sign escapes the next one
        self._line_begins = True
        self._end = ""  # the end sign of the link: ) or ] or a definition's line end; empty if no link is open
        self._part = _LinkPart.BEFORE
        self._depth = 0  # number of open pairs of brackets in the link
        self._in_code = False  # the link began in code that has not ended
        self._quote, self._quoted = "", False  # the end sign of its title, and whether that came last
        self._tangled = (
            False  # it is written in a way, or another has begun in it, that each renderer reads as it likes
        )

    def forbids(self) -> bool:
        """Return True if nothing may be restored next. After a definition's destination, only a title can follow."""
        return self._tangled or (self._end != "" and (self._end, self._part) != ("\n", _LinkPart.AFTER))

    def read(self, char: str, *, in_code: bool) -> None:
        """Read one sign."""
        escaped, self._escapes = self._escapes, char == "\\" and not self._escapes
        if char == ">" and self._line_begins:  # a quotation continues, and a link in it; or this is the destination
            self._tangled |= (self._end, self._part) == ("\n", _LinkPart.BEFORE)
            return
        self._line_begins = char == "\n" or (self._line_begins and char in _SPACE)
        end = self._end_of_what_begins(char)
        if end and (not self._end or (self._end == "]" and end != "]")):
            self._end, self._depth, self._in_code = end, 0, in_code
            self._part = _LinkPart.LABEL if end == "]" else _LinkPart.BEFORE
        elif self._end:
            self._tangled |= end in (")", "\n") or (self._end == ")" and self._is_odd(char))
            self._in_code &= in_code
            hidden = escaped or (in_code and not self._in_code)
            self._go_on(char, escaped=escaped, ends=char == self._end and not hidden)
        if char.isspace() or category(char) == "Cf":
            self._apart = True
        else:
            self._last, self._apart = char, False

    def _end_of_what_begins(self, char: str) -> str:
        if self._last == "]" and char == "(":  # with or without white space between
            return ")"
        if self._last == "]" and char == ":" and not self._apart:
            return "\n"
        return "]" if self._last in ("[", "]") and char == "[" and not self._apart else ""

    def _is_odd(self, char: str) -> bool:
        if char in ('"', "'"):  # some renderers begin a title here
            return self._part not in (_LinkPart.AFTER, _LinkPart.TITLE)
        # Some renderers allow white space before it.
        return char == "<" and self._last == "(" and self._part is not _LinkPart.BEFORE

    def _go_on(self, char: str, *, escaped: bool, ends: bool) -> None:
        titles = _TITLES[self._end]
        match self._part:
            case _LinkPart.TITLE:
                if ends and self._quoted:
                    self._end = ""
                elif char != " ":
                    self._quoted = char == self._quote and not escaped
            case _LinkPart.ANGLE:
                self._depth += char == "("  # some renderers count these
                if char == ">" and not escaped:
                    self._part = _LinkPart.DESTINATION  # in some renderers the destination continues
            case _LinkPart.BEFORE if char == "<":
                self._part = _LinkPart.ANGLE
            case _LinkPart.AFTER if char in titles:
                self._part, self._quote, self._quoted = _LinkPart.TITLE, titles[char], False
            case _LinkPart.AFTER if self._end == "\n" and char not in _SPACE:
                self._end = ""
            case _:
                self._nest(char, escaped=escaped, ends=ends)

    def _nest(self, char: str, *, escaped: bool, ends: bool) -> None:
        if self._part is _LinkPart.BEFORE and char not in _SPACE:
            self._part = _LinkPart.DESTINATION
        elif self._part is _LinkPart.DESTINATION and char in _SPACE:
            self._part = _LinkPart.AFTER
        if char == _OPENING[self._end] and not escaped:
            self._depth += 1
        elif ends and self._end != "\n":
            self._end = self._end if self._depth else ""
            self._depth -= 1

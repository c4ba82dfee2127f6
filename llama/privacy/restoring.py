"""Tags back to values, on the device only, in a reply that is still arriving.

What could be the beginning of a tag is held back until it is one or is not. Restored is only what this session has
issued, written in any of the ways of ``llama.privacy.tags``; never inside a link, its title or reference, an address
with ``@``, ``{braces}`` or `` `code` ``, nor anywhere after ``<markup>`` has begun, where a value could be carried off
or run. Control characters are taken out; in every other respect text is left as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto
from unicodedata import category

import regex

from llama.privacy.tags import ALL_KINDS, name_of, tag_pattern
from llama.text.printable import printable

_HOLD = 24  # characters after a tag that decide whether it is part of a link

# With one of these in a word, what follows in it may be part of a link; white space as browsers know it ends a word.
_LINK_SIGNS = frozenset("/?=&#%@\\")
_LINK_STARTS = ("www.", "](")
_SPACE = frozenset(" \t\n")
_DOTS = ".\u3002\uff0e\uff61"  # what a host name may have for a full stop

# After the colon of a scheme that is nobody's word, the next word may be part of the link too. After ``Tel:`` and a
# space it is not: that is how a letter gives a number.
_NO_WORDS = r"(?:https?|ftps?|(?:java|vb)script|mailto)"
_ALSO_WORDS = (
    r"(?<![^\W_])(?:blob|callto|data|facetime|geo|ircs?|link|magnet|news|sips?|skype|sms|ssh|tel|urn|whatsapp|xmpp)"
)
_SCHEMES = rf"(?:{_NO_WORDS}|file|{_ALSO_WORDS})"
_SCHEME = regex.compile(rf"{_SCHEMES}:\Z", regex.IGNORECASE)
_NEXT_WORD_TOO = regex.compile(rf"(?:{_NO_WORDS}:|\[(?:url|img|email)\])\Z", regex.IGNORECASE)
_PROGRAM = regex.compile(r"(?:(?:java|vb)script:|(?<![^\W_])data:\w+/)\Z", regex.IGNORECASE)  # has many words
_WORD_END = 32  # characters, more than any of these has

_SO_MANY = rf"{{0,{_HOLD}}}"  # no more are looked at
_GAP = rf"(?:[^\S\n]|\p{{Cf}}){_SO_MANY}\n?(?:[^\S\n]|\p{{Cf}}){_SO_MANY}"  # no more than one line's end
_LINK_AFTER = regex.compile(
    rf"[\w'’+~.\x80-\U0010ffff-]{_SO_MANY}(?:[@/\\=&%#]|[{_DOTS}]\p{{Cf}}*\w|:[\d/]|\?[\w/&=])"
    rf"|[\w'’+~$^|`.\x80-\U0010ffff-]{_SO_MANY}[{_DOTS}]\p{{Cf}}*\p{{L}}"  # a host, for some; |[NAME_1]|15.000| is none
    r"|\(|\s?\][(\[:]"  # the tag is a link's text, or all of it
    rf"|(?:(?:\s?\])?{_GAP}\(|:){_GAP}<?(?i:{_SCHEMES}:\S|//|www\.)"  # (other asides) are prose, and so are colons
    rf"|[^ \t\n]{{{_HOLD}}}"  # nobody knows how so long a word ends
)

_OPENING = {")": "(", "]": "[", "\n": ""}  # what nests in a link, by the sign that ends it
_TITLES = {")": {'"': '"', "'": "'"}, "]": {}, "\n": {'"': '"', "'": "'", "(": ")"}}  # and how its titles begin and end


class Restorer:
    """Restores one reply.

    Args:
        tags: issued tags, each with its value.

    Attributes:
        restored: tags that were replaced.
        left: texts of a tag's shape that were not: never issued, or in a place where nothing is restored.
    """

    def __init__(self, tags: Mapping[str, str]) -> None:
        self._values = {tag.strip("[]"): value for tag, value in tags.items()}
        self._pattern = tag_pattern(ALL_KINDS)
        self._held = ""
        self._before = ""  # the end of what came before, as it was sent
        self._markup = _Markup()
        self.restored = self.left = 0

    @property
    def held(self) -> int:
        """Characters that are held back."""
        return len(self._held)

    def push(self, text: str) -> str:
        """What may be shown now that ``text`` has arrived, without control characters."""
        self._held += printable(text)  # first: what is taken out later could join a word to a link
        return self._take(final=False)

    def finish(self) -> str:
        """What was held back; nothing follows."""
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
        """What shows that a tag is part of a link with what follows; partial if that, or the tag, may still go on."""
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
        self._markup.read(name)  # no brackets, which are not shown either; nor the value, which is only text
        return value


class _Markup:
    """Whether the text so far has left a link, markup, braces or code open."""

    def __init__(self) -> None:
        self._word = ""  # the end of the text since the last white space
        self._is_link = False  # that word is one
        self._program = False  # one has begun in this paragraph
        self._brackets = _Brackets()
        self._blank = False  # the line so far
        self._code = ("", 0)  # the sign that opened code, and how many of it
        self._ticks = ("", 0)  # those at the end of the text
        self._angle = False  # markup has begun; where it ends, browsers decide, so it does not end here
        self._braces = 0

    def read(self, text: str) -> None:
        """Go on to the end of ``text``."""
        for char in text:
            self._read(char)

    def forbids(self) -> bool:
        """True where nothing may be restored next."""
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
        if self._blank:  # and a link with its paragraph
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
    """How far a link has come."""

    LABEL = auto()
    BEFORE = auto()  # nothing but white space yet
    DESTINATION = auto()
    ANGLE = auto()  # a destination between < and >
    AFTER = auto()
    TITLE = auto()


class _Brackets:
    """Whether the paragraph so far has left one of Markdown's links open.

    They are ``](here "here")``, also with white space before the bracket, ``]: here "here"``, ``][here]`` and
    ``[[here]]``. Renderers differ in what ends them; here they go on as long as in any.
    """

    def __init__(self) -> None:
        self._last, self._apart = "", False  # the last sign, and whether white space came after it
        self._escapes = False  # it takes the next sign's meaning away
        self._line_begins = True
        self._end = ""  # what ends the link, ) or ] or a definition's line; nothing if none is open
        self._part = _LinkPart.BEFORE
        self._depth = 0  # pairs of brackets in it that are open
        self._in_code = False  # it began in code, which goes on
        self._quote, self._quoted = "", False  # what ends its title, and whether that came last
        self._tangled = (
            False  # it is written in a way, or another has begun in it, that each renderer reads as it likes
        )

    def forbids(self) -> bool:
        """True where nothing may be restored next; behind a definition's destination there is a title or nothing."""
        return self._tangled or (self._end != "" and (self._end, self._part) != ("\n", _LinkPart.AFTER))

    def read(self, char: str, *, in_code: bool) -> None:
        """Go on by one sign."""
        escaped, self._escapes = self._escapes, char == "\\" and not self._escapes
        if char == ">" and self._line_begins:  # a quotation goes on, and a link in it; or is this the destination?
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
        if self._last == "]" and char == "(":  # white space or not
            return ")"
        if self._last == "]" and char == ":" and not self._apart:
            return "\n"
        return "]" if self._last in ("[", "]") and char == "[" and not self._apart else ""

    def _is_odd(self, char: str) -> bool:
        if char in ('"', "'"):  # the title's, for some
            return self._part not in (_LinkPart.AFTER, _LinkPart.TITLE)
        # For some, white space may stand before it.
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
                    self._part = _LinkPart.DESTINATION  # for some it goes on
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

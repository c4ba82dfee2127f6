"""Tags back to values, on the device only, in a reply that is still arriving.

What could be the beginning of a tag is held back until it is one or is not. Restored is only what this session has
issued, written in any of the ways of ``llama.privacy.tags``; never inside a link, an address with ``@``, ``{braces}``
or `` `code` ``, nor anywhere after ``<markup>`` has begun, where a value could be carried off or run. Control
characters are taken out; in every other respect text is left as it is.
"""

from __future__ import annotations

from collections.abc import Mapping

import regex

from llama.privacy.tags import ALL_KINDS, name_of, tag_pattern

_HOLD = 24  # characters after a tag, of its own word, that decide whether it is part of a link

# With one of these in a word, what follows in it may be part of a link; white space as browsers know it ends a word.
_LINK_SIGNS = frozenset("/?=&#%@\\")
_LINK_STARTS = ("www.", "mailto:", "](")
_LINK_SCHEME = regex.compile(r"(?:https?|ftp|javascript|file):\Z", regex.IGNORECASE)
_SPACE = frozenset(" \t\n")
_DOTS = ".\u3002\uff0e\uff61"  # what a host name may have for a full stop
_LINK_AFTER = regex.compile(rf"[\w'’+~.\x80-\U0010ffff-]*(?:[@/\\=&%#]|[{_DOTS}]\p{{Cf}}*\w|:[\d/]|\?[\w/&=])|\(|\]\(")
_AFTER = regex.compile(r"[^ \t\n]*")

# Control characters could move the cursor or rewrite what a screen shows; only these two mean text. The signs that turn
# the direction of writing could show a sheet's title, or a price, as another.
_CONTROLS = (*range(0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A))
_UNPRINTABLE = {code: None for code in _CONTROLS if chr(code) not in "\n\t"}

_AS_NUMBERS = {code: f"\\u{code:04x}" for code in _UNPRINTABLE}


def printable(text: str) -> str:
    """Without control and escape characters."""
    return text.translate(_UNPRINTABLE)


def escaped(json: str) -> str:
    """JSON with such characters written as numbers: the same to a program, and nothing to a screen."""
    return json.translate(_AS_NUMBERS)


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

    def push(self, text: str) -> str:
        """What may be shown now that ``text`` has arrived, without control characters."""
        self._held += printable(text)  # first: what is taken out later could join a word to a link
        return self._take(final=False)

    def finish(self) -> str:
        """What was held back; nothing follows."""
        return self._take(final=True)

    def _take(self, *, final: bool) -> str:
        out, position = list[str](), 0
        while True:
            match = self._pattern.search(self._context(), self._offset + position, partial=not final)
            if match is None:
                break
            start, end = match.start() - self._offset, match.end() - self._offset
            undecided = match.partial or self._is_open(end)
            if undecided and not final:
                out.append(self._pass_on(self._held[position:start]))
                self._keep(start)
                return "".join(out)
            out.append(self._pass_on(self._held[position:start]))
            out.append(self._replaced(match, self._after(end)))
            position = end
        out.append(self._pass_on(self._held[position:]))
        self._keep(len(self._held))
        return "".join(out)

    def _after(self, end: int) -> str:
        """The rest of the word after a tag."""
        found = _AFTER.match(self._held, end, end + _HOLD)
        return found[0] if found else ""

    def _is_open(self, end: int) -> bool:
        """Whether what arrives next may still be of the tag's own word; a bracket may follow one space."""
        after = len(self._after(end))
        return after < _HOLD and len(self._held) - end < max(2, after + 1)

    @property
    def _offset(self) -> int:
        return len(self._before)

    def _context(self) -> str:
        return self._before + self._held

    def _keep(self, position: int) -> None:
        self._before = (self._before + self._held[:position])[-2:]
        self._held = self._held[position:]

    def _pass_on(self, text: str) -> str:
        self._markup.read(text)
        return text

    def _replaced(self, match: regex.Match[str], after: str) -> str:
        written, value = match[0], self._values.get(name_of(match))
        if value is None or self._markup.forbids() or len(after) >= _HOLD or _LINK_AFTER.match(after):
            self.left += 1
            return self._pass_on(written)
        self.restored += 1
        self._markup.read(written)
        return value


class _Markup:
    """Whether the text so far has left a link, markup, braces or code open."""

    def __init__(self) -> None:
        self._word = ""  # the end of the text since the last white space
        self._is_link = False  # that word is one
        self._code = ""  # the backticks or tildes that opened code
        self._ticks = ""
        self._angle = False  # markup has begun; where it ends, browsers decide, so it does not end here
        self._braces = 0

    def read(self, text: str) -> None:
        """Go on to the end of ``text``."""
        for char in text:
            self._read(char)

    def forbids(self) -> bool:
        """True where nothing may be restored next."""
        self._end_ticks()
        return bool(self._code) or self._angle or self._braces > 0 or self._is_link or self._is_link_so_far()

    def _is_link_so_far(self) -> bool:
        return self._word.endswith("<") or _LINK_SCHEME.search(self._word) is not None

    def _read(self, char: str) -> None:
        if char in "`~" and (not self._ticks or self._ticks[0] == char):
            self._ticks += char
            return
        self._end_ticks()
        if char in _SPACE:
            self._word, self._is_link = "", False
            if char == "\n" and len(self._code) in (1, 2):  # inline code ends with its line at the latest
                self._code = ""
            return
        if self._word.endswith("<") and (char.isalpha() or char in "/!?"):
            self._angle = True
        self._braces = max(0, self._braces + (char == "{") - (char == "}"))
        self._word = (self._word + char)[-16:]
        self._is_link |= char in _LINK_SIGNS or self._word.casefold().endswith(_LINK_STARTS)

    def _end_ticks(self) -> None:
        ticks, self._ticks = self._ticks, ""
        if not ticks or (ticks[0] == "~" and len(ticks) < 3):
            self._word = (self._word + ticks)[-16:]
        elif not self._code:
            self._code = ticks
        elif ticks[0] == self._code[0] and (ticks == self._code or len(ticks) > len(self._code) >= 3):
            self._code = ""

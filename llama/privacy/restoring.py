"""Tags back to values, on the device only, in a reply that is still arriving.

What could be the beginning of a tag is held back until it is one or is not. Restored is only what this session has
issued, written in any of the ways of ``llama.privacy.tags``; never inside a link, an address with ``@``, ``<markup>``,
``{braces}`` or `` `code` ``, where a value could be carried off or run. Text is left as it is in every other respect.
"""

from __future__ import annotations

from collections.abc import Mapping

import regex

from llama.privacy.tags import ALL_KINDS, name_of, tag_pattern

_HOLD = 2  # characters after a tag that decide whether it is part of a link

_LINK_BEFORE = regex.compile(r"[^\s]*(?:://|www\.|mailto:|[/?=&#%@\\])[^\s]*\Z|\]\([^)\s]*\Z", regex.IGNORECASE)
_LINK_AFTER = regex.compile(r"\A(?:[@/\\?=&%#(]|\]\(|\.\w|:\S)")


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
        """What may be shown now that ``text`` has arrived."""
        self._held += text
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
            undecided = match.partial or len(self._held) - end < _HOLD
            if undecided and not final:
                out.append(self._pass_on(self._held[position:start]))
                self._keep(start)
                return "".join(out)
            out.append(self._pass_on(self._held[position:start]))
            out.append(self._replaced(match, self._held[end : end + _HOLD]))
            position = end
        out.append(self._pass_on(self._held[position:]))
        self._keep(len(self._held))
        return "".join(out)

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
        if value is None or self._markup.forbids() or _LINK_AFTER.match(after):
            self.left += 1
            return self._pass_on(written)
        self.restored += 1
        self._markup.read(written)
        return value


class _Markup:
    """Whether the text so far has left a link, markup, braces or code open."""

    def __init__(self) -> None:
        self._word = ""  # since the last white space
        self._code = ""  # the backticks that opened code
        self._ticks = ""
        self._angle = False
        self._braces = 0

    def read(self, text: str) -> None:
        for char in text:
            self._read(char)

    def forbids(self) -> bool:
        """True where nothing may be restored next."""
        self._end_ticks()
        return bool(self._code) or self._angle or self._braces > 0 or _LINK_BEFORE.search(self._word) is not None

    def _read(self, char: str) -> None:
        if char == "`":
            self._ticks += char
            return
        self._end_ticks()
        if char.isspace():
            self._word = ""
            if char == "\n" and len(self._code) in (1, 2):  # inline code ends with its line at the latest
                self._code = ""
            return
        if self._word.endswith("<") and (char.isalpha() or char in "/!?"):
            self._angle = True
        elif char == ">":
            self._angle = False
        self._braces = max(0, self._braces + (char == "{") - (char == "}"))
        self._word = (self._word + char)[-4096:]

    def _end_ticks(self) -> None:
        if not self._ticks:
            return
        if not self._code:
            self._code = self._ticks
        elif self._ticks == self._code:
            self._code = ""
        self._ticks = ""

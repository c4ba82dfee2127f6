"""An index of every way to write every secret, and the search for them in a text."""

from __future__ import annotations

import datetime as dt
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from weakref import WeakKeyDictionary

from llama.privacy.normalised import NormalisedText
from llama.privacy.secret import Secret
from llama.privacy.variants import KINDS, Options, Variants, WholeVariants
from llama.privacy.variants.finders import Finder


@dataclass(frozen=True, order=True)
class SecretSpan:
    """A place where ``text[start:end]`` writes ``secrets[index]``."""

    start: int
    end: int
    index: int


class SecretIndex:
    """All secrets of a session, each with its variants; grows by :meth:`add`, never shrinks.

    Args:
        today: the date from which ages are counted.
    """

    def __init__(self, today: dt.date | None = None) -> None:
        self.secrets: list[Secret] = []
        self._finders: list[tuple[int, Finder]] = []
        self._by_anchor: dict[str, list[int]] = {}  # numbers of the finders
        self._unanchored: list[int] = []
        self._exact = set[Hashable]()  # words that are sought for found values, which no profile declares
        self._searched: WeakKeyDictionary[NormalisedText, tuple[set[SecretSpan], int]] = WeakKeyDictionary()
        self._today = today or dt.date.today()

    def add(
        self,
        secret: Secret,
        not_secret: Sequence[str] = (),
        *,
        exact: bool = False,
        only_whole: bool = False,
        sought: bool = True,
    ) -> int:
        """Add a value to the search and return its index. Secrets derived from it have the indices that follow.

        Args:
            secret: the value.
            not_secret: words that are sent anyway, such as an address's city.
            exact: match only this spelling, including case; for found values, which no profile declares.
            only_whole: do not match its parts, which are separate secrets.
            sought: False gives the value an index only.
        """
        index = len(self.secrets)
        self.secrets.append(secret)
        if not sought:
            return index
        kind = WholeVariants if only_whole else KINDS.get(secret.tag, Variants)
        variants = kind(secret, Options(tuple(not_secret), exact, self._today))
        if exact:  # where two found values are written alike, the first one is used
            variants.leave_out(self._exact)
        self._look_for(index, variants)
        for tag, finder in variants.derived:
            self._look_for(len(self.secrets), finder)
            self.secrets.append(replace(secret, tag=tag, derived=True))
        return index

    def _look_for(self, index: int, finder: Finder) -> None:
        number, anchors = len(self._finders), finder.anchors()
        self._finders.append((index, finder))
        if anchors is None:
            self._unanchored.append(number)
        else:
            for anchor in anchors:
                self._by_anchor.setdefault(anchor, []).append(number)

    def find(self, text: str | NormalisedText) -> list[SecretSpan]:
        """Return all places where a secret is written, by position; they may overlap.

        A text that is searched again is searched only for secrets added since. It is searched only for secrets that it
        has an anchor of. Otherwise some hundred secrets would be sought in each of some thousand pieces.
        """
        view = NormalisedText(text) if isinstance(text, str) else text
        found, count = self._searched.get(view, (set[SecretSpan](), 0))
        if count < len(self._finders):
            for number in self._likely_in(view):
                if number >= count:
                    index, finder = self._finders[number]
                    found.update(SecretSpan(start, end, index) for start, end in finder.find(view))
            self._searched[view] = found, len(self._finders)
        return sorted(found)

    def _likely_in(self, view: NormalisedText) -> set[int]:
        """Return the finders that may find something in a text."""
        likely = set(self._unanchored)
        for anchor in view.anchors:
            likely.update(self._by_anchor.get(anchor, ()))
        return likely

"""Every way to write every secret, and where a text does."""

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
    """``text[start:end]`` writes ``secrets[index]``."""

    start: int
    end: int
    index: int


class SecretIndex:
    """All secrets of a session, each with its variants; grows by :meth:`add`, never shrinks.

    Args:
        today: from which ages are counted.
    """

    def __init__(self, today: dt.date | None = None) -> None:
        self.secrets: list[Secret] = []
        self._finders: list[tuple[int, Finder]] = []
        self._by_anchor: dict[str, list[int]] = {}  # which of the finders
        self._unanchored: list[int] = []
        self._exact = set[Hashable]()  # words that are looked for, of values that nobody declared
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
        """Look for this value too, and give its index; what is derived from it has the indices that follow.

        Args:
            secret: the value.
            not_secret: words that are sent anyway, such as an address's city.
            exact: only as it is written, by case too: for values that nobody declared.
            only_whole: not by its parts, which are secrets of their own.
            sought: otherwise it only has an index.
        """
        index = len(self.secrets)
        self.secrets.append(secret)
        if not sought:
            return index
        kind = WholeVariants if only_whole else KINDS.get(secret.tag, Variants)
        variants = kind(secret, Options(tuple(not_secret), exact, self._today))
        if exact:  # where two values that nobody declared are written alike, it is the first one
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
        """Give all places where a secret is written, by position; they may overlap.

        A text that is searched again is searched only for the secrets that have been added since; and only for those
        that it has an anchor of, or some hundred would be looked for in each of some thousand pieces.
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
        """The finders that may find something in a text."""
        likely = set(self._unanchored)
        for anchor in view.anchors:
            likely.update(self._by_anchor.get(anchor, ()))
        return likely

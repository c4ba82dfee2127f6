"""Stretches of a text. The check for one that contains another takes a time that hardly grows with their number.

Knows nothing about: the text in them.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable


class Stretches:
    """Stretches from ``start`` to ``end``, which may overlap."""

    def __init__(self, stretches: Iterable[tuple[int, int]]) -> None:
        self._starts, self._ends = list[int](), list[int]()
        furthest = 0
        for start, end in sorted(stretches):
            furthest = max(furthest, end)
            self._starts.append(start)
            self._ends.append(furthest)  # the furthest end of this stretch and all that begin before it

    def meet(self, start: int, end: int) -> bool:
        """Return whether a stretch has a position in common with the one from ``start`` to ``end``."""
        before = bisect.bisect_left(self._starts, end)
        return before > 0 and self._ends[before - 1] > start

    def hold(self, start: int, end: int) -> bool:
        """Return whether a stretch begins at ``start`` or before, and ends at ``end`` or after."""
        before = bisect.bisect_right(self._starts, start)
        return before > 0 and self._ends[before - 1] >= end

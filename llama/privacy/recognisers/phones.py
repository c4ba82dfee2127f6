"""Phone numbers: those that ``phonenumbers`` knows, and those that only look like one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import SupportsIndex

import phonenumbers

from llama.privacy.normalised import NormalisedText
from llama.privacy.recognisers.numbers import is_grouped_amount
from llama.privacy.recognisers.recogniser import Hit, PatternRecogniser, Recogniser, in_a_date

MIN_DIGITS = 7
_TIME_STAMP = 8  # characters that show whether a time goes on

_INDONESIAN = re.compile(
    r"(?<![\w.])(?:\+\s?62|62|0)[\s.\-()]{0,3}(?:8\d|[2-7]\d{1,2})[\s.\-()]{0,3}\d(?:[\s.\-]{0,2}\d){4,9}(?!\w)"
)
_NORTH_AMERICAN = re.compile(
    r"(?<![\w])(?:\+?0{0,2}1[-. ]?)?\(?[2-9]\d{2}\)?[-. ]{1,2}\d{3}[-. ]\d{4}(?:\s?(?:x|ext\.?)\s?\d{1,6})?(?!\w)"
)


class _Line(str):
    """A text of which a slice without an end is short.

    The matcher looks at the few characters after each time stamp, but takes all the rest of the text for that.
    """

    __slots__ = ()

    def __getitem__(self, place: SupportsIndex | slice) -> str:
        if isinstance(place, slice) and place.stop is None and place.start is not None:
            place = slice(place.start, place.start + _TIME_STAMP)
        return super().__getitem__(place)


@dataclass(frozen=True)
class NumberingPlan:
    """Finds the numbers that are valid as they are dialled in one region."""

    region: str

    def find(self, view: NormalisedText) -> Iterator[Hit]:
        """All hits, by position."""
        if sum(c.isdigit() for c in view.line) < MIN_DIGITS:  # the matcher is slow
            return
        line = _Line(view.line)
        # Less than so many characters are no number of any country, with a plus sign before it neither.
        for match in phonenumbers.PhoneNumberMatcher(line, self.region, min_candidate_length=MIN_DIGITS):
            if not is_grouped_amount(match.raw_string) and not in_a_date(view, match.start, match.end):
                yield Hit(match.start, match.end, "PHONE")


RECOGNISERS: tuple[Recogniser, ...] = (
    PatternRecogniser("PHONE", _INDONESIAN, folded=True),
    PatternRecogniser("PHONE", _NORTH_AMERICAN, folded=True),
    *(NumberingPlan(region) for region in ("ID", "US", "GB")),
)

"""Phone numbers: those that ``phonenumbers`` knows, and those that only look like one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import SupportsIndex

import phonenumbers

from llama.privacy.normalised import NormalisedText
from llama.privacy.recognisers.numbers import is_grouped_amount, is_no_span
from llama.privacy.recognisers.recogniser import Hit, PatternRecogniser, Recogniser, in_a_date

MIN_DIGITS = 7
_FEW_DIGITS = re.compile(r"[1-9]\d{0,7}")
_TIME_STAMP = 8  # characters that decide whether a time continues

_INDONESIAN = re.compile(
    r"(?<![\d.])(?:\+\s?62|62|0)[\s.\-()]{0,3}(?:8\d|[2-7]\d{1,2})[\s.\-()]{0,3}\d(?:[\s.\-]{0,2}\d){4,9}(?!\d)"
)
_NORTH_AMERICAN = re.compile(
    r"(?<![\w])(?:\+?0{0,2}1[-. ]?)?\(?[2-9]\d{2}\)?[-. ]{1,2}\d{3}[-. ]\d{4}(?:\s?(?:x|ext\.?)\s?\d{1,6})?(?!\w)"
)


class _Line(str):
    """A text whose slices without an end are short.

    The matcher reads the few characters after each time stamp, but slices the whole rest of the text for that.
    """

    __slots__ = ()

    def __getitem__(self, place: SupportsIndex | slice) -> str:
        if isinstance(place, slice) and place.stop is None and place.start is not None:
            place = slice(place.start, place.start + _TIME_STAMP)
        return super().__getitem__(place)


@dataclass(frozen=True)
class NumberingPlan:
    """Finder of the numbers that are valid as dialled in one region."""

    region: str

    def find(self, view: NormalisedText) -> Iterator[Hit]:
        """Yield all hits, by position."""
        if view.once(_digits_in) < MIN_DIGITS:  # the matcher is slow
            return
        line = _Line(view.line)
        # No country has shorter numbers, even with a plus sign before them.
        for match in phonenumbers.PhoneNumberMatcher(line, self.region, min_candidate_length=MIN_DIGITS):
            if not _is_no_phone(match.raw_string) and not in_a_date(view, match.start, match.end):
                yield Hit(match.start, match.end, "PHONE")


def _digits_in(view: NormalisedText) -> int:
    return sum(map(str.isdigit, view.line))


def _is_no_phone(number: str) -> bool:
    """Return whether a number is an amount, hours or years, or has no sign of a phone and few digits: 1500000."""
    return is_grouped_amount(number) or not is_no_span(number) or _FEW_DIGITS.fullmatch(number) is not None


RECOGNISERS: tuple[Recogniser, ...] = (
    PatternRecogniser("PHONE", _INDONESIAN, folded=True),
    PatternRecogniser("PHONE", _NORTH_AMERICAN, folded=True),
    *(NumberingPlan(region) for region in ("ID", "US", "GB")),
)

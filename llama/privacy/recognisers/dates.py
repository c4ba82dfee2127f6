"""Full dates, which may be a birth date; a day without a year, or a month, is left."""

from __future__ import annotations

from collections.abc import Iterator

from llama.privacy.normalised import NormalisedText
from llama.privacy.recognisers.recogniser import Hit, Recogniser


class FullDates:
    """Finds the dates that can mean a day of a year."""

    def find(self, view: NormalisedText) -> Iterator[Hit]:
        """All hits."""
        for start, end, days in view.dates:
            if any(year is not None and day is not None for year, _, day in days):
                yield Hit(start, end, "DATE")


RECOGNISERS: tuple[Recogniser, ...] = (FullDates(),)

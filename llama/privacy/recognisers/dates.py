"""Full dates, which may be a birth date; a day without a year, a month, or a day to come is left."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator

from llama.privacy.dates import Day
from llama.privacy.normalised import NormalisedText
from llama.privacy.recognisers.recogniser import Hit, Recogniser


class FullDates:
    """Finds the dates that can mean a day of a year that has come."""

    def find(self, view: NormalisedText) -> Iterator[Hit]:
        """All hits."""
        today = dt.date.today()
        for start, end, days in view.dates:
            if any(_has_come(day, today) for day in days):
                yield Hit(start, end, "DATE")


def _has_come(day: Day, today: dt.date) -> bool:
    """Tell whether a day with a year is past; one to come is a trip's, a party's, but nobody's birth."""
    year, month, of_month = day
    return year is not None and of_month is not None and (year, month, of_month) <= (today.year, today.month, today.day)


RECOGNISERS: tuple[Recogniser, ...] = (FullDates(),)

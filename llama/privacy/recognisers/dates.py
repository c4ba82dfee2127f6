"""Full dates, which may be a birth date. A day without a year, a month, or a future day is not masked."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator

from llama.privacy.dates import Day
from llama.privacy.normalised import NormalisedText
from llama.privacy.recognisers.recogniser import Hit, Recogniser
from llama.privacy.stretches import Stretches


class FullDates:
    """Finder of dates that can mean a day that has come, with its year."""

    def find(self, view: NormalisedText) -> Iterator[Hit]:
        """Yield all hits."""
        today = dt.date.today()
        for start, end, days in view.dates:
            if any(_has_come(day, today) for day in days):
                yield Hit(start, end, "DATE")


def holds_a_future_day(view: NormalisedText, hit: Hit) -> bool:
    """Return whether a hit has a date in it that can only mean a day to come."""
    return view.once(_future_days).meet(hit.start, hit.end)


def _future_days(view: NormalisedText) -> Stretches:
    today = dt.date.today()
    return Stretches(
        (start, end)
        for start, end, days in view.dates
        if all(None not in (day[0], day[2]) and not _has_come(day, today) for day in days)
    )


def _has_come(day: Day, today: dt.date) -> bool:
    """Return whether a day with a year has come. A future day is the date of a trip or a party, never of a birth."""
    year, month, of_month = day
    return year is not None and of_month is not None and (year, month, of_month) <= (today.year, today.month, today.day)


RECOGNISERS: tuple[Recogniser, ...] = (FullDates(),)

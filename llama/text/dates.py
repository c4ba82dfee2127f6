"""The written forms of dates: names of months in both languages, a day in words, a moment for files and programs.

The search for dates in a person's text is in ``llama.privacy.dates``. The gate searches once more with separate code,
which shares only the names of the months.
"""

from __future__ import annotations

import datetime as dt

MONTHS = {
    "en": ("January", "February", "March", "April", "May", "June", "July", "August", "September", "October",
           "November", "December"),
    "id": ("Januari", "Februari", "Maret", "April", "Mei", "Juni", "Juli", "Agustus", "September", "Oktober",
           "November", "Desember"),
}  # fmt: skip


def day_in_words(day: dt.date, language: str) -> str:
    """Write a day in readable form, in ``en`` or ``id``: ``12 April 1991``."""
    return f"{day.day} {MONTHS[language][day.month - 1]} {day.year}"


def utc(seconds: float) -> str:
    """Write a moment, in seconds since 1970, in ISO 8601: to the second, in UTC, ``2026-11-28T14:26:03Z``."""
    return dt.datetime.fromtimestamp(int(seconds), dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

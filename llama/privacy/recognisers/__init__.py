"""Personal data in free text that no field declares: by pattern, by check sum, and by the words around it.

=========== ========================================================================================================
by pattern  e-mail, phone (``phonenumbers``), NIK with its embedded birth date, KK, NPWP, card (Luhn), IBAN (mod 97,
            ``python-stdnum``), NRIC, NI number, codes after their words, other long numbers, number plates, full dates,
            addresses, links with an id in them
by context  names, employers, schools, health, creed, income, age, and what the patterns miss: ``entities``
=========== ========================================================================================================

Indonesian and English. What the patterns find of names, by the words before them, is a hint to the entity recogniser,
which decides; in a text of few words, which tell little about each other, the patterns decide. Values declared in the
profile do not depend on these recognisers.

Each module has the recognisers of one kind of value, most of them rows of pattern, context and validators
(:class:`~llama.privacy.recognisers.recogniser.PatternRecogniser`). A new kind is a new row, or a module named below.

Knows nothing about: profiles, tags, sheets.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import replace

from llama.privacy.normalised import NormalisedText
from llama.privacy.recognisers import addresses, dates, mail_and_links, names, numbers, organisations, phones
from llama.privacy.recognisers.entities import SHORT, entities_in
from llama.privacy.recognisers.recogniser import Hit, Recogniser

__all__ = ["RECOGNISERS", "Hit", "hits_in", "pattern_hits_in"]

# Of two hits at the same place, the hit of the first recogniser comes first.
RECOGNISERS: tuple[Recogniser, ...] = (
    *mail_and_links.RECOGNISERS,
    *phones.RECOGNISERS,
    *numbers.RECOGNISERS,
    *dates.RECOGNISERS,
    *addresses.RECOGNISERS,
    *organisations.RECOGNISERS,
    *names.RECOGNISERS,
)


HINTS = frozenset({"NAME"})  # kinds whose patterns decide in short texts only


def hits_in(text: str | NormalisedText) -> list[Hit]:
    """Return all hits, by position, the longest first; they may overlap."""
    view = NormalisedText(text) if isinstance(text, str) else text
    by_pattern = sorted(view.once(pattern_hits_in), key=lambda hit: hit.start)
    is_short = len(view.words) < SHORT
    found = [hit for hit in by_pattern if is_short or hit.kind not in HINTS]
    guessed = (
        _within_bounds(hit, found, view.text)
        for hit in entities_in(view.text, by_pattern, is_short=is_short)
        if not dates.holds_a_future_day(view, hit)
    )
    return sorted([*found, *guessed], key=lambda hit: (hit.start, -hit.end))


def _within_bounds(guess: Hit, certain: Sequence[Hit], text: str) -> Hit:
    """Cut plain words off the end of a guess that a hit of the same kind begins; ``certain`` is sorted by position."""
    first = bisect.bisect_left(certain, guess.start, key=lambda hit: hit.start)
    last = bisect.bisect_left(certain, guess.end, key=lambda hit: hit.start)
    for hit in certain[first:last]:
        if hit.kind == guess.kind and hit.end < guess.end:
            rest = text[hit.end : guess.end]
            if rest == rest.casefold() and not any(c.isdigit() for c in rest):
                return replace(guess, end=hit.end)
    return guess


def pattern_hits_in(view: NormalisedText) -> list[Hit]:
    """Return what the patterns find, hints included, in any order."""
    return [hit for recogniser in RECOGNISERS for hit in recogniser.find(view)]

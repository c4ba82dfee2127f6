"""Personal data in free text that no field declares: by pattern, by check sum, and by the words around it.

=========== ========================================================================================================
by pattern  e-mail, phone (``phonenumbers``), NIK with its embedded birth date, KK, NPWP, card (Luhn), IBAN (mod 97,
            ``python-stdnum``), other long numbers, number plates, full dates, addresses, links with an id in them
by cue      names and companies, by the words before them (*Pak*, *Mr*, *nama saya*, *for my friend*, *PT*), and
            by some hundred given names that are no ordinary words
=========== ========================================================================================================

Indonesian and English. There is no named-entity model: a name that no word announces is missed. Misses are measured
(``tests/test_free_text.py``). Values declared in the profile do not depend on these recognisers.

Each module has the recognisers of one kind of value, most of them rows of pattern, context and validators
(:class:`~llama.privacy.recognisers.recogniser.PatternRecogniser`). A new kind is a new row, or a module named below.

Knows nothing about: profiles, tags, sheets.
"""

from __future__ import annotations

from llama.privacy.normalised import NormalisedText
from llama.privacy.recognisers import addresses, dates, mail_and_links, names, numbers, organisations, phones
from llama.privacy.recognisers.recogniser import Hit, Recogniser

__all__ = ["RECOGNISERS", "Hit", "hits_in"]

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


def hits_in(text: str | NormalisedText) -> list[Hit]:
    """Return all hits, by position, the longest first; they may overlap."""
    view = NormalisedText(text) if isinstance(text, str) else text
    found = [hit for recogniser in RECOGNISERS for hit in recogniser.find(view)]
    return sorted(found, key=lambda hit: (hit.start, -hit.end))

"""Addresses, by their streets, their post codes and each line of them."""

from __future__ import annotations

import re
from collections.abc import Iterable

from llama.privacy.normalised import compact
from llama.privacy.places import POSTCODE_UK
from llama.privacy.secret import Secret
from llama.privacy.variants.finders import LONG, PART, StreetForms
from llama.privacy.variants.variants import Variants, Written, written
from llama.privacy.words import ADDRESS_WORDS

_POSTCODE = re.compile(rf"(?<!\w){POSTCODE_UK}(?!\w)", re.IGNORECASE)


class AddressVariants(Variants):
    """*Jl. Melati No. 5, Bandung*: *jalan melati nomor 5*, *Melati 5*, *Jl. Melati*; a city that is sent is none."""

    def __init__(self, secret: Secret, not_secret: Iterable[str] = (), *, exact: bool = False) -> None:
        self.streets = StreetForms()
        super().__init__(secret, not_secret, exact=exact)
        self.finders.append(self.streets)

    def spell(self, value: Written) -> None:
        """Look for all of it, and for each part between commas."""
        self.spell_numbers(value.text)
        if len("".join(value.words)) >= LONG:
            self.letters.add(value.words)
        for segment in re.split(r"[,;\n]", value.text):
            if compact(segment) not in self.not_secret:
                self._spell_segment(segment)

    def _spell_segment(self, segment: str) -> None:
        words = list(written(segment).words)
        for postcode in _POSTCODE.findall(segment):
            self.letters.add([compact(postcode)])
        core = [w for w in words if w not in ADDRESS_WORDS and w not in self.not_secret]
        if len("".join(words)) >= LONG and core:
            self.letters.add(words)
        if any(len(w) >= PART for w in core) and len(core) > 1:
            self.streets.add(core, beside_street_word=False)
        if names := [w for w in core if not any(c.isdigit() for c in w)]:
            self.streets.add(names, beside_street_word=len(names) == 1)

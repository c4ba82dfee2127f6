"""Addresses, by their streets, their post codes and each line of them."""

from __future__ import annotations

import itertools
import re

from llama.privacy.normalised import compact
from llama.privacy.places import POSTCODE_UK
from llama.privacy.secret import Secret
from llama.privacy.variants.cores import CoreForms
from llama.privacy.variants.letters import LONG, PART
from llama.privacy.variants.variants import DeclaredText, Options, Variants, declared_text
from llama.privacy.words import ADDRESS_WORDS, LEGAL_FORMS, STREET_KINDS, STREET_WORDS

_GENERIC = ADDRESS_WORDS | LEGAL_FORMS
_POSTCODE = re.compile(rf"(?<!\w){POSTCODE_UK}(?!\w)", re.IGNORECASE)


class AddressVariants(Variants):
    """*Jl. Melati No. 5, Bandung*: *jalan melati nomor 5*, *Melati 5*, *Jl. Melati*; *77 Nevsky Court*: *Nevsky Ct*.

    A city that is sent is no secret.
    """

    def __init__(self, secret: Secret, options: Options) -> None:
        self.streets = CoreForms(ADDRESS_WORDS, house_numbers=True)
        self._sent = {compact(each) for each in options.not_secret}
        self._sent_words = {word for each in options.not_secret for word in declared_text(each).words}
        super().__init__(secret, options)
        self.finders.append(self.streets)

    def spell(self, value: DeclaredText) -> None:
        """Add all of it, and each part between commas."""
        self.spell_numbers(value.text)
        if len("".join(value.words)) >= LONG and compact(value.text) not in self._sent:
            self.letters.add(value.words)
        for segment in dict.fromkeys(re.split(r"[,;\n]", value.text)):
            if compact(segment) not in self._sent:
                self._spell_segment(segment)

    def _spell_segment(self, segment: str) -> None:
        words = list(declared_text(segment).words)
        for postcode in _POSTCODE.findall(segment):
            self.letters.add([compact(postcode)])
        core = [w for w in words if w not in _GENERIC and w not in self._sent_words]
        if len("".join(words)) >= LONG and core:
            self.letters.add(words)
        if any(len(w) >= PART for w in core) and len(core) > 1:
            self.streets.add(core)
        own_kinds = [kinds for kinds in STREET_KINDS if kinds.intersection(words)]
        for is_name, run in itertools.groupby(core, key=lambda w: len(w) > 1 and not any(c.isdigit() for c in w)):
            names = list(run)
            if is_name:
                self.streets.add(names, STREET_WORDS if len(names) == 1 else ())
                for kinds in own_kinds:  # 5 Nevsky Close: Nevsky Cl
                    for is_kind, own in itertools.groupby(names, key=kinds.__contains__):
                        if not is_kind:
                            self.streets.add(list(own), kinds | STREET_WORDS)

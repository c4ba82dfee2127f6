"""Employers and schools."""

from __future__ import annotations

from llama.privacy.variants.finders import LONG
from llama.privacy.variants.variants import Variants, Written
from llama.privacy.words import COMPANY_WORDS, LEGAL_FORMS


class OrganisationVariants(Variants):
    """*PT Maju Bersama Abadi Tbk*: with and without its legal form, and by its first words."""

    def spell(self, value: Written) -> None:
        """Look for the name, for what is left without the legal form, and for its first one or two words."""
        super().spell(value)
        core = [w for w in value.words if w not in LEGAL_FORMS]
        self.letters.add(core)
        if core and len(core[0]) >= 5 and core[0] not in COMPANY_WORDS:
            self.letters.add(core[:1])
        if len(core) > 2 and len("".join(core[:2])) >= LONG:
            self.letters.add(core[:2])

"""Fields without a known kind: the form of the value decides its variants."""

from __future__ import annotations

from llama.privacy.variants.amounts import AmountVariants
from llama.privacy.variants.names import spell_name
from llama.privacy.variants.variants import DeclaredText
from llama.privacy.words import COMMON_WORDS


class UnknownVariants(AmountVariants):
    """A name, a date, an amount of money or a number, with the variants of that kind; otherwise exact words."""

    any_number = False
    short_numbers = True

    def spell(self, value: DeclaredText) -> None:
        """Add all readings of the value."""
        self.spell_dates(value.text)
        super().spell(value)
        if 2 <= len(value.raw) <= 4 and all(w.isalpha() and w[0].isupper() for w in value.raw):
            spell_name(self.letters, value, COMMON_WORDS.__contains__)

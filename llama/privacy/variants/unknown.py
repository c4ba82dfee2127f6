"""Fields that nobody knows: what their value looks like says what else it may be."""

from __future__ import annotations

from llama.privacy.variants.amounts import AmountVariants
from llama.privacy.variants.names import spell_name
from llama.privacy.variants.variants import DeclaredText
from llama.privacy.words import COMMON_WORDS


class UnknownVariants(AmountVariants):
    """A name, a date, an amount of money, a number: as those are; else the words as they are."""

    any_number = False
    short_numbers = True

    def spell(self, value: DeclaredText) -> None:
        """Look for all that the value may be."""
        self.spell_dates(value.text)
        super().spell(value)
        if 2 <= len(value.raw) <= 4 and all(w.isalpha() and w[0].isupper() for w in value.raw):
            spell_name(self.letters, value, COMMON_WORDS.__contains__)

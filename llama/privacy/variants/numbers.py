"""Numbers that identify: of identity cards, payment cards, accounts and telephones."""

from __future__ import annotations

import re

import phonenumbers

from llama.privacy.variants.variants import DeclaredText, Variants, plain_digits


class NumberVariants(Variants):
    """*3273 0152 0491 0001*: in any grouping, a long part, its ends if a word marks them; *D 1234 ABC*: *d1234abc*."""

    short_numbers = True


class PhoneVariants(Variants):
    """*0812-3456-7890*: in any grouping, with and without a country code: *+62 812 3456 7890*."""

    phone = True

    def spell(self, value: DeclaredText) -> None:
        """Add the number, also as it is dialled in its own country."""
        super().spell(value)
        for match in phonenumbers.PhoneNumberMatcher(plain_digits(value.text), "ID", phonenumbers.Leniency.POSSIBLE):
            super().spell_number(str(match.number.national_number))

    def spell_number(self, number: str) -> None:
        """Add the number without Indonesia's country code."""
        super().spell_number(national(number))


def national(digits: str) -> str:
    """Remove Indonesia's country code or the leading zero from a phone number's digits."""
    return re.sub(r"^(?:00)?(?:62)?0?(?=\d{7})", "", digits)

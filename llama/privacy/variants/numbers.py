"""Numbers that identify: of identity cards, payment cards, accounts and telephones."""

from __future__ import annotations

import re

import phonenumbers

from llama.privacy.variants.variants import Variants, Written, numbers_in, plain_digits


class NumberVariants(Variants):
    """*3273 0152 0491 0001*: in any grouping, and a long part of it; *D 1234 ABC*: *d1234abc*."""

    short_numbers = True


class PhoneVariants(Variants):
    """*0812-3456-7890*: in any grouping, with and without a country code: *+62 812 3456 7890*."""

    phone = True

    def spell(self, value: Written) -> None:
        """Look for the number as it is dialled in its own country."""
        super().spell(value)
        plain = plain_digits(value.text)
        for match in phonenumbers.PhoneNumberMatcher(plain, "ID", phonenumbers.Leniency.POSSIBLE):
            self.digits.numbers.add(str(match.number.national_number))
            self.digits.parted.add(str(match.number.national_number))

    def spell_numbers(self, text: str) -> None:
        """Look for each number without Indonesia's country code."""
        for number in map(national, numbers_in(text)):
            if len(number) >= 5:
                self.digits.numbers.add(number)
            if len(number) >= 8:
                self.digits.parted.add(number)


def national(digits: str) -> str:
    """Take Indonesia's country code or the leading zero from a phone number's digits."""
    return re.sub(r"^(?:00)?(?:62)?0?(?=\d{7})", "", digits)

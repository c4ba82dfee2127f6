"""Amounts of money, such as an income or a debt."""

from __future__ import annotations

import re
from collections.abc import Iterable

from llama.privacy.amounts import amounts_in
from llama.privacy.normalised import line_of
from llama.privacy.secret import Secret
from llama.privacy.variants.finders import AmountForms
from llama.privacy.variants.variants import Variants, Written, numbers_in

_CURRENCY = re.compile(r"\b(?:rp|idr|usd|eur|gbp|sgd)\b|[$€£]")


class AmountVariants(Variants):
    """*15000000*: *Rp 15.000.000,-*, *15 juta*, *15jt*, *15 million*."""

    any_number = True  # also one that no word or sign says is money

    def __init__(self, secret: Secret, not_secret: Iterable[str] = (), *, exact: bool = False) -> None:
        self.amounts = AmountForms()
        super().__init__(secret, not_secret, exact=exact)
        self.finders.append(self.amounts)

    def spell(self, value: Written) -> None:
        """Look for the amounts that the text writes, and for the text itself."""
        self.spell_amounts(value.text)
        super().spell(value)

    def spell_amounts(self, text: str) -> None:
        """Look for each amount in a text, from a thousand on."""
        line = line_of(text)
        for _, _, amount, scaled in amounts_in(line):
            if amount >= 1000 and (scaled or self.any_number or _CURRENCY.search(line)):
                self.amounts.amounts.add(amount)
        if isinstance(self.secret.value, (int, float)) and self.secret.value > 2100:  # no year
            self.amounts.amounts.add(float(self.secret.value))

    def spell_numbers(self, text: str) -> None:
        """Look for the digits of an amount only by themselves: a price is not part of a salary."""
        if not self.amounts.amounts:
            super().spell_numbers(text)
            return
        self.digits.whole |= {number for number in numbers_in(text) if len(number) >= 4}

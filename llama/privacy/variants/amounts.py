"""Amounts of money, such as an income or a debt."""

from __future__ import annotations

import re

from llama.privacy.amounts import main_amounts_in
from llama.privacy.normalised import line_of
from llama.privacy.secret import Secret
from llama.privacy.variants.finders import AboutAsMuch, AmountForms
from llama.privacy.variants.variants import DeclaredText, Options, Variants, numbers_in

_CURRENCY = re.compile(r"\b(?:rp|idr|usd|eur|gbp|sgd|aud|myr|rm|jpy|inr|chf|cad)\b|[$€£¥₹]")


class AmountVariants(Variants):
    """*14250000*: *Rp 14.250.000,-*, *14,25 juta*, *14jt 250rb*, *14.25 million*; with such a word, about as much."""

    any_number = True  # also numbers without a word or sign of money

    def __init__(self, secret: Secret, options: Options) -> None:
        self.amounts = AmountForms()
        super().__init__(secret, options)
        self.finders.append(self.amounts)
        if not options.exact:
            self.derived.append((secret.tag, AboutAsMuch(self.amounts.amounts)))

    def spell(self, value: DeclaredText) -> None:
        """Add the amounts in the text, and the text itself."""
        self.spell_amounts(value.text)
        super().spell(value)

    def spell_amounts(self, text: str) -> None:
        """Add each amount in a text, from a thousand on."""
        line = line_of(text)
        has_currency = _CURRENCY.search(line) is not None
        for _, _, amount, scaled in main_amounts_in(line):
            if amount >= 1000 and (scaled or self.any_number or has_currency):
                self.amounts.amounts.add(amount)
            elif amount >= 10 and (self.any_number or has_currency):
                self.amounts.small.add(amount)
        if isinstance(self.secret.value, (int, float)) and self.secret.value > 2100:  # not a year
            self.amounts.amounts.add(float(self.secret.value))

    def spell_numbers(self, text: str) -> None:
        """Add the digits of an amount only as a separate number: a price is not part of a salary."""
        if not self.amounts.amounts:
            super().spell_numbers(text)
            return
        self.digits.amounts |= {number for number in numbers_in(text) if len(number) >= 4}

"""Days, such as a birth date, and ages."""

from __future__ import annotations

import datetime as dt
import re

from llama.privacy.normalised import line_of
from llama.privacy.profile import text_of
from llama.privacy.secret import Secret
from llama.privacy.variants.finders import Ages, BirthYears
from llama.privacy.variants.variants import DeclaredText, Options, Variants

_AGE = re.compile(r"(\d{1,3})\s*(?:years?(?: old)?|yrs?(?: old)?|y/?o|tahun|thn?)?\.?")
_YEAR = re.compile(r"(?<!\d)(?:1[89]|20)\d\d(?!\d)")


class DateVariants(Variants):
    """*1991-04-12*: *12 April 1991*, *April 12th*, *12/4 1991*, *12041991*; *born in 1991*; *turns 35*, as of today."""

    def __init__(self, secret: Secret, options: Options) -> None:
        super().__init__(secret, options)
        if options.exact:
            return
        text = line_of(text_of(secret.value))
        years = {y for y, _, _ in self.dates.days if y is not None and y > 99}
        years |= {int(year) for year in _YEAR.findall(text)} if not isinstance(secret.value, dt.date) else set()
        ages = [int(m[1])] if (m := _AGE.fullmatch(text)) else []
        born = [(year, 1, 1) for year in years]
        self.derived += [("DATE", BirthYears(years)), ("DATE", Ages(ages, born, options.today))]

    def spell(self, value: DeclaredText) -> None:
        """Add the day in the text, in all its readings, and the text itself."""
        self.spell_dates(value.text)
        super().spell(value)

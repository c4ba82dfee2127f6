"""Days, such as a birth date."""

from __future__ import annotations

from llama.privacy.variants.variants import Variants, Written


class DateVariants(Variants):
    """*1991-04-12*: *12 April 1991*, *April 12th*, *12/4/91*, *12041991*, *12 bulan April*."""

    def spell(self, value: Written) -> None:
        """Look for the day that the text writes, in all its readings, and for the text itself."""
        self.spell_dates(value.text)
        super().spell(value)

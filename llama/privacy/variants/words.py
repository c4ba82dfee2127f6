"""Diagnoses, creeds and the like, of which one word tells enough."""

from __future__ import annotations

from llama.privacy.variants.variants import Variants, Written
from llama.privacy.words import COMMON_WORDS


class WordVariants(Variants):
    """*Diabetes tipe 2*: also *diabetes* alone, or *diabetesku*."""

    def spell(self, value: Written) -> None:
        """Look for all of it, and for each word that is not everybody's."""
        super().spell(value)
        for word in value.words:
            if word not in COMMON_WORDS:
                self.letters.add([word])

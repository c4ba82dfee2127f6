"""Diagnoses, creeds and the like, of which one word reveals enough."""

from __future__ import annotations

from llama.privacy.variants.variants import DeclaredText, Variants, singular
from llama.privacy.word_lists import common_words
from llama.privacy.words import COMMON_WORDS


class WordVariants(Variants):
    """*Diabetes tipe 2*: also *diabetes* alone, or *diabetesku*."""

    def spell(self, value: DeclaredText) -> None:
        """Add all of it, and each word that is not common."""
        super().spell(value)
        for word in value.words:
            if not is_common(word):
                self.letters.add([word])
                self.letters.add([singular(word)])


def is_common(word: str) -> bool:
    """Return whether a word reveals nothing about a person by itself."""
    return word in COMMON_WORDS or word in common_words()

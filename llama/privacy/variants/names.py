"""Names, by all and by each of their parts."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

from llama.privacy.normalised import compact
from llama.privacy.variants.finders import LetterForms
from llama.privacy.variants.variants import Variants, Written
from llama.privacy.words import HONORIFICS, PARTICLES

_UMLAUTS = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue"})


class NameVariants(Variants):
    """*Sari Wulandari*: also *SARI*, *Wulandari, Sari*, *sari_wulandari*, *Sarinya*; *Müller*: also *Mueller*."""

    def spell(self, value: Written) -> None:
        """Look for the name, its parts, and any two of them."""
        self.spell_numbers(value.text)
        self.letters.add(value.words)
        spell_name(self.letters, value)


def spell_name(letters: LetterForms, value: Written, not_names: Sequence[str] = ()) -> None:
    """Look for each part of a name, and for any two together; titles, particles and ``not_names`` are no parts."""
    raw = dict(zip(value.words, value.raw, strict=True))
    whole = dict.fromkeys([*value.words, *map(compact, value.text.split())])
    parts = [
        word
        for word in whole
        if word not in HONORIFICS and word not in not_names and not (word in PARTICLES and raw.get(word, "").islower())
    ]
    for word in parts:
        letters.add([word])
    for pair in itertools.permutations([w for w in parts if len(w) >= 2][:6], 2):
        letters.add(pair)
    for word in re.findall(r"\w*[äöüÄÖÜ]\w*", value.text):  # Müller is also written Mueller
        letters.add([compact(word.casefold().translate(_UMLAUTS))])

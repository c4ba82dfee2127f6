"""Names, by all and by each of their parts."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable

from llama.privacy.normalised import compact
from llama.privacy.variants.letters import LONGEST, LetterForms, ShortNames, TypingErrors
from llama.privacy.variants.variants import DeclaredText, Variants
from llama.privacy.words import HONORIFICS, PARTICLES

_UMLAUTS = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue"})
_OLD_SPELLINGS = (("oe", "u"), ("u", "oe"), ("dj", "j"), ("j", "dj"), ("tj", "c"), ("c", "tj"))
OLD = 5  # least letters of a name that is also found in the other spelling


class NameVariants(Variants):
    """*Sari Wulandari*: *SARI*, *Wulandari, Sari*, *sari_wulandari*, *Sarinyalah*, *wulandri*; *Müller*: *Mueller*."""

    def spell(self, value: DeclaredText) -> None:
        """Add the name, its parts, and any two of them."""
        self.spell_numbers(value.text)
        self.letters.add(value.words)
        errors = TypingErrors()
        for part in spell_name(self.letters, value):
            errors.add(part)
        short = ShortNames()
        if len(value.raw) == 1:
            short.add(value.text)
        self.finders.append(short)
        if not self.options.exact:
            self.derived.append((self.secret.tag, errors))


def spell_name(
    letters: LetterForms, value: DeclaredText, is_no_name: Callable[[str], bool] = lambda word: False
) -> list[str]:
    """Add each part of a name and any two together. Return the parts; titles and particles are none."""
    raw = dict(zip(value.words, value.raw, strict=True))
    whole = dict.fromkeys([*value.words, *map(compact, value.text.split())])
    parts = [
        word
        for word in whole
        if word not in HONORIFICS and not is_no_name(word) and not (word in PARTICLES and raw.get(word, "").islower())
    ]
    for word in parts:
        letters.add([word])
        for old, new in _OLD_SPELLINGS:
            if old in word and OLD <= len(word) <= LONGEST:
                letters.add([word.replace(old, new)])
    for pair in itertools.permutations([w for w in parts if len(w) >= 2][:6], 2):
        letters.add(pair)
    for word in re.findall(r"(?<!\w)\w*[äöüÄÖÜ]\w*", value.text):  # Müller is also written Mueller
        letters.add([compact(word.casefold().translate(_UMLAUTS))])
    return parts

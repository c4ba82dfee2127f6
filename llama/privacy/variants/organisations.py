"""Employers and schools."""

from __future__ import annotations

from llama.privacy.normalised import compact
from llama.privacy.secret import Secret
from llama.privacy.variants.cores import CoreForms
from llama.privacy.variants.letters import LONG, Initials, LetterForms
from llama.privacy.variants.variants import DeclaredText, Options, Variants
from llama.privacy.word_lists import known_words, places
from llama.privacy.words import BODY_JOINERS, BODY_WORDS, CITIES_ID, COMPANY_WORDS, INITIALS, LEGAL_FORMS, PROVINCES_ID

OWN = 5  # least letters of a body's own word
_PLACES = frozenset(map(compact, (*CITIES_ID, *PROVINCES_ID)))


class OrganisationVariants(Variants):
    """*University of Oxford*: *Oxford University*; *Universitas Gadjah Mada*: *Gadjah Mada*, *UGM*."""

    def __init__(self, secret: Secret, options: Options) -> None:
        self.bodies = CoreForms(BODY_WORDS, BODY_JOINERS)
        self.initials = Initials()
        self.capitalised = LetterForms(exact=True)  # Apple, not apple
        super().__init__(secret, options)
        self.finders += [self.bodies, self.initials, self.capitalised]

    def spell(self, value: DeclaredText) -> None:
        """Add the name, its core without generic words, its first words and its initials."""
        super().spell(value)
        without_form = [w for w in value.words if w not in LEGAL_FORMS]
        self.letters.add(without_form)
        core = [w for w in without_form if w not in BODY_WORDS and w not in BODY_JOINERS]
        if not core:
            return
        kinds = BODY_WORDS - LEGAL_FORMS if BODY_WORDS.intersection(value.words) - LEGAL_FORMS else BODY_WORDS
        self.bodies.add(core, kinds)
        if len(core) > 1 and len("".join(core)) >= LONG and not _is_place(core):
            self.letters.add(core)
        own = [w for w in core if len(w) >= OWN and not w.isdigit() and not _is_everybodys(w)]
        for word in own:
            self.letters.add([word])
        if not own and len(core[0]) >= OWN and core[0] not in COMPANY_WORDS and not _is_place(core[:1]):
            self.capitalised.add(core[:1])
        if len(core) > 2 and len("".join(core[:2])) >= LONG:
            self.letters.add(core[:2])
        initials = "".join(w[0] for w in without_form if w not in BODY_JOINERS or w == "negeri")
        if len(without_form) > 2 and not any(initials in words for words in (BODY_WORDS, INITIALS, known_words())):
            self.initials.add(initials)


def _is_everybodys(word: str) -> bool:
    """Return whether a word stands in many names, or in ordinary text."""
    return word in COMPANY_WORDS or word in known_words() or _is_place([word])


def _is_place(words: list[str]) -> bool:
    """Return whether words name a town: a town is much more than one body in it."""
    return (
        "".join(words) in _PLACES
        or (" ".join(words) in places() and (len(words) > 1 or words[0] in known_words()))
        or all(w in COMPANY_WORDS or w.isdigit() for w in words)
    )

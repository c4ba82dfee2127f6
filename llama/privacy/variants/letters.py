"""Words in a text: in exact form, with one wrong letter, and by their first letters."""

from __future__ import annotations

import bisect
import itertools
import re
from collections.abc import Collection, Hashable, Iterator, Sequence
from dataclasses import dataclass

from llama.privacy.normalised import ANCHOR, NormalisedText, anchor_of, compact, is_unspaced, word_anchor
from llama.privacy.variants.finders import Spans, all_anchors, unless
from llama.privacy.word_lists import known_words

LONG = 8  # least letters and digits of a form that is also found inside a longer word
PART = 3  # least letters of a name's part
TYPED = 6  # least letters of a name in which one may be wrong
FEW = 16  # most forms that are searched one after another
LONGEST = 40  # most letters of a word with an error: a longer one is no word

_CLITICS = ("nya", "ku", "mu", "lah", "kah", "pun", "s")
_ENDINGS = (*_CLITICS, *(a + b for a in ("nya", "ku", "mu") for b in ("lah", "kah", "pun")))
_BRACKETS = frozenset('()[]{}<>"“”')
_LETTER_GAP = 5  # most signs between two letters of one word
_NONE: dict[int, set[str]] = {}
_LINE_END = re.compile(r"[-‐‑\u00ad][^\S\n]*\n[\s>|]*")  # a line end at which a word continues


class LetterForms:
    """Words in any case, with any accents and separators.

    Args:
        exact: only with a capital at its beginning; for found values, which no profile declares.
        brackets: also where brackets stand between the letters.
    """

    def __init__(self, *, exact: bool = False, brackets: bool = False) -> None:
        self._exact, self._brackets = exact, brackets
        self._forms: dict[str, frozenset[int]] = {}  # compact forms, each with the places where its words meet
        self._together = set[str]()  # forms whose words must not be parted by a space
        self._unspaced = set[str]()  # forms in a script without spaces
        self._by_anchor: dict[str, dict[int, set[str]]] = {}  # forms that have an anchor, by their length

    def add(self, words: Sequence[str], *, together: bool = False) -> None:
        """Add one or more words, unless they are too short together, or a number.

        Args:
            words: folded.
            together: exclude matches with a space between two of the words.
        """
        form = "".join(words)
        if form and not form.isdigit() and (len(form) >= PART or is_unspaced(form)):
            meet = frozenset(itertools.accumulate(len(w) for w in words[:-1]))
            meet |= {i for i in range(1, len(form)) if form[i - 1].isdigit() != form[i].isdigit()}
            self._forms[form] = self._forms.get(form, frozenset()) | meet
            if together:
                self._together.add(form)
            if is_unspaced(form):
                self._unspaced.add(form)
            if (anchor := anchor_of(form)) is not None:
                self._by_anchor.setdefault(anchor, {}).setdefault(len(form), set()).add(form)

    def find(self, text: NormalisedText) -> Spans:
        """Yield each stretch that writes one of the forms."""
        for start, form in self._many_in(text) if len(self._forms) > FEW else self._few_in(text):
            end = start + len(form)
            if self._is_whole(text, start, end, form):
                span = text.span(start, end)
                first = text.text[span[0]]
                if not self._exact or first.isupper() or not first.isalpha():
                    yield span

    def _few_in(self, text: NormalisedText) -> Iterator[tuple[int, str]]:
        """Yield start and form of each match in the compact text; the time grows with the number of forms."""
        for form in self._forms:
            start = text.compact.find(form)
            while start >= 0:
                yield start, form
                start = text.compact.find(form, start + 1)

    def _many_in(self, text: NormalisedText) -> Iterator[tuple[int, str]]:
        """Yield the same in a time that does not grow with that number.

        An address may have as many parts as the text.
        """
        solid = text.compact
        for start in range(len(solid)):
            for length, forms in self._by_anchor.get(solid[start : start + ANCHOR], _NONE).items():
                if (form := solid[start : start + length]) in forms:
                    yield start, form
        for form in self._unspaced.intersection(self._forms):
            if len(form) < ANCHOR:
                yield from ((start, form) for start in range(len(solid)) if solid.startswith(form, start))

    def leave_out(self, known: set[Hashable]) -> None:
        """Drop the forms that are ``known``, and add the rest to it."""
        for form, meet in list(self._forms.items()):
            key = (form, meet, form in self._together, self._brackets, self._exact)
            if key in known:
                del self._forms[form]
                if (anchor := anchor_of(form)) is not None:
                    self._by_anchor[anchor][len(form)].discard(form)
            known.add(key)

    def anchors(self) -> Collection[str] | None:
        """Return the beginnings of the forms."""
        return all_anchors(map(anchor_of, self._forms))

    def _is_whole(self, text: NormalisedText, start: int, end: int, form: str) -> bool:
        """Return whether ``compact[start:end]`` is whole words: neither inside another word nor across two others."""
        gaps = text.once(_gaps_of)
        if gaps.wide.any_in(start, end) or (not self._brackets and gaps.brackets.any_in(start, end)):
            return False
        spaces = gaps.spaces.count_in(start, end)
        if form in self._unspaced or (len(form) >= LONG and not spaces):
            return True
        if spaces and form in self._together:
            return False
        is_spelled_out = spaces == len(form) - 1
        if (
            len(form) < LONG
            and not is_spelled_out
            and not self._forms[form].issuperset(i - start for i in gaps.spaces.inside(start, end))
        ):  # Isa is not in "is a"
            return False
        return text.is_edge(start) and (
            text.is_edge(end) or any(text.compact.startswith(c, end) and text.is_edge(end + len(c)) for c in _ENDINGS)
        )


class _Places:
    """Places in the compact text, each before a letter."""

    def __init__(self) -> None:
        self._places = list[int]()

    def add(self, place: int) -> None:
        """Add a place after all others."""
        self._places.append(place)

    def inside(self, start: int, end: int) -> Sequence[int]:
        """Return the places between the letters of ``compact[start:end]``."""
        return self._places[bisect.bisect_right(self._places, start) : bisect.bisect_left(self._places, end)]

    def count_in(self, start: int, end: int) -> int:
        """Return the number of places between these letters; at least zero."""
        return max(0, bisect.bisect_left(self._places, end) - bisect.bisect_right(self._places, start))

    def any_in(self, start: int, end: int) -> bool:
        """Return whether there is such a place."""
        return self.count_in(start, end) > 0


@dataclass(frozen=True)
class _Gaps:
    """Gaps between the letters of a text: too wide for one word, with a bracket, or with white space."""

    wide: _Places
    brackets: _Places
    spaces: _Places


def _gaps_of(text: NormalisedText) -> _Gaps:
    gaps = _Gaps(_Places(), _Places(), _Places())
    for i, (before, after) in enumerate(itertools.pairwise(text.at), start=1):
        if after - before <= 1 or _LINE_END.fullmatch(gap := text.text[before + 1 : after]):
            continue
        if len(gap) > _LETTER_GAP:
            gaps.wide.add(i)
        if not _BRACKETS.isdisjoint(gap):
            gaps.brackets.add(i)
        if any(c.isspace() for c in gap):
            gaps.spaces.add(i)
    return gaps


class ShortNames:
    """Names of two letters, only in their exact form: *Zo*, and neither *zo* nor *ZO*."""

    def __init__(self) -> None:
        self._names = set[str]()

    def add(self, name: str) -> None:
        """Add a name, if it has two letters and begins with a capital."""
        if len(name) == 2 and name.isalpha() and name[0].isupper():
            self._names.add(name)

    def find(self, text: NormalisedText) -> Spans:
        """Yield each word that is such a name."""
        for start, end, _ in text.words if self._names else ():
            if text.text[start:end] in self._names:
                yield start, end

    def anchors(self) -> Collection[str] | None:
        """Return None, or nothing if no name is sought: such names are too short for an anchor."""
        return unless(not self._names)


class TypingErrors:
    """A long part of a name with one letter left out, put in, changed, or exchanged with its neighbour."""

    def __init__(self) -> None:
        self._shorter: dict[str, set[str]] = {}  # each part, also without one of its letters

    def add(self, part: str) -> None:
        """Add a part of a name, unless it is too short to be recognised by its other letters."""
        if TYPED <= len(part) <= LONGEST and part.isalpha() and part.isascii():
            for shorter in _without_one(part):
                self._shorter.setdefault(shorter, set()).add(part)

    def find(self, text: NormalisedText) -> Spans:
        """Yield each word that is nearly one of the parts, and is not a word in general use."""
        for start, end, stems in text.once(_rare_words_in) if self._shorter else ():
            for stem, shorter in stems:
                near = {part for each in shorter if each in self._shorter for part in self._shorter[each]}
                if any(_is_near(stem, part) for part in near):
                    yield start, start + len(stem) if end - start >= len(stem) else end
                    break

    def anchors(self) -> Collection[str] | None:
        """Return None, or nothing if no part is sought: any letter may be wrong."""
        return unless(not self._shorter)


def _rare_words_in(text: NormalisedText) -> list[tuple[int, int, list[tuple[str, list[str]]]]]:
    """Return the words that are not in general use: each without its clitics, also without one of its letters."""
    known, found = known_words(), []
    for start, end, word in text.words:
        if TYPED - 1 <= len(word) <= LONGEST and word.isalpha() and word not in known and end - start == len(word):
            stems = [word, *(word.removesuffix(e) for e in _ENDINGS if word.endswith(e))]
            rare = [(stem, list(_without_one(stem))) for stem in stems if len(stem) >= TYPED - 1 and stem not in known]
            if len(rare) == len(stems):
                found.append((start, end, rare))
    return found


def _without_one(word: str) -> Iterator[str]:
    yield word
    for i in range(len(word)):
        yield word[:i] + word[i + 1 :]


def _is_near(word: str, part: str) -> bool:
    """Return whether one edit, or an exchange of neighbours, turns one into the other."""
    if word == part or abs(len(word) - len(part)) > 1:
        return False
    i = next((k for k, (a, b) in enumerate(zip(word, part, strict=False)) if a != b), min(len(word), len(part)))
    a, b = word[i:], part[i:]
    return a[1:] == b[1:] or a[1:] == b or a == b[1:] or (a[2:] == b[2:] and a[:2] == b[1::-1])


class Initials:
    """The first letters of a body's words, written in capitals: *UGM*."""

    def __init__(self) -> None:
        self._forms: set[str] = set()

    def add(self, initials: str) -> None:
        """Add three or more letters."""
        if len(initials) >= 3 and initials.isalpha():
            self._forms.add(initials.upper())

    def find(self, text: NormalisedText) -> Spans:
        """Yield each word that consists of such letters."""
        for start, end, _ in text.words if self._forms else ():
            if text.text[start:end] in self._forms:
                yield start, end

    def anchors(self) -> Collection[str]:
        """Return the letters as a word."""
        return {word_anchor(compact(form)) for form in self._forms}

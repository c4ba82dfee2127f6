"""Personal data by its words and their surroundings: a conditional random field over the tokens of a text.

The field (linear chain, ``python-crfsuite``) was fitted to texts by independent authors
(``python -m tests.training.fit``). It finds what has no form of its own: names without a cue, names in lists
and tables, employers, schools, and health, creed, income and age where the words around make them personal. A token is
masked if the probability that it belongs to personal data reaches a threshold.

J. Lafferty, A. McCallum, F. Pereira: Conditional Random Fields, ICML 2001.

Knows nothing about: profiles, tags, sheets.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import pycrfsuite

from llama.privacy.lexicon import entry, plain
from llama.privacy.recognisers.entity_features import Token, features_of, tokens_of
from llama.privacy.recognisers.recogniser import Hit

MODEL = Path(__file__).parents[1] / "data" / "entities.crfsuite"
OTHER = "O"
NOT_PERSONAL = frozenset({OTHER, "PUBLIC", "UNSURE"})
THRESHOLD = 0.34
HINTED_THRESHOLD = 0.05  # where a pattern says that a name follows its words
SHORT_THRESHOLD = 0.97  # in a text of few words, which tell little about each other
SHORT = 12  # words; a text of fewer is short
_TAG_KINDS = {"AGE": "DATE"}  # the kinds of tags, where they differ
_OF_NAMES = frozenset({"NAME", "ORG", "ADDRESS"})
_WORD = re.compile(r"[^\W_]+")
_UNIT = re.compile(r"\s?(?:[kmgt]b|m?l|[cmk]?m|k?g|gr|inch|watt|w|mah|hz|pcs|%)(?!\w)", re.IGNORECASE)
_QUANTITY = re.compile(rf"\d[\d.,]{{0,12}}{_UNIT.pattern}", re.IGNORECASE)
_FULL_STOPS = frozenset({". ", "! ", "? ", ".\n"})
_ABBREVIATED = re.compile(r"(?<![^\W_])[^\W\d_]{1,4}\.$")
_HINTED = "pattern=NAME"
_ENDS_AS_QUANTITY = re.compile(rf"{_QUANTITY.pattern}$", re.IGNORECASE)
_IN_EVERY_TEXT = 6  # zipf

_one_at_a_time = threading.Lock()  # a tagger holds the text that it was given last


def entities_in(text: str, hints: Sequence[Hit], *, is_short: bool = False) -> Iterator[Hit]:
    """Yield the stretches of tokens that probably belong to personal data, by position.

    Args:
        text: the text.
        hints: what the patterns have found in it.
        is_short: it has few words, so that only what is nearly sure is masked.
    """
    tokens = tokens_of(text, hints)
    if not tokens:
        return
    begin = end = 0
    open_kind = ""
    for token, label in zip(tokens, _labels_of(tokens, SHORT_THRESHOLD if is_short else THRESHOLD), strict=True):
        begins, _, kind = label.rpartition("-")
        if open_kind and kind == open_kind and begins == "I" and not _ends_sentence(text, end, token.start):
            end = token.end
            continue
        if open_kind:
            yield from _hit(text, begin, end, open_kind)
        begin, end, open_kind = token.start, token.end, kind
    if open_kind:
        yield from _hit(text, begin, end, open_kind)


def _ends_sentence(text: str, end: int, start: int) -> bool:
    """Return whether a sentence ends between two tokens: a full stop and a space, but not after an abbreviation."""
    return text[end - 1 : start] in _FULL_STOPS and not _ABBREVIATED.search(text, max(0, end - 6), end)


def _hit(text: str, begin: int, end: int, kind: str) -> Iterator[Hit]:
    """Yield a hit without the signs at its edges, unless nothing else is in it."""
    while begin < end and not text[begin].isalnum():
        begin += 1
    while begin < end and not text[end - 1].isalnum():
        end -= 1
    if begin == end or (kind in _OF_NAMES and _says_nothing(text[begin:end])):
        return
    is_quantity = (
        _QUANTITY.match(text, begin, end)
        or (text[end - 1].isdigit() and _UNIT.match(text, end))
        or (kind == "ORG" and _ENDS_AS_QUANTITY.search(text, begin, end))
    )
    if not is_quantity:  # SD 128 GB, 38 inch waist
        yield Hit(begin, end, _TAG_KINDS.get(kind, kind), guessed=True)


def _says_nothing(value: str) -> bool:
    """Return whether all words are among the few hundred that every text has: the, of, yang."""
    words = _WORD.findall(value)
    return bool(words) and value.islower() and all(entry(plain(word)).frequency >= _IN_EVERY_TEXT for word in words)


def _labels_of(tokens: Sequence[Token], threshold: float) -> list[str]:
    """Return for each token its likeliest label, or nothing if personal data is less probable than the threshold."""
    with _one_at_a_time:
        tagger = _tagger()
        tagger.set(features_of(tokens))
        labels = tagger.labels()
        ordinary = [label for label in labels if label.rpartition("-")[2] in NOT_PERSONAL and label != OTHER]
        personal = [label for label in labels if label not in (OTHER, *ordinary)]
        found = list[str]()
        for i, token in enumerate(tokens):
            most = 1 - (min(threshold, HINTED_THRESHOLD) if _HINTED in token.own else threshold)
            probability = 1.0 if token.shape == "⏎" else tagger.marginal(OTHER, i)
            if probability <= most:  # most tokens need no other label
                probability += sum(tagger.marginal(label, i) for label in ordinary)
            is_ordinary = probability > most
            found.append("" if is_ordinary else max(personal, key=lambda label: tagger.marginal(label, i)))
        return found


@lru_cache(maxsize=1)
def _tagger() -> pycrfsuite.Tagger:
    tagger = pycrfsuite.Tagger()
    tagger.open(str(MODEL))
    return tagger

"""Features of the words of a text, from which the entity recogniser tells personal data.

A token is a run of letters, a run of digits, a sign or a line's end. Its features are strings: what the lexicon knows
of it, its shape, the words around it, what the patterns say of it, and the label that it stands under: the word before
a colon, a key of JSON or the head of its column in a table. A name that no list has is told by its shape, its letters
and its neighbours.

Knows nothing about: kinds of personal data.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

from llama.privacy.lexicon import UNKNOWN, Entry, entry, name_score, plain
from llama.privacy.recognisers.cues import KIN, TITLE
from llama.privacy.recognisers.recogniser import Hit
from llama.privacy.word_lists import places
from llama.privacy.words import (
    ADDRESS_WORDS,
    BODY_WORDS,
    CITIES_ID,
    LEGAL_FORMS,
    PARTICLES,
    STREET_KINDS,
    STREET_TYPES_EN,
)
from llama.text.dates import MONTHS

_TOKEN = re.compile(r"[^\W\d_]+(?:['’](?!s\b)[^\W\d_]+)*|['’]s\b|\d+|\n\s*|[^\w\s]|_", re.IGNORECASE)
_LINE_LABEL = re.compile(r"[ \t>*•\-–\d.)]{0,8}([^\W\d_][^:=|\t\n,;\"]{0,40}?)[ \t]*[:=](?!//)")
_KEY = re.compile(r"\"([^\"\n:]{1,40})\"\s{0,8}:")
_SEPARATORS = ("|", "\t", ";", ",")
_SENTENCE_ENDS = frozenset('.!?:•*"“-–—|>)')
_FREQUENT = 3  # zipf from which a word is a feature by itself
_TITLE = re.compile(TITLE)
_WORD_CLASSES = {
    "month": frozenset(plain(month) for months in MONTHS.values() for month in months),
    "body": BODY_WORDS,
    "form": LEGAL_FORMS,
    "street": frozenset(STREET_TYPES_EN) | ADDRESS_WORDS | frozenset(word for kind in STREET_KINDS for word in kind),
    "particle": PARTICLES,
    "city": frozenset(word for city in CITIES_ID for word in city.split()),
}
_FAR = 6  # tokens before, and half as many after, whose words are features without their places


@dataclass
class Token:
    """A stretch of a text, with what is known of it by itself.

    Attributes:
        start: where it begins in the text.
        end: where it ends.
        word: the word itself if it is frequent; a class of words otherwise.
        shape: its letters' case, or the number of its digits.
        known: its entry in the lexicon, in one word.
        classes: the word lists that have it.
        labels: the words under which it stands.
        own: the features that do not depend on other tokens.
    """

    start: int
    end: int
    word: str
    shape: str
    known: str
    classes: tuple[str, ...] = ()
    labels: list[str] = field(default_factory=list)
    own: list[str] = field(default_factory=list)


_NOTHING = Token(0, 0, "^", "^", "^")


def tokens_of(text: str, hits: Sequence[Hit] = ()) -> list[Token]:
    """Return the tokens of a text.

    Args:
        text: the text.
        hits: what the patterns have found in it, which the tokens know.
    """
    has_capitals = any(c.isupper() for c in text)
    labels, found = _Labels(text), _Found(hits)
    tokens, begins = list[Token](), True
    for match in _TOKEN.finditer(text):
        token = _token(match, has_capitals, begins)
        token.labels = labels.at(token.start)
        token.own += [f"pattern={kind}" for kind in found.at(token.start)]
        tokens.append(token)
        begins = token.shape == "⏎" or (token.word in _SENTENCE_ENDS)
    return tokens


def _token(match: re.Match[str], has_capitals: bool, begins: bool) -> Token:
    text = match[0]
    start, end = match.span()
    if text[0] == "\n":
        return Token(start, end, "⏎", "⏎", "⏎")
    if text.isdigit():
        shape = "9" * min(len(text), 17)
        value = text if len(text) <= 2 else shape if len(text) != 4 else f"{text[:2]}YY"
        return Token(start, end, shape, shape, "9", own=[f"number={value}"])
    if not text[0].isalpha():
        return Token(start, end, text, text, "sign")
    word = _word(text, has_capitals, begins)
    return Token(start, end, word.word, word.shape, word.known, word.classes, own=[*word.own])


class _Word(NamedTuple):
    """What is known of a word by itself, as in :class:`Token`."""

    word: str
    shape: str
    known: str
    classes: tuple[str, ...]
    own: tuple[str, ...]


@lru_cache(maxsize=4096)
def _word(text: str, has_capitals: bool, begins: bool) -> _Word:
    word = plain(text)
    facts = entry(word.replace("'", "").replace("’", ""))
    shape = _shape(text)
    cased = shape if has_capitals else "uncased"
    name = f"g{facts.given}s{facts.surname}"
    known = f"{max(facts.given, facts.surname)}f{facts.frequency}"
    own = [
        f"name={name}",
        f"frequency={facts.english},{facts.indonesian}",
        f"known={known},{cased}",
        f"name={name},{facts.frequency}",
        f"length={min(len(word), 9)}",
        f"begins={begins},{cased},{known}",
    ]
    score = max(-3, min(3, name_score(word) // 10))
    own += [f"score={score}", f"score={score},{known},{cased}"]
    if facts.frequency <= _FREQUENT + 1:
        own += [f"ends={word[-2:]}", f"ends={word[-3:]}", f"starts={word[:3]}", f"ends={word[-3:]},{cased}"]
    if word in places():
        own.append(f"place,{cased},{known}")
    classes = _classes_of(word)
    own += [f"class={each}" for each in classes]
    return _Word(_class_of(word, facts), shape, known, classes, tuple(own))


def _classes_of(word: str) -> tuple[str, ...]:
    found = [name for name, words in _WORD_CLASSES.items() if word in words]
    if KIN.fullmatch(word):
        found.append("kin")
    if _TITLE.fullmatch(word):
        found.append("title")
    return tuple(found)


def _class_of(word: str, facts: Entry) -> str:
    if facts.frequency >= _FREQUENT and (facts.given < 2 or facts.frequency > 4):
        return word
    return "?" if facts is UNKNOWN else f"?{max(facts.given, facts.surname)}"


def _shape(word: str) -> str:
    if word.islower():
        return "a"
    if len(word) == 1:
        return "A"
    if word.isupper():
        return "AA"
    return "Aa" if word[0].isupper() and word[1:].islower() else "aA"


class _Found:
    """The patterns' hits in a text, asked for from left to right."""

    def __init__(self, hits: Sequence[Hit]) -> None:
        self._hits = sorted(hits, key=lambda hit: hit.start)
        self._next = 0
        self._open: list[Hit] = []

    def at(self, position: int) -> list[str]:
        """Return the kinds of the hits that a position lies in."""
        while self._next < len(self._hits) and self._hits[self._next].start <= position:
            self._open.append(self._hits[self._next])
            self._next += 1
        self._open = [hit for hit in self._open if hit.end > position]
        return sorted({hit.kind for hit in self._open})


class _Labels:
    """The labels of a text's lines, keys and columns, asked for from left to right."""

    def __init__(self, text: str) -> None:
        self._stretches = [*_line_labels(text), *_keys(text), *_columns(text)]
        self._stretches.sort()
        self._next = 0
        self._open: list[tuple[int, list[str]]] = []

    def at(self, position: int) -> list[str]:
        """Return the words of the labels under which a position stands."""
        while self._next < len(self._stretches) and self._stretches[self._next][0] <= position:
            _, end, words = self._stretches[self._next]
            self._open.append((end, words))
            self._next += 1
        self._open = [each for each in self._open if each[0] > position][-3:]
        return [word for _, words in self._open for word in words]


_Stretch = tuple[int, int, list[str]]


def _line_labels(text: str) -> list[_Stretch]:
    found, start = list[_Stretch](), 0
    for line in text.split("\n"):
        if label := _LINE_LABEL.match(line):
            found.append((start + label.end(), start + len(line), _label_words(label[1])))
        start += len(line) + 1
    return found


def _keys(text: str) -> list[_Stretch]:
    matches = list(_KEY.finditer(text))
    ends = [*(match.start() for match in matches[1:]), len(text)][: len(matches)]
    return [(m.end(), end, _label_words(m[1])) for m, end in zip(matches, ends, strict=True)]


def _columns(text: str) -> list[_Stretch]:
    """Return the cells of tables, each with the head of its column. A table is two or more lines of as many cells."""
    found = list[_Stretch]()
    heads, separator, start = list[str](), "", 0
    for line in text.split("\n"):
        cells = line.split(separator) if separator else []
        if len(cells) > 1 and abs(len(cells) - len(heads)) <= 1:
            at = start
            for i, cell in enumerate(cells):
                if i < len(heads):
                    found.append((at, at + len(cell), _label_words(heads[i])))
                at += len(cell) + 1
        elif not re.fullmatch(r"[\s|+:-]*", line) or not line.strip():
            separator = next((sign for sign in _SEPARATORS if line.count(sign) > 0), "")
            heads = line.split(separator) if separator else []
        start += len(line) + 1
    return found


def _label_words(label: str) -> list[str]:
    words = [plain(word) for word in re.findall(r"[^\W\d_]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", label))]
    return list(dict.fromkeys([*words[:2], *words[-2:]]))


def features_of(tokens: Sequence[Token]) -> list[list[str]]:
    """Return the features of each token."""
    padded = [_NOTHING] * 3 + list(tokens) + [_NOTHING] * 3
    return [_features(padded, i) for i in range(3, len(padded) - 3)]


def _features(tokens: Sequence[Token], i: int) -> list[str]:
    before, two_before, this = tokens[i - 1], tokens[i - 2], tokens[i]
    after, two_after = tokens[i + 1], tokens[i + 2]
    here = f"{this.shape},{this.known}"
    found = [
        "bias",
        f"0={this.word}",
        f"0s={this.shape}",
        f"0k={here}",
        f"-1={before.word}",
        f"-1k={before.shape},{before.known}",
        f"-2={two_before.word}",
        f"-2k={two_before.shape},{two_before.known}",
        f"+1={after.word}",
        f"+1k={after.shape},{after.known}",
        f"+2={two_after.word}",
        f"+2k={two_after.shape},{two_after.known}",
        f"-1,0={before.word},{here}",
        f"-1,0={before.word},{this.word}",
        f"0,+1={here},{after.word}",
        f"0,+1={this.word},{after.word}",
        f"-1k,0k={before.shape},{before.known},{here}",
        f"0k,+1k={here},{after.shape},{after.known}",
        f"-2,-1={two_before.word},{before.word}",
        f"-2,-1,0={two_before.word},{before.word},{this.shape}",
        f"+1,+2={after.word},{two_after.word}",
        f"-1,0,+1={before.word},{this.shape},{after.word}",
        *this.own,
    ]
    found += [f"-1c={each}" for each in before.classes]
    found += [f"-1c={each},{here}" for each in before.classes]
    found += [f"-2c={each}" for each in two_before.classes]
    found += [f"+1c={each}" for each in after.classes]
    found += [f"+2c={each}" for each in two_after.classes]
    found += [f"before={tokens[j].word}" for j in range(max(3, i - _FAR), i - 1)]
    found += [f"after={tokens[j].word}" for j in range(i + 2, min(len(tokens) - 3, i + 1 + _FAR // 2))]
    for label in this.labels:
        found += [f"label={label}", f"label={label},{this.shape}"]
    if this.labels:
        found.append(f"labelled,{here}")
    return found

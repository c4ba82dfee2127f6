"""Names of people, by the words before or after them, and by given names that are no ordinary words."""

from __future__ import annotations

import re
from functools import partial

from llama.privacy.recognisers.cues import DATA, DOES, KIN, KIN_EN, KIN_ID, SAYS_EN, SAYS_ID, SAYS_ONE_EN, TITLE
from llama.privacy.recognisers.recogniser import PatternRecogniser, Recogniser, Span
from llama.privacy.words import NAMES, NOT_NAMES

MIN_LETTERS = 3

WORD = r"(?<!\w)(?:(?:[A-Z]|Dr|Drs|H|Hj|Ir|Jr|Moh|Muh|Sr|St)\.|[A-ZÀ-ÖØ-Þ][\w'’-]{0,40})"
"""A capitalised word, or an initial."""

_MORE = rf"\s(?:(?:de|van|von|der|den|bin|binti|al|el|la|da|dos|ap|ter)\s){{0,2}}{WORD}"
_RUN = rf"{WORD}(?:{_MORE}){{0,3}}"
_ONE = rf"({_RUN})"  # one word or more
_TWO = rf"({WORD}\s(?:[A-Z]\.\s)?{_MORE[2:]}(?:{_MORE}){{0,2}})"  # two or more
_TWO_PLAIN = rf"({WORD}(?:{_MORE}){{1,3}})"  # the same, without a middle initial
_KNOWN_PAIR = re.compile(r"(?<!\w)[a-z]+ [a-z]+(?!\w)")


def name_in(run: str, at_least: int) -> Span | None:
    """Return the words from the first that may be part of a name up to one that may not, if they are enough words."""
    kept = list[Span]()
    for match in re.finditer(r"\S+", run):
        if _is_no_name(match[0].rstrip(".,'’").casefold()):
            if kept:
                break
            continue
        kept.append(match.span())
    if len(kept) < at_least:
        return None
    start = kept[0][0]
    name = run[start : kept[-1][1]].rstrip(".,'’")
    return (start, start + len(name)) if sum(c.isalpha() for c in name) >= MIN_LETTERS else None


def _is_no_name(word: str) -> bool:
    return word in NOT_NAMES or KIN.fullmatch(word) is not None or any(c.isdigit() for c in word)


def _known_name_in(run: str) -> Span | None:
    known = any(word.casefold() in NAMES for word in re.findall(r"[\w’'-]+", run))
    return name_in(run, at_least=1) if known else None


def _are_known(words: str) -> bool:
    return all(word in NAMES for word in words.split(" "))


def _announced(pattern: str, at_least: int = 1) -> PatternRecogniser:
    """Return a row for the pattern's first group if that has at least ``at_least`` words of a name."""
    narrow = partial(name_in, at_least=at_least)
    return PatternRecogniser("NAME", re.compile(pattern, re.MULTILINE), group=1, narrow=narrow)


RECOGNISERS: tuple[Recogniser, ...] = (
    # Cues before the name.
    _announced(rf"(?<!\w){TITLE}\s{_ONE}"),
    _announced(rf"(?i:\b(?:{SAYS_ID}))[\s,:]{{0,8}}{_ONE}"),
    _announced(rf"(?i:\b(?:{SAYS_EN}))[\s,:]{{0,8}}{_TWO}", at_least=2),
    _announced(rf"(?i:\b(?:{SAYS_ONE_EN}))[\s,:]{{0,8}}({WORD})"),
    _announced(
        rf"(?i:\b(?:my|our|his|her|their|the|a|an)(?:\s[a-z-]+){{0,2}}\s{KIN_EN}),?\s(?:(?i:is|named|called)\s)?{_ONE}"
    ),
    _announced(
        rf"(?i:\b{KIN_ID}(?:ku|nya)?(?:\s(?:saya|aku|gue|gw|kami|kita|sy|bernama|namanya|si|yang bernama))?)[\s,:]\s?"
        rf"{_ONE}"
    ),
    _announced(
        rf"(?i:\b(?:saya|aku|gue|gw|sy|untuk|buat|utk|si|oleh|sama|dengan|dgn|bersama|dan|ke))\s{_TWO}", at_least=2
    ),
    _announced(rf"(?i:\b(?:saya|aku|gue|gw|sy|si)),?\s{_ONE}"),
    # Cues after the name.
    _announced(rf"{_TWO_PLAIN}(?=(?:'s|’s)?\s(?i:{DOES})\b)", at_least=2),
    _announced(rf"{_TWO}(?=\s(?:and|dan|&)\s[A-Z])", at_least=2),
    _announced(rf"{_TWO_PLAIN}(?=\s?[(,:;–-]\s?(?i:{DATA}))", at_least=2),
    # A name alone on its line.
    _announced(rf"^[ \t]{{0,8}}[-–—~]?[ \t]{{0,8}}{_TWO}[ \t]{{0,8}}[,.]?[ \t]{{0,8}}$", at_least=2),
    # Known names anywhere.
    PatternRecogniser("NAME", re.compile(_RUN), narrow=_known_name_in),
    PatternRecogniser("NAME", _KNOWN_PAIR, folded=True, validators=(_are_known,)),  # typed without capitals
)

"""Warnings to the person before a prompt leaves, where a tag alone does not hide a value. Shown on this device only.

There are two. A tag may stand in a list among words of its kind (*asthma, gout, [PRIVATE_1] and lupus*). A sheet of the
person's own may contain a declared value: the words of a sheet leave unchanged.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterable, Iterator, Sequence

from llama.privacy.merging import Passage
from llama.privacy.policy import IDENTIFYING
from llama.privacy.sanitiser import CleanText, Sanitiser, Substitute
from llama.privacy.tags import ALL_KINDS
from llama.privacy.words import COMMON_WORDS

LEAST = 2  # other items of a list that are enough to suggest the meaning of the tag
LONGEST = 3  # most words of an item
SHOWN = 4  # most items in a caution

_TAG = re.compile(rf"\[(?P<kind>{'|'.join(sorted(ALL_KINDS))})_\d{{1,4}}\]")
_BETWEEN = re.compile(r"[,;/|•·]|\s[-–]\s|\n[^\S\n]*[-*•]?|\b(?:and|or|dan|atau|serta|plus)\b|&|\+", re.IGNORECASE)
_END = re.compile(r"[.!?:()\[\]{}\"]|\n(?=\n)|(?<=\n)\n")  # each sign that ends a sentence or belongs to an empty line


def cautions(passages: Sequence[Passage], sanitiser: Sanitiser, own_sheet: Iterable[str] = ()) -> tuple[str, ...]:
    """Return a sentence for each thing that the person should check.

    Args:
        passages: the cleaned dialogue.
        sanitiser: of this session.
        own_sheet: the words of a sheet that is the person's own file. Sheets by others are not searched: the time of
            the search would tell their author the result.
    """
    if sanitiser.mode == "off":
        return ()
    own = [
        piece.text
        for passage in passages
        for piece in passage.pieces
        if isinstance(piece, CleanText) and not isinstance(piece, Substitute)
    ]
    found = [each for text in dict.fromkeys(own) for each in _among_their_like(text, sanitiser)]
    fields = dict.fromkeys(name for text in own_sheet for name in sanitiser.declared_in(text))
    found += [
        f"the sheet contains your {name}, and a sheet's own words leave the device unchanged; edit the sheet to "
        f"keep it private"
        for name in fields
    ]
    return tuple(dict.fromkeys(found))


def _among_their_like(text: str, sanitiser: Sanitiser) -> Iterator[str]:
    ends = [m.start() for m in _END.finditer(text)]
    for m in _TAG.finditer(text):
        if m[0] in sanitiser.tags and m["kind"] not in IDENTIFYING | {"DATE"}:
            others = _list_around(*_clause_around(text, m.start(), m.end(), ends))
            if len(others) >= LEAST:
                listed = ", ".join(f"“{each}”" for each in others[:SHOWN])
                yield (
                    f"{m[0]} stands in a list with {listed}, which may reveal its meaning; reword the text to hide it"
                )


def _clause_around(text: str, start: int, end: int, ends: Sequence[int]) -> tuple[str, str]:
    """Return the text before and after a tag in its sentence; ``ends`` holds the positions where sentences end."""
    before, after = bisect.bisect_left(ends, start), bisect.bisect_left(ends, end)
    return (
        text[ends[before - 1] + 1 if before else 0 : start],
        text[end : ends[after] if after < len(ends) else len(text)],
    )


def _list_around(before: str, after: str) -> list[str]:
    """Return the other items of the list that contains a tag."""
    left, right = _BETWEEN.split(before), _BETWEEN.split(after)
    if left[-1].strip() or right[0].strip():  # more than the tag stands between the commas
        return []
    items = [each.strip(" \t-*•") for each in (*left[:-1], *right[1:])]
    short = [" ".join(each.split()[-LONGEST:]) if i == 0 else each for i, each in enumerate(items)]
    return [each for each in short if len(each.split()) <= LONGEST and not _TAG.search(each) and _says_something(each)]


def _says_something(item: str) -> bool:
    return any(word.casefold() not in COMMON_WORDS for word in re.findall(r"[^\W\d_]+", item))

"""What the person should know before a prompt leaves, since a tag alone does not hide it. Shown on this device only.

Two things: a tag that stands in a list among words of its own kind (*asthma, gout, [PRIVATE_1] and lupus*), and a sheet
of the person's own whose words say a declared value: a sheet's words leave as they are.
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

LEAST = 2  # other items of a list, from which they tell what the tag may stand for
LONGEST = 3  # words of an item
SHOWN = 4  # items in a caution

_TAG = re.compile(rf"\[(?P<kind>{'|'.join(sorted(ALL_KINDS))})_\d{{1,4}}\]")
_BETWEEN = re.compile(r"[,;/|•·]|\s[-–]\s|\n[^\S\n]*[-*•]?|\b(?:and|or|dan|atau|serta|plus)\b|&|\+", re.IGNORECASE)
_END = re.compile(r"[.!?:()\[\]{}\"]|\n(?=\n)|(?<=\n)\n")  # each sign that ends a sentence, or is of an empty line


def cautions(passages: Sequence[Passage], sanitiser: Sanitiser, own_sheet: Iterable[str] = ()) -> tuple[str, ...]:
    """Give a sentence for each thing that the person should look at.

    Args:
        passages: the cleaned dialogue.
        sanitiser: of this session.
        own_sheet: the words of a sheet that is the person's own file. Nobody else's sheet is searched: what such a
            search costs would tell its author what it found.
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
        f"the sheet itself says your {name}, and a sheet's own words leave as they are; edit the sheet if that "
        f"must not be"
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
                    f"{m[0]} stands in a list with {listed}, which may tell what it is; reword the text if it must "
                    f"not be"
                )


def _clause_around(text: str, start: int, end: int, ends: Sequence[int]) -> tuple[str, str]:
    """Give what stands before and after a tag in its sentence; ``ends`` is where sentences end."""
    before, after = bisect.bisect_left(ends, start), bisect.bisect_left(ends, end)
    return (
        text[ends[before - 1] + 1 if before else 0 : start],
        text[end : ends[after] if after < len(ends) else len(text)],
    )


def _list_around(before: str, after: str) -> list[str]:
    """Give the other items of the list that a tag is an item of."""
    left, right = _BETWEEN.split(before), _BETWEEN.split(after)
    if left[-1].strip() or right[0].strip():  # more than the tag stands between the commas
        return []
    items = [each.strip(" \t-*•") for each in (*left[:-1], *right[1:])]
    short = [" ".join(each.split()[-LONGEST:]) if i == 0 else each for i, each in enumerate(items)]
    return [each for each in short if len(each.split()) <= LONGEST and not _TAG.search(each) and _says_something(each)]


def _says_something(item: str) -> bool:
    return any(word.casefold() not in COMMON_WORDS for word in re.findall(r"[^\W\d_]+", item))

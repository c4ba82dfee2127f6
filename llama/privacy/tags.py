"""Tags such as ``[NAME_1]``, and their accepted spellings, since a model or a person may write them carelessly.

==================  ===================================================================
``[NAME_1]``        as issued
``[name 1]``        both brackets: any case, inner spaces, a space or hyphen for the underscore
``Name_1]``         one bracket missing: any case
``NAME_1``          none: only in capitals
==================  ===================================================================

Knows nothing about: values.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import regex

from llama.privacy.policy import FOUND_IN_ANY_TEXT, TAG_KINDS

ALL_KINDS = TAG_KINDS | FOUND_IN_ANY_TEXT
AS_ISSUED = re.compile(r"\[[A-Z]+_[0-9]+\]")
"""The form of an issued tag. A search for each of some thousand tags would take some thousand times as long."""


def tag_pattern(kinds: Iterable[str]) -> regex.Pattern[str]:
    """Return a pattern for tags of these kinds in every spelling; the groups are ``kind`` and ``number``."""
    kind = "|".join(sorted(kinds))
    return regex.compile(
        rf"(?:\[\s?(?P<kind>(?i:{kind}))\s?[\s_-]\s?(?P<number>\d{{1,4}})(?!\d)\s?\]"
        rf"|\[\s?(?P<kind>(?i:{kind}))_(?P<number>\d{{1,4}})(?!\d)"
        rf"|(?<![\w\[])(?P<kind>(?i:{kind}))_(?P<number>\d{{1,4}})(?!\d)\s?\]"
        rf"|(?<![\w\[])(?P<kind>{kind})_(?P<number>\d{{1,4}})(?![\w\]]))"
    )


_ANY_TAG = tag_pattern(ALL_KINDS)


def name_of(match: regex.Match[str]) -> str:
    """Return the name of the matched tag, without brackets: ``NAME_1``."""
    return f"{match['kind'].upper()}_{int(match['number'])}"


def tags_written_in(text: str) -> set[str]:
    """Return the names of all tags that a text contains, in any of the ways above."""
    return {name_of(match) for match in _ANY_TAG.finditer(text)}

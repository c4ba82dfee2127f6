"""The names of third parties, keys, sheets, products and fields: their patterns and maximum lengths.

Each pattern is a part of a regular expression without anchors.

Knows nothing about: where a name stands, or what an error says besides the rule.
"""

from __future__ import annotations

import re

NAME_CHARACTER = r"[a-z0-9-]"
MAX_PARTY_NAME, MAX_SHEET_NAME, MAX_PRODUCT_ID = 40, 80, 60  # characters

PARTY_NAME = rf"{NAME_CHARACTER}{{1,{MAX_PARTY_NAME}}}"  # a third party, and the owner of a key
SHEET_NAME = rf"{NAME_CHARACTER}{{1,{MAX_SHEET_NAME}}}"  # within a third party's directory, or the provider's
PRODUCT_ID = rf"{NAME_CHARACTER}{{1,{MAX_PRODUCT_ID}}}"
FIELD_NAME = r"[a-z][a-z0-9_]{0,39}"  # of a profile, and the fields that a sheet asks for

_PARTY_NAME, _FIELD_NAME = re.compile(PARTY_NAME), re.compile(FIELD_NAME)
_PROMPT_ID = re.compile(rf"(?:{PARTY_NAME}/)?{SHEET_NAME}")


def is_party_name(text: str) -> bool:
    """Return whether a third party, or the owner of a key, may have this name."""
    return _PARTY_NAME.fullmatch(text) is not None


def is_prompt_id(text: str) -> bool:
    """Return whether a sheet may have this name: ``NAME``, or a third party's ``PARTY/NAME``."""
    return _PROMPT_ID.fullmatch(text) is not None


def is_field_name(text: str) -> bool:
    """Return whether a field may have this name."""
    return _FIELD_NAME.fullmatch(text) is not None


def name_rule(most: int) -> str:
    """Return the rule for names of at most so many characters, for an error."""
    return f"1 to {most} of a-z, 0-9 and -"

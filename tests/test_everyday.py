"""Declared values, written just as they are declared, in notes as people write them: none of them leaves.

People and contexts are of an author who had not seen the product (``tests/data/README.md``). SOAK=1 tries 60,000.
"""

from __future__ import annotations

import re
from collections import Counter

import pytest

from llama.chat import Llama3Format
from llama.errors import PrivacyRefused
from llama.privacy.preparing import prepare
from llama.privacy.profile import profile_from
from llama.prompt import SourcedPrompt
from llama.sheets import Sheet
from llama.tokenizer import Tokenizer
from tests.canaries import digits_of, words_of
from tests.everyday import Mention, drawn_mentions, mentions
from tests.volumes import SOAK

MENTIONS = 60_000 if SOAK else 1_500
SHEET = SourcedPrompt(Sheet(("{notes}",), asks_for=("notes",)), "provider:here", "notes")
LONG_NUMBER = 6  # digits that are searched for in any grouping


def is_too_short(mention: Mention) -> bool:
    """Three digits stand everywhere; that they are not looked for is said."""
    return re.fullmatch(r"\W*\d{1,3}\W*", mention.written) is not None


def leaked(mention: Mention, text: str) -> bool:
    """Whether the value's words, or its digits, are still in what leaves; the context's own do not count."""
    words, digits = words_of(mention.written), re.sub(r"\D", "", mention.written)
    around = words_of(f"{mention.before} / {mention.after}")
    is_there = len(words) > 2 and words_of(text).count(words) > around.count(words)
    return is_there or (len(digits) >= LONG_NUMBER and digits in digits_of(text))


@pytest.mark.long
def test_no_declared_value_leaves_in_an_everyday_context(
    tokenizer: Tokenizer, capfd: pytest.CaptureFixture[str]
) -> None:
    """Beside numbers, years and percentages, in lists, tables, brackets, quotes, CSV, tabs, JSON, at ends of lines."""
    tried, leaks, refused = Counter[str](), list[str](), list[str]()
    for mention in drawn_mentions(MENTIONS, seed=1):
        if is_too_short(mention):
            continue
        profile = profile_from({**mention.profile, "notes": mention.text})
        try:
            text = prepare(SHEET, profile, "schema", Llama3Format(tokenizer), tokenizer, 8192).dialog[-1].content
        except PrivacyRefused as err:
            refused.append(f"{mention.field} in {mention.context}: {err}")
            continue
        tried[mention.field] += 1
        if leaked(mention, text):
            leaks.append(f"{mention.field} in {mention.context}: {mention.written!r}: {text!r}")
    assert not leaks
    assert not refused
    with capfd.disabled():
        print(f"\n{tried.total()} mentions of {len(tried)} fields in everyday contexts, none of them left")


def test_the_search_would_have_found_them() -> None:
    """Every value, in the text as the person wrote it."""
    drawn = [each for each in drawn_mentions(300, seed=4) if not is_too_short(each)]
    assert all(leaked(each, each.text) for each in drawn)


def test_people_and_contexts_are_many() -> None:
    """At least 60 people, 34 contexts in both languages, and 40,000 mentions that are long enough to be looked for."""
    every = [each for each in mentions() if not is_too_short(each)]
    assert len({str(each.profile) for each in every}) >= 60
    assert len({each.context for each in every}) >= 34
    assert len(every) >= 40_000

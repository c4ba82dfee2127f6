"""Every kind of leak that was found from outside stays mended: cases by authors who had not seen the product.

``tests/data/README.md`` says who wrote which. A case is a small profile and a text; it goes the way of every prompt.
"""

from __future__ import annotations

import re

import pytest

from llama.chat import Llama3Format
from llama.privacy.preparing import Prepared, prepare
from llama.privacy.profile import profile_from
from llama.privacy.restoring import Restorer
from llama.prompt import SourcedPrompt
from llama.sheets import Sheet
from llama.tokenizer import Tokenizer
from tests.everyday import Case, cases

MARK = "§"  # around each piece, so that a case's words do not meet the sheet's
LEFT_AT_MOST = 9


def prepared(case: Case, tokenizer: Tokenizer) -> Prepared:
    """The case's prompt, as it would leave."""
    profile, asks = dict(case.profile), list(case.asks)
    if case.notes:
        profile["notes"] = case.notes
        asks.append("notes")
    question = case.question or "What?"
    for name in asks:
        if f"{{{name}}}" not in question:
            question += f"\n{MARK}{{{name}}}{MARK}"
    sheet = Sheet((question,), asks_for=tuple(dict.fromkeys(asks)), language=case.language)
    found = SourcedPrompt(sheet, "provider:here", "case")
    return prepare(found, profile_from(profile), "schema", Llama3Format(tokenizer), tokenizer, 8192)


@pytest.mark.parametrize("case", [each for each in cases() if not each.left], ids=lambda case: case.name)
def test_of_each_kind_of_leak_nothing_is_left_and_what_must_stay_stays(case: Case, tokenizer: Tokenizer) -> None:
    """Neither in the prompt nor, for what is restored, in the reply; and nobody is refused."""
    done = prepared(case, tokenizer)
    text = done.dialog[-1].content
    if case.tags_differ:
        tags = re.findall(r"\[[A-Z]+_\d+\]", text)
        assert len(tags) > 1 and len(set(tags)) == len(tags)
    if case.reply:
        restorer = Restorer(done.sanitiser.tags)
        text = restorer.push(case.reply) + restorer.finish()
    assert not [each for each in case.absent if each.casefold() in text.casefold()], text
    assert not [each for each in case.present if each.casefold() not in text.casefold()], text


def test_cases_are_many_of_every_kind_and_few_are_left() -> None:
    """Kinds 5, 11 and 21 are about time and about what the person is told; they have tests of their own."""
    every = cases()
    kinds = {case.kind for case in every}
    assert kinds == {*range(1, 25), 30, 31} - {5, 11, 21}
    assert all(sum(case.kind == kind for case in every) >= 30 for kind in kinds)
    assert sum(bool(case.left) for case in every) <= LEFT_AT_MOST

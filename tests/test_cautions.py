"""What the person is told before a prompt leaves, on their own screen only."""

from __future__ import annotations

from typing import Any

import pytest

from llama.chat import Llama3Format, Message
from llama.privacy.preparing import Prepared, prepare
from llama.privacy.profile import profile_from
from llama.prompt import OwnWords, SourcedPrompt
from llama.sheets import Sheet
from llama.tokenizer import Tokenizer


def typed(text: str, profile: dict[str, Any], tokenizer: Tokenizer) -> Prepared:
    """A message of the person's own."""
    words = OwnWords((Message("user", text),))
    return prepare(
        SourcedPrompt(words, "file:/me.txt"), profile_from(profile), "schema", Llama3Format(tokenizer), tokenizer, 4096
    )


@pytest.mark.parametrize(
    "text",
    [
        "Chronic illnesses are asthma, gout, diabetes and lupus.", "Penyakit: asma / diabetes / maag / tifus",
        "I have:\n- gout\n- diabetes\n- lupus\n", "gout; diabetes; lupus", "It is gout, lupus, or diabetes.",
    ],
)  # fmt: skip
def test_a_tag_among_its_like_is_told(text: str, tokenizer: Tokenizer) -> None:
    """Gout and lupus beside it say that it is an illness, whatever the tag says."""
    done = typed(text, {"diagnosis": "diabetes"}, tokenizer)
    (tag,) = [tag for tag, value in done.sanitiser.tags.items() if value == "diabetes"]
    assert tag in done.outgoing.text and "diabetes" not in done.outgoing.text
    hidden = "".join(value for tag, value in done.sanitiser.tags.items() if tag in done.outgoing.text)
    if "lupus" in hidden or "maag" in hidden or "gout" in hidden:  # found and masked, too: they tell less
        return
    (caution,) = done.cautions
    assert tag in caution and ("lupus" in caution or "maag" in caution)
    assert "diabetes" not in caution


@pytest.mark.parametrize(
    ("profile", "text"),
    [
        ({"diagnosis": "diabetes"}, "Nothing sweet because of my diabetes. Tea, coffee and cake are fine."),
        ({"diagnosis": "diabetes"}, "diabetes or not, I like tea"),
        ({"name": "Rudi Hartono"}, "For Ani, Budi, Rudi and Citra, please."),
        ({"diagnosis": "diabetes"}, "Tea, coffee, because of my diabetes no cake, and milk."),
    ],
)
def test_a_tag_by_itself_or_of_a_name_is_not_told(profile: dict[str, Any], text: str, tokenizer: Tokenizer) -> None:
    """Who is warned of everything reads nothing."""
    assert typed(text, profile, tokenizer).cautions == ()


SHEET = Sheet(("A card for Rudi Hartono in {city}.",), asks_for=("city",))
PROFILE = {"spouse": "Rudi Hartono", "city": "Bandung"}


def test_a_sheet_of_ones_own_that_says_a_declared_value_is_told(tokenizer: Tokenizer) -> None:
    """Its own words leave as they are: the person has written them, and may not have thought of it."""
    found = SourcedPrompt(SHEET, "file:/mine.toml")
    done = prepare(found, profile_from(PROFILE), "schema", Llama3Format(tokenizer), tokenizer, 4096)
    assert "Rudi Hartono" in done.outgoing.text
    (caution,) = done.cautions
    assert "contains your spouse" in caution and "Rudi" not in caution


@pytest.mark.parametrize("origin", ["provider:/sheets", "vendor:insurer:tcp://cloud:5555"])
def test_nobody_elses_sheet_is_searched(origin: str, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a search costs would tell the sheet's author what it found."""
    monkeypatch.setattr("llama.privacy.sanitiser.Sanitiser.declared_in", lambda *_: pytest.fail("searched"))
    found = SourcedPrompt(SHEET, origin, "card", "insurer" if "insurer" in origin else "")
    done = prepare(found, profile_from(PROFILE), "schema", Llama3Format(tokenizer), tokenizer, 4096)
    assert done.cautions == ()
